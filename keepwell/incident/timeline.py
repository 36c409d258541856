"""One timeline out of everything that a case knows. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from keepwell.incident.documents import Case, Entry, Kind, Observation, StepOutcome
from keepwell.verdict import Verdict

OPERATOR = "operator"
KEEPWELL = "keepwell"


@dataclass(frozen=True)
class Event:
    """One line of a timeline.

    Attributes:
        at: When it was so, or happened.
        source: Who told it: a source of evidence, `operator` or `keepwell`.
        message: What it was.
        verdict: How it stood.
        hint: What to do about it; empty where nothing is to be done.
        by: Who did it, by their own account; empty where nobody in particular did.
    """

    at: datetime
    source: str
    message: str
    verdict: Verdict = Verdict.OK
    hint: str = ""
    by: str = ""


def build_timeline(case: Case, entries: Sequence[Entry]) -> tuple[Event, ...]:
    """Everything that happened, by time.

    Args:
        case: The case itself, whose beginning and opening are events.
        entries: In any order; may be empty.

    Returns:
        Each event once, though several looks at the same evidence found it; the oldest first.
    """
    events = [Event(case.opened_at, KEEPWELL, f"The case was opened: {case.title}")]
    if case.since < case.opened_at:
        events.append(
            Event(case.since, OPERATOR, "It began, by the account of whoever opened the case.", Verdict.ALERT)
        )
    for entry in entries:
        events += _events_of(entry)
    return merge(events)


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """By time, and as they were told where that is the same; what was told twice stands there once."""
    kept: dict[tuple[datetime, str, str], Event] = {}
    for event in events:
        kept.setdefault((event.at, event.source, event.message), event)
    return tuple(sorted(kept.values(), key=lambda event: event.at))


def event_of(observation: Observation) -> Event:
    """What a source told, as an event."""
    return Event(observation.at, observation.source, observation.message, observation.verdict, observation.hint)


def _events_of(entry: Entry) -> list[Event]:
    if entry.kind is Kind.EVIDENCE:
        return [event_of(observation) for observation in entry.observations]
    source = KEEPWELL if entry.by is None else OPERATOR
    return [Event(entry.at, source, _describe(entry), entry.verdict, by=entry.by or "")]


def _describe(entry: Entry) -> str:
    if entry.step is None or entry.outcome is None:
        return f"{_WORDS.get(entry.kind, '')}{entry.message}"
    said = f": {entry.message}" if entry.message else ""
    return f"{entry.step.value.capitalize()} {_OUTCOMES[entry.outcome]}{said}"


_WORDS = {Kind.DECISION: "Decided: ", Kind.ACTION: "To be done: ", Kind.UPDATE: "Told people: "}
_OUTCOMES = {
    StepOutcome.BEGUN: "was begun",
    StepOutcome.DONE: "is done",
    StepOutcome.SKIPPED: "was skipped",
    StepOutcome.FAILED: "failed",
}
