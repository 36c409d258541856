"""Asking a person, as a part of a flow: the run is suspended, its process ends, and nothing is held meanwhile.

Prefect starts a run anew once it is answered. So whatever stands before the question is done twice, changes nothing,
and what it says by then is what the answer must fit: an answer to an older plan is void. The server has one login for
all, so who approves is what that person said of himself.

A question that nobody answers in time ends its run as failed without any code of ours; the automation that watches for
failed runs tells people.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_base_key
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field, create_model

from keepwell.approval import Approval, Decision, Place, Subject, build_approval, require_approval
from keepwell.notify import Message
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.notify_steps import tell
from tasks.redaction import redact

# One question a run; a second one in the same run would need a key of its own.
_KEY = "approval"
# As Prefect names what belongs to a suspension.
_RESPONSE = keyset_from_base_key(f"suspended-{_KEY}")["response"]
_DECISIONS = {"approve": Decision.APPROVED, "reject": Decision.REFUSED}


def obtain(platform: str, subject: Subject, plan: str) -> Approval:
    """Ask people for an approval; called in a flow, with nothing held, and never in a step.

    The first time, it tells people and suspends the run: nothing after it happens. Once the run was answered and goes
    on, it gives the answer.

    Args:
        platform: Its name.
        subject: What is to be approved, planned just now.
        plan: The same for people, as Markdown; it stands above the form, so that nobody approves unseen.

    Returns:
        The approval, of exactly this subject.

    Raises:
        Refused: A person rejected it.
        PreconditionFailed: The answer is malformed, holds another word, or was given for an older plan.
    """
    approved_at = _find_answer()
    timeout = timedelta(hours=platforms.load(platform).orchestrator.approval_hours)
    if approved_at is None:
        _tell_that_it_waits(platform, subject, plan, until=datetime.now(UTC) + timeout)
    form = _build_form(subject, plan)
    answer = suspend_flow_run(wait_for_input=form, timeout=int(timeout.total_seconds()), key=_KEY)
    approval = _read_answer(answer, approved_at or datetime.now(UTC))
    get_run_logger().info("The %s was %s.", subject.procedure, approval.told)
    return require_approval(subject, approval)


def _find_answer() -> datetime | None:
    """When this run was answered; None when it was not."""
    with get_client(sync_client=True) as client:
        found = client.filter_flow_run_input(flow_run_id=flow_run.id, key_prefix=_RESPONSE, limit=1, exclude_keys=set())
    return found[0].created if found else None


def _build_form(subject: Subject, plan: str) -> type[RunInput]:
    """What Prefect's dialog asks, and `keepwell approve` too.

    All fields are required, since one with a default would let an empty answer pass. The constraints stand in the
    schema, by which the server refuses an answer while the run stays suspended; here every answer can be read, so that
    one to an older plan gets its sentence.
    """
    of_plan = Field(description="The plan that stands above.", json_schema_extra={"enum": [subject.digest]})
    typed = Field(
        description=f"To approve, type the live database's name: {subject.typed}. To reject, leave it empty.",
        json_schema_extra={"pattern": f"^({re.escape(subject.typed)})?$", "examples": [subject.typed]},
    )
    decision = Field(json_schema_extra={"enum": list(_DECISIONS)}, description="A rejected run ends, changing nothing.")
    words: dict[str, Any] = {"minLength": 1, "pattern": r"\S"}
    approver = Field(description="Who you are; nobody checks it, and it is recorded as such.", json_schema_extra=words)
    reason = Field(description="Why; it stands in the evidence.", json_schema_extra=words)
    form = create_model(
        "Approval",
        __base__=RunInput,
        decision=(str, decision),
        plan=(str, of_plan),
        approver=(str, approver),
        reason=(str, reason),
        typed=(str, typed),
    )
    form._description = redact(f"{plan}\n\nPlan **{subject.digest}**")  # noqa: SLF001 - Prefect's own way sets defaults
    return form


def _read_answer(answer: Any, approved_at: datetime) -> Approval:
    approval = build_approval(
        approver=redact(answer.approver),
        reason=redact(answer.reason),
        typed=answer.typed,
        digest=answer.plan,
        approved_at=approved_at,
        given_at=Place.ORCHESTRATOR,
    )
    # What is none of the two is no yes.
    decision = _DECISIONS.get(answer.decision, Decision.REFUSED)
    return approval.model_copy(update={"decision": decision})


def _tell_that_it_waits(platform: str, subject: Subject, plan: str, until: datetime) -> None:
    run_id = str(flow_run.id)
    message = Message(
        title=f"{platform}: a {subject.procedure} waits for approval",
        cause=f"Somebody started the run {flow_run.name}. {_first_paragraph(plan)}",
        still_safe="everything: nothing was changed, and nothing is held while it waits.",
        next_command=f"keepwell approve {run_id} --platform {platform}; or keepwell reject {run_id}",
        verdict=Verdict.WARN,
        details=(
            f"Plan: {subject.digest}",
            f"It waits until {until:%Y-%m-%d %H:%M} UTC, then the run ends as failed.",
            url_for("flow-run", obj_id=run_id) or "",
        ),
    )
    tell(platform, message)


def _first_paragraph(plan: str) -> str:
    """What the plan begins with, in one line, without its title."""
    lines = [line for line in plan.strip().splitlines() if not line.startswith("#")]
    return " ".join("\n".join(lines).strip().partition("\n\n")[0].split())
