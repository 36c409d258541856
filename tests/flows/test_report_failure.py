import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from engine_double import Engine, a_platform, failing
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Crashed, Failed, Late

from flows.backup_and_verify import backup_and_verify
from flows.report_failure import report_failure
from keepwell.backup.freshness import ScheduleFacts
from keepwell.backup.report import FailureFacts
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.notify import render_body
from keepwell.verdict import Verdict
from tasks import check_steps, evidence_steps, failure_steps


def a_failed_run(engine: Engine, message: str = "The dump is short.") -> UUID:
    engine.write = failing(VerificationFailed(message), then=lambda: None)
    state = backup_and_verify("esn", return_state=True)
    assert state.name == "Failed"
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def report(flow_run_id: UUID) -> State:
    return report_failure(flow_run_id, return_state=True)


def test_says_what_happened_what_is_safe_and_what_to_do(engine: Engine) -> None:
    safe = engine.add_set()
    assert report(a_failed_run(engine)).is_completed()
    (message,) = engine.sent
    assert message.title == "esn: backup-and-verify failed"
    assert "The dump is short." in message.cause
    assert safe in message.still_safe
    assert "12.5 s" in message.still_safe
    assert message.next_command == "keepwell run backup-and-verify --platform esn"


def test_the_body_that_is_delivered_says_since_when(engine: Engine) -> None:
    assert report(a_failed_run(engine)).is_completed()
    (message,) = engine.sent
    assert re.search(r"^Since: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", render_body(message), re.MULTILINE)


def test_leaves_evidence_for_what_the_run_was_to_answer(engine: Engine) -> None:
    failed = a_failed_run(engine)
    report(failed)
    for item in ("BK-1", "DB-6"):
        evidence = engine.evidence(item)
        assert evidence.verdict is Verdict.ALERT
        assert evidence.flow_run == str(failed)


def test_evidence_that_the_run_left_itself_is_kept(engine: Engine) -> None:
    failed = a_failed_run(engine)
    report(failed)
    documents = len(engine.store.objects)
    report(failed)
    assert len(engine.store.objects) == documents


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (Crashed(message="It fell silent."), "killed"),
        (Late(), "not started"),
        (Failed(message="The flow was paused and never resumed."), "nobody answered in time"),
    ],
)
def test_runs_that_were_killed_never_began_or_were_never_answered(engine: Engine, state: State, says: str) -> None:
    run_id = a_failed_run(engine)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, state, force=True)
    report(run_id)
    assert says in engine.sent[0].title + engine.sent[0].cause


def test_a_store_that_is_away_keeps_nobody_from_being_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise ServiceUnavailable("The store is away.")

    failed = a_failed_run(engine)
    monkeypatch.setattr(failure_steps, "read_catalogue", away)
    monkeypatch.setattr(failure_steps, "read_last_evidence", away)
    assert report(failed).is_completed()
    assert "not known" in engine.sent[0].still_safe


def test_a_message_that_nobody_took_is_a_failure(engine: Engine) -> None:
    engine.channels = (False,)
    assert report(a_failed_run(engine)).is_failed()
    assert len(engine.sent) == 1


def check(engine: Engine) -> str | None:
    """One check by its steps; what it told people, if anything."""
    now = datetime.now(UTC)
    schedule = ScheduleFacts(deployed=True, active=True, next_at=now + timedelta(hours=1))
    judgement = check_steps.judge.fn("esn", schedule)
    delivery = engine.send(a_platform().notify, judgement.message) if judgement.message else None
    evidence_steps.keep_evidence(a_platform(), check_steps.note_delivery(judgement, delivery))
    return judgement.message.title if judgement.message else None


def fail_to_check() -> None:
    """A check that failed, as its report records it."""
    facts = FailureFacts(
        platform="esn",
        procedure="check-backups",
        run_name="check-backups/esn",
        state="Failed",
        cause="The store is away.",
        safe="not known",
        next_command="keepwell run check-backups",
    )
    failure_steps._keep(a_platform(), uuid4(), facts)


class TestWhatPeopleKnowOutlivesACheckThatFailed:
    """Its report's evidence is the memory of the next check."""

    def test_what_was_told_is_neither_repeated_early_nor_begun_anew(self, engine: Engine) -> None:
        engine.add_set(timedelta(hours=30))
        assert check(engine) == "esn: backups need you"
        known = engine.evidence("DAILY-5")
        fail_to_check()
        fail_to_check()
        assert check(engine) is None
        now_known = engine.evidence("DAILY-5")
        assert (now_known.bad_since, now_known.told_at) == (known.bad_since, known.told_at)

    def test_what_is_new_is_told_all_the_same(self, engine: Engine) -> None:
        engine.add_set(timedelta(hours=30))
        check(engine)
        fail_to_check()
        engine.add_set(timedelta(hours=29), reached="complete", stopped_by=Verdict.ALERT)
        assert check(engine) == "esn: backups need you"

    def test_that_it_is_over_is_told_once(self, engine: Engine) -> None:
        engine.add_set(timedelta(hours=30))
        check(engine)
        fail_to_check()
        engine.add_set()
        assert check(engine) == "esn: backups are fine again"
        assert check(engine) is None

    def test_what_nobody_was_told_is_not_taken_for_told(self, engine: Engine) -> None:
        fail_to_check()
        failed = engine.evidence("DAILY-5")
        assert (failed.bad_since, failed.told_at) == (failed.started_at, None)
        engine.add_set(timedelta(hours=30))
        assert check(engine) == "esn: backups need you"
        assert engine.evidence("DAILY-5").bad_since == failed.bad_since
