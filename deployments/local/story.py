"""How a demonstration is told: chapters with their times, and the console run as an operator would."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.local.stack import StackOptions, plan_stack
from deployments.running.lifecycle import bring_up, take_down
from deployments.running.state import SUPERVISOR, StateFolder
from keepwell.settings import CONFIG_VARIABLE
from keepwell.verdict import Verdict

SCREEN = Console(highlight=False, soft_wrap=True)


def tell_story(
    state: StateFolder,
    tell: Callable[[], dict[str, Any] | None],
    *,
    is_good: Callable[[dict[str, Any]], bool],
    last_chapter: str,
) -> int:
    """Tell a story on a stack of its own, and end with one JSON object.

    Args:
        state: The stack's folder; emptied before, and after unless something went wrong.
        tell: The story; gives its summary, or None when it broke off and has said why.
        is_good: Whether a summary shows what it should.
        last_chapter: Title of the one in which everything is stopped.

    Returns:
        0 when it went as it should, else 1: then what the servers said is kept.

    Raises:
        KeepwellError: The story could not be told to its end; what the servers said is kept likewise.
    """
    began = time.monotonic()
    take_down(plan_stack(), state, purge=True)
    summary: dict[str, Any] | None = None
    try:
        summary = tell()
    finally:
        good = summary is not None and is_good(summary)
        with chapter(last_chapter):
            take_down(plan_stack(), state, purge=good)
        if not good:
            logs = state.log(SUPERVISOR).parent
            SCREEN.print(f"Something went wrong. Until the next demonstration, its logs are in {logs}", markup=False)
    if good:
        SCREEN.print(f"Done in {time.monotonic() - began:.0f} s. `make up` keeps a stack running for you to look at.")
    if summary is not None:
        sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if good else 1


@contextlib.contextmanager
def chapter(title: str) -> Iterator[None]:
    """A part of the story, with its time at the end."""
    began = time.monotonic()
    SCREEN.print(f"\n[bold]{title}[/bold]")
    yield
    SCREEN.print(f"[dim]({time.monotonic() - began:.1f} s)[/dim]")


def start_servers(state: StateFolder, options: StackOptions) -> bool:
    """Bring up a stack, each server with its address; False when that failed, which has been said then."""
    report = bring_up(plan_stack(options), state, progress=_tell_part)
    if report.verdict is not Verdict.OK:
        SCREEN.print(report.hint, markup=False)
    return report.verdict is Verdict.OK


def run_keepwell(state: StateFolder, *arguments: str) -> int:
    """Run the console as an operator would; its exit code."""
    return _run(state, arguments, stdout=None).returncode


def ask_keepwell(state: StateFolder, *arguments: str) -> tuple[int, str]:
    """Run the console for a program to read: its exit code, and what it printed."""
    ended = _run(state, arguments, stdout=subprocess.PIPE)
    return ended.returncode, ended.stdout


def _run(state: StateFolder, arguments: tuple[str, ...], stdout: int | None) -> "subprocess.CompletedProcess[str]":
    sys.stdout.flush()
    program = Path(sys.executable).with_name("keepwell")
    environment = os.environ | {CONFIG_VARIABLE: str(state.platform_file)}
    return subprocess.run([program, *arguments], env=environment, check=False, stdout=stdout, text=True)


def _tell_part(part: dict[str, Any]) -> None:
    if part["state"] in ("ready", "done") and part["kind"] == "server":
        SCREEN.print(f"  ✓ {part['name']:<24}{part['address']}", markup=False)
