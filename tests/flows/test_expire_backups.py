from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from engine_double import Engine
from memory_store import MemoryStore
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from stored_sets import keys_of, put_history, put_set

from flows.expire_backups import expire_backups
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.errors import Busy, PartialFailure, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.restore.purge import DuePurges, PurgeOutcome
from keepwell.verdict import Verdict
from tasks import interlock_steps, restore_steps, retention_steps


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (retention_steps.plan, retention_steps.apply):
        monkeypatch.setattr(step, "retry_delay_seconds", [0.0, 0.0])


@pytest.fixture
def sets(engine: Engine) -> list[str]:
    """A fresh set, two to keep, and two that are due, the oldest last."""
    return put_history(engine.store, datetime.now(UTC).replace(microsecond=0), 0.1, 1, 20, 31, 32)


def run() -> State:
    return expire_backups("esn", return_state=True)


def listed(store: MemoryStore) -> list[str]:
    return [entry.backup_id for entry in read_catalogue(store)]  # type: ignore[arg-type]


def page_of(state: State) -> str:
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        body = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
        found = client.request("POST", "/artifacts/filter", json=body).json()
    return next(str(artifact["data"]) for artifact in found if artifact["key"] == "esn-retention-evidence")


def test_old_sets_go_under_the_interlock_and_each_set_is_told_with_its_reasons(
    engine: Engine, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_plan = retention_steps.apply_plan

    def held_apply(*arguments: object) -> object:
        assert engine.held
        return apply_plan(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(retention_steps, "apply_plan", held_apply)
    state = run()
    assert state.is_completed(), state.message
    assert engine.calls == ["hold", "release"]
    assert listed(engine.store) == sets[:3]
    evidence = engine.evidence("BK-2")
    assert (evidence.verdict, evidence.flow_run) == (Verdict.OK, str(state.state_details.flow_run_id))
    assert (evidence.numbers["sets_removed"], evidence.numbers["sets_kept"]) == (2, 3)
    told = {finding.name: finding.message for finding in evidence.findings}
    assert told[sets[4]] == "Removed: proven, 32 d old, and no rule keeps it"
    assert told[sets[0]].startswith("Stays: proven, and no older than 30 days; one of the 3 newest proven sets")
    page = page_of(state)
    assert page.startswith("# Retention of esn: ✓ ok")
    assert all(backup_id in page for backup_id in sets)


def test_where_nothing_is_due_nothing_goes(engine: Engine) -> None:
    put_history(engine.store, datetime.now(UTC), 0.1, 1)
    assert run().is_completed()
    assert engine.evidence("BK-2").summary == "No set is due; all 2 stay."


def test_without_a_fresh_proven_set_nothing_goes_and_the_run_is_red(engine: Engine) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    old = put_history(engine.store, now, 31, 32, 33, 34)
    put_set(engine.store, now - timedelta(hours=1), proven=False)
    state = run()
    assert state.name == "Failed"
    with pytest.raises(VerificationFailed, match="so nothing is removed"):
        state.result()
    assert set(old) < set(listed(engine.store))
    evidence = engine.evidence("BK-2")
    assert (evidence.verdict, evidence.numbers["sets_removed"]) == (Verdict.ALERT, 0)
    assert page_of(state).startswith("# Retention of esn: ✗ ALERT")


def test_a_run_removes_no_more_than_it_may(engine: Engine) -> None:
    put_history(engine.store, datetime.now(UTC), 0.1, *range(31, 46))
    assert run().is_completed()
    assert len(listed(engine.store)) == 6
    evidence = engine.evidence("BK-2")
    assert (evidence.verdict, evidence.numbers["sets_held_back"]) == (Verdict.WARN, 3)


def test_a_set_that_the_store_keeps_fails_the_run_and_stays_listed(engine: Engine, sets: list[str]) -> None:
    engine.store.locked = {layout.manifest_key(sets[4])}
    state = run()
    assert state.name == "Failed"
    assert sets[4] in (state.message or "")
    assert sets[3] not in (state.message or "")
    with pytest.raises(PartialFailure):
        state.result()
    assert listed(engine.store) == [*sets[:3], sets[4]]
    assert engine.evidence("BK-2").verdict is Verdict.ALERT


def test_a_plan_that_changed_meanwhile_is_not_applied(
    engine: Engine, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_plan = retention_steps.read_plan

    def read_and_add(*arguments: object) -> object:
        plan = read_plan(*arguments)  # type: ignore[arg-type]
        put_history(engine.store, datetime.now(UTC), 50)
        return plan

    monkeypatch.setattr(retention_steps, "read_plan", read_and_add)
    state = run()
    assert state.is_failed()
    with pytest.raises(PreconditionFailed, match="nothing was removed"):
        state.result()
    assert len(listed(engine.store)) == len(sets) + 1


def test_a_store_that_is_away_for_a_moment_is_asked_again(
    engine: Engine, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_plan, away = retention_steps.apply_plan, [ServiceUnavailable("The store is away.")]

    def apply_once_it_is_back(*arguments: object) -> object:
        if away:
            raise away.pop()
        return apply_plan(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(retention_steps, "apply_plan", apply_once_it_is_back)
    assert run().is_completed()
    assert listed(engine.store) == sets[:3]


def test_somebody_else_s_turn_is_respected(engine: Engine, sets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Busy("A verification is at work.")

    monkeypatch.setattr(interlock_steps, "hold_platform", busy)
    assert run().is_failed()
    assert listed(engine.store) == sets


def test_what_an_earlier_run_left_half_removed_is_finished(engine: Engine, sets: list[str]) -> None:
    half_gone = put_set(engine.store, datetime.now(UTC).replace(microsecond=0) - timedelta(days=40))
    del engine.store.objects[layout.manifest_key(half_gone)]
    engine.store.put_bytes(layout.expiring_key(half_gone), b"mark")
    assert run().is_completed()
    assert keys_of(engine.store, half_gone) == []
    assert "an earlier run" in {f.name: f.message for f in engine.evidence("BK-2").findings}[half_gone]


@pytest.fixture
def replaced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was dropped; one case is due wherever days are set."""
    dropped: list[str] = []

    def purge(_platform: object, _store: object, case_id: str, approval: None, *_: object, now: datetime) -> object:
        assert engine.held
        assert approval is None
        dropped.append(case_id)
        return PurgeOutcome(case_id, "esn_db_replaced_20261029T030000Z", 12)

    monkeypatch.setattr(restore_steps, "open_store", lambda _: engine.store)
    due = SimpleNamespace(case_id="20261029T030000Z-fedcba")
    monkeypatch.setattr(restore_steps, "read_due", lambda *_: DuePurges((due,)))  # type: ignore[arg-type]
    monkeypatch.setattr(restore_steps, "purge_replaced", purge)
    return dropped


def keep_replaced(engine: Engine, days: int) -> None:
    settings = engine.platform.restore.model_copy(update={"keep_replaced_days": days})
    engine.platform = engine.platform.model_copy(update={"restore": settings})


def test_what_a_restore_replaced_goes_after_its_days_and_by_default_never(
    engine: Engine, sets: list[str], replaced: list[str]
) -> None:
    assert run().is_completed()
    assert replaced == []
    keep_replaced(engine, 30)
    assert run().is_completed()
    assert replaced == ["20261029T030000Z-fedcba"]


def test_without_a_fresh_proven_set_what_was_replaced_stays(engine: Engine, replaced: list[str]) -> None:
    put_history(engine.store, datetime.now(UTC).replace(microsecond=0), 31, 32)
    keep_replaced(engine, 30)
    assert run().name == "Failed"
    assert replaced == []
