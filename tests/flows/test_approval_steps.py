"""Asking a person, with a subject of the test's own: whatever is approved later is approved this way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from deployed_runs import DeployedRun
from engine_double import Engine
from prefect import flow
from waiting import wait_until

from keepwell.approval import Approval, Subject
from keepwell.backup.report import escape
from keepwell.settings import OrchestratorSettings
from tasks import approval_steps
from tasks.redaction import scrubbed

SUBJECT = Subject("restore", "esn", {"backup_id": "20261129T020000Z-abcdef", "mode": "swap"}, "esn_db")
PLAN = "20261129T020000Z-abcdef takes the place of esn_db, then esn_db_replaced_<UTC>."


class Situation:
    """What is planned, and what was approved."""

    def __init__(self) -> None:
        self.subject = SUBJECT
        self.approved: list[Approval] = []


now = Situation()


@flow(name="asks-for-approval", persist_result=False)
@scrubbed
def asks(platform: str) -> None:
    now.approved.append(approval_steps.obtain(platform, now.subject, PLAN))


@pytest.fixture
def situation(monkeypatch: pytest.MonkeyPatch) -> Situation:
    fresh = Situation()
    monkeypatch.setattr(f"{__name__}.now", fresh)
    return fresh


@pytest.fixture
def waiting_run(engine: Engine, situation: Situation) -> DeployedRun:
    run = DeployedRun(asks, platform="esn")
    assert run.go_on().name == "Suspended"
    assert situation.approved == []
    return run


def test_an_answered_run_goes_on_with_who_why_and_when(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer()["status"] == "ACCEPT"
    assert waiting_run.state.name == "Resuming"
    assert waiting_run.go_on().is_completed()
    (approval,) = situation.approved
    assert (approval.approver, approval.reason) == ("Ada", "rows were deleted by mistake")
    assert (approval.digest, approval.typed, approval.given_at) == (SUBJECT.digest, "esn_db", "orchestrator")
    assert timedelta(0) <= datetime.now(UTC) - approval.approved_at < timedelta(minutes=2)


def test_people_are_told_once_what_waits_and_until_when(engine: Engine, waiting_run: DeployedRun) -> None:
    (message,) = engine.sent
    assert message.title == "esn: a restore waits for approval"
    assert PLAN in message.cause
    assert f"keepwell approve {waiting_run.id}" in message.next_command
    assert f"Plan: {SUBJECT.digest}" in message.details
    waiting_run.answer()
    waiting_run.go_on()
    assert len(engine.sent) == 1


def test_the_form_shows_the_plan_and_nothing_in_it_may_be_left_out(waiting_run: DeployedRun) -> None:
    assert waiting_run.description().startswith(escape(PLAN))
    assert waiting_run.description().endswith(f"Plan **{SUBJECT.digest}**.")
    for field in ("plan", "approver", "reason", "typed"):
        answered = waiting_run.answer(**{field: None})
        assert (answered["status"], waiting_run.state.name) == ("REJECT", "Suspended"), field


MALFORMED: list[dict[str, Any]] = [
    {"plan": "0123456789ab"},
    {"typed": "esn"},
    {"typed": "esn_db2"},
    {"typed": 5},
    {"approver": ""},
    {"reason": "  "},
    {"typed": ""},
    {"typed": "reject"},
    {"more": "than asked"},
]


def test_a_malformed_answer_leaves_it_waiting_and_a_good_one_counts_still(
    waiting_run: DeployedRun, situation: Situation
) -> None:
    for said in MALFORMED:
        assert waiting_run.answer(**said)["status"] == "REJECT", said
    for nothing in (None, {}):
        assert waiting_run.resume(nothing)["status"] == "REJECT"
    assert waiting_run.state.name == "Suspended"
    assert waiting_run.answer()["status"] == "ACCEPT"
    assert waiting_run.go_on().is_completed()
    assert len(situation.approved) == 1


def test_a_name_that_no_log_can_show_ends_the_run(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer(approver="Ada\nLovelace")["status"] == "ACCEPT"
    state = waiting_run.go_on()
    assert state.is_failed()
    assert "malformed, so nothing was changed: approver" in (state.message or "")
    assert situation.approved == []


def test_an_approval_for_another_name_is_void(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer()["status"] == "ACCEPT"
    situation.subject = replace(SUBJECT, typed="esn_db_2")
    state = waiting_run.go_on()
    assert state.is_failed()
    assert "The approval is void" in (state.message or "")
    assert situation.approved == []


def test_an_approval_of_an_older_plan_is_void(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer()["status"] == "ACCEPT"
    situation.subject = replace(SUBJECT, binds=SUBJECT.binds | {"backup_id": "20261130T020000Z-fedcba"})
    state = waiting_run.go_on()
    assert state.is_failed()
    assert f"given for plan {SUBJECT.digest}, and the plan is {situation.subject.digest}" in (state.message or "")
    assert situation.approved == []


def test_a_rejection_has_a_word_of_its_own_and_says_who_and_why(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer(typed="REJECT", reason="wrong platform")["status"] == "ACCEPT"
    state = waiting_run.go_on()
    assert "refused by Ada (self-declared)" in (state.message or "")
    assert "wrong platform. Nothing was changed" in (state.message or "")
    assert situation.approved == []


def test_it_is_answered_once(waiting_run: DeployedRun, situation: Situation) -> None:
    assert waiting_run.answer()["status"] == "ACCEPT"
    form = {"plan": SUBJECT.digest, "typed": "REJECT", "approver": "Eve", "reason": "no"}
    assert waiting_run.resume(form)["status"] == "ABORT"
    assert waiting_run.go_on().is_completed()
    assert [approval.approver for approval in situation.approved] == ["Ada"]


def test_a_run_that_had_its_answer_and_is_retried_ends_with_a_sentence(
    waiting_run: DeployedRun, situation: Situation
) -> None:
    waiting_run.answer()
    situation.subject = replace(SUBJECT, typed="esn_db_2")
    assert waiting_run.go_on().is_failed()
    waiting_run.retry()
    state = waiting_run.go_on()
    assert state.is_failed(), state
    assert "was answered already" in (state.message or "")
    assert "Start a new run" in (state.message or "")
    assert situation.approved == []


def test_a_question_that_nobody_answers_in_time_ends_as_failed(engine: Engine, situation: Situation) -> None:
    orchestrator = OrchestratorSettings(approval_hours=1 / 3600)
    engine.platform = engine.platform.model_copy(update={"orchestrator": orchestrator})
    run = DeployedRun(asks, platform="esn")
    run.go_on()

    def has_ended() -> bool:
        return run.state.is_final()

    wait_until(has_ended, 60)
    assert run.state.name == "Failed"
    assert "never resumed" in (run.state.message or "")
    assert situation.approved == []
