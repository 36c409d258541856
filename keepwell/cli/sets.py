"""How an operator names backup sets, and how the console speaks of them: what several of its commands share."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.destination import Destination

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.settings import Platform

Which = Annotated[str, typer.Argument(help="A backup's id, `newest`, `newest-proven` or `random-older`.", metavar="ID")]
In = Annotated[
    Destination, typer.Option("--destination", help="Which place: the bucket, or the second destination beside it.")
]


def choose(settings: "Platform", store: Any, which: str) -> str:
    """The id that the operator means; an id itself needs no catalogue."""
    import random

    from keepwell.backup.catalogue import choose_backup, read_catalogue
    from keepwell.backup.manifest import is_backup_id

    if is_backup_id(which):
        return which
    return choose_backup(
        read_catalogue(store), which, proven_level=settings.backup.proven_level, dice=random.SystemRandom()
    )


def tell_waiting(holder: Any) -> None:
    """Say who is in the way."""
    console.say(f"Waiting: {holder.procedure.named} is at work on this platform.")


def show_expiring(screen: "Console", expiring: dict[str, int]) -> None:
    """Say which sets are gone but for some objects."""
    for backup_id, objects in expiring.items():
        screen.print(f"{backup_id} is being removed: {objects} objects are still there", markup=False)


def size(size_bytes: int) -> str:
    """A size in the largest unit below it."""
    from keepwell.quantities import describe_bytes

    return describe_bytes(size_bytes)
