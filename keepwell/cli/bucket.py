"""`keepwell bucket`: what the keys of the bucket must be allowed to do."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In
from keepwell.destination import Destination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from keepwell.settings import BucketSettings, Platform

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
    *,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Print a policy for each key of a bucket, so that a stolen one destroys no backup."""
    from keepwell.backup.policies import build_policies
    from keepwell.objectstore.bucket import folder_of
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    bucket = _choose_bucket(settings, destination)
    built = build_policies(bucket.name, folder_of(settings.name, bucket))
    if key is not None:
        return Outcome(Verdict.OK, data=built[key], show=lambda screen: _show_one(screen, built[key]))
    hints = ["Once they are in force, keepwell doctor tries what must be forbidden."]
    return Outcome(
        Verdict.OK,
        data=built,
        hint="\n".join([*hints, *(_tell_second(settings) if destination is Destination.FIRST else ())]),
        show=lambda screen: _show_all(screen, built),
    )


def _choose_bucket(settings: "Platform", destination: Destination) -> "BucketSettings":
    """The bucket of a destination.

    Raises:
        ConfigurationError: The platform file names no second destination, or a folder.
    """
    from keepwell.errors import ConfigurationError

    if destination is Destination.FIRST:
        return settings.bucket
    if settings.second_bucket is None:
        raise ConfigurationError(
            "The platform file has no [second_bucket].",
            hint="A folder takes no policies: who may enter it says its file system."
            if settings.second_folder is not None
            else "Name one in the platform file: [second_bucket] or [second_folder].",
        )
    return settings.second_bucket


def _tell_second(settings: "Platform") -> "Iterator[str]":
    """What else holds copies of the sets, and what protects it."""
    if settings.second_bucket is not None:
        yield "The second destination has keys of its own: keepwell bucket policies --destination second"
    if settings.second_folder is not None:
        yield (
            f"The second destination, {settings.second_folder.directory}, is a folder and takes no policies: whoever "
            "may write there can destroy the copies."
        )


def _show_one(screen: "Console", policy: dict[str, Any]) -> None:
    console.print_plain(screen, json.dumps(policy, indent=2))


def _show_all(screen: "Console", built: dict[str, dict[str, Any]]) -> None:
    for name, policy in built.items():
        console.print_plain(screen, f"The {name} key:")
        _show_one(screen, policy)
