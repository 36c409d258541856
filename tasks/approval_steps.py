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
from keepwell.backup.report import escape
from keepwell.errors import PreconditionFailed
from keepwell.notify import Message
from keepwell.orchestrator import REJECTION
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.notify_steps import tell
from tasks.redaction import redact

# One question a run; a second one in the same run would need a key of its own.
_KEY = "approval"
# As Prefect names what belongs to a suspension.
_RESPONSE = keyset_from_base_key(f"suspended-{_KEY}")["response"]


def obtain(platform: str, subject: Subject, summary: str) -> Approval:
    """Ask people for an approval; called in a flow, with nothing held, and never in a step.

    The first time, it tells people and suspends the run: nothing after it happens. Once the run was answered and goes
    on, it gives the answer.

    Args:
        platform: Its name.
        subject: What is to be approved, planned just now.
        summary: The same in a sentence; it stands above the form, which has room for little more. The whole plan is
            a page of the run, named `…-plan`.

    Returns:
        The approval, of exactly this subject.

    Raises:
        Refused: A person rejected it.
        PreconditionFailed: The answer is malformed, holds another word, or was given for an older plan; or the run had
            come to its end with its answer, and was retried.
    """
    approved_at = _find_answer()
    if approved_at is not None and not _is_going_on():
        raise PreconditionFailed(
            f"This run was answered already, at {approved_at:%Y-%m-%d %H:%M} UTC: one question has one answer.",
            hint="Start a new run of the deployment. What had begun goes on by its case: keepwell restore status.",
        )
    timeout = timedelta(hours=platforms.load(platform).orchestrator.approval_hours)
    if approved_at is None:
        _tell_that_it_waits(platform, subject, summary, until=datetime.now(UTC) + timeout)
    form = _build_form(subject, summary)
    answer = suspend_flow_run(wait_for_input=form, timeout=int(timeout.total_seconds()), key=_KEY)
    approval = _read_answer(answer, approved_at or datetime.now(UTC))
    get_run_logger().info("The %s was %s.", subject.procedure, approval.told)
    return require_approval(subject, approval)


def _find_answer() -> datetime | None:
    """When this run was answered; None when it was not."""
    with get_client(sync_client=True) as client:
        found = client.filter_flow_run_input(flow_run_id=flow_run.id, key_prefix=_RESPONSE, limit=1, exclude_keys=set())
    return found[0].created if found else None


def _is_going_on() -> bool:
    """Whether the run goes on after its question; Prefect forgets that once a run that had ended is begun again."""
    with get_client(sync_client=True) as client:
        return _KEY in (client.read_flow_run(flow_run.id).empirical_policy.pause_keys or ())


def _build_form(subject: Subject, summary: str) -> type[RunInput]:
    """What Prefect's dialog asks, and `keepwell approve` too.

    All fields are required, since one with a default would let an empty answer pass. The constraints stand in the
    schema, by which the server refuses an answer while the run stays suspended; here every answer can be read, so that
    one to an older plan gets its sentence. All are text, since the dialog's lists do not open by a click.
    """
    words: dict[str, Any] = {"minLength": 1, "pattern": r"\S"}
    approver = Field(description="Who you are; nobody checks it, and it is recorded as such.", json_schema_extra=words)
    reason = Field(description="Why; it stands in the evidence.", json_schema_extra=words)
    digest = Field(
        description=f"The plan that you were shown: {subject.digest}.",
        json_schema_extra={"pattern": f"^{subject.digest}$", "examples": [subject.digest]},
    )
    typed = Field(
        title="Name of the live database",
        description=f"To approve, type {subject.typed}. To reject, type {REJECTION}: then the run ends.",
        json_schema_extra={"pattern": f"^({re.escape(subject.typed)}|{REJECTION})$", "examples": [subject.typed]},
    )
    form = create_model(
        "Approval",
        __base__=RunInput,
        approver=(str, approver),
        reason=(str, reason),
        plan=(str, digest),
        typed=(str, typed),
    )
    told = f"{escape(summary)} All of it is among the run's artifacts. Plan **{subject.digest}**."
    form._description = redact(told)  # noqa: SLF001 - Prefect's own way would set defaults
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
    return approval.model_copy(update={"decision": Decision.REFUSED}) if answer.typed == REJECTION else approval


def _tell_that_it_waits(platform: str, subject: Subject, summary: str, until: datetime) -> None:
    run_id = str(flow_run.id)
    message = Message(
        title=f"{platform}: a {subject.procedure} waits for approval",
        cause=f"Somebody started the run {flow_run.name}. {summary}",
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
