"""Which processes are ours, and ending them: by pid, and only while that pid is really the process we started."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, named so that another that later gets its pid is never taken for it.

    Attributes:
        pid: Process id.
        start_ticks: When the kernel started it, in clock ticks since this boot.
        boot_id: Which boot of the machine that was.
    """

    pid: int
    start_ticks: int
    boot_id: str

    def as_document(self) -> dict[str, Any]:
        """For a record in a file; `from_document` reads it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> "ProcessIdentity | None":
        """What a record says, or None when it says nothing usable, as a half-written one."""
        try:
            return cls(int(document["pid"]), int(document["start_ticks"]), str(document["boot_id"]))
        except (KeyError, TypeError, ValueError):
            return None


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has this pid now; None when there is none, or it has ended and awaits its parent."""
    try:
        # The name in parentheses may hold anything; after it come state (0) and, 19 on, the start time.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessIdentity(pid, int(fields[19]), boot_id)


def is_alive(process: ProcessIdentity, look_up: Callable[[int], ProcessIdentity | None] = identify) -> bool:
    """Whether the very process that was recorded still runs."""
    return look_up(process.pid) == process


def end(processes: Iterable[ProcessIdentity], *, polite: signal.Signals, grace_seconds: float) -> None:
    """End processes that are not our children: politely, then by force; those that ended already are left alone."""
    remaining = [process for process in processes if is_alive(process)]
    for process in remaining:
        _send(process, polite)
    remaining = _wait(remaining, grace_seconds)
    for process in remaining:
        _send(process, signal.SIGKILL)
    _wait(remaining, grace_seconds)


def _send(process: ProcessIdentity, number: signal.Signals) -> None:
    if is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _wait(processes: list[ProcessIdentity], limit_seconds: float) -> list[ProcessIdentity]:
    deadline = time.monotonic() + limit_seconds
    remaining = [process for process in processes if is_alive(process)]
    while remaining and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        remaining = [process for process in remaining if is_alive(process)]
    return remaining


def find_by_variable(name: str, value: str) -> Iterator[ProcessIdentity]:
    """Processes whose environment holds exactly this variable: what a part of ours left behind."""
    wanted = os.fsencode(f"{name}={value}")
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                process = identify(int(entry.name))
                if process is not None:
                    yield process
