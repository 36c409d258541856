"""`keepwell upgrade`: taking over what an earlier release left, run as a module because it lies above this layer."""

import subprocess
import sys

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.installed import is_installed
from keepwell.errors import ConfigurationError

_MODULE = "deployments.upgrade"


@console.command("upgrade")
def upgrade(context: typer.Context, *, json_output: console.JsonOutput = False) -> Outcome:
    """Take over what an earlier release left: --plan shows it, --approve PLAN does it.

    Deployments, queues and automations become this release's; what was switched off stays off, and the history stays.
    """
    if not is_installed(_MODULE, "prefect"):
        raise ConfigurationError(
            "This installation has no orchestrator, so there is nothing to take over.",
            hint="Run it where the server extra is installed.",
        )
    flags = [*context.args, *(["--json"] if json_output else [])]
    raise typer.Exit(subprocess.run([sys.executable, "-m", _MODULE, *flags], check=False).returncode)
