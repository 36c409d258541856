"""`keepwell serve`: our own orchestrator, run as a module because it lies above this layer."""

import os
import sys

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.installed import is_installed
from keepwell.errors import ConfigurationError

_MODULE = "deployments.production"

# All words are handed on as they stand, --help too.
HAND_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@console.command("serve")
def serve(context: typer.Context, *, json_output: console.JsonOutput = False) -> Outcome:
    """Run the orchestrator on this machine, alone or with --detach; then status, reload, stop."""
    if not is_installed(f"{_MODULE}.__main__", "prefect"):
        raise ConfigurationError(
            "This installation has no orchestrator.", hint="Install Keepwell with its server extra."
        )
    words = [*context.args, *(["--json"] if json_output else [])]
    # In our place, so that a service manager, or whoever interrupts us, speaks with the stack itself.
    os.execv(sys.executable, [sys.executable, "-m", _MODULE, *words])  # noqa: S606 - argv only
