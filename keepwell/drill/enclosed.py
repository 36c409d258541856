"""Started in a network of its own that holds nothing but loopback: runs an application in there, and asks it for pages.

python -m keepwell.drill.enclosed CASE.json

The asker is in there too, since nobody gets in from outside. Applications that know no sockets in the file system find
database and cache on loopback ports, which lead to the sockets of the scratch servers and nowhere else.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from keepwell import command
from keepwell.command import Command
from keepwell.errors import KeepwellError
from keepwell.settings import SmokePath
from keepwell.smoke import ask_application

HOST = "127.0.0.1"
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
_CHUNK_BYTES = 64 * 1024
_POLL_SECONDS = 0.2


class Case(BaseModel):
    """What is run in there.

    Attributes:
        argv: The application's call.
        environment: Its variables, secrets of the restored copy included; the file is private.
        folder: Where it is started.
        log: File that gets what it says.
        port: Where it answers.
        paths: Pages to ask for.
        wait_seconds: For all of them.
        relays: Loopback port to the socket that it leads to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    argv: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    log: Path
    port: int
    paths: tuple[SmokePath, ...]
    wait_seconds: float
    relays: dict[int, Path]


class Told(BaseModel):
    """What came of it: page to what is wrong with its answer, and how the application ended, if it did."""

    faults: dict[str, str]
    exit_code: int | None


def run_enclosed(case: Case) -> Told:
    """Run the application and ask it; whoever calls this is in a network of its own.

    Raises:
        KeepwellError: The network holds more than loopback, or the application cannot be started.
    """
    require_enclosed()
    raise_loopback()
    with ExitStack() as stack:
        for port, path in case.relays.items():
            stack.enter_context(_listening(port, path))
        log = stack.enter_context(case.log.open("wb"))
        process = command.start(Command(case.argv, case.environment), stdout=log, stderr=log, cwd=case.folder)
        try:
            deadline = time.monotonic() + case.wait_seconds
            _await_listening(process, case.port, deadline)
            faults = {one.path: _ask(process, case, one, deadline) for one in case.paths}
            return Told(faults=faults, exit_code=process.poll())
        finally:
            command.stop(process)


def _await_listening(process: "subprocess.Popen[bytes]", port: int, deadline: float) -> None:
    """Wait until somebody answers at the port, the application ended, or the time is over."""
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            socket.create_connection((HOST, port), timeout=_POLL_SECONDS).close()
            return
        time.sleep(_POLL_SECONDS)


def _ask(process: "subprocess.Popen[bytes]", case: Case, path: SmokePath, deadline: float) -> str:
    """What is wrong with one page; all of them together have the time that the case gives."""
    has_ended, left_seconds = process.poll() is not None, max(deadline - time.monotonic(), 0)
    # One that has ended is asked once, to say what is wrong in the same words; so is the first page, however late.
    if not (left_seconds or has_ended or path is case.paths[0]):
        return "was not asked, since the time was over"
    wait_seconds = 0 if has_ended else left_seconds
    return ask_application(f"http://{HOST}:{case.port}", (path,), wait_seconds=wait_seconds)[0].fault


def require_enclosed() -> None:
    """Stop before anything is started where a way leads out.

    Raises:
        KeepwellError: There is more than loopback.
    """
    names = {name for _, name in socket.if_nameindex()}
    if names != {"lo"}:
        raise KeepwellError(
            "This network holds more than loopback, so the application could reach somebody.",
            hint="It is started by a drill alone.",
        )


def raise_loopback() -> None:
    """Switch the network's one interface on; a new network has it off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        request = struct.pack("16sh14x", b"lo", 0)
        flags: int = struct.unpack("16sh14x", fcntl.ioctl(asker, _GET_FLAGS, request))[1]
        fcntl.ioctl(asker, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _listening(port: int, path: Path) -> socket.socket:
    """A loopback port that leads to a socket in the file system."""
    listener = socket.create_server((HOST, port))

    def accept() -> None:
        with suppress(OSError):  # closed: the drill is over
            while True:
                caller, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(path))
                except OSError:
                    caller.close()
                    continue
                _start(lambda one=caller, other=server: _carry(one, other))  # type: ignore[misc]
                _start(lambda one=server, other=caller: _carry(one, other))  # type: ignore[misc]

    _start(accept)
    return listener


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other until the one ends."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def main() -> int:
    """Entry point."""
    try:
        told = run_enclosed(Case.model_validate_json(Path(sys.argv[1]).read_bytes()))
    except KeepwellError as error:
        print(json.dumps({"error": error.message}))  # noqa: T201 - read by whoever started us
        return 1
    print(told.model_dump_json())  # noqa: T201 - likewise
    return 0


if __name__ == "__main__":
    sys.exit(main())
