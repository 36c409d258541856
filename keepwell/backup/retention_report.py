"""What stayed, what went and why, as evidence and for people. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from keepwell.backup.expire import Expiry, Result
from keepwell.backup.report import escape, render_findings, sign
from keepwell.backup.retention import Decision, RetentionPlan, StoredSet, describe_age
from keepwell.evidence import Evidence
from keepwell.quantities import describe_bytes
from keepwell.verdict import Finding, Verdict

RETENTION_ITEMS = ("BK-2",)


def build_retention_evidence(
    expiry: Expiry, *, platform: str, started_at: datetime, finished_at: datetime, flow_run: str | None = None
) -> Evidence:
    """The document of one expiry: its findings, then every set with what became of it and why.

    Args:
        expiry: What came of the plan.
        platform: Its name.
        started_at: When the run began; aware.
        finished_at: When it ended; aware.
        flow_run: Id of the orchestrator's run; None without one.
    """
    plan = expiry.plan
    newest = plan.newest_proven_at
    return Evidence(
        items=RETENTION_ITEMS,
        platform=platform,
        verdict=expiry.verdict,
        summary=summarize(expiry),
        findings=(*expiry.findings, *_tell_removals(expiry), *_tell_kept(plan.keep)),
        numbers={
            "sets_kept": len(plan.keep),
            "sets_removed": expiry.count(Result.REMOVED),
            "sets_refused": expiry.count(Result.REFUSED),
            "sets_held_back": plan.held_back,
            "unfinished_sets_swept": len(expiry.swept),
            "freed_bytes": expiry.freed_bytes,
            "upload_contents_removed": expiry.collected.contents,
            "upload_bytes_freed": expiry.collected.freed_bytes,
            "newest_proven_age_seconds": (plan.planned_at - newest).total_seconds() if newest else None,
            "plan": plan.digest,
        },
        started_at=started_at,
        finished_at=finished_at,
        flow_run=flow_run,
    )


def render_expiry(expiry: Expiry, *, platform: str) -> str:
    """The evidence page of one expiry: what went, what stays, each with its reasons."""
    parts = [f"# Retention of {escape(platform)}: {sign(expiry.verdict)}", escape(summarize(expiry))]
    parts += render_findings(expiry.findings)
    if expiry.removals:
        rows = [f"| {one.backup_id} | {one.result} | {escape(one.why)} |" for one in expiry.removals]
        parts.append("\n".join(["## To be removed", "", "| set | result | why |", "|---|---|---|", *rows]))
    if expiry.swept:
        parts.append(f"## Left unfinished by dead runs, and swept\n\n{', '.join(expiry.swept)}")
    if expiry.plan.keep:
        parts.append("## Stays\n\n" + _render_kept(expiry.plan))
    return "\n\n".join(parts)


def summarize(expiry: Expiry) -> str:
    """What came of it, one sentence."""
    plan = expiry.plan
    if plan.verdict is Verdict.ALERT:
        return f"Nothing was removed: {plan.findings[0].message}"
    return " ".join(_summarize_sets(expiry) + _summarize_collected(expiry))


def _summarize_sets(expiry: Expiry) -> list[str]:
    stay = f"{len(expiry.plan.keep)} stay."
    if not expiry.removals:
        return [f"No set is due; all {stay}"]
    removed = f"{expiry.count(Result.REMOVED)} of {len(expiry.removals)} sets were removed"
    return [f"{removed}, {describe_bytes(expiry.freed_bytes)}; {stay}"]


def _summarize_collected(expiry: Expiry) -> list[str]:
    found = expiry.collected
    if not found.contents:
        return []
    freed = describe_bytes(found.freed_bytes)
    return [f"{found.contents:,} contents of uploaded files that no set needed are gone, {freed}."]


def describe_decision(decision: Decision) -> dict[str, Any]:
    """One set of a plan, for a JSON document."""
    stored = decision.stored
    return {
        "backup_id": stored.backup_id,
        "at": stored.at,
        "state": stored.standing,
        "level": stored.level,
        "stored_bytes": stored.size_bytes,
        "reasons": [{"rule": reason.rule, "words": reason.words} for reason in decision.reasons],
    }


def _render_kept(plan: RetentionPlan) -> str:
    lines = ["| set | as of | age | counts as | why |", "|---|---|---:|---|---|"]
    lines += [
        f"| {one.stored.backup_id} | {_moment(one.stored)} | {describe_age(plan.planned_at - one.stored.at)} "
        f"| {one.stored.standing} | {escape(one.words)} |"
        for one in plan.keep
    ]
    return "\n".join(lines)


def _moment(stored: StoredSet) -> str:
    return f"{stored.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _tell_removals(expiry: Expiry) -> list[Finding]:
    """Those that went as they should; the others are findings already."""
    return [
        Finding(name=one.backup_id, verdict=Verdict.OK, message=f"{one.result.capitalize()}: {one.why}")
        for one in expiry.removals
        if one.result is not Result.REFUSED
    ]


def _tell_kept(kept: Sequence[Decision]) -> list[Finding]:
    return [Finding(name=one.stored.backup_id, verdict=Verdict.OK, message=f"Stays: {one.words}") for one in kept]
