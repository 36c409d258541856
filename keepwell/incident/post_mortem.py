"""Post-mortem: what the journal knows, written out, with places for what only people know (guide item DR-4). Pure.

What is told here was written down while it happened. Cause and prevention are left open, and say so: nobody can read
them out of a journal.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from keepwell.backup.report import escape, sign
from keepwell.incident.documents import Entry, Kind, Step, StepOutcome
from keepwell.incident.journal import Incident
from keepwell.incident.standing import measure_times
from keepwell.incident.telling import DRILL_MARK
from keepwell.incident.timeline import Event
from keepwell.quantities import describe_seconds
from keepwell.verdict import Verdict

_TO_BE_WRITTEN = "_To be written by a person._"
_MEASURES = {
    "seconds_until_opened": "until the case was opened",
    "seconds_until_told": "until people were told",
    "seconds_until_verified": "until it was seen to serve again",
    "seconds_until_resolved": "until people were told that it is over",
    "rpo_seconds": "of data lost by the restore (RPO)",
    "rto_seconds": "of outage (RTO)",
}


def render_post_mortem(incident: Incident) -> str:
    """The document, as Markdown.

    Args:
        incident: As it stands; one that is still open says so.

    Returns:
        Text that ends with a newline. What others wrote is escaped.
    """
    parts = [
        f"# Post-mortem: {escape(incident.case.title)}",
        *_describe_case(incident),
        "## Impact\n\n" + (escape(incident.case.impact) or _TO_BE_WRITTEN),
        "## What it cost\n\n" + "\n".join(_describe_costs(incident)),
        "## Steps\n\n" + _table(("step", "came to", "at (UTC)", "by", "said"), _rows_of_steps(incident)),
        "## Decisions\n\n" + _bullets(_decisions(incident.entries), "Nobody wrote one down."),
        "## Root cause\n\n" + f"{_TO_BE_WRITTEN} Why did it happen, and why was it not seen earlier?",
        "## What went well, and what did not\n\n" + _TO_BE_WRITTEN,
        "## Open actions\n\n" + "\n".join(_actions(incident.entries)),
        "## What people were told\n\n" + _published(incident.entries),
        "## What is not known\n\n" + _bullets(_unknowns(incident.timeline), "Every source answered."),
        "## Timeline\n\n" + _table(("at (UTC)", "verdict", "source", "what"), _rows_of_events(incident.timeline)),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_case(incident: Incident) -> Iterator[str]:
    case, standing = incident.case, incident.standing
    if case.drill:
        yield f"**{DRILL_MARK}: this was an exercise; nothing was wrong.**"
    if standing.is_open:
        yield "**The case is still open: this is how it stands.**"
    over = "–" if standing.resolved_at is None else f"{_moment(standing.resolved_at)} UTC"
    yield "\n".join(
        (
            f"- Platform: {escape(case.platform)}",
            f"- Case: {case.case_id}",
            f"- Began: {_moment(case.since)} UTC",
            f"- Opened: {_moment(case.opened_at)} UTC",
            f"- Resolved: {over}",
        )
    )
    for key in incident.unreadable:
        yield f"**{escape(key)} is damaged; what it told is missing below.**"


def _describe_costs(incident: Incident) -> Iterator[str]:
    measured = measure_times(incident.case, incident.entries, incident.standing)
    for name, words in _MEASURES.items():
        value = measured[name]
        yield f"- {'not known' if value is None else describe_seconds(float(value))} {words}"


def _rows_of_steps(incident: Incident) -> Iterator[tuple[str, ...]]:
    for step, state in incident.standing.steps.items():
        if step is Step.POST_MORTEM:
            continue  # this is it
        outcome = "not begun" if state.outcome is None else state.outcome.value
        if state.outcome is StepOutcome.BEGUN:
            outcome = "begun, and not ended"
        tried = f" (attempt {state.attempts})" if state.attempts > 1 else ""
        at = "" if state.at is None else _moment(state.at)
        yield step.value, outcome + tried, at, escape(state.by or ""), escape(state.message)


def _decisions(entries: Sequence[Entry]) -> Iterator[str]:
    """What was decided, and what was left out for a reason: both were somebody's choice."""
    for entry in entries:
        by = f" – {escape(entry.by)} (self-declared)" if entry.by else ""
        if entry.kind is Kind.DECISION:
            yield f"{_moment(entry.at)}: {escape(entry.message)}{by}"
        elif entry.outcome is StepOutcome.SKIPPED and entry.step is not None:
            yield f"{_moment(entry.at)}: {entry.step} was skipped: {escape(entry.message)}{by}"


def _actions(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.kind is Kind.ACTION:
            by = f" (said by {escape(entry.by)})" if entry.by else ""
            yield f"- [ ] {escape(entry.message)}{by}; who: ____, until: ____"
    yield "- [ ] ____; who: ____, until: ____"


def _published(entries: Sequence[Entry]) -> str:
    texts = [entry for entry in entries if entry.kind is Kind.UPDATE]
    if not texts:
        return "Nothing was published."
    return "\n\n".join(f"{_moment(one.at)} UTC:\n\n" + _quote(one.published) for one in texts)


def _unknowns(events: Iterable[Event]) -> Iterator[str]:
    told = set()
    for event in events:
        if event.verdict is Verdict.UNKNOWN and (event.source, event.message) not in told:
            told.add((event.source, event.message))
            yield f"{escape(event.source)}: {escape(event.message)}"


def _rows_of_events(events: Iterable[Event]) -> Iterator[tuple[str, ...]]:
    for event in events:
        by = f" ({escape(event.by)})" if event.by else ""
        yield _moment(event.at), sign(event.verdict), escape(event.source), escape(event.message) + by


def _quote(text: str) -> str:
    return "\n".join(f"> {escape(line)}  " for line in text.splitlines())


def _bullets(lines: Iterable[str], none: str) -> str:
    return "\n".join(f"- {line}" for line in lines) or none


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
