"""`keepwell restore`: bring a backup set back, beside the live database or in its place, with a way back."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.approving import Approve, Approver, Given, Reason, Typed, obtain_approval
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, size, tell_waiting
from keepwell.destination import Destination
from keepwell.errors import PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.errors import KeepwellError
    from keepwell.restore.apply import RestoreOutcome
    from keepwell.restore.choice import Choice
    from keepwell.restore.plan import Mode, RestorePlan
    from keepwell.restore.purge import DuePurges, PurgePlan
    from keepwell.restore.standing import CaseState
    from keepwell.restore.status import Case, RestoreStatus
    from keepwell.restore.undo import UndoPlan
    from keepwell.verdict import Finding, Verdict

app = console.group("Bring a backup set back, beside the live database or in its place; and undo that.")

Which = Annotated[str, typer.Argument(help="A backup's id, or `newest`: the newest proven one.", metavar="ID")]
Before = Annotated[
    str | None, typer.Option("--before", metavar="TIME", help="The newest one from before that time; UTC by default.")
]
FromDatabase = Annotated[
    str | None, typer.Option("--database", metavar="NAME", help="Which of the set's databases; the main one otherwise.")
]
Swap = Annotated[bool, typer.Option("--swap", help="Let it take the live database's place, once it is proven.")]
Into = Annotated[str | None, typer.Option("--into", metavar="NAME", help="Name of the new database.")]
CaseId = Annotated[str, typer.Argument(help="Of the restore, as `keepwell restore status` lists it.", metavar="CASE")]
Unproven = Annotated[
    bool, typer.Option("--unproven", help="Take even a set that was never proven; it is written down.")
]


@app.command("plan")
@console.command("restore.plan")
def plan(
    which: Which = "newest",
    *,
    before: Before = None,
    database: FromDatabase = None,
    swap: Swap = False,
    into: Into = None,
    unproven: Unproven = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Show what a restore would do, what would be lost by it, and what stands in its way; nothing is changed."""
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.plan import plan_restore
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    choice, mode = build_choice(which, before, database, unproven=unproven), mode_of(swap=swap)
    planned = plan_restore(settings, store, choice, mode=mode, name=into, now=datetime.now(UTC))
    carry_out = _command(
        "apply",
        planned.backup_id,
        database=database,
        swap=swap,
        into=into,
        unproven=unproven,
        destination=destination,
        platform=platform,
    )
    refused = "As it stands, it would be refused."
    return Outcome(
        planned.verdict,
        data=describe_plan(planned),
        hint=refused if planned.verdict is Verdict.ALERT else f"Nothing was changed. Carry it out: {carry_out}",
        show=lambda screen: show_plan(screen, planned),
    )


@app.command("apply")
@console.command("restore.apply")
def apply(
    which: Which = "newest",
    *,
    before: Before = None,
    database: FromDatabase = None,
    swap: Swap = False,
    into: Into = None,
    unproven: Unproven = False,
    case: Annotated[
        str | None, typer.Option("--case", metavar="CASE", help="Go on with a restore that was begun before.")
    ] = None,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    lease_alone: Annotated[
        bool,
        typer.Option(
            "--lease-alone", help="Go on by the store's lease where the interlock's own login to the server fails."
        ),
    ] = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Restore a set beside the live database and prove it there; with --swap, let it take the live one's place."""
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.apply import apply_restore, is_approved, plan_case
    from keepwell.restore.choice import NEWEST
    from keepwell.restore.plan import plan_restore, require_applicable

    if case is not None and (which != NEWEST or before or database or swap or into or unproven):
        raise PreconditionFailed(
            "A case goes on as it was begun: its set, its names and its mode are its own. Nothing was changed.",
            hint=f"keepwell restore apply --case {case}, and no other choice; or begin a new one without --case.",
        )
    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    given = Given(approve, approver, reason, typed)
    if case is not None:
        planned, approval = plan_case(settings, store, case, datetime.now(UTC)), None
        is_given = any(one is not None for one in (approve, approver, reason, typed))
        if planned.swaps and (is_given or not is_approved(settings, store, planned, case, datetime.now(UTC))):
            show_plan(console.stderr(), planned)
            approval = obtain_approval(planned.subject, given)
    else:
        choice, mode = build_choice(which, before, database, unproven=unproven), mode_of(swap=swap)
        planned = plan_restore(settings, store, choice, mode=mode, name=into, now=datetime.now(UTC))
        require_applicable(planned)
        show_plan(console.stderr(), planned)
        approval = obtain_approval(planned.subject, given) if planned.swaps else None
    procedure = Procedure.SWAP if planned.swaps else Procedure.RESTORE
    on_lease_alone = _tell_lease_alone if lease_alone else None
    with (
        console.progress_shown() as progress,
        hold_platform(settings, store, procedure, on_wait=tell_waiting, on_lease_alone=on_lease_alone) as hold,
    ):
        outcome = apply_restore(settings, store, planned, approval, progress, case_id=case, hold=hold)
    return Outcome(
        outcome.verdict,
        data=_describe_outcome(outcome),
        hint=_tell_way_back(outcome, destination, platform) if outcome.replaced else "",
        show=lambda screen: _show_outcome(screen, outcome),
    )


@app.command("status")
@console.command("restore.status")
def status(*, destination: In = Destination.FIRST, platform: console.PlatformName = None) -> Outcome:
    """Show what each restore has come to, and what to do now; it answers with the bucket or the server down, too."""
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.status import read_status

    settings = console.load_platform(platform)
    found = read_status(settings, open_destination(settings, destination))
    where = _where(destination, platform)
    return Outcome(
        found.verdict,
        data={"cases": [_describe_case(one, where) for one in found.cases], "findings": found.findings},
        hint="" if found.cases or found.findings else "Nothing was restored yet.",
        show=lambda screen: _show_status(screen, found, where),
    )


@app.command("undo")
@console.command("restore.undo")
def undo(
    case: CaseId,
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be; change nothing.")] = False,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Give the live name back to the database that a restore replaced; the restored one stays beside it."""
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.undo import plan_undo, undo_swap

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    planned = plan_undo(settings, store, case)
    if plan:
        data = {"plan": planned.digest, "case": case, "sessions": planned.sessions, "findings": planned.findings}
        return Outcome(planned.verdict, data=data, hint="Nothing was changed.", show=lambda on: _show_undo(on, planned))
    _show_undo(console.stderr(), planned)
    given = Given(approve, approver, reason, typed)
    approval = obtain_approval(planned.subject, given) if planned.exchanges else None
    with console.progress_shown() as progress, hold_platform(settings, store, Procedure.SWAP, on_wait=tell_waiting):
        outcome = undo_swap(settings, store, case, approval, progress)
    after = f" What was live until now is {outcome.undone}." if outcome.undone else ""
    return Outcome(
        outcome.verdict,
        data=outcome,
        hint=f"{outcome.live} is the former database again, after {outcome.seconds:.1f} s.{after}",
        show=lambda screen: screen.print(console.findings_table(outcome.findings)),
    )


@app.command("purge")
@console.command("restore.purge")
def purge(
    case: Annotated[str | None, typer.Argument(help="A case's id; else --due.", metavar="CASE")] = None,
    *,
    due: Annotated[
        bool, typer.Option("--due", help="Drop all that are older than restore.keep_replaced_days.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would go; drop nothing.")] = False,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Annotated[
        str | None, typer.Option("--typed", metavar="NAME", help="Name of what goes, where nobody can be asked.")
    ] = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Drop the database that a restore replaced, or that an undo left; never the only copy of anything."""
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.purge import DuePurges, plan_purge, purge_replaced, read_due

    if (case is None) is not due:
        raise PreconditionFailed("Which one?", hint="Name a case, or pass --due; not both.")
    settings = console.load_platform(platform)
    store, now = open_destination(settings, destination), datetime.now(UTC)
    due_now = DuePurges((plan_purge(settings, store, case),)) if case is not None else read_due(settings, store, now)
    planned = due_now.plans
    if plan or not planned:
        data = {"purges": [_describe_purge(one) for one in planned], "findings": due_now.findings}
        hint = "Nothing was dropped." if planned else "Nothing is due."
        return Outcome(_worst(due_now), data=data, hint=hint, show=lambda screen: _show_purges(screen, due_now))
    _show_purges(console.stderr(), due_now)
    given = Given(approve, approver, reason, typed)
    approval = obtain_approval(planned[0].subject, given) if case is not None else None
    with console.progress_shown() as progress, hold_platform(settings, store, Procedure.SWAP, on_wait=tell_waiting):
        done, left = [], []
        for one in planned:
            try:
                done.append(purge_replaced(settings, store, one.case_id, approval, progress, now=now))
            except PreconditionFailed as refused:
                if not due:
                    raise
                left.append(_told_as_left(one, refused))
    told = ", ".join(f"{one.dropped} ({size(one.freed_bytes)})" for one in done) or "nothing"
    findings = (*due_now.findings, *left, *(finding for one in done for finding in one.findings))
    return Outcome(
        _worst(DuePurges(planned, findings)),
        data={"purged": done, "findings": findings},
        hint=f"Dropped: {told}.",
        show=lambda screen: screen.print(console.findings_table(findings)) if findings else None,
    )


def _command(
    verb: str,
    which: str,
    *,
    destination: Destination,
    platform: str | None,
    database: str | None = None,
    swap: bool = False,
    into: str | None = None,
    unproven: bool = False,
) -> str:
    """A command of this group with all the options that were given, to be pasted."""
    words = [*(["--database", database] if database else []), *(["--swap"] if swap else [])]
    words += [*(["--into", into] if into else []), *(["--unproven"] if unproven else [])]
    return f"{shlex.join(['keepwell', 'restore', verb, which, *words])}{_where(destination, platform)}"


def _where(destination: Destination, platform: str | None) -> str:
    """The options that say whose and from where, as they were given; it begins with a space, or is empty."""
    words = ["--in", destination.value] if destination is not Destination.FIRST else []
    return "".join(f" {shlex.quote(word)}" for word in (*words, *(("--platform", platform) if platform else ())))


def _advice(one: "Case", where: str) -> str:
    """What to do, with the options without which it would be done elsewhere."""
    case_id = one.case.case_id
    return one.state.advice.replace(case_id, f"{case_id}{where}") if one.state else ""


def _tell_way_back(outcome: "RestoreOutcome", destination: Destination, platform: str | None) -> str:
    from keepwell.restore.pages import undo_statements

    if outcome.is_kept:
        return f"Undo it: {_command('undo', outcome.case_id, destination=destination, platform=platform)}"
    return (
        f"This key cannot keep a case. Undo it with psql, in another database of the server: {undo_statements(outcome)}"
    )


def _tell_lease_alone(error: "KeepwellError") -> None:
    console.print_plain(console.stderr(), f"By the store's lease alone: {error.message}")


def build_choice(which: str, before: str | None, database: str | None, *, unproven: bool) -> "Choice":
    """What the operator asks for."""
    from keepwell.restore.choice import Choice
    from keepwell.restore.plan import parse_moment

    moment = parse_moment(before) if before is not None else None
    return Choice(which=which, before=moment, database=database, allow_unproven=unproven)


def mode_of(*, swap: bool) -> "Mode":
    """What becomes of the restored database."""
    from keepwell.restore.plan import Mode

    return Mode.SWAP if swap else Mode.BESIDE


def describe_plan(planned: "RestorePlan") -> dict[str, Any]:
    """The plan for a JSON document."""
    return {
        "plan": planned.digest,
        "mode": planned.mode,
        "backup_id": planned.backup_id,
        "database": planned.database,
        "live": planned.live,
        "name": planned.name,
        "replaced": planned.replaced or None,
        "snapshot_at": planned.snapshot_at,
        "age_seconds": planned.age_seconds,
        "level": planned.level,
        "rows": planned.rows,
        "bytes_size": planned.size_bytes,
        "bytes_needed": planned.needed_bytes,
        "bytes_free": planned.free_bytes,
        "expected_seconds": planned.expected_seconds,
        "sessions": planned.sessions,
        "carried": planned.carried,
        "rows_lost": planned.loss.rows_lost if planned.loss else None,
        "rows_back": planned.loss.rows_back if planned.loss else None,
        "findings": planned.findings,
    }


def show_plan(screen: "Console", planned: "RestorePlan") -> None:
    """The plan for people."""
    from keepwell.quantities import describe_seconds

    taken = f"about {describe_seconds(planned.expected_seconds)}" if planned.expected_seconds else "not known yet"
    lines = [
        (
            f"{planned.database} of {planned.backup_id}, as of {planned.snapshot_at:%Y-%m-%d %H:%M:%S} UTC "
            f"({planned.rows:,} rows, {size(planned.size_bytes)}); expected time: {taken}."
        ),
        f"1. It is restored as the new database {planned.name}, and proven there.",
    ]
    if planned.replaced:
        lines.append(f"2. {planned.live} is renamed to {planned.replaced}, and {planned.name} to {planned.live}.")
    elif planned.swaps:
        lines.append(f"2. {planned.name} is renamed to {planned.live}.")
    else:
        lines.append(f"{planned.live} is not touched.")
    if planned.carried:
        lines.append(f"It takes over: {', '.join(planned.carried)}.")
    for line in lines:
        console.print_plain(screen, line)
    screen.print(console.findings_table(planned.findings))
    console.print_plain(screen, f"Plan {planned.digest}")


def _describe_outcome(outcome: "RestoreOutcome") -> dict[str, Any]:
    return {
        "case": outcome.case_id,
        "backup_id": outcome.plan.backup_id,
        "database": outcome.database,
        "replaced": outcome.replaced,
        "rows": outcome.rows,
        "seconds": outcome.seconds,
        "phases": outcome.phases,
        "findings": outcome.findings,
        "evidence": outcome.evidence_keys,
    }


def _show_outcome(screen: "Console", outcome: "RestoreOutcome") -> None:
    worth_telling = [finding for finding in outcome.findings if finding.verdict != "ok" or finding.hint]
    if worth_telling:
        screen.print(console.findings_table(worth_telling))
    rows = f", {outcome.rows:,} rows equal to their source" if outcome.rows is not None else ""
    snapshot = f"{outcome.plan.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
    lines = [f"{outcome.database} is {outcome.plan.backup_id}, as of {snapshot}{rows}."]
    if outcome.replaced:
        lines.append(f"The former one is {outcome.replaced}, untouched.")
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in outcome.phases.items())
    lines.append(f"It took {outcome.seconds:.1f} s: {phases}. Case {outcome.case_id}.")
    for line in lines:
        console.print_plain(screen, line)


def _describe_case(one: "Case", where: str) -> dict[str, Any]:
    return {
        "case": one.case.case_id,
        "backup_id": one.case.backup_id,
        "mode": one.case.mode,
        "live": one.case.live,
        "standing": one.state.standing if one.state else None,
        "restored": one.state.restored if one.state else None,
        "former": one.state.former if one.state else None,
        "last_step": one.last_step,
        "message": one.message,
        "advice": _advice(one, where),
        "approval": one.case.approval,
    }


def _show_status(screen: "Console", found: "RestoreStatus", where: str) -> None:
    table = console.table("case", "set", "how it stands")
    for one in found.cases:
        table.add_row(one.case.case_id, one.case.backup_id, one.state.standing if one.state else "not known")
    if found.cases:
        screen.print(table)
    for one in found.cases:
        if one.state is not None and one.state.advice:
            for line in (f"{one.case.case_id}: {_whereabouts(one.state)}", f"  {_advice(one, where)}"):
                console.print_plain(screen, line)
    if found.findings:
        screen.print(console.findings_table(found.findings))


def _whereabouts(state: "CaseState") -> str:
    """What its two databases are called now."""
    there = {"the restored one": state.restored, "the former one": state.former}
    return ", ".join(f"{which} is {one.name}" for which, one in there.items() if one is not None)


def _show_undo(screen: "Console", planned: "UndoPlan") -> None:
    live, former = planned.case.live, planned.state.former
    cut = sum(one.count for one in planned.sessions)
    if planned.exchanges and former is not None:
        line = f"{former.name} becomes {live} again, and what is {live} now stays beside it; {cut} sessions are cut."
    else:
        line = f"{live} is opened again, as it was; no name is exchanged."
    console.print_plain(screen, line)
    if planned.findings:
        screen.print(console.findings_table(planned.findings))
    console.print_plain(screen, f"Plan {planned.digest}")


def _describe_purge(planned: "PurgePlan") -> dict[str, Any]:
    return {
        "plan": planned.digest,
        "case": planned.case_id,
        "drops": planned.target.name,
        "bytes": planned.target.size_bytes,
        "settled_at": planned.settled_at,
        "findings": planned.findings,
    }


def _show_purges(screen: "Console", due: "DuePurges") -> None:
    if due.findings:
        screen.print(console.findings_table(due.findings))
    for one in due.plans:
        since = f"{one.settled_at:%Y-%m-%d %H:%M} UTC"
        line = f"Drops {one.target.name} ({size(one.target.size_bytes)}), not live since {since}. Plan {one.digest}"
        console.print_plain(screen, line)
        screen.print(console.findings_table(one.findings))


def _told_as_left(one: "PurgePlan", refused: "KeepwellError") -> "Finding":
    from keepwell.verdict import Finding, Verdict

    message = f"{one.target.name} stays: {refused.message}"
    return Finding(name=f"case {one.case_id}", verdict=Verdict.WARN, message=message, hint=refused.hint)


def _worst(due: "DuePurges") -> "Verdict":
    from keepwell.verdict import Verdict, worst

    return worst([Verdict.OK, *(one.verdict for one in due.plans), *(one.verdict for one in due.findings)])
