"""`keepwell pause` and `keepwell resume`: for a while nothing starts by itself."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.orchestrator import Orchestrator
    from keepwell.pausing import Switched

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@console.command("pause")
def pause(
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="When it ends by itself: 2026-12-01T06:00 or 06:00, in UTC or with +01:00; or 90m, 3h, 2d from now.",
        ),
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Let nothing start by itself for a while: of one platform, or of all.

    Runs that have begun go on, and `keepwell run` still starts one. The hourly check goes on and says until when it is.
    Undo it with `keepwell resume`.
    """
    from keepwell import pausing

    now = datetime.now(UTC)
    end = None if until is None else read_time(until, now)
    done = _for_each(platform, lambda client, name: pausing.pause(client, name, until=end, now=now))
    hint = "Undo it: keepwell resume" + (f" --platform {platform}" if platform else "")
    return _outcome(done, hint, "paused")


@console.command("resume")
def resume(platform: console.PlatformName = None) -> Outcome:
    """End a pause: of one platform, or of all.

    What was switched off before the pause stays off.
    """
    from keepwell import pausing

    now = datetime.now(UTC)
    done = _for_each(platform, lambda client, name: pausing.resume(client, name, now=now))
    hint = "See what runs when: keepwell schedules" + (f" --platform {platform}" if platform else "")
    return _outcome(done, hint, "resumed")


def read_time(text: str, now: datetime, *, option: str = "--until") -> datetime:
    """A time to come, in UTC: a date and time, a time of the day, or so long from now.

    Args:
        text: As typed; without an offset it is UTC.
        now: Aware.
        option: By which it was given, for the message.

    Raises:
        ConfigurationError: It is none of these, or it is past.
    """
    span = re.fullmatch(r"(\d{1,6})([mhd])", text.strip())
    at = now + int(span[1]) * _UNITS[span[2]] if span else read_moment(text.strip(), now)
    if at <= now:
        raise ConfigurationError(f"{option} {text} is past: it is {now:%Y-%m-%d %H:%M} UTC.", hint="Name a later time.")
    return at


def read_moment(text: str, now: datetime, *, past: bool = False) -> datetime:
    """A date and time, or a time of the day: the next of now, or the last.

    Args:
        text: As typed; without an offset it is UTC.
        now: Aware.
        past: Whether a time of the day is the last one before now.

    Raises:
        ConfigurationError: It is no time.
    """
    only_time = re.match(r"\d\d:\d\d", text) is not None
    try:
        said = datetime.fromisoformat(f"{now:%Y-%m-%d}T{text}" if only_time else text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no time.",
            hint="Such as 2026-12-01T06:00 or 06:00; UTC."
            if past
            else "Such as 2026-12-01T06:00, 06:00, 90m, 3h or 2d; UTC.",
        ) from None
    at = (said if said.tzinfo else said.replace(tzinfo=UTC)).astimezone(UTC)
    if not only_time:
        return at
    if past:
        return at - timedelta(days=1) if at > now else at
    return at + timedelta(days=1) if at <= now else at


def _for_each(platform: str | None, act: "Callable[[Orchestrator, str], Switched]") -> "list[Switched]":
    from keepwell import orchestrator
    from keepwell.settings import read_platform_names

    done = []
    for name in [platform] if platform else read_platform_names():
        client = orchestrator.connect(console.load_platform(name).orchestrator)
        if client is None:
            raise ConfigurationError(
                "No Prefect server is configured, so nothing starts by itself.",
                hint="orchestrator.api_url or PREFECT_API_URL names one.",
            )
        with client:
            done.append(act(client, name))
            console.say(f"{name}: done, and read back.")
    return done


def _outcome(done: "Sequence[Switched]", hint: str, word: str) -> Outcome:
    from keepwell.verdict import Verdict

    return Outcome(Verdict.OK, data={"platforms": done}, hint=hint, show=lambda screen: _show(screen, done, word))


def _show(screen: "Console", done: "Sequence[Switched]", word: str) -> None:
    for one in done:
        screen.print(_describe(one, word), markup=False)
        for name in one.switched:
            screen.print(f"  {word}     {name}", markup=False)
        for name in one.still_off:
            screen.print(f"  stays off  {name}", markup=False)
        for run in one.at_work:
            screen.print(f"  goes on    {run}", markup=False)


def _describe(one: "Switched", word: str) -> str:
    if one.since is None:
        return f"{one.platform} was not paused."
    if word == "resumed":
        return f"{one.platform} is resumed; it was paused since {one.since:%Y-%m-%d %H:%M} UTC."
    end = f"until {one.until:%Y-%m-%d %H:%M} UTC" if one.until else "until it is resumed"
    return f"{one.platform} is paused {end}."
