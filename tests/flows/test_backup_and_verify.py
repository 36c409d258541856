from datetime import UTC, datetime

import pytest
from backup_documents import a_manifest, a_proof
from engine_double import Engine, failing
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from flows.backup_and_verify import backup_and_verify
from keepwell.errors import Busy, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.verdict import Finding, Verdict
from tasks import interlock_steps, notify_steps


def run() -> State:
    return backup_and_verify("esn", return_state=True)


def a_new_manifest() -> object:
    return a_manifest(datetime.now(UTC).replace(microsecond=0))


def artifacts(state: State) -> dict[str, str]:
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        body = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
        found = client.request("POST", "/artifacts/filter", json=body).json()
    return {artifact["key"]: str(artifact["data"]) for artifact in found}


def test_does_everything_in_the_guide_s_order(engine: Engine) -> None:
    state = run()
    assert state.is_completed()
    assert engine.calls == ["hold", "require ready", "write", "release", "prove", "ping"]
    assert engine.evidence("BK-1").verdict is Verdict.OK
    assert engine.evidence("DB-6").numbers["database_bytes"] == 12_000_000
    assert engine.evidence("BK-1").flow_run == str(state.state_details.flow_run_id)


def test_the_first_proven_set_is_told_once_and_then_only_failures_are(engine: Engine) -> None:
    assert run().is_completed()
    assert [message.title for message in engine.sent] == ["esn: backups are proven"]
    assert run().is_completed()
    assert len(engine.sent) == 1


def test_a_set_that_fell_short_is_no_first_one(engine: Engine) -> None:
    engine.proof = lambda at: a_proof(at, reached="restored", stopped_by=Verdict.ALERT)
    assert run().is_failed()
    assert engine.sent == []


def test_a_store_that_cannot_be_asked_who_was_told_makes_no_proven_backup_a_failed_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(platform: object) -> None:
        raise ServiceUnavailable("The store is away.")

    monkeypatch.setattr(notify_steps, "open_store", refuse)
    assert run().is_completed()
    assert engine.sent == []


def test_shows_its_evidence_and_its_progress(engine: Engine) -> None:
    shown = artifacts(run())
    assert shown["esn-backup-evidence"].startswith("# ✓ ok")
    assert float(shown["esn-backup-progress"]) == 100
    assert float(shown["esn-proof-progress"]) == 100


def test_a_set_that_fell_short_fails_the_run_and_is_not_counted(engine: Engine) -> None:
    differs = Finding(name="public.events", verdict=Verdict.ALERT, message="99 rows restored, 100 in the source.")
    engine.proof = lambda at: a_proof(at, reached="restored", stopped_by=Verdict.ALERT, findings=(differs,))
    state = run()
    assert state.name == "Failed"
    assert "not proven" in (state.message or "")
    with pytest.raises(VerificationFailed):
        state.result()
    assert engine.pinged == 0
    evidence = engine.evidence("BK-1")
    assert evidence.verdict is Verdict.ALERT
    assert differs in evidence.findings
    assert artifacts(state)["esn-backup-evidence"].startswith("# ✗ ALERT")


def test_a_set_that_could_not_be_judged_is_not_counted_either(engine: Engine) -> None:
    engine.proof = lambda at: a_proof(at, reached="complete", stopped_by=Verdict.UNKNOWN)
    assert run().is_failed()
    assert engine.pinged == 0
    assert engine.evidence("BK-1").verdict is Verdict.UNKNOWN


def test_what_is_transient_is_tried_again(engine: Engine) -> None:
    engine.write = failing(ServiceUnavailable("The store is away."), then=a_new_manifest)
    assert run().is_completed()
    assert engine.calls.count("write") == 2
    assert engine.calls.count("hold") == 1


def test_a_turn_that_a_failed_attempt_cost_is_taken_again_before_the_next(engine: Engine) -> None:
    answer = failing(ServiceUnavailable("The database is starting."), then=a_new_manifest)

    def restart_once() -> object:
        engine.held = engine.calls.count("write") > 1
        return answer()

    engine.write = restart_once  # type: ignore[assignment]
    assert run().is_completed()
    assert engine.calls == ["hold", "require ready", "write", "hold again", "write", "release", "prove", "ping"]


def test_a_turn_that_somebody_else_has_now_ends_the_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken() -> bool:
        raise Busy("A restore is at work.")

    monkeypatch.setattr(engine, "renew", taken)
    state = run()
    assert state.is_failed()
    assert "A restore is at work." in (state.message or "")
    assert engine.calls == ["hold", "require ready", "release"]


def test_what_stays_away_fails_the_run_in_the_end(engine: Engine) -> None:
    engine.write = failing(*[ServiceUnavailable("The store is away.")] * 3, then=a_new_manifest)
    assert run().is_failed()
    assert engine.calls.count("write") == 3
    assert "prove" not in engine.calls


def test_what_is_permanent_is_tried_once(engine: Engine) -> None:
    engine.ready = failing(PreconditionFailed("A table cannot be read."), then=lambda: None)
    state = run()
    assert state.is_failed()
    assert "A table cannot be read." in (state.message or "")
    assert engine.calls == ["hold", "require ready", "release"]
    assert engine.pinged == 0


def test_an_unforeseen_error_is_tried_once(engine: Engine) -> None:
    engine.write = failing(KeyError("x"), then=a_new_manifest)
    assert run().is_failed()
    assert engine.calls.count("write") == 1


def test_the_platform_is_given_back_when_the_dump_fails(engine: Engine) -> None:
    engine.write = failing(VerificationFailed("x"), then=a_new_manifest)
    run()
    assert not engine.held
    assert engine.calls[-1] == "release"


def test_somebody_else_s_turn_is_respected(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Busy("A restore is at work.")

    monkeypatch.setattr(interlock_steps, "hold_platform", busy)
    state = run()
    assert state.is_failed()
    assert "A restore is at work." in (state.message or "")
    assert engine.calls == []


def test_progress_that_cannot_be_shown_stops_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from tasks import artifacts as shown

    def refuse(**_: object) -> None:
        raise httpx.ConnectError("x")

    monkeypatch.setattr(shown, "create_progress_artifact", refuse)
    monkeypatch.setattr(shown, "create_markdown_artifact", refuse)
    assert run().is_completed()


def test_a_name_that_no_platform_can_have_is_refused(engine: Engine) -> None:
    state = backup_and_verify("../esn", return_state=True)
    assert state.is_failed()
    assert engine.calls == []


def test_size_is_compared_with_earlier_sets(engine: Engine) -> None:
    engine.add_set()
    engine.write = lambda: a_manifest(datetime.now(UTC).replace(microsecond=0), size=100)
    assert run().is_completed()
    evidence = engine.evidence("BK-1")
    assert evidence.verdict is Verdict.ALERT
    assert any("shrank" in finding.message for finding in evidence.findings)
