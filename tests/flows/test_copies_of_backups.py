"""What the flows do with a second destination: after the first, and never instead of it."""

from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_proof
from engine_double import Engine, failing
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from stored_sets import put_history, put_set

from flows.backup_and_verify import backup_and_verify
from flows.check_backups import check_backups
from flows.expire_backups import expire_backups
from flows.report_failure import report_failure
from flows.verify_backups import verify_backups
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.freshness import RunFacts, ScheduleFacts
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.verdict import Verdict
from tasks import check_steps, retention_steps, schedule_steps, second_steps


@pytest.fixture(autouse=True)
def second(engine: Engine) -> None:
    engine.configure_second()


def back_up() -> State:
    return backup_and_verify("esn", return_state=True)


def page_of(state: State, key: str) -> str:
    body = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json=body).json()
    return next(str(artifact["data"]) for artifact in found if artifact["key"] == key)


def the_first_is_fine(engine: Engine) -> bool:
    entries = read_catalogue(engine.store)  # type: ignore[arg-type]
    return bool(entries) and entries[0].is_proven("equal")


def test_the_set_is_copied_and_proven_there_after_the_first_proof(engine: Engine) -> None:
    state = back_up()
    assert state.is_completed(), state.message
    assert "in both destinations" in (state.message or "")
    assert engine.calls[:6] == ["hold", "require ready", "write", "release", "prove", "ping"]
    carry, *rest = engine.calls[6:]
    assert carry.startswith("carry ")
    assert rest == ["prove in the second"]
    evidence = engine.evidence("BK-1")
    assert evidence.verdict is Verdict.OK
    assert evidence.summary == "1 of 1 sets were carried to the second destination and proven there."
    assert page_of(state, "esn-second-evidence").startswith("# Second destination of esn: ✓ ok")
    assert page_of(state, "esn-backup-evidence").startswith("# ✓ ok")


def test_what_it_missed_is_caught_up_the_newest_first(engine: Engine) -> None:
    missed = [engine.add_set(timedelta(days=day)) for day in (1, 2, 40)]
    assert back_up().is_completed()
    carried = [call.removeprefix("carry ") for call in engine.calls if call.startswith("carry ")]
    # The last one is older than anything would be kept there for.
    assert carried[1:] == missed[:2]
    assert carried[0] not in missed


def test_a_copy_that_cannot_be_made_fails_the_run_by_a_name_of_its_own(engine: Engine) -> None:
    engine.carried = failing(VerificationFailed("An object is not what its manifest says."), then=lambda: None)
    state = back_up()
    assert (state.name, state.type) == ("SecondFailed", "FAILED")
    assert "is proven in the first destination, and that backup stands" in (state.message or "")
    assert "not what its manifest says" in (state.message or "")
    assert the_first_is_fine(engine)
    assert engine.pinged == 1
    assert engine.evidence("BK-1").verdict is Verdict.ALERT
    assert engine.evidence("DB-6").verdict is Verdict.OK


def test_a_copy_that_is_damaged_there_fails_the_run_and_not_the_first(engine: Engine) -> None:
    engine.second_proof = lambda at: a_proof(at, reached="complete", stopped_by=Verdict.ALERT)
    assert back_up().name == "SecondFailed"
    assert the_first_is_fine(engine)
    assert engine.evidence("BK-1").verdict is Verdict.ALERT


def test_a_destination_that_is_away_for_a_moment_is_asked_again(engine: Engine) -> None:
    engine.carried = failing(ServiceUnavailable("The disk is away."), then=lambda: None)
    assert back_up().is_completed()


def test_a_destination_that_stays_away_is_told(engine: Engine) -> None:
    engine.carried = failing(*[ServiceUnavailable("The disk is away.")] * 3, then=lambda: None)
    engine.add_set(timedelta(days=1))
    state = back_up()
    assert state.name == "SecondFailed"
    assert "The disk is away." in (state.message or "")
    assert "fell silent" in (state.message or ""), "the older set waits for another run"
    assert engine.evidence("BK-1").verdict is Verdict.UNKNOWN


def test_a_first_that_falls_short_is_not_copied(engine: Engine) -> None:
    engine.proof = lambda at: a_proof(at, reached="complete", stopped_by=Verdict.ALERT)
    assert back_up().name == "Failed"
    assert not [call for call in engine.calls if call.startswith("carry")]
    assert engine.second.objects == {}


def test_people_are_told_that_the_first_is_proven_and_what_to_type(engine: Engine) -> None:
    engine.carried = failing(VerificationFailed("An object is damaged."), then=lambda: None)
    state = back_up()
    assert state.state_details.flow_run_id is not None
    assert report_failure(state.state_details.flow_run_id, return_state=True).is_completed()
    # That the first backup of a platform is proven was told before.
    message = engine.sent[-1]
    assert message.title == "esn: backup-and-verify is proven in the first destination, and failed in the second"
    assert message.next_command == "keepwell backup copy --platform esn"
    assert "the data as of" in message.still_safe


def test_a_verification_proves_both(engine: Engine) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    put_history(engine.store, now, 1)
    put_history(engine.second, now, 1)
    assert verify_backups("esn", return_state=True).is_completed()
    assert engine.calls == ["prove every upload", "prove every upload in the second"]
    engine.second_proof = lambda at: a_proof(at, reached="complete", stopped_by=Verdict.ALERT)
    state = verify_backups("esn", return_state=True)
    assert state.is_failed()
    assert "in the second destination" in (state.message or "")
    assert "1 of 2" in (state.message or "")


def test_a_verification_with_an_empty_second_is_red(engine: Engine) -> None:
    put_history(engine.store, datetime.now(UTC).replace(microsecond=0), 1)
    assert verify_backups("esn", return_state=True).is_failed()
    assert engine.calls == ["prove every upload"]


def test_a_check_looks_at_both(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    due = now - timedelta(hours=7)
    up = ScheduleFacts(
        deployed=True,
        active=True,
        expected=(due,),
        next_at=now + timedelta(hours=17),
        runs=(RunFacts(due, due, "COMPLETED"),),
    )
    monkeypatch.setattr(schedule_steps, "read_schedule", lambda platform: up)
    engine.add_set()
    state = check_backups("esn", return_state=True)
    assert state.name == "Alert"
    assert "In the second destination: There is no backup set." in engine.sent[0].cause
    assert engine.sent[0].next_command == "keepwell backup copy"
    engine.second.objects |= {k: v for k, v in engine.store.objects.items() if k.startswith("backups/")}
    assert check_backups("esn", return_state=True).name == "Completed"
    read = check_steps.read_catalogue

    def away(store: object) -> object:
        if store is engine.second:
            raise ServiceUnavailable("The disk is away.")
        return read(store)  # type: ignore[arg-type]

    monkeypatch.setattr(check_steps, "read_catalogue", away)
    assert check_backups("esn", return_state=True).name == "Unknown"


def test_each_destination_expires_by_what_is_proven_in_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (retention_steps.plan, retention_steps.apply):
        monkeypatch.setattr(step, "retry_delay_seconds", [0.0, 0.0])
    now = datetime.now(UTC).replace(microsecond=0)
    ids = put_history(engine.store, now, 0.1, 1, 20, 31)
    put_history(engine.second, now, 0.1, 1, 20, 31)
    assert expire_backups("esn", return_state=True).is_completed()
    assert engine.calls == ["hold", "release"] * 2
    for store in engine.stores.values():
        assert [entry.backup_id for entry in read_catalogue(store)] == ids[:3]  # type: ignore[arg-type]
    # Without a fresh set in the second nothing goes there, however fresh the first is.
    engine.second.objects.clear()
    old = put_history(engine.second, now, 31, 32, 33, 34)
    put_set(engine.second, now, proven=False)
    state = expire_backups("esn", return_state=True)
    assert state.name == "Failed"
    assert "in the second destination, " in (state.message or "")
    assert set(old) < {entry.backup_id for entry in read_catalogue(engine.second)}  # type: ignore[arg-type]


def test_a_second_that_is_away_keeps_nothing_of_the_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (retention_steps.plan, retention_steps.apply):
        monkeypatch.setattr(step, "retry_delay_seconds", [0.0, 0.0])
    ids = put_history(engine.store, datetime.now(UTC).replace(microsecond=0), 0.1, 1, 20, 31)
    away = failing(*[ServiceUnavailable("Away.")] * 3, then=list)
    monkeypatch.setattr(engine.second, "list_objects", lambda folder: away())
    state = expire_backups("esn", return_state=True)
    assert state.name == "Failed"
    assert "were not looked at: Away." in (state.message or "")
    assert [entry.backup_id for entry in read_catalogue(engine.store)] == ids[:3]  # type: ignore[arg-type]


def test_without_a_second_destination_nothing_is_asked_of_it(engine: Engine) -> None:
    engine.platform = engine.platform.model_copy(update={"second_folder": None})
    assert not second_steps.is_wanted("esn")
    assert back_up().is_completed()
    assert engine.second.objects == {}
    assert expire_backups("esn", return_state=True).is_completed()
