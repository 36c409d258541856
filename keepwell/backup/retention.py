"""Which backup sets stay and which go, each with its reasons: guide "Keep only last 30 days", item BK-2. Pure.

The guide's `find -mtime +30 -delete` removes the last good backup once backups have failed for 30 days. Here only
proven sets count: they alone fill the places of a rule, whatever lies beside them, and without a fresh one nothing
goes at all. Sets are ordered by when they were taken, never by their names.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keepwell.approval import digest_plan
from keepwell.backup.proof import reaches
from keepwell.backup.unneeded import NOTHING_UNNEEDED, Unneeded
from keepwell.settings import ProofLevel, RetentionSettings
from keepwell.verdict import Finding, Verdict, worst

# Clocks may be this far apart; more than that and a set's age means nothing.
_CLOCK_TOLERANCE = timedelta(hours=1)


class Standing(StrEnum):
    """What a set counts for."""

    PROVEN = "proven"
    UNPROVEN = "not proven"
    DAMAGED = "damaged"
    UNREADABLE = "not readable"
    UNFINISHED = "unfinished"


class Rule(StrEnum):
    """Why a set stays or goes; its name is part of a plan's digest."""

    # It stays.
    UNFINISHED = "unfinished"
    FROM_THE_FUTURE = "from_the_future"
    PINNED = "pinned"
    NEWEST_PROVEN = "newest_proven"
    NEWEST_EQUAL = "newest_equal"
    DAYS = "days"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    MAY_BE_PROVEN = "may_be_proven"
    TO_LOOK_AT = "to_look_at"
    NOT_READABLE = "not_readable"
    LOCKED = "locked"
    # It would go, and stays.
    NOTHING_FRESH = "nothing_fresh"
    HELD_BACK = "held_back"
    # It goes.
    EXPIRED = "expired"
    NEVER_PROVEN = "never_proven"
    LOOKED_AT = "looked_at"


@dataclass(frozen=True)
class StoredSet:
    """One set as the bucket tells it.

    Attributes:
        backup_id: Of the set.
        standing: What it counts for.
        level: The highest level reached; None when it reached none.
        snapshot_at: When it was taken, by the clock of the server that was dumped; None without a readable manifest.
        stored_at: When its manifest was stored, or else its newest object, by the store's clock.
        damaged_at: When a verification last found it damaged; None when it is not, or nobody knows since when.
        pin: Why it is pinned; None when it is not.
        locked_until: Until when the store lets nobody delete it; None when it is not locked.
        size_bytes: Of all its objects.
    """

    backup_id: str
    standing: Standing
    level: ProofLevel | None
    snapshot_at: datetime | None
    stored_at: datetime
    damaged_at: datetime | None = None
    pin: str | None = None
    locked_until: datetime | None = None
    size_bytes: int = 0

    @property
    def at(self) -> datetime:
        """When it was taken, by the earlier of the two clocks: one that jumped ahead makes no set newer."""
        return min(self.snapshot_at, self.stored_at) if self.snapshot_at else self.stored_at

    @property
    def claims(self) -> datetime:
        """When it says that it was taken."""
        return self.snapshot_at or self.stored_at


@dataclass(frozen=True)
class Reason:
    """Why a set stays or goes, as a rule and in words."""

    rule: Rule
    words: str


@dataclass(frozen=True)
class Decision:
    """What becomes of one set, with every reason there is; at least one."""

    stored: StoredSet
    reasons: tuple[Reason, ...]

    @property
    def words(self) -> str:
        """The reasons as one text."""
        return "; ".join(reason.words for reason in self.reasons)


@dataclass(frozen=True)
class RetentionPlan:
    """What stays and what goes.

    Attributes:
        keep: Newest first.
        remove: Oldest first, which is the order of their removal.
        findings: What is worth knowing, and what stops a removal.
        newest_proven_at: When the newest set was taken that counts; None when none does.
        planned_at: The `now` of all ages in it.
        unneeded: Contents of uploaded files that no set needs once these sets are gone.
    """

    keep: tuple[Decision, ...]
    remove: tuple[Decision, ...]
    findings: tuple[Finding, ...]
    newest_proven_at: datetime | None
    planned_at: datetime
    unneeded: Unneeded = NOTHING_UNNEEDED

    @property
    def verdict(self) -> Verdict:
        """The worst finding's; with an alert nothing is removed."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def held_back(self) -> int:
        """How many sets are due and wait for another run."""
        return sum(1 for kept in self.keep if kept.reasons[0].rule is Rule.HELD_BACK)

    @property
    def digest(self) -> str:
        """What somebody approves: the same when, and only when, the same sets go for the same rules, and contents too.

        The ages in the words are no part of it, so that a plan can be approved a minute later.
        """
        going: list[object] = [
            *sorted([one.stored.backup_id, [reason.rule for reason in one.reasons]] for one in self.remove)
        ]
        if self.unneeded.remove:
            going.append(self.unneeded.digest)
        return digest_plan(going)


def plan_retention(
    sets: Sequence[StoredSet], rules: RetentionSettings, *, max_age: timedelta, now: datetime
) -> RetentionPlan:
    """Decide which sets stay and which go.

    Args:
        sets: Every set, any order; may be empty.
        rules: What is kept; by its own validation never nothing.
        max_age: How old the newest proven set may be for anything to be removed.
        now: Aware.

    Returns:
        Each set exactly once. The newest proven sets, pinned and locked ones always stay, so do sets that are being
        written, those that cannot be read, and those from the future. With an alert nothing goes.

    Raises:
        ValueError: Two entries name the same set.

    Source: guide "Keep only last 30 days".
    """
    _require_distinct(sets)
    newest_first = sorted(sets, key=lambda one: (one.at, one.backup_id), reverse=True)
    counted = [one for one in newest_first if one.standing is Standing.PROVEN and not _is_ahead(one, now)]
    keeping = _find_reasons(newest_first, counted, rules, now)
    due = [one for one in reversed(newest_first) if not keeping[one.backup_id]]
    freshness = _judge_newest(counted, max_age, now)
    removed = due[: rules.most_removals] if freshness.verdict is Verdict.OK else []
    for one in due[len(removed) :]:
        keeping[one.backup_id].append(_stay(freshness, rules))
    return RetentionPlan(
        keep=tuple(Decision(one, tuple(keeping[one.backup_id])) for one in newest_first if keeping[one.backup_id]),
        remove=tuple(Decision(one, (_go(one, rules, now),)) for one in removed),
        findings=(
            freshness,
            *_judge_clocks(newest_first, now),
            *_judge_readable(newest_first),
            *_judge_cap(len(due), len(removed), freshness, rules),
        ),
        newest_proven_at=counted[0].at if counted else None,
        planned_at=now,
    )


def describe_age(age: timedelta) -> str:
    """An age at a glance: hours for two days, then days."""
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} h" if abs(hours) < 48 else f"{hours / 24:.0f} d"


def _require_distinct(sets: Sequence[StoredSet]) -> None:
    repeated = [name for name, count in Counter(one.backup_id for one in sets).items() if count > 1]
    if repeated:
        message = f"these sets are named twice: {', '.join(repeated)}"
        raise ValueError(message)


def _find_reasons(
    newest_first: Sequence[StoredSet], counted: Sequence[StoredSet], rules: RetentionSettings, now: datetime
) -> dict[str, list[Reason]]:
    """Why each set stays; an empty list for those that no rule keeps."""
    found: dict[str, list[Reason]] = {one.backup_id: list(_find_own_reasons(one, rules, now)) for one in newest_first}
    newest = counted[: rules.keep_newest]
    for one in newest:
        many = f"one of the {rules.keep_newest} newest proven sets"
        found[one.backup_id].append(
            Reason(Rule.NEWEST_PROVEN, many if rules.keep_newest > 1 else "the newest proven set")
        )
    equal = next((one for one in newest_first if _is_shown_equal(one) and not _is_ahead(one, now)), None)
    if equal is not None and equal not in newest:
        found[equal.backup_id].append(Reason(Rule.NEWEST_EQUAL, "the newest set shown equal to its source"))
    periods = (
        (Rule.DAILY, rules.keep_daily, "%Y-%m-%d"),
        (Rule.WEEKLY, rules.keep_weekly, "week %G-W%V"),
        (Rule.MONTHLY, rules.keep_monthly, "%Y-%m"),
        (Rule.YEARLY, rules.keep_yearly, "%Y"),
    )
    for rule, count, form in periods:
        for period, one in _newest_of_each(counted, form)[:count]:
            found[one.backup_id].append(Reason(rule, f"the newest proven set of {period}"))
    return found


def _find_own_reasons(one: StoredSet, rules: RetentionSettings, now: datetime) -> Iterator[Reason]:
    """Why a set stays, whatever the others are."""
    age = now - one.at
    if one.pin is not None:
        yield Reason(Rule.PINNED, one.pin)
    if one.standing is Standing.UNFINISHED:
        yield Reason(Rule.UNFINISHED, "being written, or its run died: a sweep can tell, no rule does")
    elif _is_ahead(one, now):
        yield Reason(Rule.FROM_THE_FUTURE, f"taken {describe_age(one.claims - now)} from now: a clock jumped")
    elif one.standing is Standing.UNREADABLE:
        yield Reason(Rule.NOT_READABLE, "its manifest or proof cannot be read or believed: people decide")
    elif one.standing is Standing.PROVEN and rules.keep_days and age <= timedelta(days=rules.keep_days):
        yield Reason(Rule.DAYS, f"proven, and no older than {_days(rules.keep_days)}")
    elif one.standing is Standing.UNPROVEN and age <= timedelta(days=rules.unproven_days):
        yield Reason(Rule.MAY_BE_PROVEN, f"not proven, and no older than {_days(rules.unproven_days)}")
    elif one.standing is Standing.DAMAGED and now <= _looked_at_by(one, rules):
        until = f"{_looked_at_by(one, rules):%Y-%m-%d %H:%M}"
        yield Reason(Rule.TO_LOOK_AT, f"damaged, and kept until {until} UTC for people to look at")
    if one.locked_until is not None and one.locked_until > now:
        yield Reason(Rule.LOCKED, f"locked until {one.locked_until.astimezone(UTC):%Y-%m-%d %H:%M} UTC by the store")


def _days(count: int) -> str:
    return f"{count} day{'s' if count > 1 else ''}"


def _looked_at_by(one: StoredSet, rules: RetentionSettings) -> datetime:
    """Until when a damaged set stays.

    Where nobody knows since when it is damaged, it might be since yesterday: it gets an unproven set's time besides.
    """
    since = one.damaged_at or one.at + timedelta(days=rules.unproven_days)
    return (since + timedelta(days=rules.damaged_days)).astimezone(UTC)


def _is_ahead(one: StoredSet, now: datetime) -> bool:
    """Whether a set claims to be from the future; one that is still being written claims nothing."""
    return one.standing is not Standing.UNFINISHED and one.claims > now + _CLOCK_TOLERANCE


def _is_shown_equal(one: StoredSet) -> bool:
    """Whether it can be restored, even where the platform file asks for a higher level."""
    return one.standing in (Standing.PROVEN, Standing.UNPROVEN) and reaches(one.level, "equal")


def _newest_of_each(newest_first: Sequence[StoredSet], form: str) -> list[tuple[str, StoredSet]]:
    """The newest set of each period that has one, newest first; periods are UTC's."""
    found: dict[str, StoredSet] = {}
    for one in newest_first:
        found.setdefault(one.at.astimezone(UTC).strftime(form), one)
    return list(found.items())


def _go(one: StoredSet, rules: RetentionSettings, now: datetime) -> Reason:
    age = describe_age(now - one.at)
    if one.standing is Standing.PROVEN:
        return Reason(Rule.EXPIRED, f"proven, {age} old, and no rule keeps it")
    if one.standing is Standing.UNPROVEN:
        return Reason(Rule.NEVER_PROVEN, f"not proven, and {age} old: older than {_days(rules.unproven_days)}")
    return Reason(Rule.LOOKED_AT, f"damaged, and people could look at it until {_looked_at_by(one, rules):%Y-%m-%d}")


def _stay(freshness: Finding, rules: RetentionSettings) -> Reason:
    """Why a set that is due stays all the same."""
    if freshness.verdict is Verdict.OK:
        return Reason(Rule.HELD_BACK, f"due, but a run removes {rules.most_removals} at most, the oldest first")
    return Reason(Rule.NOTHING_FRESH, "due, but nothing goes without a fresh proven set")


def _judge_newest(counted: Sequence[StoredSet], max_age: timedelta, now: datetime) -> Finding:
    """Whether there is what must be there before anything goes."""
    name = "newest proven set"
    if not counted:
        return Finding(
            name=name,
            verdict=Verdict.ALERT,
            message="No set counts as proven, so nothing is removed.",
            hint="Make one: keepwell backup create.",
        )
    age = max(now - counted[0].at, timedelta(0))
    found, allowed = f"{counted[0].backup_id} is {describe_age(age)} old", describe_age(max_age)
    if age > max_age:
        return Finding(
            name=name,
            verdict=Verdict.ALERT,
            message=f"{found}, more than the {allowed} that are allowed, so nothing is removed.",
            hint="Find out why no newer set is proven: keepwell backup list. Then: keepwell backup create.",
        )
    return Finding(name=name, verdict=Verdict.OK, message=f"{found}; {allowed} are allowed.")


def _judge_clocks(newest_first: Sequence[StoredSet], now: datetime) -> Iterator[Finding]:
    """Sets whose time cannot be right, by name."""
    for one in newest_first:
        if _is_ahead(one, now):
            yield Finding(
                name=one.backup_id,
                verdict=Verdict.WARN,
                message=f"It was taken {describe_age(one.claims - now)} from now, so it is kept and fills no place.",
                hint="Compare the clocks: keepwell doctor.",
            )
        elif one.claims > one.stored_at + _CLOCK_TOLERANCE:
            yield Finding(
                name=one.backup_id,
                verdict=Verdict.WARN,
                message=f"It says that it was taken {describe_age(one.claims - one.stored_at)} after it was stored;"
                " it counts from when it was stored.",
                hint="Compare the clocks: keepwell doctor.",
            )


def _judge_readable(newest_first: Sequence[StoredSet]) -> Iterator[Finding]:
    """Sets that may be good and cannot be told from bad ones."""
    names = [one.backup_id for one in newest_first if one.standing is Standing.UNREADABLE]
    if names:
        yield Finding(
            name="sets that cannot be read",
            verdict=Verdict.WARN,
            message=f"The manifest or proof of {len(names)} cannot be read or believed: {', '.join(names)}."
            " They are kept, and fill no place.",
            hint="keepwell backup list says why. After a rotation, name the older key in sealing.trusted_signers;"
            " what is worth nothing, remove by hand.",
        )


def _judge_cap(due: int, removed: int, freshness: Finding, rules: RetentionSettings) -> Iterator[Finding]:
    """Whether sets wait that should be gone."""
    if freshness.verdict is Verdict.OK and due > removed:
        yield Finding(
            name="removals held back",
            verdict=Verdict.WARN,
            message=f"{due} sets are due, and a run removes {rules.most_removals} at most: {due - removed} wait.",
            hint="After a pause that is to be expected: run it again. Otherwise look at clocks and rules first.",
        )
