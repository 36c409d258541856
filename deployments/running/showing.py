"""How a stack's commands answer: a table for people, one JSON object for programs, and the exit code for both."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from deployments.running.lifecycle import StackReport
from deployments.running.plan import Plan
from deployments.running.supervised import PartState
from keepwell.errors import KeepwellError
from keepwell.verdict import Verdict

_EXIT_CODES = {Verdict.OK: 0, Verdict.UNKNOWN: 2}
_MARKS = {
    PartState.READY: "[green]✓[/green]",
    PartState.DONE: "[green]✓[/green]",
    PartState.FAILED: "[red]✗[/red]",
    PartState.BACKING_OFF: "[yellow]↻[/yellow]",
}


@dataclass(frozen=True)
class Showing:
    """The words of one kind of stack.

    Attributes:
        schema: Of the JSON object.
        labels: What people are told of its places, by their keys in the report.
        screen: Where people read.
    """

    schema: str
    labels: Mapping[str, str]
    screen: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def answer(self, plan: Plan, report: StackReport, *, as_json: bool = False) -> NoReturn:
        """Print how a stack stands, and end with the exit code that says the same.

        Raises:
            typer.Exit: Always.
        """
        if as_json:
            self.print_envelope(report)
        else:
            self._show(plan, report)
        raise typer.Exit(_EXIT_CODES.get(report.verdict, 1))

    def fail(self, error: KeepwellError) -> NoReturn:
        """Say what went wrong in one sentence with a hint, and end with 1."""
        if "--json" in sys.argv:
            self.print_envelope(StackReport(Verdict.ALERT, {"message": error.message}, error.hint))
        else:
            self.screen.print(f"{error.message}\n{error.hint}", style="red", markup=False)
        sys.exit(1)

    def show_progress(self, part: dict[str, Any]) -> None:
        """One line for a part whose state changed."""
        mark = _MARKS.get(part["state"])
        if mark is None:
            return
        seconds = f"{part['start_seconds']:5.1f} s" if part["start_seconds"] is not None else " " * 7
        self.screen.print(f"{mark} {part['name']:<30} {seconds}  {part['detail'] or part['address']}")

    def print_envelope(self, report: StackReport) -> None:
        """One JSON object on standard output."""
        envelope = {"schema": self.schema, "verdict": report.verdict.value, "data": report.data, "hint": report.hint}
        sys.stdout.write(json.dumps(envelope) + "\n")

    def _show(self, plan: Plan, report: StackReport) -> None:
        if report.data.get("parts"):
            self.screen.print(_as_table(report.data))
        for key, label in self.labels.items():
            if key in report.data:
                self.screen.print(f"{label:<16}{report.data[key]}")
        if report.data.get("running") is False:
            self.screen.print(f"The {plan.title} is not running.")
        elif report.verdict is Verdict.OK and report.data["start_seconds"] is not None:
            self.screen.print(f"The {plan.title} serves; its start took {report.data['start_seconds']} s.")
        if report.hint:
            self.screen.print(report.hint)


def _as_table(data: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "pid", "restarts", "address"):
        table.add_column(heading, overflow="fold")
    for part in data["parts"]:
        if part["kind"] == "server" or part["state"] != PartState.DONE:
            pid = str(part["pid"] or "")
            table.add_row(part["name"], part["state"], pid, str(part["restarts"] or ""), part["address"])
    return table
