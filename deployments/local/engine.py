"""A Docker Engine of our own, for demonstrations and tests: gone with its block, and nothing of it is left.

One that is there already is never touched: this one has its own socket, folders and address pool, and changes neither
the firewall nor what this machine forwards. Its networks join containers with one another and with this machine, and
published ports are reached through Docker's own proxy; containers reach nothing beyond, and nothing is ever pulled.
"""

import ipaddress
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from deployments.running.parts import Part
from deployments.running.processes import ProcessIdentity, end, find_by_variable, identify
from deployments.running.standalone import start_server
from keepwell.command import Command, clean_environment
from keepwell.containers.engine import ADDRESS_VARIABLE
from keepwell.errors import PreconditionFailed
from keepwell.locked_folder import locked_folder, sweep_locked_folders

NAME = "docker-engine"
_PROGRAMS = ("dockerd", "iptables", "ip")
# Debian's packages of those.
NEEDED_PACKAGES = ("docker.io", "iptables", "iproute2")
_FOR_ROOT = "/usr/sbin:/sbin"
_PREFIX = "keepwell-docker-"
# The engine's processes carry this variable, so that what a dead one left can be found.
_MARKER = "KEEPWELL_ENGINE"
# A private range that routers hand out least; each engine takes a part of its own for its networks.
_ADDRESSES = ipaddress.ip_network("10.208.0.0/12")
_POOL_BITS, _NETWORK_BITS = 20, 24
_POOL_FILE = "pool"
_START_SECONDS = 180
_STOP_SECONDS = 120
_ANSWER_SECONDS = 60
_UNIX = "unix://"


@dataclass(frozen=True)
class RunningEngine:
    """An engine of ours.

    Attributes:
        address: For DOCKER_HOST.
        client: The SDK's.
        restart: Ends it and starts it again, as an update of its package does; its containers end with it, and those
            with such a policy come back.
    """

    address: str
    client: docker.DockerClient
    restart: Callable[[], None]

    @property
    def environment(self) -> Mapping[str, str]:
        """For programs that are to use this engine."""
        return {ADDRESS_VARIABLE: self.address}

    def containers(self) -> list[str]:
        """Ids of all containers, ended ones too."""
        return [container.id for container in self.client.containers.list(all=True)]

    def volumes(self) -> list[str]:
        """Names of all volumes."""
        return [volume.name for volume in self.client.volumes.list()]


def missing_for_an_engine() -> list[str]:
    """What this machine lacks to run one."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@contextmanager
def running_engine() -> Iterator[RunningEngine]:
    """An engine for the length of a block, with no image yet.

    Raises:
        PreconditionFailed: This machine lacks something for it.
        ServiceUnavailable: It does not start; the message holds the end of its log.
    """
    if missing := missing_for_an_engine():
        raise PreconditionFailed(
            f"No Docker Engine can be started here; missing: {', '.join(missing)}.",
            hint=f"As root: apt-get install {' '.join(NEEDED_PACKAGES)}.",
        )
    # A socket's path may have 107 bytes, so it lies near the root.
    place = Path("/tmp")  # noqa: S108 - a private folder is made in it
    sweep_locked_folders(place, _PREFIX, _clear)
    with locked_folder(place, _PREFIX) as folder:
        try:
            servers = [start_server(engine_part(folder), folder)]

            def restart() -> None:
                servers[-1].stop()
                servers.append(start_server(engine_part(folder), folder))

            try:
                address = f"{_UNIX}{_socket(folder)}"
                with closing(docker.DockerClient(base_url=address, timeout=_ANSWER_SECONDS)) as client:
                    yield RunningEngine(address, client, restart)
                    _remove_everything(client)
            finally:
                servers[-1].stop()
        finally:
            _clear(folder)


def engine_part(folder: Path) -> Part:
    """The engine on a folder of its own.

    Args:
        folder: Existing, private folder; its path is short.
    """

    def build() -> Command:
        if not (folder / _POOL_FILE).exists():
            (folder / _POOL_FILE).write_text(str(_choose_pool()))
        argv = (shutil.which("dockerd", path=_path()) or "dockerd", *_options(folder))
        return Command(argv, {"PATH": _path(), _MARKER: str(folder)})

    return Part(
        NAME,
        build,
        ready=lambda _: _answers(_socket(folder)),
        # Told to end, it ends its containers too; killed, it would leave them.
        death_signal=signal.SIGTERM,
        grace_seconds=_STOP_SECONDS,
        start_limit_seconds=_START_SECONDS,
    )


def _options(folder: Path) -> Iterator[str]:
    yield f"--host={_UNIX}{_socket(folder)}"
    yield f"--data-root={folder}/data"
    yield f"--exec-root={folder}/exec"
    yield f"--pidfile={folder}/docker.pid"
    # Networks that somebody makes have bridges of their own; the usual one would bear another engine's name.
    yield "--bridge=none"
    yield f"--default-address-pool=base={(folder / _POOL_FILE).read_text()},size={_NETWORK_BITS}"
    # Starting, it would replace the rules of an engine that is there already.
    yield from ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
    yield "--shutdown-timeout=5"


def _choose_pool() -> ipaddress.IPv4Network:
    """Some part of the range. The engine itself leaves out of it what this machine has a route to."""
    base = int(_ADDRESSES.network_address)
    number = random.randrange(2 ** (_POOL_BITS - _ADDRESSES.prefixlen))
    return ipaddress.IPv4Network((base + number * 2 ** (32 - _POOL_BITS), _POOL_BITS))


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_FOR_ROOT}"


def _socket(folder: Path) -> Path:
    return folder / "docker.sock"


def _answers(path: Path) -> bool:
    """Whether it serves, which it does a while after it listens. The SDK leaves sockets open when nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def _remove_everything(client: Any) -> None:
    for container in client.containers.list(all=True):
        container.remove(force=True, v=True)
    client.networks.prune()


def _clear(folder: Path) -> None:
    """End and undo whatever an engine in this folder left, however it ended."""
    # Containers outlive an engine that was killed, and the engine's helpers do.
    end(find_by_variable(_MARKER, str(folder)), polite=signal.SIGKILL, grace_seconds=_STOP_SECONDS)
    end(_find_contained(folder), polite=signal.SIGKILL, grace_seconds=_STOP_SECONDS)
    _unmount_below(folder)
    _remove_bridges(folder)


def _find_contained(folder: Path) -> Iterator[ProcessIdentity]:
    """Processes in containers of the engine: the kernel's group of each bears its container's id."""
    ids = {path.name for path in (folder / "data/containers").glob("*")}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            groups = (entry / "cgroup").read_text()
            process = identify(int(entry.name)) if any(found in groups for found in ids) else None
            if process is not None:
                yield process


def _unmount_below(folder: Path) -> None:
    """Whatever a killed container left mounted, the deepest first."""
    places = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((place for place in places if place.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", place], check=False, env=clean_environment())


def _remove_bridges(folder: Path) -> None:
    """Networks stay with the machine when their engine ends."""
    for bridge in _bridges(folder):
        _ip("link", "delete", bridge)


def _bridges(folder: Path) -> list[str]:
    """Those with addresses of this engine's pool; empty when it has not chosen one."""
    with suppress(FileNotFoundError):
        pool = ipaddress.ip_network((folder / _POOL_FILE).read_text())
        # As in: 5: br-29e4f1f5d1ab    inet 10.208.16.1/24 brd …
        shown = [line.split()[:4] for line in _ip("-4", "-oneline", "address").splitlines()]
        ours = [name for _, name, _, address in shown if ipaddress.ip_interface(address).ip in pool]
        # Docker's names; an interface of somebody else may have an address that we chose.
        return [name for name in ours if name.startswith("br-")]
    return []


def _ip(*arguments: str) -> str:
    asked = subprocess.run(["ip", *arguments], check=False, stdout=subprocess.PIPE, text=True, env={"PATH": _path()})
    return asked.stdout
