"""The local stack's commands: `python -m deployments.local up|status|down|demo`."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.local.stack import DEFAULT_FOLDER, DEFAULT_SCALE, DEMO_FOLDER, StackOptions, plan_stack
from deployments.running.lifecycle import bring_up, read_report, take_down
from deployments.running.showing import Showing
from deployments.running.state import StateFolder
from keepwell.errors import KeepwellError

_SHOWING = Showing(
    schema="keepwell.local-stack/1",
    labels={
        "ui_url": "UI",
        "login_file": "Its login",
        "frontend_url": "Sample platform",
        "platform_file": "Platform file",
    },
)

app = typer.Typer(help="Real servers on this machine, for trying and testing.", no_args_is_help=True)

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
        _SHOWING.answer(plan, bring_up(plan, StateFolder.at(state)), as_json=True)
    with _SHOWING.screen.status("Starting the local stack"):
        report = bring_up(plan, StateFolder.at(state), progress=_SHOWING.show_progress)
    _SHOWING.answer(plan, report)


@app.command()
def status(state: StateOption = DEFAULT_FOLDER, json_output: JsonOption = False) -> None:
    """Ask every part whether it serves."""
    plan = plan_stack()
    _SHOWING.answer(plan, read_report(plan, StateFolder.at(state)), as_json=json_output)


@app.command()
def down(
    state: StateOption = DEFAULT_FOLDER,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the stack's data too.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Stop everything of the stack."""
    plan = plan_stack()
    _SHOWING.answer(plan, take_down(plan, StateFolder.at(state), purge=purge), as_json=json_output)


@app.command()
def demo(
    state: Annotated[Path, typer.Option("--state", help="Folder for a stack of its own.")] = DEMO_FOLDER,
    scale: Annotated[float, typer.Option(min=0.01, help="Size of the sample data; 1 is about 60 MB.")] = DEFAULT_SCALE,
) -> None:
    """Show the main job: from an empty folder to a proven backup, and to damage that is found."""
    # Imported late: the other commands do not need the engine.
    from deployments.local.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(StateFolder.at(state), StackOptions(scale=scale)))


@app.command("demo-restore")
def demo_restore(
    state: Annotated[Path, typer.Option("--state", help="Folder for a stack of its own.")] = DEMO_FOLDER,
    scale: Annotated[float, typer.Option(min=0.01, help="Size of the sample data; 1 is about 60 MB.")] = DEFAULT_SCALE,
) -> None:
    """Lose rows of the live database, bring them back by an approved restore, and take that back."""
    # Imported late, as above.
    from deployments.local.restore_demo import run_restore_demo  # noqa: PLC0415

    raise typer.Exit(run_restore_demo(StateFolder.at(state), StackOptions(scale=scale)))


@app.command("demo-install")
def demo_install() -> None:
    """Install as docs/install.md says, on a platform under docker compose, in namespaces that are thrown away."""
    # Imported late, as above.
    from deployments.local.install_demo import install_and_isolate  # noqa: PLC0415

    install_and_isolate()


def run() -> None:
    """Run the commands, and say what went wrong in one sentence with a hint."""
    try:
        app()
    except KeepwellError as error:
        _SHOWING.fail(error)


if __name__ == "__main__":
    run()
