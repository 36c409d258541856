"""Which stack is run: what supervisor and lifecycle must know of it, as a value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deployments.running.parts import Part
from deployments.running.restarts import WATCHED, Patience
from deployments.running.state import StateFolder

Options = Mapping[str, Any]
"""What a stack was asked for, as JSON has it; recorded in its status, so that others can plan the same parts."""


@dataclass(frozen=True)
class Plan:
    """One kind of stack with its options.

    Attributes:
        title: As sentences call it.
        program: Module that supervises it, run with the state folder and the options as JSON.
        options: Never a secret: they stand on the supervisor's command line.
        prepare: Chooses ports and writes what parts read; called when nothing of the stack runs.
        parts: All parts in an order in which they can be started, once `prepare` was called.
        places: Addresses and paths worth knowing, given the parts' addresses by their names.
        use: How to go on once everything serves.
        start_command: What starts it.
        status_command: What shows how far it is.
        patience: With parts that keep dying.
    """

    title: str
    program: str
    options: Options
    prepare: Callable[[StateFolder, Options], None]
    parts: Callable[[StateFolder, Options], list[Part]]
    places: Callable[[StateFolder, Mapping[str, str]], dict[str, str]]
    use: Callable[[StateFolder], str]
    start_command: str
    status_command: str
    patience: Patience = WATCHED

    def with_options(self, options: Options) -> "Plan":
        """The same stack, asked for otherwise."""
        return replace(self, options=options)

    def read_parts(self, state: StateFolder) -> list[Part]:
        """The parts of this stack in a state folder."""
        return self.parts(state, self.options)
