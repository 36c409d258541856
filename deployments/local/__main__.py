"""The local stack's commands: `python -m deployments.local up|status|down|demo`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.local.stack import DEFAULT_FOLDER, DEFAULT_SCALE, DEMO_FOLDER, StackOptions, plan_stack
from deployments.running.lifecycle import StackReport, bring_up, read_report, take_down
from deployments.running.state import StateFolder
from deployments.running.supervisor import PartState
from keepwell.errors import KeepwellError
from keepwell.verdict import Verdict

SCHEMA = "keepwell.local-stack/1"
_EXIT_CODES = {Verdict.OK: 0, Verdict.UNKNOWN: 2}
_MARKS = {
    PartState.READY: "[green]✓[/green]",
    PartState.DONE: "[green]✓[/green]",
    PartState.FAILED: "[red]✗[/red]",
    PartState.BACKING_OFF: "[yellow]↻[/yellow]",
}

app = typer.Typer(help="Real servers on this machine, for trying and testing.", no_args_is_help=True)
_console = Console(highlight=False, soft_wrap=True)

StateOption = Annotated[Path, typer.Option("--state", help="Folder that holds everything of the stack.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def up(
    state: StateOption = DEFAULT_FOLDER,
    scale: Annotated[float, typer.Option(min=0.01, help="Size of the sample data; 1 is about 60 MB.")] = DEFAULT_SCALE,
    without: Annotated[list[str] | None, typer.Option(help="A part to leave out, with what needs it.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Start the stack, or what of it failed, and wait until it serves."""
    plan = plan_stack(StackOptions(scale=scale, without=tuple(without or ())))
    if json_output:
        _answer(bring_up(plan, StateFolder.at(state)), as_json=True)
    with _console.status("Starting the local stack"):
        report = bring_up(plan, StateFolder.at(state), progress=_show_progress)
    _answer(report)


@app.command()
def status(state: StateOption = DEFAULT_FOLDER, json_output: JsonOption = False) -> None:
    """Ask every part whether it serves."""
    _answer(read_report(plan_stack(), StateFolder.at(state)), as_json=json_output)


@app.command()
def down(
    state: StateOption = DEFAULT_FOLDER,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the stack's data too.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Stop everything of the stack."""
    _answer(take_down(plan_stack(), StateFolder.at(state), purge=purge), as_json=json_output)


@app.command()
def demo(
    state: Annotated[Path, typer.Option("--state", help="Folder for a stack of its own.")] = DEMO_FOLDER,
    scale: Annotated[float, typer.Option(min=0.01, help="Size of the sample data; 1 is about 60 MB.")] = DEFAULT_SCALE,
) -> None:
    """Show the main job: from an empty folder to a proven backup, and to damage that is found."""
    # Imported late: the other commands do not need the engine.
    from deployments.local.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(StateFolder.at(state), StackOptions(scale=scale)))


@app.command("demo-install")
def demo_install() -> None:
    """Install as docs/install.md says, on a platform under docker compose, in namespaces that are thrown away."""
    # Imported late, as above.
    from deployments.local.install_demo import install_and_isolate  # noqa: PLC0415

    install_and_isolate()


def _show_progress(part: dict[str, Any]) -> None:
    mark = _MARKS.get(part["state"])
    if mark is None:
        return
    seconds = f"{part['start_seconds']:5.1f} s" if part["start_seconds"] is not None else " " * 7
    _console.print(f"{mark} {part['name']:<30} {seconds}  {part['detail'] or part['address']}")


def _answer(report: StackReport, *, as_json: bool = False) -> None:
    if as_json:
        print_envelope(report)
    else:
        _show(report)
    raise typer.Exit(_EXIT_CODES.get(report.verdict, 1))


def print_envelope(report: StackReport) -> None:
    """One JSON object on standard output."""
    envelope = {"schema": SCHEMA, "verdict": report.verdict.value, "data": report.data, "hint": report.hint}
    sys.stdout.write(json.dumps(envelope) + "\n")


def _show(report: StackReport) -> None:
    if report.data.get("parts"):
        _console.print(_as_table(report.data))
    for label, key in (("UI", "ui_url"), ("Sample platform", "frontend_url"), ("Platform file", "platform_file")):
        if key in report.data:
            _console.print(f"{label:<16}{report.data[key]}")
    if report.data.get("running") is False:
        _console.print("The local stack is not running.")
    elif report.verdict is Verdict.OK and report.data["start_seconds"] is not None:
        _console.print(f"The local stack serves; its start took {report.data['start_seconds']} s.")
    if report.hint:
        _console.print(report.hint)


def _as_table(data: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "pid", "restarts", "address"):
        table.add_column(heading, overflow="fold")
    for part in data["parts"]:
        if part["kind"] == "server" or part["state"] != PartState.DONE:
            pid = str(part["pid"] or "")
            table.add_row(part["name"], part["state"], pid, str(part["restarts"] or ""), part["address"])
    return table


def run() -> None:
    """Run the commands, and say what went wrong in one sentence with a hint."""
    try:
        app()
    except KeepwellError as error:
        if "--json" in sys.argv:
            print_envelope(StackReport(Verdict.ALERT, {"message": error.message}, error.hint))
        else:
            _console.print(f"[red]{error.message}[/red]\n{error.hint}")
        sys.exit(1)


if __name__ == "__main__":
    run()
