"""`keepwell restore`: bring a backup set back, beside the live database or in its place, with a way back."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, size
from keepwell.destination import Destination

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.restore.choice import Choice
    from keepwell.restore.plan import Mode, RestorePlan

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
    return Outcome(
        planned.verdict,
        data=describe_plan(planned),
        hint="Nothing was changed." if planned.verdict is not Verdict.ALERT else "As it stands, it would be refused.",
        show=lambda screen: show_plan(screen, planned),
    )


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
