"""A month of hourly checks on a virtual clock, with the real decisions: nobody is woken, or left asleep, wrongly."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from keepwell.backup.freshness import (
    FreshnessLimits,
    Notice,
    RunFacts,
    ScheduleFacts,
    SetFacts,
    decide_notice,
    find_first_due,
    judge_backups,
    judge_schedule,
)
from keepwell.evidence import Evidence
from keepwell.verdict import worst

LIMITS = FreshnessLimits("esn", timedelta(hours=26), "equal")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# How long the check looks back for runs, as the step that reads the schedule does.
WINDOW = timedelta(days=2)
ROME = ZoneInfo("Europe/Rome")


@dataclass
class Month:
    """Nightly backups and hourly checks from one moment on.

    Attributes:
        begins: When the platform is registered.
        due: When the backup of a day is due; the day counts from 0.
        lost: Days whose backup fails, or never starts.
        skipped: Checks that are not made, by the hour since the beginning: a machine that was restarted.
        sets: What lies in the bucket, newest first.
        told: What people hear, and when.
    """

    begins: datetime
    due: Callable[[int], datetime]
    lost: dict[int, str] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    sets: list[tuple[datetime, SetFacts]] = field(default_factory=list)
    told: list[tuple[datetime, Notice]] = field(default_factory=list)
    runs: list[RunFacts] = field(default_factory=list)

    def run(self, days: int, dice: random.Random) -> "Month":
        self._back_up(days, dice)
        previous: Evidence | None = None
        for hour in range(days * 24):
            if hour not in self.skipped:
                # Checks have a jitter of their own.
                previous = self._check(
                    self.begins + hour * HOUR + timedelta(minutes=15, seconds=dice.uniform(0, 90)), previous
                )
        return self

    def _back_up(self, days: int, dice: random.Random) -> None:
        size = 1_000_000.0
        for day in range(days):
            due, size = self.due(day), size * dice.uniform(0.97, 1.05)
            begun = due + timedelta(seconds=dice.uniform(1, 500))
            ends = begun + timedelta(minutes=dice.uniform(4, 55))
            outcome = self.lost.get(day, "COMPLETED")
            if outcome == "never starts":
                self.runs.append(RunFacts(due, None, "SCHEDULED"))
                continue
            self.runs.append(RunFacts(due, begun, outcome))
            if outcome == "COMPLETED":
                name, taken = f"set {day}", begun + timedelta(minutes=1)
                self.sets.insert(0, (ends, SetFacts(name, taken, int(size), "serving", True, False, True, True)))

    def _check(self, now: datetime, previous: Evidence | None) -> Evidence:
        sets = [found for ends, found in self.sets if ends <= now]
        schedule = self._schedule(now)
        findings = judge_backups(sets, LIMITS, now, first_due=find_first_due(sets, schedule))
        findings += judge_schedule(schedule, LIMITS, now)
        decision = decide_notice(previous, findings, now=now, repeat_after=LIMITS.repeat_after)
        told_at = previous.told_at if previous else None
        if decision.notice is not Notice.NOTHING:
            self.told.append((now, decision.notice))
            told_at = None if decision.notice is Notice.RECOVERED else now
        return Evidence(
            items=("DAILY-5",),
            platform="esn",
            verdict=worst(finding.verdict for finding in findings),
            summary="",
            findings=findings,
            started_at=now,
            finished_at=now,
            bad_since=decision.bad_since,
            told_at=told_at,
        )

    def _schedule(self, now: datetime) -> ScheduleFacts:
        """As the orchestrator would tell it at that moment: a run that is not over yet is running, or waits."""
        window = [run for run in self.runs if now - WINDOW <= run.expected_at <= now]
        ends = {found.backup_id: ends for ends, found in self.sets}
        shown = []
        for run in window:
            ended = ends.get(f"set {self.runs.index(run)}")
            if run.started_at is not None and run.started_at > now:
                shown.append(RunFacts(run.expected_at, None, "SCHEDULED"))
            elif ended is not None and ended > now:
                shown.append(RunFacts(run.expected_at, run.started_at, "RUNNING"))
            else:
                shown.append(run)
        following = [run.expected_at for run in self.runs if run.expected_at > now]
        next_at = min(following, default=now + DAY)
        expected = tuple(run.expected_at for run in window)
        ever_ended = any(end <= now for end in ends.values())
        return ScheduleFacts(True, True, expected=expected, next_at=next_at, runs=tuple(shown), ever_ended=ever_ended)


def in_utc(begins: datetime) -> Callable[[int], datetime]:
    """Each night at two, by UTC, as prefect.yaml has it."""
    return lambda day: (begins + day * DAY).replace(hour=2, minute=0) + DAY


def in_rome(begins: datetime) -> Callable[[int], datetime]:
    """Each night at half past two by the clock on the wall, which some night has twice, or not at all."""

    def due(day: int) -> datetime:
        local = (begins + (day + 1) * DAY).astimezone(ROME).replace(hour=2, minute=30, second=0)
        return local.astimezone(UTC)

    return due


MONTHS = {
    "by UTC": (datetime(2026, 5, 1, 9, tzinfo=UTC), in_utc),
    "a clock put forward": (datetime(2026, 3, 14, 9, tzinfo=UTC), in_rome),
    "a clock put back": (datetime(2026, 10, 10, 9, tzinfo=UTC), in_rome),
}


@pytest.mark.parametrize(("begins", "schedule"), MONTHS.values(), ids=MONTHS)
@pytest.mark.parametrize("seed", range(5))
def test_thirty_healthy_days_wake_nobody_from_the_first_hour_on(
    begins: datetime, schedule: Callable[[datetime], Callable[[int], datetime]], seed: int
) -> None:
    skipped = frozenset(random.Random(seed).sample(range(720), 20))
    month = Month(begins, schedule(begins), skipped=skipped).run(30, random.Random(seed))
    assert month.told == []
    assert len(month.sets) == 30


@pytest.mark.parametrize("seed", range(3))
def test_a_backup_that_never_starts_is_told_within_the_hour_of_its_check_and_its_end_too(seed: int) -> None:
    begins = datetime(2026, 5, 1, 9, tzinfo=UTC)
    month = Month(begins, in_utc(begins), lost={17: "never starts"}).run(30, random.Random(seed))
    due = in_utc(begins)(17)
    assert timedelta() < month.told[0][0] - due < LIMITS.late_after + HOUR
    # It turns worse once the newest set is too old, too; and it is over with the next night's.
    assert (month.told[0][1], month.told[-1][1]) == (Notice.TURNED_BAD, Notice.RECOVERED)
    assert month.told[-1][0] - due < DAY + 3 * HOUR or Notice.STILL_BAD in {notice for _, notice in month.told}


@pytest.mark.parametrize("seed", range(3))
def test_failed_backups_whose_messages_were_lost_are_told_when_the_newest_gets_too_old(seed: int) -> None:
    """The automation tells of a failed run at once; this is what remains where that is broken."""
    begins = datetime(2026, 5, 1, 9, tzinfo=UTC)
    month = Month(begins, in_utc(begins), lost={17: "FAILED", 18: "CRASHED"}).run(30, random.Random(seed))
    first = next(at for at, _ in month.told)
    newest = next(found.snapshot_at for _, found in month.sets if found.backup_id == "set 16")
    assert newest is not None
    assert LIMITS.max_age < first - newest < LIMITS.max_age + HOUR + timedelta(minutes=2)
    assert month.told[-1][1] is Notice.RECOVERED


def test_a_bucket_that_was_emptied_is_no_new_platform() -> None:
    """Backups have ended before, so nobody waits for a first one."""
    begins = datetime(2026, 5, 1, 9, tzinfo=UTC)
    month = Month(begins, in_utc(begins)).run(10, random.Random(1))
    now = begins + 9 * DAY
    schedule = month._schedule(now)
    assert find_first_due([], schedule) is None
    assert judge_backups([], LIMITS, now, first_due=find_first_due([], schedule))[0].verdict == "alert"


def test_a_bucket_that_was_emptied_between_weekly_backups_is_no_new_platform() -> None:
    """Emptied on Wednesday, with the last run too long ago to be looked at, and the next on Sunday."""
    wednesday = datetime(2026, 5, 6, 9, tzinfo=UTC)
    schedule = ScheduleFacts(True, True, next_at=wednesday + 4 * DAY, ever_ended=True)
    assert find_first_due([], schedule) is None
    findings = judge_backups([], LIMITS, wednesday, first_due=find_first_due([], schedule))
    assert findings[0].verdict == "alert"


@pytest.mark.parametrize("state", ["FAILED", "CRASHED", "COMPLETED"])
def test_a_first_backup_that_ended_without_a_set_is_not_waited_for(state: str) -> None:
    now = datetime(2026, 5, 2, 9, tzinfo=UTC)
    run = RunFacts(now - HOUR, now - HOUR, state)
    assert find_first_due([], ScheduleFacts(True, True, next_at=now + DAY, runs=(run,))) is None
    assert find_first_due([], ScheduleFacts(True, True, next_at=now + DAY)) == now + DAY
    assert find_first_due([], ScheduleFacts(True, False, next_at=now + DAY)) is None
