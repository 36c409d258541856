"""Restores as a case sees them: which one counts, and what of them comes into the timeline."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore

from keepwell.approval import Approval, Place
from keepwell.incident import restores
from keepwell.incident.documents import Kind
from keepwell.incident.journal import open_case, read_incident
from keepwell.incident.restores import RestoreSoFar, find_restore, observe_restores, record_restore
from keepwell.incident.standing import measure_times
from keepwell.restore.journal import Journal, RestoreCase, StepName, begin_case
from keepwell.restore.plan import Mode
from keepwell.restore.standing import Standing
from keepwell.settings import Platform
from keepwell.verdict import Verdict

NOW = datetime.now(UTC)
OPENED_AT = NOW - timedelta(hours=1)
PLATFORM = Platform.model_construct(name="esn")
APPROVAL = Approval(
    approver="Ada", reason="rows are gone", typed="esn_db", digest="0" * 12, approved_at=NOW, given_at=Place.TERMINAL
)


def a_case(number: int = 1, *, minutes_ago: int = 30, mode: Mode = Mode.SWAP, **changes: Any) -> RestoreCase:
    begun_at = NOW - timedelta(minutes=minutes_ago)
    plain: dict[str, Any] = {
        "case_id": f"20261129T03000{number}Z-abcdef",
        "platform": "esn",
        "mode": mode,
        "backup_id": "20261129T020000Z-abcdef",
        "database": "esn_db",
        "snapshot_at": begun_at - timedelta(hours=2),
        "allow_unproven": False,
        "server": "7410000000000000000",
        "live": "esn_db",
        "live_oid": 1,
        "name": "esn_db_restored",
        "replaced": "esn_db_replaced",
        "digest": "0" * 12,
        "approval": APPROVAL if mode is Mode.SWAP else None,
        "begun_at": begun_at,
    }
    return RestoreCase(**(plain | changes))


@dataclass
class State:
    standing: Standing


@dataclass
class Known:
    case: RestoreCase
    state: State | None


@dataclass
class Status:
    cases: tuple[Known, ...]


def find(monkeypatch: pytest.MonkeyPatch, *known: Known, mode: Mode = Mode.SWAP) -> RestoreSoFar:
    store: Any = MemoryStore()
    monkeypatch.setattr(restores, "read_status", lambda platform, store: Status(known))
    return find_restore(PLATFORM, store, since=OPENED_AT, mode=mode)


@pytest.mark.parametrize(
    ("standing", "counts", "done"),
    [
        (Standing.SERVING, True, True),
        (Standing.NOT_RESTORED, True, False),
        (Standing.BESIDE, True, False),
        (Standing.FENCED, True, False),
        (Standing.SHUT, True, False),
        (Standing.SWAPPED, True, False),
        (Standing.FAILED, False, False),
        (Standing.UNDONE, False, False),
        (Standing.PURGED, False, False),
        (Standing.SUPERSEDED, False, False),
        (Standing.ELSEWHERE, False, False),
    ],
)
def test_what_was_begun_is_gone_on_with_and_what_went_back_does_not_count(
    monkeypatch: pytest.MonkeyPatch, standing: Standing, counts: bool, done: bool
) -> None:
    case = a_case()
    found = find(monkeypatch, Known(case, State(standing)))
    assert (found.restore_case, found.is_done) == (case.case_id if counts else None, done)
    if done:
        assert found.numbers["rpo_seconds"] == 7200
        assert "Ada (self-declared)" in found.approved


def test_of_several_the_newest_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = a_case(2, minutes_ago=5), a_case(1)
    found = find(monkeypatch, Known(newest, State(Standing.UNDONE)), Known(older, State(Standing.SERVING)))
    assert found.restore_case == older.case_id


def test_one_of_before_the_case_of_another_mode_or_of_a_server_that_is_down_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for known in (
        Known(a_case(minutes_ago=61), State(Standing.SERVING)),
        Known(a_case(mode=Mode.BESIDE), State(Standing.BESIDE)),
        Known(a_case(), None),
    ):
        assert find(monkeypatch, known) == RestoreSoFar()


def test_in_an_exercise_one_beside_the_live_database_is_all_that_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, Known(a_case(mode=Mode.BESIDE), State(Standing.BESIDE)), mode=Mode.BESIDE)
    assert (found.is_done, found.approved) == (True, "")


def test_every_step_is_an_event_and_what_failed_is_red() -> None:
    store: Any = MemoryStore()
    journal: Journal = begin_case(store, a_case())
    journal.write(StepName.EXCHANGED)
    journal.write(StepName.NOT_SERVING, message="GET /health answered 502.")
    journal.write(StepName.SWAPPED_BACK)
    begin_case(store, a_case(0, minutes_ago=60 * 24 * 8))
    found = list(observe_restores(store, NOW, within=timedelta(days=7)))
    assert [one.verdict for one in found] == [Verdict.WARN, Verdict.OK, Verdict.ALERT, Verdict.WARN]
    assert "in place of esn_db; approved by Ada (self-declared)" in found[0].message
    assert "not serving: GET /health answered 502." in found[2].message


def test_no_restore_and_a_damaged_journal() -> None:
    store: Any = MemoryStore()
    (nothing,) = observe_restores(store, NOW, within=timedelta(days=7))
    assert nothing.verdict is Verdict.OK
    begin_case(store, a_case())
    (key,) = store.objects
    store.objects[key] = b"{}"
    damaged = list(observe_restores(store, NOW, within=timedelta(days=7)))
    assert damaged[0].verdict is Verdict.UNKNOWN


def test_what_was_restored_by_hand_is_recorded_with_who_approved_it_and_what_is_lost() -> None:
    store: Any = MemoryStore()
    incident = open_case(PLATFORM, store, "rows are gone", now=OPENED_AT)
    at = NOW - timedelta(minutes=30)
    done = RestoreSoFar(
        "20261129T030001Z-abcdef", True, "20261129T020000Z-abcdef", at - timedelta(hours=2), at, "approved"
    )
    record_restore(store, incident, done, "by the console", now=NOW, by="ann")
    found = read_incident(store, incident.case.case_id)
    assert [entry.kind for entry in found.entries] == [Kind.DECISION, Kind.STEP]
    assert measure_times(found.case, found.entries, found.standing)["rpo_seconds"] == 7200


def test_without_a_restore_s_journal_nothing_is_said_to_be_lost() -> None:
    store: Any = MemoryStore()
    incident = open_case(PLATFORM, store, "rows are gone", now=OPENED_AT)
    record_restore(store, incident, RestoreSoFar(), "by hand, from an old dump", now=NOW, by="ann")
    found = read_incident(store, incident.case.case_id)
    assert measure_times(found.case, found.entries, found.standing)["rpo_seconds"] is None
