"""The sample platform in containers, started by docker compose on an engine of ours, with its data loaded."""

import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from deployments.local.engine import RunningEngine
from deployments.local.images import backend_recipe, build_image, frontend_recipe, postgres_recipe, redis_recipe
from deployments.local.sample_platform import DATABASE
from deployments.running.ports import choose_ports
from keepwell import command
from keepwell.command import Command
from keepwell.containers.engine import find_container
from keepwell.containers.reach import read_addresses
from keepwell.errors import ConfigurationError, ServiceUnavailable
from keepwell.postgres.binaries import find_installations

MAJOR = 15
_COMPOSE_FILE = Path(__file__).parents[2] / "sample/compose.yml"
_SERVES_WITHIN_SECONDS = 120
_STOP_SECONDS = 120


@dataclass(frozen=True)
class ContainedPlatform:
    """The sample platform as it runs.

    Attributes:
        project: Its compose project.
        password: Of its database.
        uploads: Folder of this machine with its users' files.
        backend_port: On loopback.
    """

    project: str
    password: str
    uploads: Path
    backend_port: int


def find_compose() -> Path:
    """Debian's docker-compose.

    Raises:
        ConfigurationError: It is not installed.
    """
    found = shutil.which("docker-compose", path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise ConfigurationError("docker-compose was not found.", hint="As root: apt-get install docker-compose.")
    return Path(found)


@contextmanager
def running_platform(
    engine: RunningEngine, folder: Path, *, project: str, compose: Path, scale: float
) -> Iterator[ContainedPlatform]:
    """The platform for the length of a block: images made, containers up, data loaded.

    Args:
        engine: Of ours.
        folder: Existing, private folder for its users' files.
        project: Compose project.
        compose: docker-compose, of either generation.
        scale: 1 makes about 60 MB of data.

    Raises:
        ConfigurationError: PostgreSQL 15 of a Debian package is missing.
        ServiceUnavailable: Its database does not serve in time.
    """
    _build_images(engine)
    uploads = folder / "uploads"
    _write_uploads(uploads, scale)
    ports = choose_ports(("backend", "frontend"), {})
    platform = ContainedPlatform(project, secrets.token_urlsafe(16), uploads, ports["backend"])
    environment = {
        **engine.environment,
        "POSTGRES_PASSWORD": platform.password,
        "UPLOADS_DIRECTORY": str(uploads),
        "BACKEND_PORT": str(ports["backend"]),
        "FRONTEND_PORT": str(ports["frontend"]),
    }
    argv = (str(compose), "--project-name", project, "--file", str(_COMPOSE_FILE))
    try:
        command.run(Command((*argv, "up", "--detach"), environment), cwd=folder)
        _load(engine, platform, scale)
        yield platform
    finally:
        down = Command((*argv, "down", "--volumes", "--timeout", "5"), environment)
        command.run(down, timeout_seconds=_STOP_SECONDS, cwd=folder)


def _build_images(engine: RunningEngine) -> None:
    binaries = next((found for found in find_installations() if found.major == MAJOR and found.has_server), None)
    if binaries is None:
        raise ConfigurationError(f"PostgreSQL {MAJOR} was not found.", hint="As root: apt-get install postgresql-15.")
    for recipe in (postgres_recipe(binaries), redis_recipe(), backend_recipe(), frontend_recipe()):
        build_image(engine.client, recipe)


def _write_uploads(folder: Path, scale: float) -> None:
    from sample.uploads import write_uploads  # noqa: PLC0415 - only the demonstration needs it

    write_uploads(folder, scale=scale)


def _load(engine: RunningEngine, platform: ContainedPlatform, scale: float) -> None:
    from sample.generate import create_schema, load  # noqa: PLC0415 - only the demonstration needs it

    with _connect(engine, platform) as connection:
        create_schema(connection)
        load(connection, scale=scale, seed=1)


def _connect(engine: RunningEngine, platform: ContainedPlatform) -> psycopg.Connection:
    """As soon as its server serves, which is a while after its container runs."""
    deadline = time.monotonic() + _SERVES_WITHIN_SECONDS
    login: Mapping[str, str] = {"user": "postgres", "password": platform.password, "dbname": DATABASE}
    while True:
        try:
            address = next(read_addresses(find_container(engine.client, "postgres", platform.project)))
            return psycopg.connect(make_conninfo("", host=address, connect_timeout=5, **login))
        except (psycopg.OperationalError, ServiceUnavailable, StopIteration) as error:
            if time.monotonic() > deadline:
                raise ServiceUnavailable("The sample platform's database does not serve.", hint=str(error)) from error
            time.sleep(0.2)
