"""Holding a platform for one procedure: the database's locks first, the store's lease as the second line.

A lease is written first and the others' are read then, so of two that come at once at least one sees the other.
"""

import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Self

from keepwell import interlock
from keepwell.errors import Busy, KeepwellError, ServiceUnavailable
from keepwell.interlock import Holder, Procedure
from keepwell.objectstore.lease import KeptLease, Lease, keep_lease, read_leases
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import AdvisoryLocks, open_locks
from keepwell.settings import Platform

_POLL_SECONDS = 2.0


def hold_platform(
    platform: Platform,
    store: Store,
    procedure: Procedure,
    *,
    token: str | None = None,
    on_wait: Callable[[Holder], None] | None = None,
    on_lease_alone: Callable[[KeepwellError], None] | None = None,
) -> "Hold":
    """Wait for a procedure's turn on a platform, bounded by its settings, and keep it for the block.

    Args:
        platform: Which one.
        store: Its folder in the bucket.
        procedure: What is to be done.
        token: A parent's, for a nested procedure; a new one by default.
        on_wait: Told who is in the way, once for each wait.
        on_lease_alone: For a recovery: with the database down it goes on by the store's lease, and is told so here.
            Nothing else may: a backup that cannot ask the database has nothing to do either.

    Returns:
        What to enter: `with hold_platform(...) as hold`.
    """
    own = token or _new_token()
    return Hold(platform, store, procedure, own, on_wait, on_lease_alone=on_lease_alone)


class Hold:
    """A platform, held for one procedure while a `with` block lasts.

    Attributes:
        token: For nested procedures.
        lease_alone: Whether the store's lease holds it by itself, since the database did not answer.

    Raises:
        Busy: On entering: somebody else was still at work when the time was over.
        ServiceUnavailable: The database or the store does not answer; on leaving: the place was lost on the way.
    """

    def __init__(
        self,
        platform: Platform,
        store: Store,
        procedure: Procedure,
        token: str,
        on_wait: Callable[[Holder], None] | None,
        *,
        on_lease_alone: Callable[[KeepwellError], None] | None = None,
    ) -> None:
        self.token = token
        self.lease_alone = False
        self._is_done = False
        self._lease: KeptLease | None = None
        self._on_lease_alone = on_lease_alone
        self._platform, self._store, self._procedure, self._on_wait = platform, store, procedure, on_wait
        self._locks: AdvisoryLocks | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if error is None and not self._is_done:
                self.require_held()

    def end_early(self) -> None:
        """What it was held for is done: from now on it is no failure that the place is lost."""
        self._is_done = True

    def require_held(self) -> None:
        """Look whether the place is still ours.

        Raises:
            ServiceUnavailable: It was lost with its session: somebody else may have been at work meanwhile.
        """
        if self.lease_alone:
            if self._lease is None or self._lease.has_run_out:
                raise ServiceUnavailable(
                    "The store's lease ran out, since it could not be renewed: somebody else may be at work.",
                    hint="Look at the store, then run it again.",
                )
            return
        if self._locks is None:
            raise ServiceUnavailable("The interlock was lost and could not be taken again.", hint="Run it again.")
        self._locks.require_held(self.token)

    def renew(self) -> bool:
        """Take the place again if it was lost, before more is done in its name: for a second attempt within the block.

        The session that holds it ends with a restart of the database, and so does what the first attempt was doing.

        Returns:
            Whether it had been lost.

        Raises:
            Busy: Somebody else is at work now, and was still when the time was over.
            ServiceUnavailable: The database or the store does not answer.
        """
        try:
            self.require_held()
        except ServiceUnavailable:
            self._locks = None
            with suppress(KeepwellError):
                self._held.close()
            self._take()
            return True
        return False

    def _take(self) -> None:
        platform, wait_seconds = self._platform, self._platform.backup.interlock_wait_seconds
        deadline = time.monotonic() + wait_seconds
        with ExitStack() as taking:
            try:
                locks = taking.enter_context(open_locks(platform.database, platform.name, self.token))
            except ServiceUnavailable as error:
                if self._on_lease_alone is None or not self._store.may_write:
                    raise
                self._on_lease_alone(error)
                # Of no server, so that it binds everywhere.
                self._lease = taking.enter_context(_leased(self._store, self._procedure, self.token, "", deadline))
                self.lease_alone, self._held = True, taking.pop_all()
                return
            interlock.acquire(
                locks, self._procedure, token=self.token, wait_seconds=wait_seconds, on_wait=self._on_wait
            )
            taking.enter_context(_leased(self._store, self._procedure, self.token, locks.cluster(), deadline))
            self.lease_alone, self._locks, self._held = False, locks, taking.pop_all()


@contextmanager
def hold_sets(platform: Platform, store: Store, procedure: Procedure = Procedure.VERIFY) -> Iterator[None]:
    """Keep backup sets from being removed for as long as the block reads or pins them, in the name of a procedure.

    By the store's lease alone: a set can be verified with its database gone. A machine whose key only reads leaves no
    lease: it waits for an expiry that is at work, and one that begins later does not see it.

    Raises:
        Busy: Sets were still being removed when the time was over.
        ServiceUnavailable: The store does not answer.
    """
    own, cluster = _new_token(), ""  # of no server, so that it binds everywhere
    deadline = time.monotonic() + platform.backup.interlock_wait_seconds
    with keep_lease(store, procedure, own, cluster) if store.may_write else nullcontext():
        _wait_for_leases(store, procedure, own, cluster, deadline)
        yield


@contextmanager
def hold_carrying(platform: Platform, source: Store, target: Store) -> Iterator[None]:
    """Keep two destinations for as long as the block carries sets from one to the other.

    By the leases of both alone: neither the database nor anybody who writes the first destination is in the way.

    Raises:
        Busy: Somebody else carried, or removed sets, and was still at it when the time was over.
        ServiceUnavailable: One of the destinations does not answer.
    """
    own, deadline = _new_token(), time.monotonic() + platform.backup.interlock_wait_seconds
    with _leased(source, Procedure.CARRY, own, "", deadline), _leased(target, Procedure.CARRY, own, "", deadline):
        yield


@contextmanager
def _leased(
    store: Store, procedure: Procedure, token: str, cluster: str, deadline: float
) -> Iterator[KeptLease | None]:
    """A store's lease, with nobody else's in the way; none with a key that only reads."""
    while True:
        _wait_for_leases(store, procedure, token, cluster, deadline)
        if not store.may_write:
            yield None  # a restore with a key that only reads: the database's locks alone
            return
        with keep_lease(store, procedure, token, cluster) as kept:
            if not _find_binding(store, procedure, token, cluster):
                yield kept
                return
        # Somebody came at the same time: ours is given back, and not at the same time as theirs.
        time.sleep(random.uniform(0, _POLL_SECONDS))


def _new_token() -> str:
    return f"{socket.gethostname()[:20]}-{secrets.token_hex(4)}"


def _wait_for_leases(store: Store, procedure: Procedure, token: str, cluster: str, deadline: float) -> None:
    while binding := _find_binding(store, procedure, token, cluster):
        if time.monotonic() >= deadline:
            first = binding[0]
            elsewhere = " from another server" if first.cluster else ""
            raise Busy(
                f"{procedure.named.capitalize()} cannot start: {_named(first.procedure)} holds the store's"
                f" lease{elsewhere}.",
                hint=f"If that run is dead, its lease ends by itself at {first.expires_at:%H:%M:%S} UTC.",
            )
        time.sleep(_POLL_SECONDS)


def _find_binding(store: Store, procedure: Procedure, token: str, cluster: str) -> list[Lease]:
    """The leases that stand in the way."""
    return [lease for lease in read_leases(store, store.read_clock()) if _binds(lease, procedure, token, cluster)]


def _named(procedure: str) -> str:
    return Procedure(procedure).named if procedure in list(Procedure) else f"“{procedure}” of a newer release"


def _binds(lease: Lease, procedure: Procedure, token: str, cluster: str) -> bool:
    """Whether a lease stands in the way: one of this server's does not, since its locks would have told."""
    if lease.cluster and lease.cluster == cluster:
        return False
    if lease.procedure not in list(Procedure):
        return lease.token != token  # of a newer release: what it overlaps with is not known here
    return bool(
        interlock.find_conflicts(procedure, [Holder(Procedure(lease.procedure), lease.token, None)], token=token)
    )
