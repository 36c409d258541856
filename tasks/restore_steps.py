"""Restoring a backup set: thin steps around `keepwell.restore`."""

from datetime import UTC, datetime

from prefect import get_run_logger

from keepwell.approval import Approval
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.holding import Hold
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent
from keepwell.restore import apply as applying
from keepwell.restore.apply import RestoreOutcome, apply_restore, plan_case
from keepwell.restore.choice import Choice
from keepwell.restore.pages import (
    build_restored_message,
    render_outcome,
    render_plan,
    summarize_outcome,
    summarize_plan,
)
from keepwell.restore.plan import Mode, RestorePlan, plan_restore, require_applicable
from keepwell.restore.purge import PurgeOutcome, purge_replaced, read_due
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.artifacts import show_markdown, shown_progress
from tasks.notify_steps import tell
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step


@step("plan the restore", timeout_seconds=10 * MINUTE_SECONDS)
def plan(platform: str, choice: Choice, mode: Mode, name: str | None, case_id: str | None) -> RestorePlan:
    """Read the bucket and the server, and say what would be done; nothing is changed.

    Args:
        platform: Its name.
        choice: Which set.
        mode: Beside the live database, or in its place.
        name: Of the new database; None for one that is made.
        case_id: Of a case that goes on: then it is its own plan, and the rest is left aside.

    Raises:
        PreconditionFailed: There is no such set, or no such case.
        TransientError: The store or the server does not answer.
    """
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    if case_id is not None:
        planned = plan_case(loaded, store, case_id, now)
    else:
        planned = plan_restore(loaded, store, choice, mode=mode, name=name, now=now)
    for finding in planned.findings:
        get_run_logger().info("%s: %s: %s", finding.verdict, finding.name, finding.message)
    get_run_logger().info("Plan %s: %s", planned.digest, summarize_plan(planned))
    show_markdown(f"{platform}-restore-plan", render_plan(planned), summarize_plan(planned))
    return planned


@step("require that nothing forbids it", timeout_seconds=MINUTE_SECONDS)
def require_possible(planned: RestorePlan, case_id: str | None) -> None:
    """Ask nobody to approve what would be refused.

    Args:
        planned: From `plan`.
        case_id: Of a case that goes on. What it made stands in the way of its own plan, which it knows by itself.

    Raises:
        PreconditionFailed: Something forbids it; nothing was changed.
    """
    if case_id is None:
        require_applicable(planned)


@step("look for an approval that still counts", timeout_seconds=MINUTE_SECONDS)
def is_approved(platform: str, planned: RestorePlan, case_id: str | None) -> bool:
    """Whether nobody has to be asked: only ever of a case that goes on.

    Args:
        platform: Its name.
        planned: From `plan`.
        case_id: Of a case that goes on.

    Raises:
        TransientError: The store or the server does not answer.
    """
    if case_id is None:
        return False
    loaded = platforms.load(platform)
    return applying.is_approved(loaded, open_store(loaded), planned, case_id, datetime.now(UTC))


@step("restore, prove and {planned.mode}", timeout_seconds=48 * HOUR_SECONDS, retried=False)
def apply(
    platform: str,
    planned: RestorePlan,
    approval: Approval | None,
    case_id: str | None,
    hold: Hold,
    *,
    as_case: str | None = None,
) -> RestoreOutcome:
    """Carry out exactly this plan. Not tried again by itself: what stopped on the way goes on by its case's id.

    Args:
        platform: Its name.
        planned: From `plan`.
        approval: Of that plan; None beside the live database, and for a case that has one.
        case_id: Of a case that goes on.
        hold: How the caller holds the platform.
        as_case: Id of a new case, where somebody wrote it down already.

    Raises:
        PreconditionFailed: The plan is another one by now, or the approval is void; nothing was changed.
        VerificationFailed: The set is damaged, or the application did not serve and the live data are back.
        KeepwellError: It stopped on the way; `keepwell restore status` tells where.
    """
    loaded = platforms.load(platform)
    with shown_progress(f"{platform}-restore-progress") as progress:
        store = open_store(loaded)
        outcome = apply_restore(loaded, store, planned, approval, progress, case_id=case_id, as_case=as_case, hold=hold)
    get_run_logger().info("Case %s: %s.", outcome.case_id, summarize_outcome(outcome))
    return outcome


def show(platform: str, outcome: RestoreOutcome) -> None:
    """Show what it came to, and tell those who were told that it waited for them."""
    show_markdown(f"{platform}-restore-evidence", render_outcome(outcome), summarize_outcome(outcome))
    if outcome.plan.swaps:
        tell(platform, build_restored_message(outcome))


@step("require that all is well", timeout_seconds=MINUTE_SECONDS)
def require_good(outcome: RestoreOutcome) -> None:
    """End red where something about the restored data is wrong, although they are there.

    Raises:
        VerificationFailed: A finding is an alert, or could not be told.
    """
    bad = [finding for finding in outcome.findings if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
    if bad:
        raise VerificationFailed(f"{summarize_outcome(outcome)}. But: {bad[0].message}", hint=bad[0].hint)


@step("look for replaced databases that may go", timeout_seconds=10 * MINUTE_SECONDS)
def find_due(platform: str) -> list[str]:
    """Cases whose replaced database has been kept for `restore.keep_replaced_days`; none unless that is set.

    Raises:
        KeepwellError: The store or the server cannot be asked.
    """
    loaded = platforms.load(platform)
    if loaded.restore.keep_replaced_days is None:
        return []
    due = read_due(loaded, open_store(loaded), datetime.now(UTC))
    for finding in due.findings:
        get_run_logger().warning("%s: %s", finding.name, finding.message)
    return [planned.case_id for planned in due.plans]


@step("drop what case {case_id} left", timeout_seconds=HOUR_SECONDS, retried=False)
def purge(platform: str, case_id: str) -> PurgeOutcome | None:
    """Drop a database that a restore replaced, because its days are over; the caller holds the platform.

    Returns:
        What was dropped; None where something forbids it by now, so that it stays until the next run.

    Raises:
        KeepwellError: The server refused. Not tried again by itself: the next run looks what is there.
    """
    loaded = platforms.load(platform)
    try:
        outcome = purge_replaced(loaded, open_store(loaded), case_id, None, silent, now=datetime.now(UTC))
    except PreconditionFailed as refused:
        get_run_logger().warning("What case %s left stays: %s", case_id, refused.message)
        return None
    get_run_logger().info("Dropped %s, which gave back %d bytes.", outcome.dropped, outcome.freed_bytes)
    for finding in outcome.findings:
        get_run_logger().warning("%s: %s", finding.name, finding.message)
    return outcome
