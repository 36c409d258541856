"""What `keepwell serve` runs, as a plan: Prefect on a PostgreSQL of its own, small and quiet on the platform's VM."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.running import orchestrator
from deployments.running.parts import Part, in_start_order, with_environment
from deployments.running.plan import Options, Plan
from deployments.running.ports import HOST, choose_ports, is_free
from deployments.running.postgres_cluster import ORCHESTRATOR_PARAMETERS, cluster_parts
from deployments.running.restarts import UNATTENDED
from deployments.running.state import MARKER_VARIABLE, StateFolder, write_private
from keepwell.errors import ConfigurationError
from keepwell.served import STATE_VARIABLE, Served, render_served, served_file
from keepwell.settings import configuration_place

DEFAULT_PORT = 4200
_CHECK_SECONDS = 60.0

# Prefect's own loops look every few seconds, which a machine at rest pays for; none of these decides when a run starts.
_UNHURRIED = {
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_TRIGGERS_PG_NOTIFY_HEARTBEAT_INTERVAL_SECONDS": "30",
}
# Each thread would otherwise keep memory of its own that is hardly used.
_SPARING = {"MALLOC_ARENA_MAX": "2"}
_QUERY_SECONDS = 10
_PARAMETERS = {**ORCHESTRATOR_PARAMETERS, "max_worker_processes": "2", "max_parallel_workers": "0"}


@dataclass(frozen=True)
class ServeOptions:
    """What `serve` was asked for.

    Attributes:
        configuration: Platform file, or folder of them; absolute.
        listen: IPv4 address for the Prefect server.
        port: Its TCP port.
        workers: How many processes take runs; each runs several at once.
    """

    configuration: str
    listen: str = HOST
    port: int = DEFAULT_PORT
    workers: int = 1


def plan_stack(options: ServeOptions | None = None) -> Plan:
    """The stack, with the default options unless told otherwise."""
    return Plan(
        title="orchestrator",
        program="deployments.production.supervise",
        options=asdict(options or ServeOptions(str(configuration_place().absolute()))),
        prepare=prepare_state,
        parts=_parts,
        places=_places,
        use=_use,
        start_command="keepwell serve --detach",
        status_command="keepwell serve status",
        patience=UNATTENDED,
    )


def prepare_state(state: StateFolder, options: Options) -> None:
    """Choose ports, make the secrets, and say how others reach the server. Called when nothing runs.

    Raises:
        ConfigurationError: Something else listens on the server's port.
        ServiceUnavailable: There are not enough free ports.
    """
    state.prepare()
    wanted = _orchestration(state, options)
    if not is_free(options["port"], wanted.listen):
        raise ConfigurationError(
            f"Something listens on port {options['port']} of {wanted.listen}, or there is no such address here.",
            hint="Choose another with --port, or stop it.",
        )
    database = orchestrator.DATABASE_PART
    ports = choose_ports([database], {**state.read_ports(), orchestrator.SERVER: options["port"]})
    state.write_ports(ports)
    served = Served(
        api_url=orchestrator.api_url(options["port"], wanted.host),
        ui_url=orchestrator.ui_url(options["port"], wanted.host),
        auth_string_file=str(orchestrator.login_file(state)),
        listen=wanted.listen,
        configuration=str(wanted.configuration),
        ports={name: ports[name] for name in (orchestrator.SERVER, database)},
    )
    write_private(served_file(state.folder), render_served(served))


def _parts(state: StateFolder, options: Options) -> list[Part]:
    ports = state.read_ports()
    database = cluster_parts(
        state,
        orchestrator.DATABASE_PART,
        ports[orchestrator.DATABASE_PART],
        _PARAMETERS,
        database=orchestrator.DATABASE,
        check_seconds=_CHECK_SECONDS,
    )
    parts = [*database, *orchestrator.orchestrator_parts(state, ports, _orchestration(state, options))]
    marker = {MARKER_VARIABLE: str(state.folder)}
    return [with_environment(part, marker) for part in in_start_order(parts)]


def _orchestration(state: StateFolder, options: Options) -> orchestrator.Orchestration:
    host = socket.gethostname()
    return orchestrator.Orchestration(
        configuration=Path(options["configuration"]),
        workers=tuple(f"{host}-{number + 1}" for number in range(options["workers"])),
        listen=options["listen"],
        check_seconds=_CHECK_SECONDS,
        server_settings=_UNHURRIED | _SPARING,
        worker_settings={
            **_SPARING,
            "PREFECT_WORKER_QUERY_SECONDS": str(_QUERY_SECONDS),
            STATE_VARIABLE: str(state.folder.parent),
        },
    )


def _places(state: StateFolder, addresses: Mapping[str, str]) -> dict[str, str]:
    return {
        "ui_url": addresses[orchestrator.SERVER],
        "api_url": f"{addresses[orchestrator.SERVER]}/api",
        "login_file": str(orchestrator.login_file(state)),
    }


def _use(_: StateFolder) -> str:
    programs = Path(sys.executable).parent
    on_path = str(programs) in os.environ.get("PATH", "").split(os.pathsep)
    return f"Next: {'' if on_path else f'{programs}/'}keepwell doctor"
