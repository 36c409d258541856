"""The interlock's second line: a lease in the store, for when the database cannot say who is at work.

A lease runs out unless its holder renews it. Mutual exclusion never rests on it alone: a conditional put may have
several winners on some stores, so the database's locks decide wherever the database answers.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from keepwell.errors import KeepwellError
from keepwell.objectstore.store import Store

LEASES = "leases/"
_LIFETIME = timedelta(seconds=60)
_RENEW_SECONDS = 15.0


@dataclass(frozen=True)
class Lease:
    """Who is at work, by the store's account.

    Attributes:
        procedure: Its name.
        token: Of the run.
        cluster: Of the server whose locks it holds as well; another holder there knows better than this lease.
        expires_at: When it is void unless renewed.
    """

    procedure: str
    token: str
    cluster: str
    expires_at: datetime


def read_leases(store: Store, now: datetime) -> list[Lease]:
    """Every lease that has not run out."""
    leases = []
    for stored in store.list_objects(LEASES):
        with suppress(KeepwellError, ValueError, KeyError, TypeError):  # given back, or torn, meanwhile
            fields = json.loads(store.get_bytes(stored.key))
            lease = Lease(**fields | {"expires_at": datetime.fromisoformat(fields["expires_at"])})
            if lease.expires_at > now:
                leases.append(lease)
    return leases


@contextmanager
def keep_lease(store: Store, procedure: str, token: str, cluster: str) -> Iterator[None]:
    """Hold a lease for as long as the block, renewing it from a thread.

    Raises:
        KeepwellError: The store did not take it.
    """
    key = f"{LEASES}{procedure}-{token}.json"

    def renew() -> None:
        lease = Lease(procedure, token, cluster, datetime.now(UTC) + _LIFETIME)
        fields = asdict(lease) | {"expires_at": lease.expires_at.isoformat()}
        store.put_bytes(key, json.dumps(fields).encode())

    done = threading.Event()

    def keep_renewing() -> None:
        while not done.wait(_RENEW_SECONDS):
            with suppress(KeepwellError):  # it runs out by itself; the next renewal may succeed
                renew()

    renew()
    keeper = threading.Thread(target=keep_renewing, name=f"lease {procedure}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with suppress(KeepwellError):  # it runs out by itself
            store.delete([key])
