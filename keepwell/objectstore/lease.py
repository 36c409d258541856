"""The interlock's second line: a lease in the store, for when the database cannot say who is at work.

A lease runs out unless its holder renews it, and whether it has is judged by the store's clock alone: of two machines
whose clocks are hours apart, each would take the other for dead. Mutual exclusion never rests on it alone: a
conditional put may have several winners on some stores, so the database's locks decide wherever the database answers.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keepwell.errors import KeepwellError
from keepwell.objectstore.store import Store

LEASES = "leases/"
_LIFETIME = timedelta(seconds=60)
_RENEW_SECONDS = 15.0
_GIVE_BACK_SECONDS = 10.0
# A dead run's lease is removed by a later run, long after anybody could still go by it.
_FORGET_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class Lease:
    """Who is at work, by the store's account.

    Attributes:
        procedure: Its name.
        token: Of the run.
        cluster: Of the server whose locks it holds as well; another holder there knows better than this lease.
        expires_at: When it is void unless renewed, by the store's clock.
    """

    procedure: str
    token: str
    cluster: str
    expires_at: datetime


@dataclass
class KeptLease:
    """Our own lease, as its renewing goes.

    Attributes:
        renewed_at: When the store last took it, by this machine's clock that only goes on.
    """

    renewed_at: float

    @property
    def has_run_out(self) -> bool:
        """Whether others may take us for dead by now."""
        return time.monotonic() - self.renewed_at >= _LIFETIME.total_seconds()


def read_leases(store: Store, now: datetime) -> list[Lease]:
    """Every lease that has not run out.

    Args:
        store: The platform's folder in its bucket.
        now: By the store's clock.
    """
    return [lease for _, lease in _read_all(store) if lease.expires_at > now]


def _read_all(store: Store) -> Iterator[tuple[str, Lease]]:
    """Every lease with its key, also those that have run out."""
    for stored in store.list_objects(LEASES):
        lease = None
        with suppress(KeepwellError, ValueError, KeyError, TypeError):  # given back, or torn, meanwhile
            lease = _parse(store.get_bytes(stored.key), stored.modified_at)
        if lease is not None:
            yield stored.key, lease


def _parse(content: bytes, stored_at: datetime) -> Lease:
    """A lease as it is stored: how long it lasts is for its writer to say, and since when for the store."""
    fields = json.loads(content)
    expires_at, written_at = datetime.fromisoformat(fields["expires_at"]), fields.pop("written_at", None)
    if written_at is not None:
        expires_at = stored_at + (expires_at - datetime.fromisoformat(written_at))
    if expires_at.tzinfo is None:
        message = "a lease's time has a zone"
        raise ValueError(message)
    return Lease(**fields | {"expires_at": expires_at})


def _forget_dead(store: Store) -> None:
    """Remove what dead runs left, long after it ran out."""
    with suppress(KeepwellError):  # it does no harm where it lies
        now = store.read_clock()
        store.delete([key for key, lease in _read_all(store) if lease.expires_at + _FORGET_AFTER < now])


@contextmanager
def keep_lease(store: Store, procedure: str, token: str, cluster: str) -> Iterator[KeptLease]:
    """Hold a lease for as long as the block, renewing it from a thread.

    Yields:
        It, which knows whether it could be renewed.

    Raises:
        KeepwellError: The store did not take it.
    """
    key = f"{LEASES}{procedure}-{token}.json"

    kept = KeptLease(time.monotonic())

    def renew() -> None:
        now, begun_at = datetime.now(UTC), time.monotonic()
        fields = {"procedure": procedure, "token": token, "cluster": cluster}
        fields |= {"written_at": now.isoformat(), "expires_at": (now + _LIFETIME).isoformat()}
        store.put_bytes(key, json.dumps(fields).encode())
        kept.renewed_at = begun_at

    done = threading.Event()

    def keep_renewing() -> None:
        while not done.wait(_RENEW_SECONDS):
            with suppress(KeepwellError):  # it runs out by itself; the next renewal may succeed
                renew()
        with suppress(KeepwellError):  # it runs out by itself
            store.delete([key])

    renew()
    _forget_dead(store)
    keeper = threading.Thread(target=keep_renewing, name=f"lease {procedure}", daemon=True)
    keeper.start()
    try:
        yield kept
    finally:
        done.set()
        # A store that fell silent keeps nobody from letting go of what else is held.
        keeper.join(_GIVE_BACK_SECONDS)
