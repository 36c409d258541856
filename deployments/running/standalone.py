"""One server of the stack by itself: for tests that kill it and start it again."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deployments.running.parts import Part
from keepwell import command
from keepwell.errors import ServiceUnavailable

_POLL_SECONDS = 0.03
_LOG_TAIL_CHARACTERS = 2_000


@dataclass
class RunningServer:
    """A server of our own that serves now.

    Attributes:
        process: Kill it to see what happens; `stop` it when done. It dies with the thread that started it.
        log: What it says.
    """

    part: Part
    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """End it politely; harmless when it has ended."""
        command.stop(self.process, polite=self.part.stop_signal, grace_seconds=self.part.grace_seconds)


def start_server(part: Part, folder: Path) -> RunningServer:
    """Start a part in a folder and wait until it serves.

    Raises:
        ServiceUnavailable: It ended, or does not serve in time; the message holds the end of its log.
    """
    log = folder / f"{part.name}.log"
    started_at = time.time()
    with log.open("ab") as stream:
        process = command.start(part.build(), stdout=stream, stderr=stream, cwd=folder, death_signal=part.death_signal)
    server = RunningServer(part, process, log)
    while part.ready is not None and not part.ready(started_at):
        if process.poll() is not None or time.time() > started_at + part.start_limit_seconds:
            server.stop()
            said = log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip()
            raise ServiceUnavailable(f"The server {part.name} did not start: {said}", hint=f"Read {log}.")
        time.sleep(_POLL_SECONDS)
    return server
