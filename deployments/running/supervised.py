"""One part and what became of it so far."""

import subprocess
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deployments.running.parts import Part
from deployments.running.state import StateFolder

# A heartbeat older than this is no sign of life; workers beat each half minute.
_LIFE_SECONDS = 150.0
# One silence may be a busy machine.
_MOST_SILENCES = 3


class PartState(StrEnum):
    """How a part stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    BACKING_OFF = "backing off"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Supervised:
    """A part in a supervisor's hands. Times are seconds since 1970."""

    part: Part
    state: PartState = PartState.WAITING
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    started_at: float = 0
    ready_at: float = 0
    next_start_at: float = 0
    next_check_at: float = 0
    kill_at: float = 0
    silences: int = 0
    quick_failures: int = 0
    starts: int = 0
    restarts: int = 0
    detail: str = ""

    def as_document(self, state: StateFolder) -> dict[str, Any]:
        """As the status names it."""
        return {
            "name": self.part.name,
            "kind": "step" if self.part.is_step else "server",
            "state": self.state.value,
            "pid": self.process.pid if self.process is not None else None,
            "address": self.part.address,
            "starts": self.starts,
            "restarts": self.restarts,
            "start_seconds": round(self.ready_at - self.started_at, 2) if self.ready_at else None,
            "detail": self.detail,
            "log": str(state.log(self.part.name)),
        }

    def note_start(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        """It has a process, and is not ready yet."""
        self.process, self.state = process, PartState.STARTING
        self.started_at, self.ready_at, self.kill_at, self.silences, self.detail = now, 0, 0, 0, ""
        self.starts += 1

    def note_ready(self, now: float) -> None:
        """It serves."""
        self.state, self.ready_at, self.detail = PartState.READY, now, ""
        self.next_check_at = now + self.part.check_seconds

    def is_due_for_check(self, now: float) -> bool:
        """Whether it is time to ask it again."""
        return bool(self.state is PartState.READY and self.part.check_seconds and now >= self.next_check_at)

    def is_silent(self, now: float) -> bool:
        """Ask it again, and tell whether it was silent too often to be waited for any longer."""
        self.next_check_at = now + self.part.check_seconds
        answers = self.part.ready is None or self.part.ready(max(self.started_at, now - _LIFE_SECONDS))
        self.silences = 0 if answers else self.silences + 1
        return self.silences >= _MOST_SILENCES

    def again(self) -> None:
        """Let it be started anew, as if nothing had been."""
        self.state, self.quick_failures = PartState.WAITING, 0
