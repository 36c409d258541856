"""Judging what the bucket and the orchestrator say, and whether people must hear of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from keepwell.backup import freshness
from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.backup.freshness import FreshnessLimits, Notice, ScheduleFacts, Unanswered
from keepwell.backup.report import build_check_message, describe_safety
from keepwell.destination import Destination
from keepwell.errors import KeepwellError
from keepwell.evidence import Evidence, read_last_evidence
from keepwell.notify import Delivery, Message
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.destinations import has_second, open_destination
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst
from tasks import platforms
from tasks.evidence_steps import CHECK_ITEMS
from tasks.retries import MINUTE_SECONDS, step


@dataclass(frozen=True)
class Judgement:
    """What a check concluded.

    Attributes:
        evidence: To be recorded, once it is known whether people were told.
        notice: Why people are to be told, if they are.
        message: What to tell them; None when there is nothing to tell.
    """

    evidence: Evidence
    notice: Notice
    message: Message | None


@step("judge", timeout_seconds=10 * MINUTE_SECONDS)
def judge(platform: str, schedule: ScheduleFacts | Unanswered) -> Judgement:
    """Judge the catalogue and the schedule, and decide whether people must hear of it.

    Raises:
        KeepwellError: The store cannot be read: the check itself failed, and pages by that.
    """
    loaded = platforms.load(platform)
    store, now = open_store(loaded), datetime.now(UTC)
    entries = read_catalogue(store)
    limits = freshness.build_limits(loaded, schedule)
    sets = freshness.describe_sets(entries, limits.proven_level)
    # A platform that was registered today has no backup yet, and that is nothing to wake anybody for.
    first_due = freshness.find_first_due(sets, schedule)
    findings = freshness.judge_backups(sets, limits, now, first_due=first_due)
    findings += freshness.judge_schedule(schedule, limits, now)
    findings += _judge_second(loaded, limits, now, first_due)
    previous = read_last_evidence(store, CHECK_ITEMS[0])
    decision = freshness.decide_notice(previous, findings, now=now, repeat_after=limits.repeat_after)
    evidence = Evidence(
        items=CHECK_ITEMS,
        platform=platform,
        verdict=worst(finding.verdict for finding in findings),
        summary=" ".join(f.message for f in findings if f.verdict is not Verdict.OK) or "Everything is fine.",
        findings=findings,
        numbers=_measure(entries, findings, now),
        started_at=now,
        finished_at=now,
        flow_run=flow_run.id,
        bad_since=decision.bad_since,
        # Until somebody is told anew, what they were told last still holds.
        told_at=previous.told_at if previous else None,
    )
    message = None
    if decision.notice is not Notice.NOTHING:
        safe = describe_safety(entries, limits.proven_level)
        message = build_check_message(
            findings, decision.notice, platform=platform, safe=safe, bad_since=decision.bad_since
        )
    return Judgement(evidence, decision.notice, message)


def note_delivery(judgement: Judgement, delivery: Delivery | None) -> Evidence:
    """The evidence with what people know: what nobody was told is told by the next run."""
    if judgement.message is None:
        return judgement.evidence
    told = delivery is not None and any(outcome.delivered for outcome in delivery.outcomes)
    now = datetime.now(UTC)
    if judgement.notice is Notice.RECOVERED:
        # Over and told: nothing is left to tell. Without any channel, nobody waits for it either.
        over = told or delivery is None or not delivery.outcomes
        return judgement.evidence.model_copy(update={"finished_at": now} | ({"told_at": None} if over else {}))
    return judgement.evidence.model_copy(update={"finished_at": now, "told_at": now if told else None})


def as_state(verdict: Verdict) -> State[Any]:
    """How the run ends: what is bad is red and named for it, but not `Failed`.

    The automation that reports failed runs listens for that name; a check that ran has told people already, once, and
    not again every hour.
    """
    if freshness.is_bad(verdict):
        return Failed(name=verdict.value.title(), message=f"The check ran; its verdict is {verdict}.")
    return Completed(name="Warn" if verdict is Verdict.WARN else "Completed", message=f"The verdict is {verdict}.")


def _judge_second(
    platform: Platform, limits: FreshnessLimits, now: datetime, first_due: datetime | None
) -> tuple[Finding, ...]:
    """The same questions asked of the second destination; one that cannot be asked hides anything."""
    if not has_second(platform):
        return ()
    try:
        entries = read_catalogue(open_destination(platform, Destination.SECOND))
    except KeepwellError as error:
        return (Finding(name="second destination", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint),)
    sets = freshness.describe_sets(entries, limits.proven_level)
    found = freshness.judge_backups(sets, limits, now, first_due=first_due)
    return freshness.name_second(found)


def _measure(
    entries: Sequence[BackupEntry], findings: Sequence[Finding], now: datetime
) -> dict[str, float | str | None]:
    ages = [(now - entry.snapshot_at).total_seconds() for entry in entries if entry.snapshot_at is not None]
    return {
        "sets": len(entries),
        "newest_set_age_seconds": min(ages, default=None),
        "bad_findings": sum(1 for finding in findings if freshness.is_bad(finding.verdict)),
    }
