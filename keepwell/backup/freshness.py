"""Is there a good backup right now? Pure decisions over what the bucket and the orchestrator say.

Guide "Verify backup completion" (DAILY-5) and "Add to crontab" (BK-5). A set counts only once it is proven, and what
cannot be told is `unknown`, never ok.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import median

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.manifest import Manifest
from keepwell.evidence import Evidence
from keepwell.orchestrator import REGISTER_HINT
from keepwell.pausing import Pause
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst

# A clock may be a little ahead of another; more than this and an age means nothing.
_CLOCK_TOLERANCE = timedelta(minutes=5)
# A scheduled run is created for the second it is due; anything this near is that run.
_SAME_TIME = timedelta(seconds=59)
ENDED_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class FreshnessLimits:
    """What still counts as fine.

    Attributes:
        platform: Whose sets; hints name it, since there may be several.
        max_age: Age of the newest proven set.
        proven_level: From which level a set counts as proven.
        smallest_ratio: Newest set's size against the median of its predecessors (1 is the same); below is an alert.
        largest_ratio: The same; above is a warning.
        late_after: How long after its time a run may start.
        repeat_after: How long a bad state stays untold after it was told.
        paused_until: When a pause ends by itself; until then, an age that comes of it is no surprise. None: no such.
    """

    platform: str
    max_age: timedelta
    proven_level: ProofLevel
    smallest_ratio: float = 0.5
    largest_ratio: float = 2.0
    late_after: timedelta = timedelta(minutes=15)
    repeat_after: timedelta = timedelta(hours=24)
    paused_until: datetime | None = None

    @property
    def run_command(self) -> str:
        """What starts a backup now."""
        return f"keepwell run backup-and-verify --platform {self.platform}"


@dataclass(frozen=True)
class SetFacts:
    """One backup set.

    Attributes:
        backup_id: Of the set.
        snapshot_at: The moment that a restore brings back; None when there is no readable manifest.
        content_bytes: Size of its main database once decompressed; None likewise.
        further_bytes: The same of each further database it holds, by name.
        level: The highest level reached; None when it was never verified or did not reach the first.
        proven: Whether it counts as a backup.
        damaged: Whether it is known to be bad.
        judged: Whether a verification could judge it.
        attempted: Whether a verification was tried.
    """

    backup_id: str
    snapshot_at: datetime | None
    content_bytes: int | None
    level: ProofLevel | None
    proven: bool
    damaged: bool
    judged: bool
    attempted: bool
    further_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """One run of the backup deployment, as the orchestrator tells it.

    Attributes:
        expected_at: When it was due.
        started_at: None when it has not begun.
        state: The state's type, such as `SCHEDULED`, `RUNNING`, `COMPLETED`, `FAILED` or `CRASHED`.
    """

    expected_at: datetime
    started_at: datetime | None
    state: str


@dataclass(frozen=True)
class ScheduleFacts:
    """The backup deployment's schedule and what came of it.

    Attributes:
        deployed: Whether the deployment exists.
        active: Whether anything will start by itself: neither paused nor without a schedule.
        paused: By `keepwell pause`, which is not over yet or did not end; None when it is not.
        expected: When runs were due in the window that was looked at, oldest first.
        next_at: When the next one is due; None when none is.
        runs: Of that window, any order, also those started by hand.
        ever_ended: Whether a run ever ended, well or badly, as far as the orchestrator remembers.
    """

    deployed: bool
    active: bool = False
    paused: Pause | None = None
    expected: tuple[datetime, ...] = ()
    next_at: datetime | None = None
    runs: tuple[RunFacts, ...] = ()
    ever_ended: bool = False


@dataclass(frozen=True)
class Unanswered:
    """The orchestrator could not be asked.

    Attributes:
        reason: Why, one sentence; never a secret.
    """

    reason: str


class Notice(StrEnum):
    """What people are to be told."""

    NOTHING = "nothing"
    TURNED_BAD = "turned_bad"
    STILL_BAD = "still_bad"
    RECOVERED = "recovered"


@dataclass(frozen=True)
class NoticeDecision:
    """Whether to send a message now.

    Attributes:
        notice: What to say.
        bad_since: When the present bad state was first seen; None when the state is good.
    """

    notice: Notice
    bad_since: datetime | None


def build_limits(platform: Platform, schedule: ScheduleFacts | Unanswered | None = None) -> FreshnessLimits:
    """The limits that a platform file asks for, in the light of a pause."""
    settings = platform.backup
    limits = FreshnessLimits(platform.name, timedelta(hours=settings.max_age_hours), settings.proven_level)
    pause = schedule.paused if isinstance(schedule, ScheduleFacts) else None
    return replace(limits, paused_until=pause.until if pause else None)


def describe_sets(entries: Sequence[BackupEntry], proven_level: ProofLevel) -> list[SetFacts]:
    """The catalogue's entries as facts, in the same order."""
    return [
        SetFacts(
            backup_id=entry.backup_id,
            snapshot_at=entry.snapshot_at,
            content_bytes=entry.manifest.content_bytes_of(entry.manifest.main) if entry.manifest else None,
            level=entry.level,
            proven=entry.is_proven(proven_level),
            damaged=entry.damaged,
            judged=entry.proof is not None,
            attempted=entry.last_attempt is not None,
            further_bytes=_measure_further(entry.manifest) if entry.manifest else {},
        )
        for entry in entries
    ]


def find_first_due(sets: Sequence[SetFacts], schedule: "ScheduleFacts | Unanswered") -> datetime | None:
    """When the first backup of a new platform is due, as long as that is nothing but waited for.

    Where a backup has ended already, well or badly and however long ago, and there is no set, something is wrong:
    nobody waits then.
    """
    if sets or isinstance(schedule, Unanswered) or not schedule.active or schedule.ever_ended:
        return None
    return None if any(run.state in ENDED_STATES for run in schedule.runs) else schedule.next_at


def judge_backups(
    sets: Sequence[SetFacts], limits: FreshnessLimits, now: datetime, *, first_due: datetime | None = None
) -> tuple[Finding, ...]:
    """How well the platform is backed up.

    Args:
        sets: Every set, newest first; may be empty.
        limits: What still counts as fine.
        now: Aware.
        first_due: From `find_first_due`: until when it is fine that there is no set.

    Returns:
        Age, newest set, damage and, where there is something to compare with, size.

    Source: guide "Verify backup completion".
    """
    if not sets and first_due is not None:
        return (_wait_for_first(limits, first_due),)
    findings = [_judge_age(sets, limits, now)]
    if sets:
        findings += [_judge_newest(sets[0], limits), _judge_damage(sets)]
    return (*findings, *judge_sizes(sets, limits))


def name_second(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings of the second destination, told from those of the first, and with a hint that helps there."""
    return tuple(
        finding.model_copy(
            update={
                "name": f"second destination: {finding.name}",
                "message": f"In the second destination: {finding.message}",
                "hint": "keepwell backup copy" if is_bad(finding.verdict) else finding.hint,
            }
        )
        for finding in findings
    )


def judge_sizes(sets: Sequence[SetFacts], limits: FreshnessLimits) -> tuple[Finding, ...]:
    """The newest readable set's size against the median of its predecessors, database by database.

    Args:
        sets: Newest first.
        limits: The ratios.

    Returns:
        One finding for each database that there is something to compare with; damaged predecessors are no measure.
        A warning for each that the set before held and the newest does not.
    """
    readable = [s for s in sets if s.content_bytes is not None]
    if not readable:
        return ()
    newest, earlier = readable[0], [s for s in readable[1:] if not s.damaged]
    findings = []
    if earlier:
        findings.append(_judge_size(newest.content_bytes or 0, [s.content_bytes or 0 for s in earlier], limits))
    for name, size_bytes in newest.further_bytes.items():
        before = [s.further_bytes[name] for s in earlier if name in s.further_bytes]
        if before:
            findings.append(_judge_size(size_bytes, before, limits).named_for(name))
    held_before = earlier[0].further_bytes if earlier else {}
    missing = [_warn_of_missing(name) for name in held_before if name not in newest.further_bytes]
    return (*findings, *missing)


def _warn_of_missing(name: str) -> Finding:
    return Finding(
        name="databases in a set",
        verdict=Verdict.WARN,
        message=f"The newest set holds no {name} any more; the one before it did.",
        hint="If that was not meant, name it among database.more_names again.",
    )


def _measure_further(manifest: Manifest) -> dict[str, int]:
    return {one.name: manifest.content_bytes_of(one) for one in manifest.databases if not one.is_main}


def _judge_size(size_bytes: int, earlier: Sequence[int], limits: FreshnessLimits) -> Finding:
    usual = median(earlier)
    ratio = size_bytes / usual if usual else 1.0
    found = f"{size_bytes:,} bytes, {ratio:.0%} of the median of {len(earlier)} earlier sets"
    if ratio < limits.smallest_ratio:
        return Finding(
            name="backup size",
            verdict=Verdict.ALERT,
            message=f"The newest set shrank: {found}.",
            hint="Was data deleted, or does the role no longer see it? Keep the older sets until that is clear.",
        )
    if ratio > limits.largest_ratio:
        return Finding(
            name="backup size",
            verdict=Verdict.WARN,
            message=f"The newest set grew: {found}.",
            hint="Look at the largest tables on its evidence page.",
        )
    return Finding(name="backup size", verdict=Verdict.OK, message=f"As usual: {found}.")


def judge_schedule(facts: ScheduleFacts | Unanswered, limits: FreshnessLimits, now: datetime) -> tuple[Finding, ...]:
    """Whether backups start by themselves: late, missed, stopped, and never run.

    Args:
        facts: The deployment's schedule and runs, or why they are not known.
        limits: How late a run may start.
        now: Aware.

    Source: guide "Add to crontab".
    """
    if isinstance(facts, Unanswered):
        return (
            Finding(
                name="backup schedule",
                verdict=Verdict.UNKNOWN,
                message=f"The orchestrator could not be asked: {facts.reason}",
                hint=f"Look at it; `keepwell backup create --platform {limits.platform}` works without it.",
            ),
        )
    if not facts.deployed:
        return (
            Finding(
                name="backup schedule",
                verdict=Verdict.ALERT,
                message="The backup is not deployed, so nothing starts it.",
                hint=f"Register it: {REGISTER_HINT}.",
            ),
        )
    active = _judge_pause(facts.paused, limits, now) if facts.paused else _judge_active(facts, limits.platform)
    return active, _judge_runs(facts, limits, now)


def decide_notice(
    previous: Evidence | None, findings: Sequence[Finding], *, now: datetime, repeat_after: timedelta
) -> NoticeDecision:
    """Whether people must hear of it: once when it turns bad or worse, again after a day, once when it is over.

    Args:
        previous: The last evidence of the same item, which remembers what was told; None when there is none.
        findings: Of now.
        now: Aware.
        repeat_after: How long a bad state stays untold after it was told.
    """
    verdict = worst(finding.verdict for finding in findings)
    told_at = previous.told_at if previous else None
    if not is_bad(verdict):
        return NoticeDecision(Notice.RECOVERED if told_at else Notice.NOTHING, None)
    bad_since = (previous.bad_since if previous and is_bad(previous.verdict) else None) or now
    if previous is None or told_at is None or not is_bad(previous.verdict):
        return NoticeDecision(Notice.TURNED_BAD, bad_since)
    if _is_worse(previous, findings):
        return NoticeDecision(Notice.TURNED_BAD, bad_since)
    due = now - told_at >= repeat_after
    return NoticeDecision(Notice.STILL_BAD if due else Notice.NOTHING, bad_since)


def is_bad(verdict: Verdict) -> bool:
    """Whether somebody must look; a warning can wait until they do."""
    return verdict in (Verdict.ALERT, Verdict.UNKNOWN)


def _wait_for_first(limits: FreshnessLimits, first_due: datetime) -> Finding:
    return Finding(
        name="newest proven backup",
        verdict=Verdict.WARN,
        message=f"There is no backup yet; the first one is due {_moment(first_due)}.",
        hint=f"Nobody needs to wait for it: {limits.run_command}",
    )


def _judge_age(sets: Sequence[SetFacts], limits: FreshnessLimits, now: datetime) -> Finding:
    newest = next((s for s in sets if s.proven and s.snapshot_at is not None), None)
    if newest is None or newest.snapshot_at is None:
        return Finding(
            name="newest proven backup",
            verdict=Verdict.ALERT,
            message=f"None of {len(sets)} backup sets is proven." if sets else "There is no backup set.",
            hint=f"Run `{limits.run_command}` now.",
        )
    age = now - newest.snapshot_at
    found = f"{newest.backup_id} is {describe_age(age)} old and {newest.level}; it may get {_hours(limits.max_age)} old"
    if age < -_CLOCK_TOLERANCE:
        return Finding(
            name="newest proven backup",
            verdict=Verdict.UNKNOWN,
            message=f"{newest.backup_id} seems to come from the future, so its age is not known.",
            hint="Compare the clocks of this machine and of the database's.",
        )
    if age > limits.max_age and limits.paused_until is not None and now < limits.paused_until:
        return Finding(
            name="newest proven backup",
            verdict=Verdict.WARN,
            message=f"Paused until {_moment(limits.paused_until)}, and the newest proven set is old: {found}.",
            hint=f"To have one all the same: `{limits.run_command}`.",
        )
    if age > limits.max_age:
        return Finding(
            name="newest proven backup",
            verdict=Verdict.ALERT,
            message=f"The newest proven set is too old: {found}.",
            hint=f"Run `{limits.run_command}` now, then look at why the last runs failed.",
        )
    return Finding(name="newest proven backup", verdict=Verdict.OK, message=f"{found}.")


def _judge_newest(newest: SetFacts, limits: FreshnessLimits) -> Finding:
    if newest.damaged:
        return Finding(
            name="newest set",
            verdict=Verdict.ALERT,
            message=f"{newest.backup_id} is damaged.",
            hint=f"Run `{limits.run_command}` now; restore from an older proven set only.",
        )
    if newest.proven:
        return Finding(name="newest set", verdict=Verdict.OK, message=f"{newest.backup_id} is {newest.level}.")
    reached = newest.level or "no level"
    why = (
        f"it reached {reached}, and {limits.proven_level} is wanted"
        if newest.judged
        else "its verification could not judge it"
        if newest.attempted
        else "it was not verified yet"
    )
    return Finding(
        name="newest set",
        verdict=Verdict.WARN,
        message=f"{newest.backup_id} is not proven: {why}.",
        hint=f"If no run is at it now: keepwell backup verify {newest.backup_id} --platform {limits.platform}.",
    )


def _judge_damage(sets: Sequence[SetFacts]) -> Finding:
    damaged = [s.backup_id for s in sets[1:] if s.damaged]
    if not damaged:
        return Finding(name="older sets", verdict=Verdict.OK, message=f"Of {len(sets) - 1}, none is known to be bad.")
    return Finding(
        name="older sets",
        verdict=Verdict.WARN,
        message=f"{len(damaged)} of {len(sets) - 1} are damaged: {', '.join(damaged[:5])}"
        f"{' and others' if len(damaged) > 5 else ''}.",
        hint="Their moments cannot be restored. Find out whether the store lost data before you remove them.",
    )


def _judge_active(facts: ScheduleFacts, platform: str) -> Finding:
    if not facts.active:
        return Finding(
            name="backup schedule",
            verdict=Verdict.ALERT,
            message="The backup's schedule is paused or missing, so nothing starts it.",
            hint=f"Resume the deployment backup-and-verify/{platform}.",
        )
    due = f"The next backup is due {_moment(facts.next_at)}." if facts.next_at else "No backup is due."
    return Finding(name="backup schedule", verdict=Verdict.OK if facts.next_at else Verdict.ALERT, message=due)


def _judge_pause(pause: Pause, limits: FreshnessLimits, now: datetime) -> Finding:
    """A pause is told, and one that did not end by itself is bad: people count on its end."""
    since = f"Paused since {_moment(pause.since)}" if pause.since else "Paused"
    resume = f"keepwell resume --platform {limits.platform}"
    if pause.until is None:
        return Finding(
            name="backup schedule",
            verdict=Verdict.WARN,
            message=f"{since}, until somebody resumes it.",
            hint=f"End it: `{resume}`.",
        )
    if now - pause.until <= limits.late_after:
        return Finding(
            name="backup schedule",
            verdict=Verdict.WARN,
            message=f"{since}, until {_moment(pause.until)}; it ends by itself then.",
            hint=f"End it now: `{resume}`.",
        )
    return Finding(
        name="backup schedule",
        verdict=Verdict.ALERT,
        message=f"{since}, until {_moment(pause.until)}, and nothing ended it then: no backup is made.",
        hint=f"End it: `{resume}`, then see why the run of resume-platform did not.",
    )


def _judge_runs(facts: ScheduleFacts, limits: FreshnessLimits, now: datetime) -> Finding:
    late = sorted(r.expected_at for r in facts.runs if r.started_at is None and _is_waiting(r, limits, now))
    missed = [due for due in facts.expected if now - due > limits.late_after and not _has_run(due, facts.runs)]
    if late or missed:
        said = [f"due {_moment(due)} has not started" for due in late]
        said += [f"due {_moment(due)} was never created" for due in missed]
        return Finding(
            name="backup runs",
            verdict=Verdict.ALERT,
            message=f"A backup {'; one '.join(said)}.",
            hint=f"Are the server's scheduler and a worker of the pool up? Then: {limits.run_command}.",
        )
    ended = [run for run in facts.runs if run.state in ENDED_STATES]
    if not ended:
        return Finding(name="backup runs", verdict=Verdict.WARN, message="None has ended yet in the time looked at.")
    last = max(ended, key=lambda run: run.started_at or run.expected_at)
    if last.state != "COMPLETED":
        return Finding(
            name="backup runs",
            verdict=Verdict.WARN,
            message=f"The last one, due {_moment(last.expected_at)}, ended {last.state.lower()}.",
            hint="Its run page says why.",
        )
    return Finding(
        name="backup runs",
        verdict=Verdict.OK,
        message=f"The last one, due {_moment(last.expected_at)}, completed; none is late or missed.",
    )


def _is_waiting(run: RunFacts, limits: FreshnessLimits, now: datetime) -> bool:
    return run.state in ("SCHEDULED", "PENDING") and now - run.expected_at > limits.late_after


def _has_run(due: datetime, runs: Sequence[RunFacts]) -> bool:
    return any(abs(run.expected_at - due) <= _SAME_TIME for run in runs)


def _is_worse(previous: Evidence, findings: Sequence[Finding]) -> bool:
    """Whether something is bad that was not when people were told, or worse than it was."""
    known = {finding.name: finding.verdict for finding in previous.findings if is_bad(finding.verdict)}
    return any(
        is_bad(finding.verdict)
        and worst([finding.verdict, known.get(finding.name, Verdict.OK)]) != known.get(finding.name)
        for finding in findings
    )


def describe_age(age: timedelta) -> str:
    """An age in words, to the hour above two hours and to the minute below."""
    minutes = int(age.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else _hours(age)


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.0f} h"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
