"""How a case stands, folded out of its entries. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keepwell.incident.documents import Case, Entry, Kind, Step, StepOutcome

_ENDED = (StepOutcome.DONE, StepOutcome.SKIPPED)


@dataclass(frozen=True)
class StepState:
    """How one step stands.

    Attributes:
        outcome: The last that was written of it; None when it has not begun.
        at: When that was; None likewise.
        message: What was said of it: how it was done, why it was skipped, why it failed.
        by: Who did it, by their own account.
        attempts: How often it was begun.
    """

    outcome: StepOutcome | None = None
    at: datetime | None = None
    message: str = ""
    by: str | None = None
    attempts: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.outcome in _ENDED


@dataclass(frozen=True)
class Standing:
    """How a case stands.

    Attributes:
        steps: Every step, in the guide's order.
        next_update_at: When people were promised to hear again; None when nothing is promised, or it is over.
        last_told_at: When people were last told; None when they were not.
        last_reminded_at: When somebody was last reminded of the promise; None when nobody was since.
        resolved_at: When it was over; None while it is open.
    """

    steps: Mapping[Step, StepState]
    next_update_at: datetime | None = None
    last_told_at: datetime | None = None
    last_reminded_at: datetime | None = None
    resolved_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still needs somebody."""
        return self.resolved_at is None

    @property
    def next_step(self) -> Step | None:
        """The first step that is neither done nor skipped; None when all are."""
        return next((step for step, state in self.steps.items() if not state.is_over), None)

    def is_overdue(self, now: datetime) -> bool:
        """Whether people wait for an update that was promised."""
        return self.next_update_at is not None and now >= self.next_update_at

    def is_reminder_due(self, now: datetime, repeat_after: timedelta) -> bool:
        """Whether somebody is to be reminded of a promised update, once when it is due and then again and again."""
        if not self.is_overdue(now):
            return False
        return self.last_reminded_at is None or now - self.last_reminded_at >= repeat_after


def judge_standing(entries: Sequence[Entry]) -> Standing:
    """Fold the entries of a case.

    Args:
        entries: In the order in which they were written; may be empty.
    """
    steps = {step: StepState() for step in Step}
    next_update_at = last_told_at = last_reminded_at = None
    for entry in entries:
        if entry.step is not None and entry.outcome is not None:
            steps[entry.step] = _advance(steps[entry.step], entry)
        if entry.step is Step.RESTORE and entry.outcome in (StepOutcome.BEGUN, StepOutcome.DONE):
            # Whatever showed before that it serves was about other data.
            steps[Step.VERIFY] = StepState(attempts=steps[Step.VERIFY].attempts)
        if entry.kind is Kind.UPDATE:
            next_update_at, last_told_at, last_reminded_at = entry.next_update_at, entry.at, None
        if entry.kind is Kind.REMINDER:
            last_reminded_at = entry.at
    resolve = steps[Step.RESOLVE]
    if resolve.is_over:
        return Standing(steps, None, last_told_at, None, resolve.at)
    return Standing(steps, next_update_at, last_told_at, last_reminded_at)


def measure_times(case: Case, entries: Sequence[Entry], standing: Standing) -> dict[str, float | str | None]:
    """What the incident cost, as far as the journal knows it.

    Args:
        case: When it began.
        entries: Of the case; the restore's bears what was restored.
        standing: Of the same entries.

    Returns:
        Seconds from the beginning until people were told, until it was verified and until it was resolved; the lost
        span (RPO) and the outage (RTO) as achieved; None where it is not known, or did not happen.
    """
    told = next((entry.at for entry in entries if entry.kind is Kind.UPDATE), None)
    verified = standing.steps[Step.VERIFY]
    verified_at = verified.at if verified.outcome is StepOutcome.DONE else None
    over_at = verified_at or standing.resolved_at
    return {
        "seconds_until_opened": _span(case.since, case.opened_at),
        "seconds_until_told": _span(case.since, told),
        "seconds_until_verified": _span(case.since, verified_at),
        "seconds_until_resolved": _span(case.since, standing.resolved_at),
        "rpo_seconds": _find_lost_seconds(entries),
        "rto_seconds": _span(case.since, over_at),
    }


def _find_lost_seconds(entries: Sequence[Entry]) -> float | None:
    """The last restore counts: an earlier one was replaced by it."""
    told = [entry.numbers["rpo_seconds"] for entry in entries if "rpo_seconds" in entry.numbers]
    return float(told[-1]) if told and isinstance(told[-1], int | float) else None


def _advance(state: StepState, entry: Entry) -> StepState:
    attempts = state.attempts + (entry.outcome is StepOutcome.BEGUN)
    return StepState(entry.outcome, entry.at, entry.message, entry.by, attempts)


def _span(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else max(0.0, (end - start).total_seconds())
