"""Telling of a run that failed, crashed or never began: its cause, what is still safe, and what to type next."""

import re
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.urls import url_for

from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.freshness import is_bad
from keepwell.backup.report import FailureFacts, build_failure_message, describe_safety, render_failure
from keepwell.errors import KeepwellError
from keepwell.evidence import Evidence, read_last_evidence, write_evidence
from keepwell.guide import read_guide
from keepwell.notify import Message
from keepwell.objectstore.bucket import open_store
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict
from tasks import platforms
from tasks.artifacts import show_markdown
from tasks.endings import SECOND_FAILED
from tasks.redaction import redact
from tasks.retries import MINUTE_SECONDS, step

_LONGEST_CAUSE = 1500
_RESTORE = "restore-backup"
# As the server says it, by the clock or by an answer that came too late.
_UNANSWERED = re.compile(r"The flow was (paused|suspended|resuming) and never resumed\.")


@step("read what happened", timeout_seconds=10 * MINUTE_SECONDS)
def read_failure(flow_run_id: UUID) -> FailureFacts:
    """Read a run's end from the orchestrator and what is still safe from the bucket.

    Raises:
        KeepwellError: The platform's settings cannot be loaded, so nobody can be told.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
        procedure = client.read_flow(run.flow_id).name
    platform = platforms.load(_platform_of(run))
    return FailureFacts(
        platform=platform.name,
        procedure=procedure,
        run_name=run.name,
        state=(run.state.name if run.state else None) or "unknown",
        cause=redact(_cause(run))[:_LONGEST_CAUSE],
        safe=_describe_safety(platform),
        next_command=f"{_next_command(procedure, run)} --platform {platform.name}",
        run_url=url_for("flow-run", obj_id=flow_run_id) or "",
        since=_since(run),
    )


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record_failure(flow_run_id: UUID, facts: FailureFacts) -> Message:
    """Leave evidence for the items that the run was to answer, unless it did so itself, and show a page.

    Returns:
        What to tell people. A store that does not answer keeps nobody from being told.
    """
    loaded = platforms.load(facts.platform)
    try:
        _keep(loaded, flow_run_id, facts)
    except KeepwellError as error:
        get_run_logger().warning("The evidence could not be kept: %s", error)
    show_markdown(f"{facts.platform}-failure", render_failure(facts), facts.cause[:200])
    return build_failure_message(facts)


def _keep(platform: Platform, flow_run_id: UUID, facts: FailureFacts) -> None:
    store, now = open_store(platform), datetime.now(UTC)
    items = tuple(item.id for item in read_guide() if item.deployment == facts.procedure)
    if not items:
        return
    previous = read_last_evidence(store, items[0])
    if previous is not None and previous.flow_run == str(flow_run_id):
        return
    finding = Finding(name=facts.procedure, verdict=Verdict.ALERT, message=facts.cause, hint=facts.next_command)
    evidence = Evidence(
        items=items,
        platform=platform.name,
        verdict=Verdict.ALERT,
        summary=f"The run {facts.run_name} ended {facts.state}.",
        findings=(finding, *_unanswered(previous, facts.procedure)),
        started_at=now,
        finished_at=now,
        flow_run=str(flow_run_id),
        bad_since=(previous.bad_since if previous else None) or now,
        told_at=previous.told_at if previous else None,
    )
    write_evidence(store, evidence)


def _unanswered(previous: Evidence | None, procedure: str) -> tuple[Finding, ...]:
    """What people were told is bad, and the failed run did not get to judge anew: it stands until the next one does.

    Without it, the next check would take everything that it finds for news.
    """
    if previous is None or previous.told_at is None:
        return ()
    return tuple(f for f in previous.findings if is_bad(f.verdict) and f.name != procedure)


def _next_command(procedure: str, run: FlowRun) -> str:
    """Where only the copy failed, the backup need not be made anew; a restore goes on by its case, which tells how."""
    if procedure == _RESTORE:
        return "keepwell restore status"
    failed_copy = run.state is not None and run.state.name == SECOND_FAILED
    return "keepwell backup copy" if failed_copy else f"keepwell run {procedure}"


def _platform_of(run: FlowRun) -> str | None:
    named = (run.parameters or {}).get("platform")
    return str(named) if named else None


def _cause(run: FlowRun) -> str:
    state = run.state
    if state is None:
        return "The orchestrator does not know how it ended."
    if state.name == "Late":
        due = run.expected_start_time
        return f"It was due {due:%Y-%m-%d %H:%M} UTC and has not started. Is a worker of its pool up?"
    if _UNANSWERED.fullmatch(state.message or ""):
        return "It waited for an approval, and nobody answered in time. What it asked for was not done."
    return state.message or "It left no message, as a process that was killed does."


def _since(run: FlowRun) -> datetime | None:
    """When it ended so; a run that does not begin is waited for since it was due."""
    if run.state is None:
        return None
    return run.expected_start_time if run.state.name == "Late" else run.state.timestamp


def _describe_safety(platform: Platform) -> str:
    try:
        return describe_safety(read_catalogue(open_store(platform)), platform.backup.proven_level)
    except KeepwellError as error:
        return f"not known, since the store could not be asked: {redact(error.message)}"
