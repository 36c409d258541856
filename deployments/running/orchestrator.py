"""The stack's Prefect: a server on a PostgreSQL of its own, the registration of our deployments, and a worker.

The server asks for a login where there is one when it starts: `user:password` in `secrets/prefect-login`.
"""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from deployments.running.parts import Part
from deployments.running.ports import HOST
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.probes import answers_http, has_worker
from deployments.running.state import StateFolder
from keepwell.command import Command
from keepwell.settings import CONFIG_VARIABLE

DATABASE_PART, DATABASE = "orchestrator-database", "prefect"
SERVER, REGISTRATION, WORKER = "prefect-server", "register-deployments", "prefect-worker"
POOL, WORKER_NAME = "keepwell", "local-stack"

_QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def orchestrator_parts(state: StateFolder, ports: Mapping[str, int]) -> list[Part]:
    """Server, registration and worker, in this order.

    Args:
        state: Where they keep what they must, and the platform file that flows read.
        ports: Of the server and of its database.
    """
    port = ports[SERVER]
    return [
        Part(
            SERVER,
            lambda: _prefect(server_environment(state, ports), "server", "start", "--host", HOST, "--port", str(port)),
            ready=answers_http(port, "/api/health"),
            needs=(DATABASE_PART,),
            address=ui_url(port),
        ),
        Part(
            REGISTRATION,
            lambda: Command((sys.executable, "-m", "deployments.register"), client_environment(state, port)),
            needs=(SERVER,),
            start_limit_seconds=120,
        ),
        Part(
            WORKER,
            lambda: _prefect(worker_environment(state, port), "worker", "start", "--pool", POOL, "--name", WORKER_NAME),
            ready=has_worker(port, POOL, WORKER_NAME, read_login(state)),
            needs=(REGISTRATION,),
            # Told to stop, it ends its flow runs; killed, it would leave them running.
            death_signal=signal.SIGTERM,
            grace_seconds=15,
        ),
    ]


def login_file(state: StateFolder) -> Path:
    """Where somebody may put the login that the server is to ask for."""
    return state.folder / "secrets" / "prefect-login"


def read_login(state: StateFolder) -> str | None:
    """That login; None where there is none, and the server lets everybody in."""
    path = login_file(state)
    return path.read_text().strip() if path.exists() else None


def ui_url(port: int) -> str:
    """Of Prefect's own pages."""
    return f"http://{HOST}:{port}"


def api_url(port: int) -> str:
    """What clients know as PREFECT_API_URL."""
    return f"{ui_url(port)}/api"


def server_environment(state: StateFolder, ports: Mapping[str, int]) -> dict[str, str]:
    """Everything the server is told; it sends nothing to anybody, and forgets old runs and events."""
    password = quote(state.secret(f"{DATABASE_PART}-password"))
    return (
        _login(state, "PREFECT_SERVER_API_AUTH_STRING")
        | _QUIET
        | {
            "PREFECT_HOME": str(state.data("prefect")),
            "PREFECT_API_DATABASE_CONNECTION_URL": (
                f"postgresql+asyncpg://{SUPERUSER}:{password}@{HOST}:{ports[DATABASE_PART]}/{DATABASE}"
            ),
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
            "PREFECT_UI_API_URL": api_url(ports[SERVER]),
        }
    )


def client_environment(state: StateFolder, port: int) -> dict[str, str]:
    """For programs that speak with the server."""
    return (
        _login(state, "PREFECT_API_AUTH_STRING")
        | _QUIET
        | {
            "PREFECT_HOME": str(state.data("prefect")),
            "PREFECT_API_URL": api_url(port),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            CONFIG_VARIABLE: str(state.platform_file),
        }
    )


def worker_environment(state: StateFolder, port: int) -> dict[str, str]:
    """What flow runs inherit; their heartbeats come with the deployments, as they do on any other machine."""
    return client_environment(state, port) | {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        # The runner keeps its files in a folder of a fixed name there, which in /tmp may be another user's.
        "TMPDIR": str(state.data("tmp")),
    }


def _login(state: StateFolder, variable: str) -> dict[str, str]:
    login = read_login(state)
    return {variable: login} if login else {}


def _prefect(environment: Mapping[str, str], *arguments: str) -> Command:
    return Command((sys.executable, "-m", "prefect", *arguments), environment)
