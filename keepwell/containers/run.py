"""Run one program in a new container of an image: `python -I -m keepwell.containers.run --image ID … -- PROGRAM …`.

It stands for the program: output and exit code are the program's, signals are passed on, and the container is gone when
it ends. However it ends: the container's standard input stays open as long as this process lives, and once it closes,
whatever runs in there is killed and the engine removes the container.

The container has no network (unless asked for), no capabilities, a root folder that nobody can write to, and of this
machine only the folders that it is given, at the same paths.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from types import FrameType
from typing import Any, NoReturn

import docker
from docker.errors import DockerException
from docker.types import Mount
from docker.utils.socket import STDERR, frames_iter
from requests.exceptions import RequestException

FOLDER_LABEL = "keepwell.folder"
# As Docker's own client has it: not the program failed, but running it.
COULD_NOT_RUN = 125
COULD_NOT_RUN_WORDS = "keepwell: it could not be run in a container"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_KEPT_OF_THE_IMAGE = ("PATH", "LD_LIBRARY_PATH")
_GIVEN = ("LC_", "PG", "TZ")
_TEMPORARY = "rw,nosuid,nodev,size=256m,mode=1777"
_SHARED_MEMORY_BYTES = 1024**3
_MOST_PROCESSES = 512
# What a share of the processor is worth at niceness 0; each step of niceness is a quarter less, as in the kernel.
_SHARES = 1024
_STEP = 1.25
# Process number one of the container. Its standard input tells whether we live; the program's own is empty, or, where
# it is asked for, that same one, which ends with us as well.
_INIT = """
program=
pass_on() { [ -z "$program" ] || kill -s "$1" "$program" 2> /dev/null; }
for name in TERM INT QUIT HUP; do trap "pass_on $name" "$name"; done
exec 3<&0
if [ "$KEEPWELL_INPUT" ]; then
  unset KEEPWELL_INPUT
  "$@" <&3 3<&- &
  program=$!
else
  "$@" < /dev/null 3<&- &
  program=$!
  { while read -r _; do :; done; kill -s KILL "$program"; } <&3 3<&- > /dev/null 2>&1 &
fi
exec < /dev/null 3<&-
while :; do
  wait "$program"
  code=$?
  kill -0 "$program" 2> /dev/null || exit "$code"
done
"""


def main(arguments: Sequence[str]) -> int:
    """Run it.

    Returns:
        The program's exit code; with 125 and words of ours on standard error, it may never have run.
    """
    wanted = _parse(arguments)
    relay = _Relay()
    for number in _PASSED_ON:
        signal.signal(number, relay.receive)
    try:
        with closing(docker.DockerClient(base_url=wanted.address)) as client:
            return _run(client.api, relay, wanted)
    except (DockerException, RequestException, OSError, ValueError) as error:
        sys.stderr.write(f"{COULD_NOT_RUN_WORDS}: {error}\n")
        return COULD_NOT_RUN


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="keepwell.containers.run", description="Run one program in a container.")
    parser.add_argument("--address", required=True, help="of the engine, such as unix:///var/run/docker.sock")
    parser.add_argument("--image", required=True, help="its id; nothing is ever pulled")
    parser.add_argument("--folder", required=True, help="of the run, by which the next one finds what was left")
    parser.add_argument("--users", required=True, help="a file to show as /etc/passwd")
    parser.add_argument("--user", required=True, help="numbers of user and group")
    parser.add_argument("--write", action="append", default=[], help="a path that the program may write to")
    parser.add_argument("--read", action="append", default=[], help="a path that it may only read")
    parser.add_argument("--network", action="store_true", help="let it use this machine's network")
    parser.add_argument("--input", action="store_true", help="hand standard input on")
    parser.add_argument("program", nargs="+")
    return parser.parse_args(arguments)


class _Relay:
    """Passes signals on to the container, those that came before it ran as soon as it does."""

    def __init__(self) -> None:
        self._api: Any = None
        self._container = ""
        self._waiting: list[int] = []

    def receive(self, number: int, _frame: FrameType | None) -> None:
        self._waiting.append(number)
        if self._container:
            self._send()

    def begin(self, api: Any, container: str) -> None:
        self._api, self._container = api, container
        self._send()

    def _send(self) -> None:
        while self._waiting:
            # It may have ended meanwhile, and another signal may have come and sent this one too.
            with suppress(DockerException, RequestException, IndexError):
                self._api.kill(self._container, signal=self._waiting.pop(0))


def _run(api: Any, relay: _Relay, wanted: argparse.Namespace) -> int:
    container = _create(api, wanted)
    try:
        output = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        connection: socket.socket = output._sock  # noqa: SLF001 - the SDK gives no other way to end its input alone
        connection.settimeout(None)
        # Asked before it begins, because it is removed at its end; the answer's head comes now, its body then.
        end = f"{api.base_url}/v{api.api_version}/containers/{container}/wait"
        ended = api.post(end, params={"condition": "removed"}, stream=True, timeout=None)
        api.start(container)
        relay.begin(api, container)
        if wanted.input:
            threading.Thread(target=_hand_input_on, args=(connection,), daemon=True).start()
        _hand_output_on(frames_iter(output, tty=False))
        return int(ended.json()["StatusCode"])
    finally:
        # Gone by itself after a good end; not after one between its creation and its start.
        with suppress(DockerException):
            api.remove_container(container, force=True, v=True)


def _create(api: Any, wanted: argparse.Namespace) -> str:
    image = api.inspect_image(wanted.image)["Config"]
    user, _, _ = wanted.user.partition(":")
    host = api.create_host_config(
        auto_remove=True,
        network_mode="host" if wanted.network else "none",
        read_only=True,
        cap_drop=["ALL"],
        # A tool of ours that is root outside may need to get at what belongs to the server's user.
        cap_add=["DAC_OVERRIDE"] if user == "0" else [],
        security_opt=["no-new-privileges"],
        mounts=_mounts(wanted, image.get("Volumes") or {}),
        tmpfs={"/tmp": _TEMPORARY},  # noqa: S108 - in the container
        shm_size=_SHARED_MEMORY_BYTES,
        pids_limit=_MOST_PROCESSES,
        cpu_shares=max(2, round(_SHARES / _STEP ** os.nice(0))),
        log_config={"Type": "none"},
    )
    created = api.create_container(
        wanted.image,
        entrypoint=["sh", "-c", _INIT, "sh"],
        command=wanted.program,
        environment=[*_environment(image.get("Env") or [], os.environ, reads_input=wanted.input)],
        user=wanted.user,
        working_dir="/",
        stdin_open=True,
        labels={FOLDER_LABEL: wanted.folder},
        healthcheck={"test": ["NONE"]},
        host_config=host,
    )
    return str(created["Id"])


def _mounts(wanted: argparse.Namespace, volumes: dict[str, Any]) -> list[Mount]:
    """What it sees of this machine. A volume that the image declares is covered, or the engine would make one."""
    writable = set(wanted.write)
    return [
        Mount("/etc/passwd", wanted.users, type="bind", read_only=True),
        *(Mount(path, path, type="bind") for path in sorted(writable)),
        *(Mount(path, path, type="bind", read_only=True) for path in sorted({*wanted.read} - writable)),
        *(Mount(path, None, type="tmpfs", tmpfs_size=1024**2) for path in sorted(volumes)),
    ]


def _environment(of_image: Sequence[str], ours: Mapping[str, str], *, reads_input: bool) -> Iterator[str]:
    """Ours, and of the image's what its programs need to be found; a name without a value takes it away."""
    for line in of_image:
        name = line.partition("=")[0]
        yield line if name in _KEPT_OF_THE_IMAGE else name
    for name, value in ours.items():
        if name.startswith(_GIVEN) and name != "TZDIR":
            yield f"{name}={value}"
    if reads_input:
        yield "KEEPWELL_INPUT=1"


def _hand_input_on(connection: socket.socket) -> None:
    with suppress(OSError):
        while chunk := os.read(0, 65536):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)


def _hand_output_on(frames: Iterator[tuple[int, bytes]]) -> None:
    for stream, chunk in frames:
        target, rest = (2 if stream == STDERR else 1), memoryview(chunk)
        while rest:
            rest = rest[os.write(target, rest) :]


def _run_and_exit() -> NoReturn:
    # A thread may wait for ever for input that nobody sends.
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _run_and_exit()
