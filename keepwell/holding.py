"""Holding a platform for one procedure: the database's locks first, the store's lease as the second line.

A lease is written first and the others' are read then, so of two that come at once at least one sees the other.
"""

import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from keepwell import interlock
from keepwell.errors import Busy
from keepwell.interlock import Holder, Procedure
from keepwell.objectstore.lease import Lease, keep_lease, read_leases
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import open_locks
from keepwell.settings import Platform

_POLL_SECONDS = 2.0


@contextmanager
def hold_platform(
    platform: Platform,
    store: Store,
    procedure: Procedure,
    *,
    token: str | None = None,
    on_wait: Callable[[Holder], None] | None = None,
) -> Iterator[str]:
    """Wait for a procedure's turn on a platform, bounded by its settings, and keep it for the block.

    Args:
        platform: Which one.
        store: Its folder in the bucket.
        procedure: What is to be done.
        token: A parent's, for a nested procedure; a new one by default.
        on_wait: Told once who is in the way.

    Yields:
        The token, for nested procedures.

    Raises:
        Busy: Somebody else was still at work when the time was over.
        ServiceUnavailable: The database or the store does not answer, or the lock was lost on the way.
    """
    own = token or _new_token()
    wait_seconds = platform.backup.interlock_wait_seconds
    deadline = time.monotonic() + wait_seconds
    with open_locks(platform.database, platform.name, own) as locks:
        interlock.acquire(locks, procedure, token=own, wait_seconds=wait_seconds, on_wait=on_wait)
        cluster = locks.cluster()
        while True:
            _wait_for_leases(store, procedure, own, cluster, deadline)
            with keep_lease(store, procedure, own, cluster):
                if not _find_binding(store, procedure, own, cluster):
                    yield own
                    locks.require_held(own)
                    return
            # Somebody came at the same time: ours is given back, and not at the same time as theirs.
            time.sleep(random.uniform(0, _POLL_SECONDS))


@contextmanager
def hold_sets(platform: Platform, store: Store) -> Iterator[None]:
    """Keep backup sets from being removed for as long as the block reads or pins them.

    By the store's lease alone: a set can be verified with its database gone.

    Raises:
        Busy: Sets were still being removed when the time was over.
        ServiceUnavailable: The store does not answer.
    """
    own, cluster = _new_token(), ""  # of no server, so that it binds everywhere
    deadline = time.monotonic() + platform.backup.interlock_wait_seconds
    with keep_lease(store, Procedure.VERIFY, own, cluster):
        _wait_for_leases(store, Procedure.VERIFY, own, cluster, deadline)
        yield


def _new_token() -> str:
    return f"{socket.gethostname()[:20]}-{secrets.token_hex(4)}"


def _wait_for_leases(store: Store, procedure: Procedure, token: str, cluster: str, deadline: float) -> None:
    while binding := _find_binding(store, procedure, token, cluster):
        if time.monotonic() >= deadline:
            first = binding[0]
            elsewhere = " from another server" if first.cluster else ""
            raise Busy(
                f"{procedure.named.capitalize()} cannot start: {Procedure(first.procedure).named} holds the store's"
                f" lease{elsewhere}.",
                hint=f"If that run is dead, its lease ends by itself at {first.expires_at:%H:%M:%S} UTC.",
            )
        time.sleep(_POLL_SECONDS)


def _find_binding(store: Store, procedure: Procedure, token: str, cluster: str) -> list[Lease]:
    """The leases that stand in the way."""
    return [lease for lease in read_leases(store, datetime.now(UTC)) if _binds(lease, procedure, token, cluster)]


def _binds(lease: Lease, procedure: Procedure, token: str, cluster: str) -> bool:
    """Whether a lease stands in the way: one of this server's does not, since its locks would have told."""
    if (lease.cluster and lease.cluster == cluster) or lease.procedure not in list(Procedure):
        return False
    return bool(
        interlock.find_conflicts(procedure, [Holder(Procedure(lease.procedure), lease.token, None)], token=token)
    )
