"""Expiring backup sets: thin steps around `keepwell.backup.expire`."""

from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.runtime import flow_run

from keepwell.backup.expire import Expiry, Result, apply_plan, read_plan
from keepwell.backup.retention import RetentionPlan
from keepwell.backup.retention_report import build_retention_evidence, render_expiry
from keepwell.destination import Destination
from keepwell.errors import PartialFailure, VerificationFailed
from keepwell.evidence import Evidence
from keepwell.holding import Hold
from keepwell.objectstore.destinations import open_destination
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.artifacts import show_markdown
from tasks.evidence_steps import keep_evidence
from tasks.interlock_steps import keep_turn
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step


@step("plan what stays and what goes", timeout_seconds=HOUR_SECONDS)
def plan(platform: str, destination: Destination = Destination.FIRST) -> RetentionPlan:
    """Read a destination and decide; nothing is changed.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    loaded = platforms.load(platform)
    planned = read_plan(loaded, open_destination(loaded, destination), datetime.now(UTC))
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
def apply(platform: str, planned: RetentionPlan, hold: Hold, destination: Destination = Destination.FIRST) -> Expiry:
    """Remove what the plan removes, and nothing where its verdict is alert.

    Args:
        platform: Its name.
        planned: From `plan`.
        hold: The platform's turn. What makes a second attempt necessary may have cost it, so each one looks first.
        destination: Where they lie.

    Returns:
        What became of each set; one that the store keeps is what it says, not an error.

    Raises:
        PreconditionFailed: The plan is another one by now; nothing was removed.
        KeepwellError: The store cannot be read; no set was removed.
    """
    loaded = platforms.load(platform)
    keep_turn(hold)
    expiry = apply_plan(loaded, open_destination(loaded, destination), planned.digest, datetime.now(UTC))
    for removal in expiry.removals:
        get_run_logger().info("%s: %s: %s", removal.backup_id, removal.result, removal.why)
    return expiry


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record(
    platform: str, expiry: Expiry, started_at: datetime, destination: Destination = Destination.FIRST
) -> Evidence:
    """Record what stayed, what went and why.

    Returns:
        The document as it was stored.
    """
    evidence = build_retention_evidence(
        expiry, platform=platform, started_at=started_at, finished_at=datetime.now(UTC), flow_run=flow_run.id
    )
    if destination is not Destination.FIRST:
        summary = f"In {destination.named}: {evidence.summary}"
        evidence = evidence.model_copy(update={"summary": summary})
    stored = keep_evidence(platforms.load(platform), evidence)
    key = "retention" if destination is Destination.FIRST else f"retention-{destination}"
    show_markdown(f"{platform}-{key}-evidence", render_expiry(expiry, platform=platform), stored.summary)
    return stored


@step("require that it went by plan", timeout_seconds=MINUTE_SECONDS)
def require_applied(expiry: Expiry, second: Expiry | str | None = None) -> None:
    """Go on only when everything that was due is gone and everything else is there.

    Args:
        expiry: Of the first destination.
        second: Of the second, or why it did not come to that; None where there is none.

    Raises:
        PartialFailure: A store kept a set that was to go.
        VerificationFailed: There was no fresh proven set, so nothing went; or a set is gone that was to stay.
    """
    done = {"": expiry} | ({f"in {Destination.SECOND.named}, ": second} if isinstance(second, Expiry) else {})
    refused = {
        f"{where}{one.backup_id}": one.why
        for where, each in done.items()
        for one in each.removals
        if one.result is Result.REFUSED
    }
    if refused:
        named = "; ".join(f"{backup_id}: {why}" for backup_id, why in refused.items())
        total = sum(len(each.removals) for each in done.values())
        raise PartialFailure(
            f"{len(refused)} of {total} sets are not removed: {named}",
            outcomes=refused,
            hint="They stay listed until they are gone; the next run tries again.",
        )
    bad = [
        (where, finding)
        for where, each in done.items()
        for finding in each.findings
        if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN)
    ]
    told = [(where + finding.message, finding.hint) for where, finding in bad]
    if isinstance(second, str):
        told.append((f"Old sets of {Destination.SECOND.named} were not looked at: {second}", ""))
    if told:
        raise VerificationFailed(" ".join(message for message, _ in told), hint=told[0][1])
