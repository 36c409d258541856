"""What a stack costs the machine: memory that is its own, and processor time."""

import os
from pathlib import Path

from deployments.running.processes import find_by_variable
from deployments.running.state import MARKER_VARIABLE, SUPERVISOR, StateFolder

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def measure_memory_bytes(state: StateFolder) -> int:
    """Memory of all processes of a stack: pages that several share count once among them (PSS)."""
    return sum(_read_memory_bytes(pid) for pid in _pids(state))


def measure_processor_seconds(state: StateFolder) -> float:
    """Processor time that all processes of a stack have taken so far, with those that ended under them."""
    return sum(_read_processor_seconds(pid) for pid in _pids(state))


def _pids(state: StateFolder) -> set[int]:
    """The supervisor, what bears its mark, and all that they started: PostgreSQL's processes write over their mark."""
    found = {process.pid for process in find_by_variable(MARKER_VARIABLE, str(state.folder))}
    supervisor = state.recorded_processes().get(SUPERVISOR)
    if supervisor is not None:
        found.add(supervisor.pid)
    parents = {int(entry.name): _read_parent(entry) for entry in _PROC.glob("[0-9]*")}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _read_parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


def _read_memory_bytes(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    kilobytes = next((line.split()[1] for line in text.splitlines() if line.startswith("Pss:")), "0")
    return int(kilobytes) * 1024


def _read_processor_seconds(pid: int) -> float:
    try:
        # As in `processes.identify`: after the name in parentheses, user and system time are 11 to 14.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND
