"""The commands behind `keepwell serve`: `python -m deployments.production [status|reload|stop|unit]`."""

import ipaddress
from typing import Annotated

import typer

from deployments.production.stack import DEFAULT_PORT, ServeOptions, plan_stack
from deployments.production.systemd_unit import SYSTEM_USER, render_unit
from deployments.running import lifecycle
from deployments.running.lifecycle import StackReport, bring_up, read_report, serve_here, take_down
from deployments.running.ports import HOST
from deployments.running.showing import Showing
from deployments.running.state import StateFolder
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.served import serve_folder
from keepwell.settings import configuration_place

_SHOWING = Showing(schema="keepwell.serve/1", labels={"ui_url": "UI", "login_file": "Its login"})
_START_LIMIT_SECONDS = 300.0

app = typer.Typer(invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def serve(
    context: typer.Context,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once everything serves, and leave it running.")
    ] = False,
    listen: Annotated[
        str, typer.Option(help="IPv4 address that the Prefect server listens on; without TLS, so keep it on loopback.")
    ] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Its TCP port.")] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many worker processes take runs.")] = 1,
    json_output: JsonOption = False,
) -> None:
    """Run the orchestrator on this machine: Prefect on a PostgreSQL of its own, our deployments, and a worker.

    In the foreground until it is interrupted; with --detach, in the background. What it keeps lies in
    /var/lib/keepwell for root, in ~/.local/state/keepwell for others, or in KEEPWELL_STATE_DIRECTORY. Platforms are
    read from KEEPWELL_CONFIG, keepwell.toml or /etc/keepwell.
    """
    if context.invoked_subcommand is not None:
        return
    plan = plan_stack(ServeOptions(_require_configuration(), _require_address(listen), port, workers))
    state = _state()
    if not detach:
        serve_here(plan, state)
    if json_output:
        report = bring_up(plan, state, limit_seconds=_START_LIMIT_SECONDS)
    else:
        with _SHOWING.screen.status("Starting"):
            report = bring_up(plan, state, limit_seconds=_START_LIMIT_SECONDS, progress=_SHOWING.show_progress)
    _SHOWING.answer(plan, report, as_json=json_output)


@app.command()
def status(json_output: JsonOption = False) -> None:
    """Ask every part whether it serves."""
    plan = plan_stack()
    _SHOWING.answer(plan, read_report(plan, _state()), as_json=json_output)


@app.command()
def reload(json_output: JsonOption = False) -> None:
    """Register the platforms as they are configured now, and start again what was given up; runs go on."""
    plan = plan_stack()
    _SHOWING.answer(plan, lifecycle.reload(plan, _state()), as_json=json_output)


@app.command()
def stop(json_output: JsonOption = False) -> None:
    """Stop everything in order, runs too; history, login and settings are kept."""
    plan = plan_stack()
    report = take_down(plan, _state())
    _SHOWING.answer(plan, StackReport(report.verdict, report.data, ""), as_json=json_output)


@app.command()
def unit(
    user: Annotated[str, typer.Option(help="Unprivileged user that it runs as.")] = SYSTEM_USER,
) -> None:
    """Print a systemd unit for this installation, which keeps it running instead of --detach."""
    typer.echo(render_unit(user), nl=False)


def _state() -> StateFolder:
    return StateFolder.at(serve_folder())


def _require_configuration() -> str:
    place = configuration_place()
    if not place.exists():
        raise ConfigurationError(
            f"There is no platform file at {place}, so there is nothing to run.",
            hint="Write one with `keepwell init`, or name one with KEEPWELL_CONFIG.",
        )
    return str(place.absolute())


def _require_address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ConfigurationError(
            f"--listen {text} is no IPv4 address.", hint="Such as 127.0.0.1, or 0.0.0.0 for every one of this machine."
        ) from None


def run() -> None:
    """Run the commands, and say what went wrong in one sentence with a hint."""
    try:
        app(prog_name="keepwell serve")
    except KeepwellError as error:
        _SHOWING.fail(error)


if __name__ == "__main__":
    run()
