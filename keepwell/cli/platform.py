"""`keepwell platform`: which platforms are configured, and taking another one that runs here into the same place."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

# What platforms of one place share, unless a flag says otherwise; within a bucket, each has a folder of its name.
_SHARED = ("bucket", "second_bucket", "second_folder", "sealing", "notify", "orchestrator")

app = console.group("List the platforms that are configured, and add others that run here.")


@app.command("list")
@console.command("platform.list")
def list_platforms() -> Outcome:
    """List the platforms that are configured, each with its file and whether that loads."""
    from keepwell.settings import configuration_place, platform_files
    from keepwell.verdict import Verdict, worst

    place = configuration_place()
    rows = [_describe(path) for path in (platform_files(place) if place.is_dir() else [place])]
    if not rows or not any(row["file"].exists() for row in rows):
        raise ConfigurationError(f"No platform is configured in {place}.", hint="Write one with `keepwell init`.")
    verdict = worst([Verdict.ALERT if row["fault"] else Verdict.OK for row in rows])
    return Outcome(verdict, data={"place": place, "platforms": rows}, show=lambda screen: _show(screen, rows))


@app.command("add")
@console.command("platform.add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Short name of the platform.")],
    *,
    project: Annotated[
        str | None,
        typer.Option("--project", metavar="TEXT", help="Its compose project, or database container; NAME by default."),
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="NAME", help="Whose bucket, keys and messages; the first one's.")
    ] = None,
) -> Outcome:
    """Take another platform that runs here into the same place: its own file and secrets, the same bucket and keys."""
    from keepwell.cli.adoption import adopt
    from keepwell.settings import configuration_place

    place = configuration_place()
    if not place.is_dir():
        raise PreconditionFailed(
            f"{place} is one file, or is not there, so it describes one platform at most.",
            hint="KEEPWELL_CONFIG may name a folder of platform files: `keepwell init --directory` makes one.",
        )
    given = _read_shared(place, like) | {"name": name}
    return adopt(place, given, None, project=project or name, ask=False)


def _read_shared(place: Path, like: str | None) -> dict[str, Any]:
    """What is taken over, as `section.key`: names of secrets' files, never secrets."""
    from keepwell.itself.source import NAME
    from keepwell.settings import name_files, platform_files

    described = name_files(platform_files(place))
    # What Keepwell itself takes was another one's; it is shared only where somebody says so.
    for name, path in described.items():
        if name == like or (like is None and name != NAME):
            values = tomllib.loads(path.read_text())
            shared = {section: values.get(section, {}) for section in _SHARED}
            return {f"{section}.{key}": value for section, table in shared.items() for key, value in table.items()}
    raise ConfigurationError(
        f"No platform {like} is configured in {place}." if like else f"{place} holds no platform file.",
        hint="`keepwell platform list` shows those that are; `keepwell init --directory` makes the first.",
    )


def _describe(path: Path) -> dict[str, Any]:
    from keepwell.settings import load_platform_file

    try:
        platform = load_platform_file(path)
    except KeepwellError as error:
        return {"name": path.stem, "file": path, "database": "", "bucket": "", "fault": str(error)}
    database = f"{', '.join(platform.database.names)} in {platform.database.place}"
    return {
        "name": platform.name,
        "file": path,
        "database": database,
        "bucket": f"{platform.bucket.name}/{'/'.join(filter(None, (platform.bucket.prefix, platform.name)))}",
        "fault": "",
    }


def _show(screen: "Console", rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    made = console.table("platform", "database", "backup sets", "file")
    for row in rows:
        shown = (row["fault"], "") if row["fault"] else (row["database"], row["bucket"])
        made.add_row(*(Text(str(cell)) for cell in (row["name"], *shown, row["file"])))
    screen.print(made)
