"""A run outlives its worker.

What a run prints goes to its worker by a pipe. Once that is broken, rich, which prints Prefect's log lines, ends the
process: a backup would die of its next line, most likely between its dump and its proof.
"""

from functools import partial

from rich.console import Console

from tasks.redaction import log_handlers


def outlive_worker() -> None:
    """From now on, a console that nobody reads any more falls silent; the server gets the log by a way of its own."""
    for handler in log_handlers():
        console = getattr(handler, "console", None)
        if isinstance(console, Console):
            console.on_broken_pipe = partial(_fall_silent, console)  # type: ignore[method-assign]


def _fall_silent(console: Console) -> None:
    console.quiet = True
