"""Restores as a case sees them: which one counts, and what of them comes into the timeline."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore

from keepwell.approval import Approval, Place
from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.evidence import Evidence, write_evidence
from keepwell.incident import restores
from keepwell.incident.documents import Kind
from keepwell.incident.journal import open_case, read_incident
from keepwell.incident.restores import (
    RestoreSoFar,
    begin_restore,
    find_done_restore,
    find_restore,
    observe_restores,
    record_restore,
)
from keepwell.incident.standing import measure_times
from keepwell.restore.choice import NEWEST, Choice
from keepwell.restore.journal import Journal, RestoreCase, StepName, begin_case
from keepwell.restore.plan import Mode
from keepwell.restore.standing import Standing
from keepwell.settings import BackupSettings, DatabaseSettings, Platform
from keepwell.verdict import Finding, Verdict

NOW = datetime.now(UTC)
OPENED_AT = NOW - timedelta(hours=1)
PLATFORM = Platform.model_construct(
    name="esn", database=DatabaseSettings(name="esn_db", user="esn", port=1), backup=BackupSettings()
)
BACKUP_ID = "20261129T020000Z-abcdef"
APPROVAL = Approval(
    approver="Ada", reason="rows are gone", typed="esn_db", digest="0" * 12, approved_at=NOW, given_at=Place.TERMINAL
)


def a_case(number: int = 1, *, minutes_ago: int = 30, mode: Mode = Mode.SWAP, **changes: Any) -> RestoreCase:
    begun_at = NOW - timedelta(minutes=minutes_ago)
    plain: dict[str, Any] = {
        "case_id": f"20261129T03000{number}Z-abcdef",
        "platform": "esn",
        "mode": mode,
        "backup_id": BACKUP_ID,
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
    advice: str = "keepwell restore undo"


@dataclass
class Known:
    case: RestoreCase
    state: State | None


@dataclass
class Status:
    cases: tuple[Known, ...]
    findings: tuple[Finding, ...] = ()


def find(
    monkeypatch: pytest.MonkeyPatch,
    *known: Known,
    drill: bool = False,
    choice: Choice = Choice(which=BACKUP_ID),  # noqa: B008 - frozen
    newest: str = BACKUP_ID,
    ours: bool = True,
    findings: tuple[Finding, ...] = (),
    evidence: Verdict | None = Verdict.OK,
) -> RestoreSoFar:
    """What counts where these restores are known, each begun by the case itself or by none."""
    store: Any = MemoryStore()
    incident = open_case(PLATFORM, store, "rows are gone", now=OPENED_AT, drill=drill)
    for one in known:
        fence = begin_case(store, one.case)
        fence.write(StepName.FENCING)
        fence.steps[0] = fence.steps[0].model_copy(update={"at": one.case.begun_at + timedelta(minutes=9)})
        store.objects[f"restores/{one.case.case_id}/0001-fencing.json"] = fence.steps[0].to_json()
        if ours:
            begin_restore(store, incident, one.case.backup_id, one.case.case_id, now=NOW)
        if evidence is not None:
            keep(store, one.case, evidence)
    monkeypatch.setattr(restores, "read_status", lambda platform, store: Status(known, findings))
    monkeypatch.setattr(restores, "choose_set", lambda *_: Chosen(newest))
    return find_restore(PLATFORM, store, read_incident(store, incident.case.case_id), choice)


@dataclass
class Chosen:
    backup_id: str


def keep(store: Any, case: RestoreCase, verdict: Verdict) -> None:
    bad = Finding(name="smoke query", verdict=verdict, message="0 people, not 7.")
    write_evidence(
        store,
        Evidence(
            items=("BK-4",),
            platform="esn",
            verdict=verdict,
            summary="It ran.",
            findings=(bad,),
            numbers={"case": case.case_id},
            started_at=case.begun_at,
            finished_at=NOW,
        ),
    )


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
        # Until the live database was shut, people wrote into it.
        assert found.numbers["rpo_seconds"] == 7200 + 9 * 60
        assert "Ada (self-declared)" in found.approved


@pytest.mark.parametrize("standing", [Standing.BESIDE, Standing.NOT_RESTORED, Standing.FENCED, Standing.SWAPPED])
def test_what_is_of_another_set_or_of_somebody_else_is_never_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, standing: Standing
) -> None:
    known, older = Known(a_case(), State(standing)), "20261128T020000Z-abcdef"
    touches_live = standing in (Standing.FENCED, Standing.SWAPPED)
    for options in ({"choice": Choice(which=older), "newest": older}, {"ours": False}):
        if touches_live:
            with pytest.raises(PreconditionFailed, match="Nothing was changed") as caught:
                find(monkeypatch, known, **options)  # type: ignore[arg-type]
            assert "keepwell restore undo" in caught.value.hint
        else:
            assert find(monkeypatch, known, **options) == RestoreSoFar()  # type: ignore[arg-type]
    # Whether the newest of then or of now is meant, somebody has to say.
    with pytest.raises(PreconditionFailed, match="not the newest proven set any more") as unclear:
        find(monkeypatch, known, choice=Choice(which=NEWEST), newest="20261129T025959Z-abcdef")
    assert f"which={BACKUP_ID}" in unclear.value.hint


def test_another_set_that_is_live_already_is_not_taken_for_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = Known(a_case(), State(Standing.SERVING))
    for choice in (Choice(which="20261128T020000Z-abcdef"), Choice(before=OPENED_AT - timedelta(days=1))):
        with pytest.raises(PreconditionFailed, match="is asked for"):
            find(monkeypatch, known, choice=choice)
    # Done by hand, of whichever set: it counts.
    assert find(monkeypatch, known, choice=Choice(), newest="another", ours=False).is_done


def test_of_several_the_newest_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, older = a_case(2, minutes_ago=5), a_case(1)
    found = find(monkeypatch, Known(newest, State(Standing.UNDONE)), Known(older, State(Standing.SERVING)))
    assert found.restore_case == older.case_id


def test_one_of_before_the_case_of_another_mode_or_of_another_database_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for known in (
        Known(a_case(minutes_ago=61), State(Standing.SERVING)),
        Known(a_case(mode=Mode.BESIDE), State(Standing.BESIDE)),
        Known(a_case(database="other", live="other"), State(Standing.SERVING)),
    ):
        assert find(monkeypatch, known) == RestoreSoFar()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("server", ServiceUnavailable),
        ("journals", ServiceUnavailable),
        ("case 20991129T030001Z-abcdef", VerificationFailed),
    ],
)
def test_what_is_not_known_is_never_told_as_no_restore(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[KeepwellError]
) -> None:
    unknown = Finding(name=name, verdict=Verdict.UNKNOWN, message="It does not answer.")
    known = (Known(a_case(), None),) if name == "server" else ()
    with pytest.raises(error, match="It does not answer"):
        find(monkeypatch, *known, findings=(unknown,))
    # A journal of long before the case has nothing to do with it.
    earlier = Finding(name="case 20201129T030001Z-abcdef", verdict=Verdict.UNKNOWN, message="It is damaged.")
    assert find(monkeypatch, findings=(earlier,)) == RestoreSoFar()


def test_in_an_exercise_one_beside_the_live_database_is_all_that_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, Known(a_case(mode=Mode.BESIDE), State(Standing.BESIDE)), drill=True)
    assert (found.is_done, found.approved) == (True, "")


@pytest.mark.parametrize(("evidence", "says"), [(Verdict.ALERT, "0 people, not 7."), (None, "no evidence")])
def test_wrong_answers_of_the_restored_database_are_no_good_restore(
    monkeypatch: pytest.MonkeyPatch, evidence: Verdict | None, says: str
) -> None:
    found = find(monkeypatch, Known(a_case(), State(Standing.SERVING)), evidence=evidence)
    assert found.is_done
    assert found.verdict in (Verdict.ALERT, Verdict.UNKNOWN)
    assert says in found.fault
    assert find(monkeypatch, Known(a_case(), State(Standing.SERVING)), evidence=Verdict.WARN).fault == ""


def test_by_hand_any_set_counts_and_what_is_half_done_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = MemoryStore()
    incident = open_case(PLATFORM, store, "rows are gone", now=OPENED_AT)
    known = (Known(a_case(2), State(Standing.SHUT)), Known(a_case(), State(Standing.SERVING)))
    for one in known:
        begin_case(store, one.case)
    monkeypatch.setattr(restores, "read_status", lambda platform, store: Status(known))
    assert find_done_restore(PLATFORM, store, incident).restore_case == known[1].case.case_id


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
    done = RestoreSoFar("20261129T030001Z-abcdef", True, BACKUP_ID, at - timedelta(hours=2), at, "approved", at)
    for _ in range(2):  # tried again, the decision stands there once
        incident = read_incident(store, incident.case.case_id)
        record_restore(store, incident, done, "by the console", now=NOW, by="ann")
    found = read_incident(store, incident.case.case_id)
    assert [entry.kind for entry in found.entries] == [Kind.DECISION, Kind.STEP, Kind.STEP]
    assert measure_times(found.case, found.entries, found.standing)["rpo_seconds"] == 7200


def test_without_a_restore_s_journal_nothing_is_said_to_be_lost() -> None:
    store: Any = MemoryStore()
    incident = open_case(PLATFORM, store, "rows are gone", now=OPENED_AT)
    record_restore(store, incident, RestoreSoFar(), "by hand, from an old dump", now=NOW, by="ann")
    found = read_incident(store, incident.case.case_id)
    assert measure_times(found.case, found.entries, found.standing)["rpo_seconds"] is None
