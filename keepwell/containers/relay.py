"""Connections into a container without a network: a socket here, and for each of its connections a program in there.

What relays in the container is whatever the image has of its own: nothing is copied into it, and nothing is changed.
The program ends with its connection, however we end: the engine closes its input then.

It is one process and has no child. An orphan would fall to process 1 of the container, which is often the server
itself; and PostgreSQL takes the death of any child by a signal for a crash of its own, and starts all sessions anew.
"""

import atexit
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from docker.utils.socket import STDOUT, frames_iter
from requests.exceptions import RequestException

from keepwell.containers.engine import find_container, open_engine
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.locked_folder import locked_folder, sweep_locked_folders

_PREFIX = "keepwell-relay-"
# The name that PostgreSQL's clients look for in a folder; others take it as it is.
_SOCKET_NAME = ".s.PGSQL.{port}"
_PIECE_BYTES = 256 * 1024
# Nothing but relaying bytes is done in there.
_NOBODY = "65534:65534"
# Named without a port it says what would relay. Shells cannot: they would need a process for each direction.
_RELAY = r"""
for tool in socat nc perl; do command -v "$tool" > /dev/null 2>&1 && break; tool=; done
if [ -z "$1" ]; then echo "$tool"; exit; fi
case "$tool" in
  socat) exec socat - "TCP:127.0.0.1:$1" ;;
  nc) exec nc 127.0.0.1 "$1" ;;
  perl) exec perl -MIO::Socket::INET -MIO::Select -e '
    $server = IO::Socket::INET->new("127.0.0.1:$ARGV[0]") or exit 1;
    $readable = IO::Select->new($server, \*STDIN);
    while (1) {
      for $from ($readable->can_read) {
        if (!sysread($from, $piece, 262144)) {
          exit 0 if $from == $server;
          $readable->remove(\*STDIN);
          shutdown($server, 1);
          next;
        }
        $to = $from == $server ? \*STDOUT : $server;
        for ($done = 0; $done < length $piece; $done += $written) {
          $written = syswrite($to, $piece, length($piece) - $done, $done);
          exit 0 unless defined $written;
        }
      }
    }' "$1" ;;
esac
exit 1
"""


@dataclass(frozen=True)
class Target:
    """What a relay leads to.

    Attributes:
        address: Of the engine.
        container: Name of the container, or of a compose service; looked for anew at each connection.
        project: Compose project of that service, or None.
        port: In the container.
    """

    address: str
    container: str
    project: str | None
    port: int


_lock = threading.Lock()
_relays: dict[tuple[int, Target], Path] = {}
_open = ExitStack()
atexit.register(_open.close)


def relay_to(target: Target) -> Path:
    """The socket that leads to a port in a container, for as long as this process lives.

    Raises:
        PreconditionFailed: No such container runs, or it has nothing that could relay.
        ServiceUnavailable: The engine does not answer.
    """
    with open_engine(target.address) as client:
        container = find_container(client, target.container, target.project)
        with _lock:
            # A child of ours has our memory and none of our threads.
            key = os.getpid(), target
            if key not in _relays:
                find_relaying_program(container)
                _relays[key] = _open.enter_context(_listening(target))
            return _relays[key]


def find_relaying_program(container: Any) -> str:
    """What would relay in a running container, such as `nc`.

    Raises:
        PreconditionFailed: Nothing would.
    """
    ended = container.exec_run(["sh", "-c", _RELAY, "sh"], user=_NOBODY)
    if ended.exit_code == 0 and (tool := str(ended.output.decode().strip())):
        return tool
    raise PreconditionFailed(
        f"The container {container.name} has no program that could relay a connection: none of socat, nc, perl.",
        hint="Reach its server by its address (reach = container), or publish its port on 127.0.0.1.",
    )


@contextmanager
def _listening(target: Target) -> Iterator[Path]:
    place = Path(tempfile.gettempdir())
    sweep_locked_folders(place, _PREFIX, lambda _: None)
    with locked_folder(place, _PREFIX) as folder, closing(socket.socket(socket.AF_UNIX)) as listener:
        path = folder / _SOCKET_NAME.format(port=target.port)
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_accept, args=(listener, target), daemon=True, name="relay").start()
        yield path


def _accept(listener: socket.socket, target: Target) -> None:
    with suppress(OSError):  # it is closed at our end
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, target), daemon=True, name="relayed").start()


def _serve(connection: socket.socket, target: Target) -> None:
    """One connection. Where it cannot be relayed, its client sees it end, and tells what it thinks of that."""
    lost = suppress(KeepwellError, DockerException, RequestException, OSError)
    with closing(connection), lost, open_engine(target.address) as client:
        container = find_container(client, target.container, target.project)
        call = ["sh", "-c", _RELAY, "sh", str(target.port)]
        begun = client.api.exec_create(container.id, call, stdin=True, user=_NOBODY)["Id"]
        with closing(client.api.exec_start(begun, socket=True)) as stream:
            inner: socket.socket = stream._sock  # noqa: SLF001 - the SDK gives no other way to end its input alone
            inner.settimeout(None)
            feeder = threading.Thread(target=_hand_in, args=(connection, inner), daemon=True, name="relayed in")
            feeder.start()
            try:
                _hand_out(stream, connection)
            finally:
                # Both ends, or the other thread would wait for one of them for ever.
                for end in (connection, inner):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                feeder.join()
                inner.close()


def _hand_in(connection: socket.socket, inner: socket.socket) -> None:
    with suppress(OSError):
        while piece := connection.recv(_PIECE_BYTES):
            inner.sendall(piece)
    with suppress(OSError):
        inner.shutdown(socket.SHUT_WR)


def _hand_out(stream: Any, connection: socket.socket) -> None:
    for channel, piece in frames_iter(stream, tty=False):
        if channel == STDOUT:
            connection.sendall(piece)
