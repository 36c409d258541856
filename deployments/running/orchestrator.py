"""A stack's Prefect: a server on a PostgreSQL of its own, the registration of our deployments, and workers.

The server lets nobody in without the login, which is made at random, and takes no change without a token that only a
page of its own can get (CSRF).
"""

import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from deployments.running.parts import Part
from deployments.running.ports import HOST
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.probes import answers_http, has_worker
from deployments.running.state import StateFolder, write_private
from keepwell.command import Command
from keepwell.errors import ConfigurationError
from keepwell.settings import CONFIG_VARIABLE

DATABASE_PART, DATABASE = "orchestrator-database", "prefect"
SERVER, REGISTRATION, WORKER = "prefect-server", "register-deployments", "prefect-worker"
POOL = "keepwell"
LOGIN_USER = "keepwell"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - only where somebody asks for it

# Where a Docker Engine listens; importing who asks it would cost the supervisor memory for as long as it lives.
ENGINE_VARIABLE = "DOCKER_HOST"

RUN_RETENTION_DAYS, EVENT_RETENTION_DAYS = 90, 14
_DAY_SECONDS = 86_400
_QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Orchestration:
    """What a stack wants of its Prefect.

    Attributes:
        configuration: Platform file, or folder of them, that registration and runs read.
        workers: Names of workers; one at least.
        listen: IPv4 address that the server listens on.
        check_seconds: How often server and workers are asked whether they still serve; 0 for never.
        server_settings: Further variables of the server.
        worker_settings: Further variables of the workers, which their runs inherit.
    """

    configuration: Path
    workers: tuple[str, ...]
    listen: str = HOST
    check_seconds: float = 0
    server_settings: Mapping[str, str] = field(default_factory=dict)
    worker_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Where programs of this machine reach the server."""
        return HOST if self.listen == EVERYWHERE else self.listen


def orchestrator_parts(state: StateFolder, ports: Mapping[str, int], wanted: Orchestration) -> list[Part]:
    """Server, registration and workers, in this order.

    Args:
        state: Where they keep what they must.
        ports: Of the server and of its database.
        wanted: How they are to be.
    """
    port = ports[SERVER]
    server = Part(
        SERVER,
        lambda: _prefect(
            server_environment(state, ports, wanted), "server", "start", "--host", wanted.listen, "--port", str(port)
        ),
        ready=answers_http(port, "/api/health", wanted.host),
        needs=(DATABASE_PART,),
        address=ui_url(port, wanted.host),
        check_seconds=wanted.check_seconds,
    )
    registration = Part(
        REGISTRATION,
        lambda: Command((sys.executable, "-m", "deployments.register"), client_environment(state, port, wanted)),
        needs=(SERVER,),
        again_on_reload=True,
    )
    return [server, registration, *(_worker(state, port, wanted, number) for number in range(len(wanted.workers)))]


def _worker(state: StateFolder, port: int, wanted: Orchestration, number: int) -> Part:
    name = wanted.workers[number]
    return Part(
        WORKER if number == 0 else f"{WORKER}-{number + 1}",
        lambda: _prefect(worker_environment(state, port, wanted), "worker", "start", "--pool", POOL, "--name", name),
        ready=has_worker(port, POOL, name, read_login(state), wanted.host),
        needs=(SERVER,),
        # One platform file that cannot be read must not keep the others, registered before, from their backups.
        after=(REGISTRATION,),
        # Told to stop, it ends its flow runs; killed, it would leave them running.
        death_signal=signal.SIGTERM,
        grace_seconds=15,
        check_seconds=wanted.check_seconds,
    )


def login_file(state: StateFolder) -> Path:
    """File of the login that the server asks for, as user:password; made at random unless somebody put one there."""
    path = state.folder / "secrets" / "prefect-login"
    if not path.exists():
        write_private(path, f"{LOGIN_USER}:{secrets.token_urlsafe(24)}\n")
    return path


def read_login(state: StateFolder) -> str:
    """That login.

    Raises:
        ConfigurationError: The file holds none: with an empty one, Prefect lets in whoever sends an empty one.
    """
    login = login_file(state).read_text().strip()
    if not login.partition(":")[2]:
        raise ConfigurationError(
            f"{login_file(state)} holds no login.", hint="Remove it and start again: another one is made."
        )
    return login


def ui_url(port: int, host: str = HOST) -> str:
    """Of Prefect's own pages."""
    return f"http://{host}:{port}"


def api_url(port: int, host: str = HOST) -> str:
    """What clients know as PREFECT_API_URL."""
    return f"{ui_url(port, host)}/api"


def server_environment(state: StateFolder, ports: Mapping[str, int], wanted: Orchestration) -> dict[str, str]:
    """Everything the server is told; it sends nothing to anybody, and forgets old runs and events."""
    password = quote(state.secret(f"{DATABASE_PART}-password"))
    return {
        **_QUIET,
        "PREFECT_HOME": str(state.data("prefect")),
        "PREFECT_API_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://{SUPERUSER}:{password}@{HOST}:{ports[DATABASE_PART]}/{DATABASE}"
        ),
        "PREFECT_SERVER_API_AUTH_STRING": read_login(state),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RUN_RETENTION_DAYS * _DAY_SECONDS),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{EVENT_RETENTION_DAYS}D",
        # Relative, so that the pages work by whatever name and through whatever proxy they are reached.
        "PREFECT_UI_API_URL": "/api",
        **wanted.server_settings,
    }


def client_environment(state: StateFolder, port: int, wanted: Orchestration) -> dict[str, str]:
    """For programs that speak with the server."""
    return {
        **_QUIET,
        "PREFECT_HOME": str(state.data("prefect")),
        "PREFECT_API_URL": api_url(port, wanted.host),
        "PREFECT_API_AUTH_STRING": read_login(state),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        CONFIG_VARIABLE: str(wanted.configuration),
    }


def worker_environment(state: StateFolder, port: int, wanted: Orchestration) -> dict[str, str]:
    """What flow runs inherit; their heartbeats come with the deployments, as they do on any other machine."""
    return {
        **client_environment(state, port, wanted),
        # The runner keeps its files in a folder of a fixed name there, which in /tmp may be another user's.
        "TMPDIR": str(state.data("tmp")),
        # Where an engine listens that is not the usual one, a database in a container is found by it.
        **({ENGINE_VARIABLE: os.environ[ENGINE_VARIABLE]} if ENGINE_VARIABLE in os.environ else {}),
        **wanted.worker_settings,
    }


def _prefect(environment: Mapping[str, str], *arguments: str) -> Command:
    return Command((sys.executable, "-m", "prefect", *arguments), environment)
