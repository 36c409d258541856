"""`keepwell self`: Keepwell's own database and configuration as one more platform, and taken over on a new machine."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, Which, choose, tell_waiting
from keepwell.destination import Destination
from keepwell.errors import PreconditionFailed, ServiceUnavailable

if TYPE_CHECKING:
    from keepwell.settings import DatabaseSettings, Platform

app = console.group("Back up Keepwell itself, and take that over on a new machine.")

_LIKE = typer.Option(
    "--like", metavar="NAME", help="Platform whose bucket, keys, rules and channels it takes; the only one by default."
)
_ANSWER_SECONDS = 120
_ANSWER_POLL_SECONDS = 1.0


@app.command("add")
@console.command("self.add")
def add(
    *,
    like: Annotated[str | None, _LIKE] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace its platform file.")] = False,
) -> Outcome:
    """Describe Keepwell itself as one more platform: the served Prefect database, and the folder of platform files.

    Makes a role in that database that reads and can do nothing more, and writes itself.toml beside the other platform
    files. Secrets are not part of its sets: they stay in their files.
    """
    from keepwell.itself.source import NAME, ROLE, describe_itself, drafted, ensure_role, find_own_database
    from keepwell.verdict import Verdict

    folder = _require_folder()
    place = folder / f"{NAME}.toml"
    if place.exists() and not force:
        raise PreconditionFailed(f"{place} is there already.", hint="Pass --force to write it anew.")
    pattern = _load_like(like)
    own = find_own_database()
    password_file = ensure_role(own)
    with drafted(describe_itself(pattern, own, password_file, folder), pattern.name, place) as draft:
        draft.replace(place)
    said = (
        f"Wrote {place}. The role {ROLE} reads the database {own.name} on port {own.port}, and can do nothing more.\n"
        f"Next: keepwell serve reload, then keepwell backup create --platform {NAME}"
    )
    return Outcome(Verdict.OK, data={"platform": NAME, "path": place, "role": ROLE, "like": pattern.name}, hint=said)


@app.command("remove")
@console.command("self.remove")
def remove() -> Outcome:
    """Undo `add`: its platform file and its role go; the sets in the bucket stay."""
    from keepwell.itself.source import NAME, drop_role, find_own_database
    from keepwell.verdict import Verdict

    place = _require_folder() / f"{NAME}.toml"
    dropped = drop_role(find_own_database())
    had_file = place.exists()
    place.unlink(missing_ok=True)
    did = f"Removed {place} and the role." if had_file or dropped else "There was nothing to remove."
    return Outcome(
        Verdict.OK,
        data={"path": place, "file_removed": had_file, "role_dropped": dropped},
        hint=f"{did} Its sets are still in the bucket. Next: keepwell serve reload",
    )


@app.command("restore")
@console.command("self.restore")
def restore(
    which: Which = "newest-proven",
    *,
    destination: In = Destination.FIRST,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="NAME", help="Which platform Keepwell itself is here.")
    ] = "itself",
) -> Outcome:
    """Restore the orchestrator's database out of a set, and let the served one use it; what it used before is kept.

    The set is restored and compared beside the served database first. Then the two change names, and runs that had not
    ended when the set was made are told to be crashed.
    """
    from keepwell.itself.source import find_own_database
    from keepwell.itself.taking_over import TakenOver, exchange
    from keepwell.verdict import Verdict

    own = find_own_database()
    settings = console.load_platform(platform)
    stamp = f"{datetime.now(UTC):%Y%m%d_%H%M%S}"
    restored, before = f"{own.name}_restored_{stamp}", f"{own.name}_before_{stamp}"
    backup_id, rows = _restore_beside(settings, own, which, destination, restored)
    exchange(own, restored, before)
    taken = TakenOver(own.name, before, _end_lost_runs(settings, datetime.now(UTC)))
    ended = f"Runs that had not ended when it was made, and are marked as crashed: {taken.ended_runs}."
    if taken.ended_runs is None:
        ended = "The server does not answer; cancel runs that nobody runs any more in its pages."
    return Outcome(
        Verdict.WARN if taken.ended_runs is None else Verdict.OK,
        data={"backup_id": backup_id, "rows": rows, "taken_over": taken},
        hint=f"The orchestrator uses the database of {backup_id} now, {rows:,} rows. {ended}\n"
        f"What it used before is kept beside it: {before}. Next: keepwell serve stop, then keepwell serve --detach",
    )


def _restore_beside(
    settings: "Platform", own: "DatabaseSettings", which: str, destination: Destination, name: str
) -> tuple[str, int]:
    """The set's id and its rows, restored and compared under a name of its own."""
    from keepwell.backup.restore import restore_into
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination

    # Its own role reads only; whoever restores gives everything to its owners.
    mighty = settings.model_copy(update={"database": own})
    store = open_destination(mighty, destination)
    backup_id = choose(mighty, store, which)
    with console.progress_shown() as progress, hold_platform(mighty, store, Procedure.RESTORE, on_wait=tell_waiting):
        return backup_id, restore_into(mighty, store, backup_id, name, progress).rows


def _end_lost_runs(settings: "Platform", before: datetime) -> int | None:
    """Once the server, which lost its sessions, answers again; None where it does not."""
    from keepwell.itself.taking_over import end_lost_runs
    from keepwell.orchestrator import connect

    client = connect(settings.orchestrator)
    if client is None:
        return None
    deadline = time.monotonic() + _ANSWER_SECONDS
    with client:
        while True:
            try:
                return end_lost_runs(client, before)
            except ServiceUnavailable:
                if time.monotonic() > deadline:
                    return None
                time.sleep(_ANSWER_POLL_SECONDS)


def _load_like(name: str | None) -> "Platform":
    """The platform that is named, or the only one beside Keepwell itself."""
    from keepwell.errors import ConfigurationError
    from keepwell.itself.source import NAME
    from keepwell.settings import read_platform_names

    others = [name] if name is not None else [found for found in read_platform_names() if found != NAME]
    if len(others) != 1:
        raise ConfigurationError("There are several platforms.", hint=f"Name one with --like: {', '.join(others)}.")
    return console.load_platform(others[0])


def _require_folder() -> Path:
    """The folder of the platform files."""
    from keepwell.settings import CONFIG_VARIABLE, configuration_place

    place = configuration_place().absolute()
    if not place.is_dir():
        raise PreconditionFailed(
            f"{place} is one platform file, and Keepwell itself would be a second one.",
            hint=f"Put it into a folder of its own, and let {CONFIG_VARIABLE} name that folder.",
        )
    return place
