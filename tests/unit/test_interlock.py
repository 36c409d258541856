from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from keepwell import interlock
from keepwell.errors import Busy, is_transient
from keepwell.interlock import Holder, Procedure, acquire, find_conflicts

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BACKUP, RESTORE, EXPIRE, VERIFY = Procedure.BACKUP, Procedure.RESTORE, Procedure.EXPIRE, Procedure.VERIFY
CARRY, SWAP, DRILL = Procedure.CARRY, Procedure.SWAP, Procedure.DRILL


def held(procedure: Procedure, token: str = "other") -> Holder:
    return Holder(procedure, token, SINCE)


@pytest.mark.parametrize(
    ("wanted", "holders", "in_the_way"),
    [
        (BACKUP, [], []),
        (BACKUP, [held(BACKUP)], ["other"]),
        (BACKUP, [held(RESTORE)], ["other"]),
        (RESTORE, [held(BACKUP)], ["other"]),
        (RESTORE, [held(RESTORE)], ["other"]),
        *((EXPIRE, [held(other)], ["other"]) for other in Procedure),
        *((other, [held(EXPIRE)], ["other"]) for other in Procedure),
        (VERIFY, [held(BACKUP, "a"), held(RESTORE, "b"), held(VERIFY, "c")], []),
        *((SWAP, [held(other)], ["other"]) for other in Procedure if other not in (VERIFY, DRILL)),
        *((other, [held(SWAP)], ["other"]) for other in Procedure if other not in (VERIFY, DRILL)),
        # What works on servers of its own keeps no disaster's restore waiting.
        (SWAP, [held(VERIFY, "a"), held(DRILL, "b")], []),
        *((other, [held(SWAP)], []) for other in (VERIFY, DRILL)),
        (DRILL, [held(other, other) for other in (BACKUP, RESTORE, VERIFY, CARRY)], []),
        (DRILL, [held(DRILL)], ["other"]),
        *((other, [held(DRILL)], []) for other in (BACKUP, RESTORE, VERIFY, CARRY)),
        (BACKUP, [held(VERIFY)], []),
        (RESTORE, [held(VERIFY)], []),
        (BACKUP, [held(RESTORE, "mine")], []),
        (BACKUP, [held(RESTORE, "mine"), held(BACKUP, "a"), held(RESTORE, "b")], ["a", "b"]),
    ],
)
def test_who_stands_in_the_way(wanted: Procedure, holders: list[Holder], in_the_way: list[str]) -> None:
    assert [holder.token for holder in find_conflicts(wanted, holders, token="mine")] == in_the_way


def test_only_pairs_that_the_table_names_may_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interlock, "_COMPATIBLE", frozenset({frozenset({BACKUP, RESTORE})}))
    assert find_conflicts(BACKUP, [held(RESTORE)], token="mine") == []
    assert find_conflicts(RESTORE, [held(BACKUP)], token="mine") == []
    assert find_conflicts(BACKUP, [held(BACKUP)], token="mine") == [held(BACKUP)]


class FakeLocks:
    """Holders by turn; the last turn lasts."""

    def __init__(self, *turns: list[Holder]) -> None:
        self.turns = list(turns)
        self.taken: list[Procedure] = []
        self.gated = False

    @contextmanager
    def gate(self) -> Iterator[None]:
        self.gated = True
        yield
        self.gated = False

    def holders(self) -> list[Holder]:
        assert self.gated
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    def take(self, procedure: Procedure) -> None:
        assert self.gated
        self.taken.append(procedure)


def test_it_waits_until_the_way_is_free_and_tells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interlock, "_POLL_SECONDS", 0)
    locks, told = FakeLocks([held(RESTORE)], [held(RESTORE)], []), []
    acquire(locks, BACKUP, token="mine", wait_seconds=60, on_wait=told.append)
    assert (locks.taken, told) == ([BACKUP], [held(RESTORE)])


def test_locks_keep_their_numbers() -> None:
    """Another release may be at work on the same platform: a procedure's place in the list is its lock's number."""
    assert list(Procedure)[:7] == [BACKUP, RESTORE, EXPIRE, VERIFY, CARRY, SWAP, DRILL]


def test_procedures_have_their_article() -> None:
    named = [procedure.named for procedure in Procedure]
    assert named[:4] == ["a backup", "a restore", "an expiry", "a verification"]


def test_it_gives_up_in_time_and_says_who_and_since_when() -> None:
    locks = FakeLocks([held(RESTORE)])
    with pytest.raises(Busy) as raised:
        acquire(locks, BACKUP, token="mine", wait_seconds=0)
    assert raised.value.message == (
        "A backup cannot start: a restore is at work on this platform since 2026-01-02 03:04:05 UTC."
    )
    assert (locks.taken, is_transient(raised.value)) == ([], False)
