"""What a case has come to is told from its journal and the databases' names, wherever its run died."""

from datetime import UTC, datetime
from typing import cast

import pytest
from memory_store import MemoryStore

from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.postgres.databases import NamedDatabase
from keepwell.restore.apply import require_open_end
from keepwell.restore.journal import Journal, RestoreCase, StepName, begin_case, read_case_ids, read_journal
from keepwell.restore.plan import Mode
from keepwell.restore.purge import find_target
from keepwell.restore.standing import Standing, judge_case
from keepwell.verdict import Verdict

AT = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
FORMER, RESTORED = 1, 2
SERVER = "7410000000000000000"
LIVE, BESIDE, REPLACED, UNDONE = "esn", "esn_restored_x", "esn_replaced_x", "esn_undone_x"


def a_case(mode: Mode = Mode.SWAP) -> RestoreCase:
    return RestoreCase(
        case_id="20260302T020000Z-abcdef",
        platform="esn",
        mode=mode,
        backup_id="20260301T020000Z-abcdef",
        database=LIVE,
        snapshot_at=AT,
        allow_unproven=False,
        server=SERVER,
        live=LIVE,
        live_oid=FORMER,
        name=BESIDE,
        replaced=REPLACED if mode is Mode.SWAP else None,
        digest="0" * 12,
        approval=None,
        begun_at=AT,
    )


def a_journal(*steps: StepName, mode: Mode = Mode.SWAP) -> Journal:
    journal = Journal(cast("Store", MemoryStore()), a_case(mode))
    for step in steps:
        name = {StepName.PURGING: REPLACED, StepName.UNDOING: UNDONE}.get(step)
        journal.write(step, oid=RESTORED if step is StepName.PROVEN else None, name=name)
    return journal


def database(oid: int, name: str, *, shut: bool = False) -> NamedDatabase:
    return NamedDatabase(oid, name, not shut, 0)


BEFORE = (database(FORMER, LIVE), database(RESTORED, BESIDE))
AFTER = (database(RESTORED, LIVE), database(FORMER, REPLACED))
IN_USE = frozenset((LIVE, "postgres"))
PROVEN = (StepName.RESTORING, StepName.PROVEN, StepName.RESTORED)
FENCED = (*PROVEN, StepName.FENCING)
EXCHANGED = (*FENCED, StepName.EXCHANGING, StepName.EXCHANGED)


@pytest.mark.parametrize(
    ("steps", "databases", "standing", "verdict"),
    [
        ((StepName.RESTORING,), BEFORE[:1], Standing.NOT_RESTORED, Verdict.WARN),
        ((StepName.RESTORING, StepName.FAILED), BEFORE[:1], Standing.FAILED, Verdict.OK),
        (PROVEN, BEFORE, Standing.BESIDE, Verdict.OK),
        (FENCED, BEFORE, Standing.BESIDE, Verdict.OK),
        (FENCED, (database(FORMER, LIVE, shut=True), BEFORE[1]), Standing.FENCED, Verdict.ALERT),
        # Whoever shut it, it was not this case.
        (PROVEN, (database(FORMER, LIVE, shut=True), BEFORE[1]), Standing.BESIDE, Verdict.OK),
        ((*EXCHANGED, StepName.UNDONE), (database(FORMER, LIVE, shut=True), BEFORE[1]), Standing.UNDONE, Verdict.OK),
        # The last steps never came to the bucket: the names tell all the same.
        (FENCED, AFTER, Standing.SWAPPED, Verdict.WARN),
        (EXCHANGED, AFTER, Standing.SWAPPED, Verdict.WARN),
        ((*EXCHANGED, StepName.SERVING), AFTER, Standing.SERVING, Verdict.OK),
        ((*EXCHANGED, StepName.NOT_ASKED), AFTER, Standing.SERVING, Verdict.OK),
        # The bucket missed what came after the fence.
        ((*FENCED, StepName.SERVING), AFTER, Standing.SERVING, Verdict.OK),
        ((*EXCHANGED, StepName.SERVING, *FENCED), AFTER, Standing.SWAPPED, Verdict.WARN),
        (EXCHANGED, (database(RESTORED, LIVE, shut=True), AFTER[1]), Standing.SHUT, Verdict.ALERT),
        ((*EXCHANGED, StepName.UNDOING), AFTER, Standing.SWAPPED, Verdict.WARN),
        ((*EXCHANGED, StepName.UNDOING), BEFORE, Standing.UNDONE, Verdict.OK),
        ((*EXCHANGED, StepName.SERVING, StepName.PURGING), AFTER, Standing.SERVING, Verdict.OK),
        ((*EXCHANGED, StepName.SERVING, StepName.PURGING), AFTER[:1], Standing.PURGED, Verdict.OK),
        # The store was away in the middle of it.
        ((*FENCED, StepName.EXCHANGED, StepName.SERVING), AFTER, Standing.SERVING, Verdict.OK),
        # Gone on purpose, after what the case left.
        ((*EXCHANGED, StepName.SERVING, StepName.PURGED), (), Standing.PURGED, Verdict.OK),
        ((*EXCHANGED, StepName.SERVING), (*AFTER[1:], database(9, LIVE)), Standing.SUPERSEDED, Verdict.OK),
        (PROVEN, (database(FORMER, "moved"), BEFORE[1]), Standing.BESIDE, Verdict.ALERT),
    ],
)
def test_how_a_case_stands(
    steps: tuple[StepName, ...], databases: tuple[NamedDatabase, ...], standing: Standing, verdict: Verdict
) -> None:
    state = judge_case(a_journal(*steps), databases, SERVER)
    assert (state.standing, state.verdict) == (standing, verdict)
    if standing in (Standing.FENCED, Standing.SHUT):
        assert "Nobody is let into esn." in state.advice
        assert "keepwell restore undo 20260302T020000Z-abcdef" in state.advice


@pytest.mark.parametrize(
    ("steps", "databases", "standing"),
    [
        (PROVEN, BEFORE, Standing.BESIDE),
        (PROVEN, BEFORE[:1], Standing.GONE),
        # It failed before it had its name, and was dropped.
        ((StepName.RESTORING, StepName.PROVEN, StepName.FAILED), BEFORE[:1], Standing.FAILED),
        # Another restore was swapped in since: a copy beside is a copy beside.
        (PROVEN, (database(9, LIVE), database(FORMER, REPLACED), BEFORE[1]), Standing.BESIDE),
        ((StepName.RESTORING,), BEFORE[:1], Standing.NOT_RESTORED),
    ],
)
def test_a_copy_beside_stands_for_itself(
    steps: tuple[StepName, ...], databases: tuple[NamedDatabase, ...], standing: Standing
) -> None:
    assert judge_case(a_journal(*steps, mode=Mode.BESIDE), databases, SERVER).standing is standing


def test_a_journal_reads_back_and_a_damaged_one_is_told() -> None:
    store = MemoryStore()
    journal = begin_case(cast("Store", store), a_case())
    journal.write(StepName.RESTORING, required=True)
    journal.write(StepName.PROVEN, oid=RESTORED)
    (case_id,) = read_case_ids(cast("Store", store))
    again = read_journal(cast("Store", store), case_id)
    assert (again.case, again.steps, again.restored_oid) == (a_case(), journal.steps, RESTORED)
    store.objects[f"restores/{case_id}/case.json"] = b"{}"
    with pytest.raises(KeepwellError, match="damaged"):
        read_journal(cast("Store", store), case_id)


@pytest.mark.parametrize("wanted", ["nonsense", "../../backups", "20260302T020000Z-abcdef"])
def test_a_case_that_is_not_there_is_refused_in_words(wanted: str) -> None:
    with pytest.raises(PreconditionFailed, match="case"):
        read_journal(cast("Store", MemoryStore()), wanted)


def test_what_is_under_way_goes_on_when_the_bucket_takes_no_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = a_journal(*PROVEN)

    def refuse(relative: str, content: bytes) -> None:
        del relative, content
        raise KeepwellError("It is full.")

    monkeypatch.setattr(journal.store, "put_bytes", refuse)
    with pytest.raises(KeepwellError, match="full"):
        journal.write(StepName.FENCING, required=True)
    journal.write(StepName.EXCHANGED)
    assert journal.unwritten == [StepName.EXCHANGED]


def test_on_another_server_the_numbers_mean_nothing() -> None:
    journal = a_journal(*EXCHANGED, StepName.SERVING)
    state = judge_case(journal, AFTER, "another")
    assert (state.standing, state.verdict, state.former, state.restored) == (Standing.ELSEWHERE, Verdict.OK, None, None)
    with pytest.raises(PreconditionFailed, match="may go: of another server"):
        find_target(journal, state, IN_USE)
    with pytest.raises(PreconditionFailed, match="cannot go on: of another server"):
        require_open_end(journal, state)


LATER = (database(9, LIVE), database(FORMER, REPLACED), database(RESTORED, "esn_replaced_y"))
BACK = (*EXCHANGED, StepName.SERVING, StepName.UNDOING, StepName.UNDONE)


@pytest.mark.parametrize(
    ("steps", "databases", "goes"),
    [
        ((*EXCHANGED, StepName.SERVING), AFTER, REPLACED),
        # Restored over once more since: the first replaced one is ours to drop, the other one is not.
        ((*EXCHANGED, StepName.SERVING), LATER, REPLACED),
        ((*EXCHANGED, StepName.SERVING), (LATER[0], LATER[2]), None),
        # Somebody took it for something else.
        ((*EXCHANGED, StepName.SERVING), (AFTER[0], database(FORMER, "accounting")), None),
        ((*EXCHANGED, StepName.SERVING), (AFTER[0], database(FORMER, UNDONE)), None),
        (BACK, (database(FORMER, LIVE), database(RESTORED, UNDONE)), UNDONE),
        (BACK, (database(FORMER, LIVE), database(RESTORED, "esn_undone_y")), None),
        # It was opened again before any name was exchanged.
        ((*FENCED, StepName.SWAPPED_BACK), BEFORE, BESIDE),
        ((*FENCED, StepName.SWAPPED_BACK), (BEFORE[0], database(RESTORED, "postgres")), None),
    ],
)
def test_only_what_has_exactly_our_name_may_go(
    steps: tuple[StepName, ...], databases: tuple[NamedDatabase, ...], goes: str | None
) -> None:
    journal = a_journal(*steps)
    state = judge_case(journal, databases, SERVER)
    assert journal.settled_at >= AT
    if goes is None:
        with pytest.raises(PreconditionFailed, match="and stays"):
            find_target(journal, state, IN_USE)
    else:
        assert find_target(journal, state, IN_USE).name == goes
