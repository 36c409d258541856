"""What a stack consists of, as values, and the pure rules for starting and stopping it in order."""

import signal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from keepwell.command import Command
from keepwell.errors import ConfigurationError

Probe = Callable[[float], bool]
"""Whether a part serves now, given a time (seconds since 1970): what is older says nothing, such as a heartbeat of the
process before."""


@dataclass(frozen=True)
class Part:
    """One server of the stack, or one step that must be done before others can start.

    Attributes:
        name: Shown to the user, and the name of its log.
        build: Makes its command; called at every start, so it may write the configuration it needs.
        ready: Asked until it says yes; None marks a step, which is done when its program ends with 0.
        needs: Parts that must be ready, or done, before it is started.
        after: Parts that must have been tried before it is started, however that went.
        address: Where users reach it; empty when nobody does.
        stop_signal: Its polite way to stop.
        death_signal: What the kernel sends it when the supervisor dies.
        grace_seconds: From the polite signal to SIGKILL.
        start_limit_seconds: From its start until it must be ready, or done.
        check_seconds: How often it is asked again once it is ready; 0 for never.
        again_on_reload: For a step: done again when the stack is told to reload.
    """

    name: str
    build: Callable[[], Command]
    ready: Probe | None = None
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    address: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 5
    start_limit_seconds: float = 300
    check_seconds: float = 0
    again_on_reload: bool = False

    @property
    def is_step(self) -> bool:
        """Whether it runs once to its end rather than serving."""
        return self.ready is None

    @property
    def follows(self) -> tuple[str, ...]:
        """Every part that comes before it."""
        return (*self.needs, *self.after)


def leave_out(parts: Sequence[Part], unwanted: Collection[str]) -> list[Part]:
    """The parts without some of them, and without whatever needs those.

    Raises:
        ConfigurationError: There is no part of such a name.
    """
    unknown = set(unwanted) - {part.name for part in parts}
    if unknown:
        raise ConfigurationError(
            f"The stack has no part {', '.join(sorted(unknown))}.",
            hint=f"Its parts are: {', '.join(part.name for part in parts)}.",
        )
    gone = set(unwanted)
    for part in in_start_order(parts):
        if gone.intersection(part.follows):
            gone.add(part.name)
    return [part for part in parts if part.name not in gone]


def in_start_order(parts: Sequence[Part]) -> list[Part]:
    """All parts, each after everything it needs; otherwise in the given order.

    Raises:
        ConfigurationError: They need one another in a circle, or one needs a part that does not exist.
    """
    by_name = {part.name: part for part in parts}
    for part in parts:
        for need in part.follows:
            if need not in by_name:
                raise ConfigurationError(f"The part {part.name} needs {need}, which does not exist.")
    try:
        order = TopologicalSorter({part.name: part.follows for part in parts}).static_order()
        return [by_name[name] for name in order]
    except CycleError as error:
        raise ConfigurationError(f"Parts need one another in a circle: {' → '.join(error.args[1])}.") from error


def startable(
    parts: Iterable[Part], started: Collection[str], ready: Collection[str], failed: Collection[str] = ()
) -> list[Part]:
    """Which parts may be started now: not yet started, everything they need is ready, and what they wait for was tried.

    Args:
        parts: All of them.
        started: Names of those that were started.
        ready: Names of those that serve, or are done.
        failed: Names of those that were tried and failed, for now or for good.
    """
    tried = {*ready, *failed}
    return [
        part
        for part in parts
        if part.name not in started and set(part.needs) <= set(ready) and set(part.after) <= tried
    ]


def stoppable(parts: Iterable[Part], running: Collection[str]) -> list[Part]:
    """Which running parts nobody running needs any more, directly or through others."""
    parts = list(parts)
    reach = _reach({part.name: part.follows for part in parts})
    needed = {need for part in parts if part.name in running for need in reach[part.name]}
    return [part for part in parts if part.name in running and part.name not in needed]


def _reach(needs: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Everything each part needs, through steps too, which do not run any more when it counts."""
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(needs).static_order():
        reach[name] = set(needs.get(name, ())).union(*(reach[need] for need in needs.get(name, ())))
    return reach


def with_environment(part: Part, environment: Mapping[str, str]) -> Part:
    """The same part whose command gets some more variables."""

    def build() -> Command:
        command = part.build()
        return replace(command, environment={**command.environment, **environment})

    return replace(part, build=build)
