from uuid import UUID

import pytest
from engine_double import Engine, failing
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Crashed, Late

from flows.backup_and_verify import backup_and_verify
from flows.report_failure import report_failure
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.verdict import Verdict
from tasks import failure_steps


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


@pytest.mark.parametrize(("state", "says"), [(Crashed(message="It fell silent."), "killed"), (Late(), "not started")])
def test_runs_that_were_killed_or_never_began(engine: Engine, state: State, says: str) -> None:
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
