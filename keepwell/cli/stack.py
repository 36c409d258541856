"""`keepwell up`, `status` and `down`: the local stack, run as a module because it lies above this layer."""

import signal
import subprocess
import sys

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.installed import is_installed
from keepwell.errors import ConfigurationError

_MODULE = "deployments.local"

# The stack has its own options, so what we do not know is handed on as it stands.
HAND_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@console.command("up")
def up(context: typer.Context, *, json_output: console.JsonOutput = False) -> Outcome:
    """Start the local stack, for trying and testing: real servers, the sample platform, Prefect."""
    return _run("up", context, json_output=json_output)


@console.command("status")
def status(context: typer.Context, *, json_output: console.JsonOutput = False) -> Outcome:
    """Show the parts of the local stack."""
    return _run("status", context, json_output=json_output)


@console.command("down")
def down(context: typer.Context, *, json_output: console.JsonOutput = False) -> Outcome:
    """Stop the local stack."""
    return _run("down", context, json_output=json_output)


def _run(verb: str, context: typer.Context, *, json_output: bool) -> Outcome:
    """Hand over to the stack's own program; its output and exit code are ours.

    Raises:
        ConfigurationError: This installation has no local stack.
        typer.Exit: With its exit code.
    """
    if not is_installed(f"{_MODULE}.__main__"):
        raise ConfigurationError(
            "This installation has no local stack.", hint="Use a checkout with the local-stack extra: make up."
        )
    flags = [*context.args, *(["--json"] if json_output else [])]
    process = subprocess.Popen([sys.executable, "-m", _MODULE, verb, *flags])
    while True:
        try:
            raise typer.Exit(process.wait())
        except KeyboardInterrupt:
            # The terminal told it too; a second key press must not leave it alone.
            process.send_signal(signal.SIGINT)
