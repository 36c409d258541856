"""Which procedures may overlap on one platform, and holding one's place among them.

The database's advisory locks are the first line: they vanish with a dead session. The store's lease is the second:
it holds where the database is down or is reached by another way. Nothing is held while a run waits for approval.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keepwell.errors import Busy

_POLL_SECONDS = 1.0


class Procedure(StrEnum):
    """What may be at work on a platform."""

    # In the order of their locks' numbers: a new one goes to the end.
    BACKUP = "backup"
    RESTORE = "restore"
    EXPIRE = "expiry"
    VERIFY = "verification"
    CARRY = "copy"
    SWAP = "swap"
    DRILL = "drill"

    @property
    def named(self) -> str:
        """With its article, for a sentence."""
        return f"{'an' if self.value[0] in 'aeiou' else 'a'} {self.value}"


# Unordered pairs that may overlap; whatever is not named here may not. Nothing overlaps with an expiry: it removes what
# the others write and read.
_COMPATIBLE = frozenset(
    map(
        frozenset,
        (
            {Procedure.VERIFY},
            {Procedure.VERIFY, Procedure.BACKUP},
            {Procedure.VERIFY, Procedure.RESTORE},
            # It reads one destination and writes another; two of them would sweep one another's sets.
            {Procedure.CARRY, Procedure.BACKUP},
            {Procedure.CARRY, Procedure.RESTORE},
            {Procedure.CARRY, Procedure.VERIFY},
            # They read a set and restore it on a server of their own, and a swap takes a live name: neither meets the
            # other, and a disaster's restore is not kept waiting for hours of rehearsal.
            {Procedure.SWAP, Procedure.VERIFY},
            {Procedure.SWAP, Procedure.DRILL},
            {Procedure.DRILL, Procedure.BACKUP},
            {Procedure.DRILL, Procedure.RESTORE},
            {Procedure.DRILL, Procedure.VERIFY},
            {Procedure.DRILL, Procedure.CARRY},
        ),
    )
)


@dataclass(frozen=True)
class Holder:
    """Somebody at work: the procedure, a token of its run, and since when (None where that is not known)."""

    procedure: Procedure
    token: str
    since: datetime | None


class Locks(Protocol):
    """What the interlock needs of a lock server."""

    def gate(self) -> AbstractContextManager[None]:
        """Nobody else looks or takes meanwhile."""

    def holders(self) -> list[Holder]:
        """Everyone who is at work on this platform now."""

    def take(self, procedure: Procedure) -> None:
        """Take a place, kept until the session ends."""


def find_conflicts(wanted: Procedure, holders: list[Holder], *, token: str) -> list[Holder]:
    """Who stands in the way.

    Args:
        wanted: What is to start.
        holders: Who is at work.
        token: Of the run that asks; a nested procedure carries its parent's, and is never in its own way.
    """
    return [
        holder
        for holder in holders
        if holder.token != token and frozenset({wanted, holder.procedure}) not in _COMPATIBLE
    ]


def acquire(
    locks: Locks,
    procedure: Procedure,
    *,
    token: str,
    wait_seconds: float,
    on_wait: Callable[[Holder], None] | None = None,
) -> None:
    """Wait for a place, bounded; it is kept until the session of `locks` ends.

    Args:
        locks: Where places are kept.
        procedure: What is to start.
        token: Of this run, or of its parent.
        wait_seconds: How long to wait for others to end.
        on_wait: Told once who is in the way.

    Raises:
        Busy: Somebody was still at work when the time was over.
    """
    deadline = time.monotonic() + wait_seconds
    told = on_wait is None
    while True:
        with locks.gate():
            conflicts = find_conflicts(procedure, locks.holders(), token=token)
            if not conflicts:
                return locks.take(procedure)
        if time.monotonic() >= deadline:
            raise Busy(_describe(procedure, conflicts[0]), hint="Wait for it to end, or end it, then try again.")
        if not told and on_wait is not None:
            on_wait(conflicts[0])
            told = True
        time.sleep(_POLL_SECONDS)


def _describe(wanted: Procedure, holder: Holder) -> str:
    since = f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC" if holder.since else ""
    return f"{wanted.named.capitalize()} cannot start: {holder.procedure.named} is at work on this platform{since}."
