"""`keepwell incident`: a disaster from the first look to the post-mortem, without the orchestrator."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.incident.documents import Entry, Observation
    from keepwell.incident.journal import Incident
    from keepwell.incident.telling import Told
    from keepwell.incident.timeline import Event
    from keepwell.settings import Platform

app = console.group("Lead an incident: evidence, people, restore, post-mortem.")

CaseOption = Annotated[
    str | None, typer.Option("--case", help="Which case; the only open one by default.", metavar="ID")
]
By = Annotated[str | None, typer.Option("--by", help="Your name; the login's by default.", metavar="NAME")]
_EVENTS_SHOWN = 25
_COPY_HINT = "Copy the text above to the status page: no webhook took it."


@app.callback()
def incident() -> None:
    """Lead an incident: evidence, people, restore, post-mortem."""


@app.command("open")
@console.command("incident.open")
def open_incident(
    *,
    title: Annotated[str, typer.Argument(help="What is wrong, a few words.", metavar="TITLE")],
    impact: Annotated[str, typer.Option("--impact", help="What people notice of it.", metavar="TEXT")] = "",
    since: Annotated[
        str | None,
        typer.Option("--since", help="Since when: 2026-12-01T06:00 or 06:00, in UTC or with +01:00.", metavar="TIME"),
    ] = None,
    drill: Annotated[bool, typer.Option("--drill", help="An exercise: whatever is told says so.")] = False,
    another: Annotated[bool, typer.Option("--another", help="Although a case is open.")] = False,
    platform: console.PlatformName = None,
) -> Outcome:
    """Open a case and gather its evidence, before anything is changed. Nobody is told yet."""
    from keepwell.incident.identify import identify
    from keepwell.incident.journal import open_case
    from keepwell.incident.sources import build_sources
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    settings, now = console.load_platform(platform), datetime.now(UTC)
    store = open_store(settings)
    began = None if since is None else read_past(since, now)
    opened = open_case(settings, store, title, now=now, impact=impact, since=began, drill=drill, another=another)
    with console.working("Gathering evidence"):
        evidence = identify(
            store, opened, build_sources(settings, store, now), limit_seconds=settings.incident.look_seconds, now=now
        )
    hint = (
        f"Case {opened.case.case_id}. Next: keepwell incident status. What you see and decide: keepwell incident note."
    )
    data = {"case": opened.case, "evidence": evidence}
    # Whatever it found: a case was to be opened, and is.
    return Outcome(
        Verdict.OK, data=data, hint=hint, show=lambda screen: _show_observations(screen, evidence.observations)
    )


@app.command("identify")
@console.command("incident.identify")
def look_again(case: CaseOption = None, platform: console.PlatformName = None) -> Outcome:
    """Gather a case's evidence again: after a first look that was cut short, or when much has changed."""
    from keepwell.incident.identify import identify
    from keepwell.incident.sources import build_sources
    from keepwell.verdict import Verdict

    settings, store, found = _choose(platform, case)
    now = datetime.now(UTC)
    with console.working("Gathering evidence"):
        evidence = identify(
            store, found, build_sources(settings, store, now), limit_seconds=settings.incident.look_seconds, now=now
        )
    return Outcome(
        Verdict.OK,
        data={"case": found.case, "evidence": evidence},
        show=lambda screen: _show_observations(screen, evidence.observations),
    )


@app.command("look")
@console.command("incident.look")
def look(platform: console.PlatformName = None) -> Outcome:
    """Gather the same evidence without a case, and keep nothing: also where the bucket is away."""
    from keepwell.incident.gathering import gather
    from keepwell.incident.sources import build_sources
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import worst

    settings, now = console.load_platform(platform), datetime.now(UTC)
    with console.working("Gathering evidence"):
        found = gather(
            build_sources(settings, open_store(settings), now),
            limit_seconds=settings.incident.look_seconds,
            now=now,
        )
    return Outcome(
        worst(observation.verdict for observation in found),
        data={"observations": found},
        hint="Keep it: keepwell incident open TITLE",
        show=lambda screen: _show_observations(screen, found),
    )


@app.command("list")
@console.command("incident.list")
def list_incidents(platform: console.PlatformName = None) -> Outcome:
    """List the cases, the newest first."""
    from keepwell.incident.journal import read_incidents
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    found = read_incidents(open_store(console.load_platform(platform)))
    data = {"cases": [_summarise(one) for one in found]}
    return Outcome(Verdict.OK, data=data, show=lambda screen: _show_list(screen, found))


@app.command("status")
@console.command("incident.status")
def show_status(
    case: CaseOption = None,
    full: Annotated[bool, typer.Option("--all", help="The whole timeline, not only its end.")] = False,
    platform: console.PlatformName = None,
) -> Outcome:
    """How a case stands, what happened when, and what to do next."""
    from keepwell.incident.advice import advise
    from keepwell.verdict import Verdict

    settings, _, found = _choose(platform, case)
    now = datetime.now(UTC)
    overdue = found.standing.is_overdue(now)
    events = found.timeline
    data = _summarise(found) | {"steps": found.standing.steps, "timeline": events, "unreadable": found.unreadable}
    shown = events if full else events[-_EVENTS_SHOWN:]
    return Outcome(
        Verdict.WARN if overdue or found.unreadable else Verdict.OK,
        data=data,
        hint=advise(found, now, several=_names_platform(settings)),
        show=lambda screen: _show_status(screen, found, shown, len(events) - len(shown)),
    )


@app.command("note")
@console.command("incident.note")
def add_note(
    *,
    text: Annotated[str, typer.Argument(help="What you saw or did, a sentence.", metavar="TEXT")],
    decision: Annotated[bool, typer.Option("--decision", help="Something that was decided.")] = False,
    action: Annotated[bool, typer.Option("--action", help="Something to be done after the incident.")] = False,
    at: Annotated[
        str | None, typer.Option("--at", help="When it was, where not now; as for --since.", metavar="TIME")
    ] = None,
    by: By = None,
    case: CaseOption = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Write down what you see, decide, or want done later; it comes into the timeline and the post-mortem."""
    from keepwell.incident.documents import Kind
    from keepwell.incident.journal import note
    from keepwell.verdict import Verdict

    if decision and action:
        raise ConfigurationError("--decision and --action are both given.", hint="One note says one thing.")
    kind = Kind.DECISION if decision else Kind.ACTION if action else Kind.NOTE
    now = datetime.now(UTC)
    happened = None if at is None else read_past(at, now)
    _, store, found = _choose(platform, case)
    entry = note(store, found, text, by=_name(by), now=now, kind=kind, at=happened)
    return _written(Verdict.OK, found, entry, f"Noted in {found.case.case_id}.")


@app.command("update")
@console.command("incident.update")
def update(
    *,
    text: Annotated[str, typer.Argument(help="What is being done; the public reads it as it is.", metavar="TEXT")],
    phase: Annotated[
        str, typer.Option("--phase", help="How far it is: investigating, identified or monitoring.", metavar="PHASE")
    ] = "investigating",
    next_update: Annotated[
        str | None,
        typer.Option("--next", help="When people hear again: 06:00 (UTC), 45m or 2h; or `never`.", metavar="TIME"),
    ] = None,
    by: By = None,
    case: CaseOption = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Tell the team and the status page, and promise when they hear again."""
    from keepwell.incident.telling import Phase, tell

    wanted = read_phase(phase)
    settings, store, found = _choose(platform, case)
    now = datetime.now(UTC)
    promised = read_promise(next_update, settings.incident.next_update_minutes, now)
    with console.working("Telling people"):
        told = tell(settings, store, found, text, phase=Phase(wanted), next_update_at=promised, by=_name(by), now=now)
    return _told(settings, store, told)


@app.command("resolve")
@console.command("incident.resolve")
def resolve(
    text: Annotated[str, typer.Argument(help="That it is over; the public reads it as it is.", metavar="TEXT")],
    by: By = None,
    case: CaseOption = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Tell the team and the status page that it is over, and close the case."""
    from keepwell.incident.telling import Phase, tell

    settings, store, found = _choose(platform, case)
    with console.working("Telling people"):
        told = tell(
            settings,
            store,
            found,
            text,
            phase=Phase.RESOLVED,
            next_update_at=None,
            by=_name(by),
            now=datetime.now(UTC),
        )
    return _told(settings, store, told)


@app.command("verify")
@console.command("incident.verify")
def verify_service(by: By = None, case: CaseOption = None, platform: console.PlatformName = None) -> Outcome:
    """Ask the application, its database with the smoke queries, and Redis whether they serve again."""
    from keepwell.incident.verifying import build_questions, limit_of, verify

    settings, store, found = _choose(platform, case)
    now = datetime.now(UTC)
    with console.working("Asking"):
        evidence = verify(
            store, found, build_questions(settings, now), limit_seconds=limit_of(settings), now=now, by=_name(by)
        )
    return Outcome(
        evidence.verdict,
        data={"case_id": found.case.case_id, "evidence": evidence},
        hint="" if console.exit_code(evidence.verdict) else "Next: keepwell incident resolve TEXT",
        show=lambda screen: _show_observations(screen, evidence.observations),
    )


@app.command("post-mortem")
@console.command("incident.post-mortem")
def write_post_mortem(
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it there as well; never over what is there.", metavar="FILE")
    ] = None,
    by: By = None,
    case: Annotated[str | None, typer.Option("--case", help="Which case; the newest by default.", metavar="ID")] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Write the post-mortem out of the journal, with places for what only people know."""
    from keepwell.errors import PreconditionFailed
    from keepwell.incident.journal import read_incident, read_incidents
    from keepwell.incident.sources import build_sources
    from keepwell.incident.writing_up import write_up
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    if output is not None and output.exists():
        raise PreconditionFailed(f"{output} is there already.", hint="Name another file: somebody may have edited it.")
    settings, now = console.load_platform(platform), datetime.now(UTC)
    store = open_store(settings)
    known = [read_incident(store, case)] if case else read_incidents(store)[:1]
    if not known:
        raise PreconditionFailed("There is no case.", hint="`keepwell incident open` opens one.")
    with console.working("Writing it up"):
        written = write_up(
            store,
            known[0],
            build_sources(settings, store, now),
            limit_seconds=settings.incident.look_seconds,
            now=now,
            by=_name(by),
        )
    if output is not None:
        output.write_text(written.text, encoding="utf-8")
    hint = (
        "Cause and actions are left for you to write." if written.is_final else "The case is open: this is no end yet."
    )
    return Outcome(
        Verdict.OK,
        data={"case_id": known[0].case.case_id, "key": written.key, "final": written.is_final, "text": written.text},
        hint=f"It lies at {store.place}/{written.key}. {hint}",
        show=lambda screen: console.print_plain(screen, written.text),
    )


@app.command("remind")
@console.command("incident.remind")
def remind_team(platform: console.PlatformName = None) -> Outcome:
    """Remind the team of updates that are due; for a crontab where no orchestrator plans it."""
    from keepwell.incident.reminding import remind
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    sent = remind(settings, open_store(settings), now=datetime.now(UTC))
    said = f"{len(sent)} reminders were sent." if sent else "Nobody has to be reminded of anything."
    return Outcome(
        worst([Verdict.OK, *(one.delivery.verdict for one in sent)]),
        data={"reminders": sent},
        show=lambda screen: console.print_plain(screen, said),
    )


@app.command("done")
@console.command("incident.done")
def complete(
    step: Annotated[str, typer.Argument(help="Which step: `keepwell incident status` names them.", metavar="STEP")],
    how: Annotated[str, typer.Argument(help="How it was done, a sentence.", metavar="HOW")],
    by: By = None,
    case: CaseOption = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Say that a step was done by hand."""
    from keepwell.errors import VerificationFailed
    from keepwell.incident.documents import Step
    from keepwell.incident.journal import complete_step
    from keepwell.incident.restores import RestoreSoFar, find_done_restore, record_restore
    from keepwell.verdict import Verdict

    wanted = read_step(step)
    settings, store, found = _choose(platform, case)
    if wanted is Step.RESTORE:
        # What `keepwell restore` did since then, who approved it, and what is lost by it, its own journal knows.
        try:
            done = find_done_restore(settings, store, found)
        except VerificationFailed:
            done = RestoreSoFar()  # a damaged journal: what is lost stays unknown, and a person says that it is done
        if done.is_done and not found.standing.steps[wanted].is_over:
            entry = record_restore(store, found, done, how, now=datetime.now(UTC), by=_name(by))
            said = f"Restore is done, by the restore case {done.restore_case}. {done.fault}".strip()
            return _written(Verdict.WARN if done.fault else Verdict.OK, found, entry, said)
    entry = complete_step(store, found, wanted, how, by=_name(by), now=datetime.now(UTC))
    return _written(Verdict.OK, found, entry, f"{wanted.value.capitalize()} is done.")


@app.command("skip")
@console.command("incident.skip")
def skip(
    step: Annotated[str, typer.Argument(help="Which step: `keepwell incident status` names them.", metavar="STEP")],
    reason: Annotated[str, typer.Argument(help="Why, a sentence; the post-mortem tells it.", metavar="REASON")],
    by: By = None,
    case: CaseOption = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Leave a step out, for a reason. Skipping `resolve` closes the case without telling anybody."""
    from keepwell.incident.journal import skip_step
    from keepwell.verdict import Verdict

    wanted = read_step(step)
    _, store, found = _choose(platform, case)
    entry = skip_step(store, found, wanted, reason, by=_name(by), now=datetime.now(UTC))
    return _written(Verdict.OK, found, entry, f"{wanted.value.capitalize()} is skipped.")


def read_step(text: str) -> Any:
    """A step by its name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    from keepwell.incident.documents import Step

    try:
        return Step(text)
    except ValueError:
        raise ConfigurationError(
            f"There is no step {text!r}.", hint=f"There are: {', '.join(step.value for step in Step)}."
        ) from None


def read_phase(text: str) -> str:
    """How far an open case is.

    Raises:
        ConfigurationError: It is none of the phases before the end.
    """
    from keepwell.incident.telling import Phase

    open_phases = [phase.value for phase in Phase if phase is not Phase.RESOLVED]
    if text not in open_phases:
        hint = f"There are: {', '.join(open_phases)}; `keepwell incident resolve` ends it."
        raise ConfigurationError(f"There is no phase {text!r}.", hint=hint)
    return text


def read_promise(text: str | None, usual_minutes: int, now: datetime) -> datetime | None:
    """When people hear again: as typed, after the usual time, or None for `never`.

    Args:
        text: As typed, as `keepwell pause --until` takes it; None where nothing was said.
        usual_minutes: Where nothing was said.
        now: Aware.

    Raises:
        ConfigurationError: It is no time, or it is past.
    """
    from keepwell.cli.pause import read_time

    if text is None:
        return now + timedelta(minutes=usual_minutes)
    return None if text == "never" else read_time(text, now, option="--next")


def read_past(text: str, now: datetime) -> datetime:
    """A time that is past, in UTC: a date and time, or a time of the last 24 hours.

    Args:
        text: As typed; without an offset it is UTC.
        now: Aware.

    Raises:
        ConfigurationError: It is no time, or it is not past.
    """
    from keepwell.cli.pause import read_moment

    at = read_moment(text.strip(), now, past=True)
    if at > now:
        raise ConfigurationError(f"{text} is not past: it is {now:%Y-%m-%d %H:%M} UTC.", hint="Name an earlier time.")
    return at


def _choose(platform: str | None, case: str | None) -> "tuple[Platform, Any, Incident]":
    from keepwell.incident.journal import choose_incident
    from keepwell.objectstore.bucket import open_store

    settings = console.load_platform(platform)
    store = open_store(settings)
    return settings, store, choose_incident(store, case)


def _names_platform(settings: "Platform") -> str:
    """What a command needs beside its own words, where several platforms are configured."""
    from keepwell.settings import read_platform_names

    return f" --platform {settings.name}" if len(read_platform_names()) > 1 else ""


def _name(by: str | None) -> str:
    """Who acts, by their own account."""
    return by or getpass.getuser()


def _told(settings: "Platform", store: Any, told: "Told") -> Outcome:
    """What became of an update: the text to copy, who heard, and who reminds of the next one."""
    reminded = _plan_reminders(settings, store)
    verdict = told.entry.verdict
    data = {
        "case_id": told.entry.case_id,
        "delivery": told.delivery,
        "heard": told.heard,
        "posted": told.posted,
        "fault": told.fault,
        "status_text": told.status_text,
        "next_update_at": told.entry.next_update_at,
        "reminder": reminded,
    }

    def show(screen: "Console") -> None:
        console.print_plain(screen, told.status_text)
        console.print_plain(screen, f"\nWho heard: {told.heard}.")
        if reminded:
            console.print_plain(screen, reminded)

    return Outcome(verdict, data=data, hint="" if told.posted else _COPY_HINT, show=show)


def _plan_reminders(settings: "Platform", store: Any) -> str:
    """Have the orchestrator remind of what is promised; why it does not, in words. People were told in any case."""
    from keepwell import orchestrator
    from keepwell.errors import KeepwellError
    from keepwell.incident.journal import read_incidents
    from keepwell.incident.reminding import find_next_reminder, plan_reminders

    by_hand = "Nobody will be reminded of the next update: {}; `keepwell incident remind` does it from a crontab."
    now = datetime.now(UTC)
    at = find_next_reminder(
        read_incidents(store), now=now, repeat_after=timedelta(minutes=settings.incident.remind_minutes)
    )
    try:
        client = orchestrator.connect(settings.orchestrator)
        if client is None:
            return "" if at is None else by_hand.format("no Prefect server is configured")
        with client:
            plan_reminders(client, settings.name, at)
    except KeepwellError as error:
        return "" if at is None else by_hand.format(error.message.rstrip("."))
    return "" if at is None else f"The team is reminded at {at:%H:%M} UTC, unless it is told before."


def _written(verdict: Any, found: "Incident", entry: "Entry", said: str) -> Outcome:
    return Outcome(
        verdict,
        data={"case_id": found.case.case_id, "entry": entry},
        show=lambda screen: console.print_plain(screen, said),
    )


def _summarise(found: "Incident") -> dict[str, Any]:
    standing = found.standing
    return {
        "case": found.case,
        "open": standing.is_open,
        "next_step": standing.next_step,
        "next_update_at": standing.next_update_at,
        "resolved_at": standing.resolved_at,
    }


def _show_observations(screen: "Console", observations: "Sequence[Observation]") -> None:
    from rich.text import Text

    shown = console.table("verdict", "source", "at (UTC)", "found")
    for one in observations:
        found = Text(one.message)
        if one.hint:
            found.append(f"\n→ {one.hint}", style="cyan")
        shown.add_row(console.styled(one.verdict), Text(one.source), _moment(one.at), found)
    screen.print(shown)


def _show_list(screen: "Console", found: "Sequence[Incident]") -> None:
    from rich.text import Text

    if not found:
        screen.print("There is no case.", markup=False)
        return
    shown = console.table("case", "since (UTC)", "stands", "title")
    for one in found:
        standing = one.standing
        step = standing.next_step
        word = "resolved" if not standing.is_open else f"open, next: {step}" if step else "open"
        title = f"DRILL: {one.case.title}" if one.case.drill else one.case.title
        shown.add_row(one.case.case_id, _moment(one.case.since), word, Text(title))
    screen.print(shown)


def _show_status(screen: "Console", found: "Incident", events: "Sequence[Event]", left_out: int) -> None:
    from rich.text import Text

    case, standing = found.case, found.standing
    title = f"{'DRILL: ' if case.drill else ''}{case.title} ({case.case_id}, since {_moment(case.since)} UTC)"
    console.print_plain(screen, title)
    steps = console.table("step", "stands", "at (UTC)", "said")
    for step, state in standing.steps.items():
        at = _moment(state.at) if state.at else ""
        steps.add_row(step.value, str(state.outcome or "–"), at, Text(state.message))
    screen.print(steps)
    if left_out:
        console.print_plain(screen, f"{left_out} earlier events are left out: --all shows them.")
    shown = console.table("verdict", "at (UTC)", "source", "what")
    for event in events:
        by = f" ({event.by})" if event.by else ""
        shown.add_row(console.styled(event.verdict), _moment(event.at), Text(event.source), Text(event.message + by))
    screen.print(shown)
    for key in found.unreadable:
        console.print_plain(screen, f"{key} is damaged; the timeline lacks it.")


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
