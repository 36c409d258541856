"""Cases in the bucket: opened, found again, and written on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.incident.documents import (
    CASE_FILE,
    ENTRIES,
    INCIDENTS,
    LONGEST_TEXT,
    Case,
    Entry,
    Kind,
    Step,
    StepOutcome,
    case_folder,
    is_case_id,
    new_case_id,
    new_entry_key,
)
from keepwell.incident.standing import Standing, judge_standing
from keepwell.incident.timeline import Event, build_timeline
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.settings import Platform
from keepwell.verdict import Verdict

_READERS = 8
_LIST_HINT = "`keepwell incident list` shows what there is."


@dataclass(frozen=True)
class Incident:
    """A case with its journal, as it was read.

    Attributes:
        case: What it is about.
        entries: In the order in which they were written.
        unreadable: Keys of entries that are damaged: the timeline lacks them.
    """

    case: Case
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def standing(self) -> Standing:
        """How it stands."""
        return judge_standing(self.entries)

    @property
    def timeline(self) -> tuple[Event, ...]:
        """Everything that it knows, by time."""
        return build_timeline(self.case, self.entries)


def open_case(
    platform: Platform,
    store: Store,
    title: str,
    *,
    now: datetime,
    impact: str = "",
    since: datetime | None = None,
    drill: bool = False,
    another: bool = False,
    flow_run: str | None = None,
) -> Incident:
    """Open a case; nothing of the platform is touched.

    Args:
        platform: Whose.
        store: Its folder in the bucket.
        title: What is wrong, a few words; put on one line.
        now: Aware.
        impact: What people notice of it.
        since: Since when it has been so; now where nobody knows better.
        drill: An exercise: whatever is told says so. It stands in no real case's way.
        another: Whether it may be opened although one is open.
        flow_run: Id of the orchestrator's run that opens it.

    Raises:
        PreconditionFailed: A case is open already, or what was given is of no use.
        VerificationFailed: The case reads back differently from what was written.
        KeepwellError: The store does not answer, or takes nothing.
    """
    title, impact = _one_line(title, "The title", 200), _one_line(impact, "The impact", LONGEST_TEXT)
    if not title:
        raise PreconditionFailed("A case needs a title.", hint="A few words, such as “sign-in answers 500”.")
    if since is not None and since > now:
        raise PreconditionFailed("It cannot have begun in the future.", hint="Say since when it has been so, in UTC.")
    if not another:
        _require_none_open(store, drill=drill)
    case = Case(
        case_id=new_case_id(now),
        platform=platform.name,
        title=title,
        impact=impact,
        since=since or now,
        opened_at=now,
        drill=drill,
        flow_run=flow_run,
    )
    key = case_folder(case.case_id) + CASE_FILE
    store.put_bytes(key, case.to_json())
    if Case.from_json(store.get_bytes(key)) != case:
        raise VerificationFailed(f"The case {case.case_id} reads back differently.", hint="Look at the store.")
    return Incident(case, ())


def read_incident(store: Store, case_id: str) -> Incident:
    """One case with its journal.

    Raises:
        PreconditionFailed: There is no such case.
        VerificationFailed: Its first document is damaged.
        KeepwellError: The store does not answer.
    """
    if not is_case_id(case_id):
        raise PreconditionFailed(f"{case_id!r} is no id of a case.", hint=_LIST_HINT)
    try:
        case = Case.from_json(store.get_bytes(case_folder(case_id) + CASE_FILE))
    except ObjectMissing:
        raise PreconditionFailed(f"There is no case {case_id}.", hint=_LIST_HINT) from None
    keys = [stored.key for stored in store.list_objects(case_folder(case_id) + ENTRIES)]
    with ThreadPoolExecutor(_READERS) as readers:
        read = list(readers.map(lambda key: _read_entry(store, key), keys))
    unreadable = tuple(key for key, entry in zip(keys, read, strict=True) if entry is None)
    return Incident(case, tuple(entry for entry in read if entry is not None), unreadable)


def read_incidents(store: Store) -> tuple[Incident, ...]:
    """Every case, the newest first; one whose first document is damaged or missing is left out.

    Raises:
        KeepwellError: The store does not answer.
    """
    found = []
    for name in reversed(store.list_folders(INCIDENTS)):
        try:
            found.append(read_incident(store, name))
        except (PreconditionFailed, VerificationFailed):
            continue
    return tuple(found)


def choose_incident(store: Store, case_id: str | None) -> Incident:
    """The case that is meant: by its id, or the only open one.

    Raises:
        PreconditionFailed: There is none, or several are open.
        KeepwellError: The store does not answer.
    """
    if case_id is not None:
        return read_incident(store, case_id)
    opened = [incident for incident in read_incidents(store) if incident.standing.is_open]
    real = [incident for incident in opened if not incident.case.drill] or opened
    if not real:
        raise PreconditionFailed(
            "No case is open.", hint="`keepwell incident open` opens one; `keepwell incident list` shows all."
        )
    if len(real) > 1:
        named = "; ".join(f"{one.case.case_id} ({one.case.title})" for one in real)
        raise PreconditionFailed(f"{len(real)} cases are open: {named}.", hint="Name one of them with --case.")
    return real[0]


def find_of_run(store: Store, flow_run: str) -> Incident | None:
    """The case that a run of the orchestrator opened: the same run, begun again, goes on with it."""
    return next((one for one in read_incidents(store) if one.case.flow_run == flow_run), None)


def append(store: Store, entry: Entry) -> Entry:
    """Write an entry; whole, or not at all. Its name bears when it was written, whatever it tells of.

    Raises:
        KeepwellError: The store did not take it.
    """
    store.put_bytes(new_entry_key(entry.case_id, datetime.now(UTC)), entry.to_json())
    return entry


def write_step(
    store: Store,
    case_id: str,
    step: Step,
    outcome: StepOutcome,
    message: str,
    *,
    now: datetime,
    by: str | None = None,
    verdict: Verdict | None = None,
    numbers: dict[str, float | str | None] | None = None,
) -> Entry:
    """Write what became of a step.

    Raises:
        KeepwellError: The store did not take it.
    """
    entry = Entry(
        case_id=case_id,
        kind=Kind.STEP,
        at=now,
        verdict=verdict or (Verdict.ALERT if outcome is StepOutcome.FAILED else Verdict.OK),
        message=shorten(message),
        step=step,
        outcome=outcome,
        by=by,
        numbers=numbers or {},
    )
    return append(store, entry)


def skip_step(store: Store, incident: Incident, step: Step, reason: str, *, by: str, now: datetime) -> Entry:
    """Leave a step out, for a reason that the post-mortem will tell.

    Raises:
        PreconditionFailed: There is no reason, or the step is done.
        KeepwellError: The store did not take it.
    """
    reason = _one_line(reason, "The reason", LONGEST_TEXT)
    if not reason:
        raise PreconditionFailed(
            f"{step.value.capitalize()} is skipped for a reason only.", hint="Say why, for those who read it later."
        )
    _require_not_done(incident, step)
    return write_step(
        store, incident.case.case_id, step, StepOutcome.SKIPPED, reason, now=now, by=by, verdict=Verdict.WARN
    )


def complete_step(store: Store, incident: Incident, step: Step, how: str, *, by: str, now: datetime) -> Entry:
    """Say that a step was done by hand.

    Raises:
        PreconditionFailed: Nobody says how, or it is done already.
        KeepwellError: The store did not take it.
    """
    how = _one_line(how, "How it was done", LONGEST_TEXT)
    if not how:
        raise PreconditionFailed("Say how it was done.", hint="Such as “restored 20261129T020001Z-1a2b3c by hand”.")
    _require_not_done(incident, step)
    return write_step(store, incident.case.case_id, step, StepOutcome.DONE, how, now=now, by=by)


def note(
    store: Store,
    incident: Incident,
    text: str,
    *,
    by: str,
    now: datetime,
    kind: Kind = Kind.NOTE,
    at: datetime | None = None,
) -> Entry:
    """Write down what somebody saw, decided, or wants done later.

    Args:
        store: The platform's folder in its bucket.
        incident: Which case.
        text: Put on one line.
        by: Who says it, by their own account.
        now: Aware.
        kind: A note, a decision, or an open action.
        at: When it happened; now where nothing else is said.

    Raises:
        PreconditionFailed: There is no text, or it happens in the future.
        KeepwellError: The store did not take it.
    """
    text = _one_line(text, "The note", LONGEST_TEXT)
    if not text:
        raise PreconditionFailed("There is nothing to note.", hint="Say what happened, in a sentence.")
    if at is not None and at > now:
        raise PreconditionFailed("It cannot have happened in the future.", hint="Say when it was, in UTC.")
    entry = Entry(case_id=incident.case.case_id, kind=kind, at=at or now, message=text, by=by)
    return append(store, entry)


def shorten(text: str) -> str:
    """A message that fits an entry, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _require_none_open(store: Store, *, drill: bool) -> None:
    opened = [one for one in read_incidents(store) if one.standing.is_open and one.case.drill == drill]
    if opened:
        first = opened[0].case
        raise PreconditionFailed(
            f"The case {first.case_id} is open since {first.opened_at:%Y-%m-%d %H:%M} UTC: {first.title}",
            hint="Go on with it: keepwell incident status. If this is something else: --another.",
        )


def _require_not_done(incident: Incident, step: Step) -> None:
    state = incident.standing.steps[step]
    if state.outcome is StepOutcome.DONE:
        raise PreconditionFailed(
            f"{step.value.capitalize()} is done already, since {state.at:%Y-%m-%d %H:%M} UTC.",
            hint="`keepwell incident note` adds to the case.",
        )


def _read_entry(store: Store, key: str) -> Entry | None:
    try:
        return Entry.from_json(store.get_bytes(key))
    except VerificationFailed:
        return None


def _one_line(text: str, what: str, longest: int) -> str:
    line = " ".join(text.split())
    if len(line) > longest:
        raise PreconditionFailed(f"{what} has {len(line)} signs.", hint=f"Say it in {longest}; notes hold the rest.")
    return line
