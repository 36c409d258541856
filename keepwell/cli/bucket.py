"""`keepwell bucket`: what the keys of the bucket must be allowed to do."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome

if TYPE_CHECKING:
    from rich.console import Console

app = console.group("Show what the keys of the bucket must be allowed to do.")


class Key(StrEnum):
    """The keys that may stand apart."""

    WRITING = "writing"
    READING = "reading"
    EXPIRING = "expiring"


@app.command("policies")
@console.command("bucket.policies")
def policies(
    key: Annotated[
        Key | None, typer.Argument(metavar="[KEY]", help="`writing`, `reading` or `expiring` alone.")
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Print a policy for each key of the bucket, so that a stolen one destroys no backup."""
    from keepwell.backup.policies import build_policies
    from keepwell.objectstore.store import folder_of
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    built = build_policies(settings.bucket.name, folder_of(settings.name, settings.bucket))
    if key is not None:
        return Outcome(Verdict.OK, data=built[key], show=lambda screen: _show_one(screen, built[key]))
    return Outcome(
        Verdict.OK,
        data=built,
        hint="Once they are in force, keepwell doctor tries what must be forbidden.",
        show=lambda screen: _show_all(screen, built),
    )


def _show_one(screen: "Console", policy: dict[str, Any]) -> None:
    console.print_plain(screen, json.dumps(policy, indent=2))


def _show_all(screen: "Console", built: dict[str, dict[str, Any]]) -> None:
    for name, policy in built.items():
        console.print_plain(screen, f"The {name} key:")
        _show_one(screen, policy)
