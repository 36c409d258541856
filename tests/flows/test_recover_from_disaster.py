"""The guide's four steps as one run: their order, what goes on after a kill, what fails and stops nothing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from deployed_runs import DeployedRun
from engine_double import SECRET, Engine
from prefect.settings import PREFECT_API_URL

from flows.recover_from_disaster import recover_from_disaster
from keepwell.approval import Approval, require_approval
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.holding import Hold
from keepwell.incident.documents import Kind, Observation, Step, StepOutcome
from keepwell.incident.gathering import Source
from keepwell.incident.journal import Incident, read_incidents, skip_step
from keepwell.incident.restores import RestoreSoFar
from keepwell.interlock import Procedure
from keepwell.postgres.databases import NamedDatabase
from keepwell.restore import apply as applying
from keepwell.restore.apply import RestoreOutcome
from keepwell.restore.choice import Choice
from keepwell.restore.plan import Mode, RestorePlan
from keepwell.verdict import Verdict
from tasks import incident_steps, interlock_steps, restore_steps

SNAPSHOT_AT = datetime(2026, 11, 29, 2, 0, tzinfo=UTC)
BACKUP_ID, RESTORE_CASE = "20261129T020000Z-abcdef", "20261129T030000Z-fedcba"


def a_plan(mode: Mode) -> RestorePlan:
    return RestorePlan(
        platform="esn",
        mode=mode,
        choice=Choice(which=BACKUP_ID),
        backup_id=BACKUP_ID,
        database="esn_db",
        live="esn_db",
        name="esn_db_restored_20261129T020000Z",
        live_database=NamedDatabase(16385, "esn_db", open=True, size_bytes=40_000_000),
        snapshot_at=SNAPSHOT_AT,
        planned_at=datetime.now(UTC),
        level="equal",
        rows=1000,
        size_bytes=12_000_000,
        needed_bytes=80_000_000,
        free_bytes=None,
        expected_seconds=16.0,
        sessions=(),
        carried=(),
        findings=(),
    )


@dataclass
class Platform:
    """What the flow finds, restores and asks, recorded; each answer can be set."""

    engine: Engine
    applied: list[tuple[Mode, str | None, str | None]] = field(default_factory=list)
    held: list[Procedure] = field(default_factory=list)
    begun: RestoreSoFar = field(default_factory=RestoreSoFar)
    failure: BaseException | None = None
    fault: str = ""
    announced: str | None = None
    serves: bool = True

    def sources(self, *_: object) -> tuple[Source, ...]:
        def broken() -> list[Observation]:
            raise ServiceUnavailable(f"The server at postgres://esn:{SECRET}@db refused us.")

        return (Source("database", broken), Source("runs", lambda: [self.observed("runs")]))

    def questions(self, *_: object) -> tuple[Source, ...]:
        return (Source("application", lambda: [self.observed("application", good=self.serves)]),)

    def observed(self, name: str, *, good: bool = True) -> Observation:
        verdict = Verdict.OK if good else Verdict.ALERT
        return Observation(at=datetime.now(UTC), source=name, verdict=verdict, message=f"{name} answered {good}.")

    def plan(self, platform: object, store: object, choice: Choice, *, mode: Mode, **_: object) -> RestorePlan:
        return a_plan(mode)

    @contextmanager
    def hold(self, platform: object, store: object, procedure: Procedure, **_: object) -> Iterator[Engine]:
        self.held.append(procedure)
        with self.engine.hold() as hold:
            yield hold

    def apply(
        self,
        platform: object,
        store: object,
        plan: RestorePlan,
        approval: Approval | None,
        progress: object,
        *,
        case_id: str | None,
        as_case: str | None,
        hold: object,
    ) -> RestoreOutcome:
        assert hold is not None
        assert self.engine.held
        self.announced = as_case
        if plan.swaps and case_id is None:
            require_approval(plan.subject, approval)
        self.applied.append((plan.mode, approval.approver if approval else None, case_id))
        self.begun = RestoreSoFar(RESTORE_CASE, is_done=False)
        if self.failure is not None:
            raise self.failure
        told = approval.told if approval else ""
        self.begun = RestoreSoFar(
            RESTORE_CASE, True, BACKUP_ID, SNAPSHOT_AT, datetime.now(UTC), told, datetime.now(UTC), fault=self.fault
        )
        return RestoreOutcome(RESTORE_CASE, plan, plan.live, "esn_db_replaced_x", 1000, {"restore": 1.0}, ())


@pytest.fixture
def platform(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = Platform(engine)
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    for module in (incident_steps, restore_steps):
        monkeypatch.setattr(module, "open_store", lambda platform: engine.store)
    monkeypatch.setattr(incident_steps, "send", engine.send)
    monkeypatch.setattr(incident_steps, "build_sources", made.sources)
    monkeypatch.setattr(incident_steps, "build_questions", made.questions)
    monkeypatch.setattr(incident_steps, "find_restore_so_far", lambda *_, **__: made.begun)
    monkeypatch.setattr(restore_steps, "plan_restore", made.plan)
    monkeypatch.setattr(restore_steps, "plan_case", lambda *_, **__: a_plan(Mode.SWAP))
    monkeypatch.setattr(restore_steps, "apply_restore", made.apply)
    monkeypatch.setattr(applying, "is_approved", lambda *_: True)
    hold: Any = made.hold
    held: AbstractContextManager[Hold] = hold
    monkeypatch.setattr(interlock_steps, "hold_platform", held)
    return made


def start(**parameters: Any) -> DeployedRun:
    return DeployedRun(recover_from_disaster, platform="esn", title="sign-in answers 500", **parameters)


def only_case(engine: Engine) -> Incident:
    store: Any = engine.store
    (found,) = read_incidents(store)
    return found


def outcomes(engine: Engine) -> dict[str, str]:
    return {step.value: str(state.outcome) for step, state in only_case(engine).standing.steps.items()}


def run_to_question(**parameters: Any) -> DeployedRun:
    run = start(**parameters)
    assert run.go_on().name == "Suspended", run.state
    return run


def test_from_the_first_look_to_the_post_mortem(platform: Platform, engine: Engine) -> None:
    run = run_to_question(impact="Nobody can sign in.")
    # Evidence and people first; nothing is held or changed while it waits.
    assert [step for step, outcome in outcomes(engine).items() if outcome == "done"] == ["identify", "communicate"]
    assert (platform.applied, platform.held) == ([], [])
    assert run.answer()["status"] == "ACCEPT"
    state = run.go_on()
    assert state.is_completed(), state
    assert platform.applied == [(Mode.SWAP, "Ada", None)]
    assert platform.held == [Procedure.SWAP]
    incident = only_case(engine)
    assert set(outcomes(engine).values()) == {"done"}
    assert incident.standing.steps[Step.IDENTIFY].attempts == 1
    # The restore is the case's own by the id that was written down before it began.
    assert platform.announced in [one.numbers.get("restore_case") for one in incident.entries if one.step]
    (decision,) = [entry for entry in incident.entries if entry.kind is Kind.DECISION]
    assert "approved by Ada (self-declared)" in decision.message
    shown = run.artifacts()
    assert "approved by Ada (self-declared)" in shown["esn-post-mortem"]
    assert "We will tell you more by" in shown["esn-status-page"] or "Resolved" in shown["esn-status-page"]
    titles = [message.title for message in engine.sent]
    assert titles[0] == "esn: investigating – sign-in answers 500"
    assert titles[-1] == "esn: resolved – sign-in answers 500"
    assert engine.evidence("DR-1").flow_run == str(run.id)
    stored = " ".join(content.decode(errors="replace") for content in engine.store.objects.values())
    assert SECRET not in stored + str(shown) + str(state)


def test_a_failed_restore_stands_in_the_case_and_is_gone_on_with_by_its_id(platform: Platform, engine: Engine) -> None:
    run = run_to_question()
    platform.failure = ServiceUnavailable("The connection broke.")
    assert run.answer()["status"] == "ACCEPT"
    assert run.go_on().is_failed()
    assert outcomes(engine)["restore"] == "failed"
    platform.failure = None
    again = start(case_id=only_case(engine).case.case_id)
    # Approved once: the restore that was begun is gone on with, and nobody is asked or told again.
    sent = len(engine.sent)
    assert again.go_on().is_completed(), again.state
    assert [case_id for _, _, case_id in platform.applied] == [None, RESTORE_CASE]
    assert [message.title for message in engine.sent[sent:]][-1] == "esn: resolved – sign-in answers 500"
    assert only_case(engine).standing.steps[Step.RESTORE].attempts == 2


def test_killed_behind_the_restore_it_is_not_restored_twice(platform: Platform, engine: Engine) -> None:
    run = run_to_question()
    platform.begun = RestoreSoFar(RESTORE_CASE, True, BACKUP_ID, SNAPSHOT_AT, datetime.now(UTC), "approved by Ada")
    again = start(case_id=only_case(engine).case.case_id)
    assert again.go_on().is_completed(), again.state
    assert platform.applied == []
    assert outcomes(engine)["restore"] == "done"
    assert run.state.name == "Suspended"


def test_wrong_answers_are_no_good_restore_until_a_person_says_so(platform: Platform, engine: Engine) -> None:
    platform.fault = "But: 0 people, not 7."
    run = run_to_question()
    run.answer()
    for state in (run.go_on(), start(case_id=only_case(engine).case.case_id).go_on()):
        assert state.is_failed()
        assert "0 people, not 7." in str(state.message)
        assert outcomes(engine)["restore"] == "failed"


def test_a_step_is_skipped_when_its_turn_comes_and_a_closed_case_does_not_go_on(
    platform: Platform, engine: Engine
) -> None:
    run = run_to_question(skip=["resolve", "post-mortem"], skip_reason="It is told elsewhere.")
    assert only_case(engine).standing.is_open
    run.answer()
    assert (run.go_on().name, outcomes(engine)["verify"]) == ("Warn", "done")
    assert (outcomes(engine)["resolve"], outcomes(engine)["post-mortem"]) == ("skipped", "skipped")
    assert not [key for key in engine.store.objects if key.endswith("post-mortem.md")]
    assert engine.evidence("DR-4").verdict is Verdict.WARN
    written = len(engine.store.objects)
    again = start(case_id=only_case(engine).case.case_id).go_on()
    assert (again.is_failed(), "is resolved" in str(again.message)) == (True, True)
    assert len(engine.store.objects) == written


def test_a_case_that_somebody_closed_while_it_waited_is_not_restored(platform: Platform, engine: Engine) -> None:
    run = run_to_question()
    store: Any = engine.store
    skip_step(store, only_case(engine), Step.RESOLVE, "a false alarm", by="ann", now=datetime.now(UTC))
    run.answer()
    state = run.go_on()
    assert (state.is_failed(), platform.applied) == (True, [])
    assert "Restore was not begun." in str(state.message)


def test_refused_the_run_is_cancelled_and_the_case_stays_open(platform: Platform, engine: Engine) -> None:
    run = run_to_question()
    assert run.answer(typed="REJECT")["status"] == "ACCEPT"
    assert run.go_on().name == "Cancelled"
    incident = only_case(engine)
    assert incident.standing.is_open
    assert incident.standing.steps[Step.RESTORE].outcome is StepOutcome.FAILED
    assert any(entry.kind is Kind.DECISION and "refused by Ada" in entry.message for entry in incident.entries)
    assert platform.applied == []


def test_what_does_not_serve_is_not_called_over(platform: Platform, engine: Engine) -> None:
    platform.serves = False
    run = run_to_question()
    assert run.answer()["status"] == "ACCEPT"
    state = run.go_on()
    assert state.is_failed()
    assert "application answered False" in str(state.message)
    assert (outcomes(engine)["verify"], outcomes(engine)["resolve"]) == ("failed", "None")
    platform.serves = True
    assert start(case_id=only_case(engine).case.case_id).go_on().is_completed()
    assert len(platform.applied) == 1


def test_channels_that_refuse_stop_nothing_and_the_end_says_so(platform: Platform, engine: Engine) -> None:
    engine.channels = (False,)
    state = start(skip=["restore"], skip_reason="The disk was full.").go_on()
    assert (state.type, state.name) == ("COMPLETED", "Warn")
    assert "did not take it" in str(state.message)
    assert outcomes(engine) == {
        "identify": "done",
        "communicate": "failed",
        "restore": "skipped",
        "verify": "done",
        "resolve": "done",
        "post-mortem": "done",
    }
    assert "The disk was full." in only_case(engine).standing.steps[Step.RESTORE].message


@pytest.mark.long
def test_an_exercise_touches_nothing_that_is_live_and_says_so_everywhere(platform: Platform, engine: Engine) -> None:
    assert start(drill=True).go_on().type == "COMPLETED"
    assert platform.applied == [(Mode.BESIDE, None, None)]
    assert platform.held == [Procedure.RESTORE]
    assert engine.sent
    assert all(message.title.startswith("DRILL: ") for message in engine.sent)


def test_without_a_reason_nothing_is_skipped_and_no_case_is_opened(platform: Platform, engine: Engine) -> None:
    state = start(skip=["restore"]).go_on()
    assert state.is_failed()
    assert "for a reason only" in str(state.message)
    assert engine.store.objects == {}


@pytest.mark.long
def test_while_a_case_is_open_another_run_does_not_open_a_second_one(platform: Platform, engine: Engine) -> None:
    run_to_question()
    state = start().go_on()
    assert state.is_failed()
    assert "is open since" in str(state.message)
    assert only_case(engine)


@pytest.mark.long
def test_a_case_that_is_not_there(platform: Platform, engine: Engine) -> None:
    state = start(case_id="20261129T030000Z-abcdef").go_on()
    assert state.is_failed()
    assert "There is no case" in str(state.message)


@pytest.mark.long
def test_a_restore_that_its_journal_does_not_tell_of_is_not_called_done(
    platform: Platform, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_steps, "find_restore_so_far", lambda *_, **__: RestoreSoFar())
    run = run_to_question()
    assert run.answer()["status"] == "ACCEPT"
    state = run.go_on()
    assert state.is_failed()
    assert VerificationFailed.__name__ in str(state.message)
    assert outcomes(engine)["restore"] == "failed"
