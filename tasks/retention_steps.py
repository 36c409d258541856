"""Expiring backup sets: thin steps around `keepwell.backup.expire`."""

from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.runtime import flow_run

from keepwell.backup.expire import Expiry, Result, apply_plan, read_plan
from keepwell.backup.retention import RetentionPlan
from keepwell.backup.retention_report import build_retention_evidence, render_expiry
from keepwell.errors import PartialFailure, VerificationFailed
from keepwell.evidence import Evidence
from keepwell.holding import Hold
from keepwell.objectstore.store import open_store
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.artifacts import show_markdown
from tasks.evidence_steps import keep_evidence
from tasks.interlock_steps import keep_turn
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step


@step("plan what stays and what goes", timeout_seconds=HOUR_SECONDS)
def plan(platform: str) -> RetentionPlan:
    """Read the bucket and decide; nothing is changed.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    loaded = platforms.load(platform)
    planned = read_plan(loaded, open_store(loaded), datetime.now(UTC))
    for decision in planned.remove:
        get_run_logger().info("To be removed: %s: %s.", decision.stored.backup_id, decision.words)
    get_run_logger().info(
        "To be removed: %d contents of uploaded files that no set needs, %d bytes.",
        len(planned.unneeded.remove),
        planned.unneeded.size_bytes,
    )
    for finding in planned.findings:
        get_run_logger().info("%s: %s: %s", finding.verdict, finding.name, finding.message)
    return planned


@step("apply plan {planned.digest}", timeout_seconds=12 * HOUR_SECONDS)
def apply(platform: str, planned: RetentionPlan, hold: Hold) -> Expiry:
    """Remove what the plan removes, and nothing where its verdict is alert.

    Args:
        platform: Its name.
        planned: From `plan`.
        hold: The platform's turn. What makes a second attempt necessary may have cost it, so each one looks first.

    Returns:
        What became of each set; one that the store keeps is what it says, not an error.

    Raises:
        PreconditionFailed: The plan is another one by now; nothing was removed.
        KeepwellError: The store cannot be read; no set was removed.
    """
    loaded = platforms.load(platform)
    keep_turn(hold)
    expiry = apply_plan(loaded, open_store(loaded), planned.digest, datetime.now(UTC))
    for removal in expiry.removals:
        get_run_logger().info("%s: %s: %s", removal.backup_id, removal.result, removal.why)
    return expiry


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record(platform: str, expiry: Expiry, started_at: datetime) -> Evidence:
    """Record what stayed, what went and why.

    Returns:
        The document as it was stored.
    """
    evidence = build_retention_evidence(
        expiry, platform=platform, started_at=started_at, finished_at=datetime.now(UTC), flow_run=flow_run.id
    )
    stored = keep_evidence(platforms.load(platform), evidence)
    show_markdown(f"{platform}-retention-evidence", render_expiry(expiry, platform=platform), stored.summary)
    return stored


@step("require that it went by plan", timeout_seconds=MINUTE_SECONDS)
def require_applied(expiry: Expiry) -> None:
    """Go on only when everything that was due is gone and everything else is there.

    Raises:
        PartialFailure: The store kept a set that was to go.
        VerificationFailed: There was no fresh proven set, so nothing went; or a set is gone that was to stay.
    """
    refused = {one.backup_id: one.why for one in expiry.removals if one.result is Result.REFUSED}
    if refused:
        named = "; ".join(f"{backup_id}: {why}" for backup_id, why in refused.items())
        raise PartialFailure(
            f"{len(refused)} of {len(expiry.removals)} sets are not removed: {named}",
            outcomes=refused,
            hint="They stay listed until they are gone; the next run tries again.",
        )
    bad = [finding for finding in expiry.findings if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
    if bad:
        raise VerificationFailed(" ".join(finding.message for finding in bad), hint=bad[0].hint)
