"""What every command of the console shares: one envelope, one way to fail, one look.

How a command is written:

    app = console.group("Make, list and prove backups.")

    @app.command("list")
    @console.command("backup.list")
    def list_backups(platform: console.PlatformName = None) -> Outcome:
        \"\"\"List the backup sets in the bucket.\"\"\"
        from keepwell.backup import catalogue            # heavy imports live inside, so that --help stays fast

        found = catalogue.read(console.load_platform(platform))
        return Outcome(found.verdict, data=found, hint="...", show=lambda screen: screen.print(render(found)))

`command` adds `--json` and `--debug`, prints the outcome (the envelope, or what `show` prints), turns errors into two
lines on stderr (or an envelope), and sets the exit code: 0 fine, 1 something is wrong, 2 could not tell. Results go to
stdout; progress (`say`, `working`) goes to stderr, so that `--json` prints one document and nothing else.
"""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from keepwell.errors import (
    CommandFailed,
    KeepwellError,
    PartialFailure,
    PreconditionFailed,
    ServiceUnavailable,
    Throttled,
)

if TYPE_CHECKING:
    # Imported late: `keepwell --help` pays neither for pydantic nor for rich's tables.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from keepwell.progress import Progress, Step
    from keepwell.settings import Platform
    from keepwell.verdict import Finding, Verdict

PlatformName = Annotated[
    str | None, typer.Option("--platform", help="Which platform, where several are configured.", metavar="NAME")
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

FINE, WRONG, COULD_NOT_TELL, INTERRUPTED = 0, 1, 2, 130

# A table that is piped on is cut to no terminal's width.
_PIPED_COLUMNS = 200
_REDRAWN_SECONDS = 0.1
_LOOKS = {"ok": "green", "warn": "yellow", "alert": "bold red", "unknown": "magenta", "not_applicable": "dim"}

P = ParamSpec("P")


@dataclass(frozen=True)
class Outcome:
    """What a command found or did.

    Attributes:
        verdict: Decides the exit code.
        data: Anything pydantic can turn into JSON: models, dataclasses, dicts, aware times, paths; never a secret.
        hint: What to do next; empty when nothing is to be done. Printed last, in text too.
        show: Prints the result for people; None prints nothing but the hint.
    """

    verdict: "Verdict"
    data: Any = None
    hint: str = ""
    show: "Callable[[Console], None] | None" = None


def group(help_text: str) -> typer.Typer:
    """A group of commands, set up like all of ours: no rich traceback, which would print local variables."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )


def command(name: str) -> Callable[[Callable[P, Outcome]], Callable[P, None]]:
    """Make a function that returns an `Outcome` a command of the console.

    Args:
        name: The command's words joined by dots, such as `backup.list`; the schema is `keepwell.<name>/1`.

    Returns:
        A decorator, to stand below `@app.command()`. It adds `--json` and `--debug`; a function that has a parameter
        `json_output` of its own is given its value. `typer.Exit` passes through.
    """

    def decorate(function: Callable[P, Outcome]) -> Callable[P, None]:
        own = inspect.signature(function)
        wants_json = "json_output" in own.parameters

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            debug = bool(kwargs.pop("debug", False))
            json_output = bool(kwargs.get("json_output") if wants_json else kwargs.pop("json_output", False))
            with failures_shown(name, json_output=json_output, debug=debug):
                outcome = function(*args, **kwargs)
                _print_outcome(name, outcome, json_output=json_output)
                raise typer.Exit(exit_code(outcome.verdict))

        added = {"debug": Debug} if wants_json else {"json_output": JsonOutput, "debug": Debug}
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values()]
        parameters += [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for option, annotation in added.items()
        ]
        signature = own.replace(parameters=parameters, return_annotation=None)
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


@contextmanager
def failures_shown(name: str, *, json_output: bool = False, debug: bool = False) -> Iterator[None]:
    """Turn an error into two lines on stderr, or into an envelope, and the right exit code; never a traceback unasked.

    Raises:
        typer.Exit: In place of the error.
    """
    try:
        yield
    except typer.Exit:
        raise
    except BrokenPipeError:
        # Whoever read us has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FINE) from None
    except KeyboardInterrupt:
        say("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except KeepwellError as error:
        could_not_tell = isinstance(error, ServiceUnavailable | Throttled)
        _print_failure(name, error, json_output=json_output, debug=debug, could_not_tell=could_not_tell)
        raise typer.Exit(COULD_NOT_TELL if could_not_tell else WRONG) from None
    except Exception as error:  # noqa: BLE001 - the last place that can turn a fault of ours into a clear message
        bug = KeepwellError(
            f"Keepwell itself failed: {type(error).__name__}: {error}",
            hint="Run it again with --debug and report what it prints.",
        )
        bug.__cause__ = error
        _print_failure(name, bug, json_output=json_output, debug=debug, could_not_tell=True)
        raise typer.Exit(COULD_NOT_TELL) from None


def exit_code(verdict: "Verdict") -> int:
    """0 fine (a warning too), 1 something is wrong, 2 could not tell."""
    return {"alert": WRONG, "unknown": COULD_NOT_TELL}.get(verdict.value, FINE)


def load_platform(name: str | None) -> "Platform":
    """The platform that `--platform` names, or the only one.

    Raises:
        ConfigurationError: As `keepwell.settings.load_platform`.
    """
    from keepwell.settings import load_platform as load

    return load(name)


def is_interactive() -> bool:
    """Whether there is somebody to ask: input, and the stream that questions go to, are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, without_terminal: str) -> bool:
    """Ask yes or no on the terminal; no by default.

    Args:
        question: One sentence without "[y/N]".
        without_terminal: What to do where nobody can be asked, for the hint, such as "Pass --approve 3f9a…".

    Raises:
        PreconditionFailed: There is no terminal to ask on.
    """
    if not is_interactive():
        raise PreconditionFailed("This needs a yes, and there is no terminal to ask on.", hint=without_terminal)
    return typer.confirm(question, default=False, err=True)


def stdout() -> "Console":
    """Where results go."""
    return _console(stderr=False)


def stderr() -> "Console":
    """Where progress, questions and errors go."""
    return _console(stderr=True)


def say(message: str) -> None:
    """One line of progress on stderr; never markup."""
    print_plain(stderr(), message)


def print_plain(screen: "Console", text: str) -> None:
    """Print text as it is: no markup, and no line of it broken, since it may be copied."""
    screen.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner while something takes time; one plain line where there is no terminal."""
    screen = stderr()
    if not screen.is_terminal:
        say(f"{message} ...")
        yield
        return
    with screen.status(f"{message} ..."):
        yield


@contextmanager
def progress_shown() -> "Iterator[Progress]":
    """What a procedure tells its steps to: a bar on a terminal; one line for each new stage elsewhere."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    screen = stderr()
    if not screen.is_terminal:
        told: set[str] = set()

        def tell(step: "Step") -> None:
            if step.stage not in told:
                told.add(step.stage)
                say(f"{step.stage} ...")

        yield tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bars:
        bar = bars.add_task("", total=None)
        shown, shown_at = "", 0.0

        def show(step: "Step") -> None:
            nonlocal shown, shown_at
            now = time.monotonic()
            if step.stage == shown and now - shown_at < _REDRAWN_SECONDS and step.done != step.total:
                return  # some tell of every few kilobytes
            shown, shown_at = step.stage, now
            bars.update(bar, description=step.stage, completed=step.done, total=step.total or None, refresh=True)

        yield show


def table(*columns: str, title: str | None = None) -> "Table":
    """An empty table in our look; add rows of `str` or `Text` (`str` is markup: escape what others wrote)."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def styled(verdict: "Verdict | str") -> "Text":
    """A verdict's word in its colour."""
    from rich.text import Text

    word = str(verdict)
    return Text(word.replace("_", " "), style=_LOOKS.get(word, ""))


def findings_table(findings: "Iterable[Finding]", *, title: str | None = None) -> "Table":
    """Findings as a table: verdict, name, message and beneath it the hint."""
    from rich.text import Text

    made = table("verdict", "check", "found", title=title)
    for finding in findings:
        found = Text(finding.message)
        if finding.hint:
            found.append(f"\n→ {finding.hint}", style="cyan")
        made.add_row(styled(finding.verdict), Text(finding.name), found)
    return made


def print_envelope(name: str, verdict: "Verdict | str", data: Any, hint: str = "") -> None:
    """Print the one JSON document of a command on stdout."""
    from pydantic_core import to_jsonable_python

    envelope = {"schema": f"keepwell.{name}/1", "verdict": str(verdict), "data": data, "hint": hint}
    sys.stdout.write(json.dumps(to_jsonable_python(envelope), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _print_outcome(name: str, outcome: Outcome, *, json_output: bool) -> None:
    if json_output:
        print_envelope(name, outcome.verdict, outcome.data, outcome.hint)
        return
    screen = stdout()
    if outcome.show is not None:
        outcome.show(screen)
    if outcome.hint:
        print_plain(screen, outcome.hint)


def _print_failure(name: str, error: KeepwellError, *, json_output: bool, debug: bool, could_not_tell: bool) -> None:
    if debug:
        traceback.print_exception(error)
    if json_output:
        print_envelope(name, "unknown" if could_not_tell else "alert", _describe(error), error.hint)
        return
    say(f"keepwell: {error.message}")
    if error.hint:
        say(f"   hint: {error.hint}")


def _describe(error: KeepwellError) -> dict[str, Any]:
    details: dict[str, Any] = {"error": type(error).__name__, "message": error.message}
    if isinstance(error, CommandFailed):
        details["exit_code"] = error.exit_code
    if isinstance(error, PartialFailure):
        details["outcomes"] = error.outcomes
    return details


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPED_COLUMNS
    return Console(file=stream, width=width, soft_wrap=False, highlight=False)
