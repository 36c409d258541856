"""`keepwell drill`: rehearse a restore from the bucket and the key alone, with or without the orchestrator."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome

if TYPE_CHECKING:
    from pyrage import x25519
    from rich.console import Console

    from keepwell.drill.documents import Drill, History, Kind
    from keepwell.objectstore.store import Store

app = console.group("Rehearse a restore: measure RPO and RTO, and see that damage is found.")

DrillId = Annotated[str, typer.Argument(help="A drill's id, or `newest`.", metavar="ID")]


@app.command("run")
@console.command("drill.run")
def run(
    *,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--sets-only",
            help="Restore files, Redis and the application too; once a quarter by default.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Choose and damage as an earlier drill did.", show_default=False),
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Restore the newest proven set and another one by lot from nothing, time it, and damage copies of it."""
    from keepwell.drill.choosing import new_seed
    from keepwell.drill.documents import require_writing
    from keepwell.drill.evidence import build_drill_evidence
    from keepwell.drill.keeping import keep_reports
    from keepwell.drill.rehearsing import (
        begin_drill,
        check_checker,
        conclude_drill,
        rehearse,
        rehearse_communication,
    )
    from keepwell.evidence import write_evidence
    from keepwell.holding import hold_sets
    from keepwell.interlock import Procedure
    from keepwell.objectstore.bucket import open_store

    settings = console.load_platform(platform)
    store = open_store(settings)
    require_writing(store)
    kind: Kind | None = None if full is None else "full" if full else "monthly"
    with console.progress_shown() as progress, hold_sets(settings, store, Procedure.DRILL):
        plan = begin_drill(settings, kind=kind, seed=new_seed() if seed is None else seed)
        rehearsals = tuple(rehearse(settings, store, plan, chosen, progress) for chosen in plan.chosen)
        damages = check_checker(settings, store, plan, rehearsals[0], progress)
        communication = rehearse_communication(settings, plan)
        drill = conclude_drill(settings, store, plan, rehearsals, damages, communication=communication)
    write_evidence(store, build_drill_evidence(drill))
    page, _ = keep_reports(store, drill)
    return _drill_outcome(drill, page)


@app.command("list")
@console.command("drill.list")
def list_drills(*, platform: console.PlatformName = None) -> Outcome:
    """List the drills of a platform, newest first."""
    from keepwell.drill.documents import read_history
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    history = read_history(open_store(console.load_platform(platform)))
    verdict = history.drills[-1].verdict if history.drills else Verdict.WARN
    return Outcome(
        verdict,
        data={"drills": [_summarize(drill) for drill in reversed(history.drills)], "unreadable": history.unreadable},
        hint="" if history.drills else "There was no drill yet: run one with `keepwell drill run`.",
        show=lambda screen: _show_history(screen, history),
    )


@app.command("show")
@console.command("drill.show")
def show(drill_id: DrillId = "newest", *, platform: console.PlatformName = None) -> Outcome:
    """Show one drill: its targets, phases, and what became of each damage."""
    from keepwell.drill.documents import read_history
    from keepwell.drill.report import render_drill
    from keepwell.objectstore.bucket import open_store

    store = open_store(console.load_platform(platform))
    drill = _find(store, drill_id)
    return _drill_outcome(drill, render_drill(drill, read_history(store).drills))


@app.command("report")
@console.command("drill.report")
def report(
    drill_id: DrillId = "newest",
    *,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new file, such as drill.html or drill.md.")],
    platform: console.PlatformName = None,
) -> Outcome:
    """Write a drill's report into a file: one HTML page with its plot, or markdown."""
    from keepwell.drill.documents import read_history
    from keepwell.drill.report import render_drill, render_drill_page
    from keepwell.errors import PreconditionFailed
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    renderers = {".html": render_drill_page, ".md": render_drill}
    if to.suffix not in renderers:
        raise PreconditionFailed(f"A report is written as .html or .md, not as {to.name}.", hint="Name it drill.html.")
    if to.exists():
        raise PreconditionFailed(f"{to} exists already.", hint="Name a new file.")
    store = open_store(console.load_platform(platform))
    drill = _find(store, drill_id)
    try:
        to.write_text(renderers[to.suffix](drill, read_history(store).drills), encoding="utf-8")
    except OSError as error:
        raise PreconditionFailed(f"{to} cannot be written: {error.strerror}.", hint="Name another file.") from None
    return Outcome(Verdict.OK, data={"drill_id": drill.drill_id, "file": to}, hint=f"Written: {to}")


@app.command("offline-key")
@console.command("drill.offline-key")
def offline_key(
    *,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="Holds the offline key; asked for by default.")
    ] = None,
    skip: Annotated[
        str | None, typer.Option("--skip", metavar="REASON", help="Not this time, and why; it stays due.")
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Open one object of the newest proven set with the key that lies elsewhere: once a quarter, by whoever has it."""
    from datetime import UTC, datetime

    from keepwell.drill.documents import require_writing
    from keepwell.drill.offline_key import skip_offline_key, try_offline_key
    from keepwell.errors import PreconditionFailed
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    if key_file is not None and skip is not None:
        raise PreconditionFailed("--key-file and --skip contradict one another.", hint="Try the key, or skip it.")
    settings = console.load_platform(platform)
    store = open_store(settings)
    require_writing(store)
    if skip is not None:
        trial = skip_offline_key(settings, store, skip, datetime.now(UTC))
    else:
        trial = try_offline_key(settings, store, _ask_for_key(key_file), datetime.now(UTC))
    verdict = {"opened": Verdict.OK, "failed": Verdict.ALERT, "skipped": Verdict.WARN}[trial.outcome]
    return Outcome(verdict, data=trial, hint=f"{trial.outcome.capitalize()}: {trial.message}")


def _ask_for_key(key_file: Path | None) -> "x25519.Identity":
    """The offline key, never by an argument, which other users of the machine could read."""
    from keepwell.errors import PreconditionFailed
    from keepwell.keyring import read_identities
    from keepwell.sealing import parse_identity

    if key_file is not None:
        return read_identities(key_file)[0]
    if not console.is_interactive():
        raise PreconditionFailed("There is no terminal to ask for the key on.", hint="Name its file with --key-file.")
    return parse_identity(typer.prompt("The offline key, AGE-SECRET-KEY-1…", hide_input=True, err=True))


def _find(store: "Store", drill_id: str) -> "Drill":
    from keepwell.drill.documents import read_drill, read_history
    from keepwell.errors import PreconditionFailed

    if drill_id != "newest":
        return read_drill(store, drill_id)
    drills = read_history(store, newest=1).drills
    if not drills:
        raise PreconditionFailed("There was no drill yet.", hint="Run one: keepwell drill run.")
    return drills[-1]


def _summarize(drill: "Drill") -> dict[str, object]:
    return {
        "drill_id": drill.drill_id,
        "kind": drill.kind,
        "verdict": drill.verdict,
        "started_at": drill.started_at,
        "summary": drill.summary,
        "rpo_seconds": drill.recovery.rpo_seconds,
        "rto_seconds": drill.recovery.rto_seconds,
    }


def _drill_outcome(drill: "Drill", page: str) -> Outcome:
    from keepwell.verdict import Verdict

    bad = drill.verdict in (Verdict.ALERT, Verdict.UNKNOWN)
    return Outcome(
        drill.verdict,
        data=drill,
        hint=f"It failed; the lines above say why. The page: keepwell drill report {drill.drill_id} --to drill.html"
        if bad
        else f"The page, with its plot: keepwell drill report {drill.drill_id} --to drill.html",
        show=lambda screen: _show_page(screen, page),
    )


def _show_page(screen: "Console", page: str) -> None:
    from rich.markdown import Markdown

    screen.print(Markdown(page))


def _show_history(screen: "Console", history: "History") -> None:
    for drill in reversed(history.drills):
        screen.print(f"{drill.drill_id}  {drill.verdict:<8} {drill.kind:<8} {drill.summary}", markup=False)
    for key in history.unreadable:
        screen.print(f"{key} cannot be read, or is signed by nobody who counts", markup=False)
