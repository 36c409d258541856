"""The whole local stack as a plan: its parts, from a state folder and a few options."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.local import objectstore, redis_server, sample_platform
from deployments.local.platform_file import BUCKET, write_platform_file
from deployments.running import orchestrator
from deployments.running.parts import Part, in_start_order, leave_out, with_environment
from deployments.running.plan import Options, Plan
from deployments.running.ports import choose_ports
from deployments.running.postgres_cluster import (
    ORCHESTRATOR_PARAMETERS,
    PRODUCTION_PARAMETERS,
    cluster_parts,
)
from deployments.running.state import MARKER_VARIABLE, StateFolder, write_private
from keepwell.settings import CONFIG_VARIABLE

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".keepwell" / "local"
# The demonstration has a stack of its own, so that it never disturbs one that is in use.
DEMO_FOLDER = DEFAULT_FOLDER.with_name("demo")
DEFAULT_SCALE = 0.3
_PORT_NAMES = (
    sample_platform.PRODUCTION,
    orchestrator.DATABASE_PART,
    objectstore.NAME,
    redis_server.NAME,
    sample_platform.BACKEND,
    sample_platform.FRONTEND,
    orchestrator.SERVER,
)


@dataclass(frozen=True)
class StackOptions:
    """What `up` was asked for.

    Attributes:
        scale: Size of the sample data, used when they are made: 1 is about 60 MB.
        without: Parts to leave out, with whatever needs them.
    """

    scale: float = DEFAULT_SCALE
    without: tuple[str, ...] = ()


def plan_stack(options: StackOptions | None = None) -> Plan:
    """The local stack, with the default options unless told otherwise."""
    return Plan(
        title="local stack",
        program="deployments.local.supervise",
        options=asdict(options or StackOptions()),
        prepare=prepare_state,
        parts=_parts,
        places=_places,
        use=_use,
        start_command="keepwell up",
        status_command="keepwell status",
    )


def prepare_state(state: StateFolder, _: Options | None = None) -> None:
    """Choose ports and write what parts read: secrets, the platform file. Called when nothing runs.

    Raises:
        ServiceUnavailable: There are not enough free ports.
    """
    state.prepare()
    access_key_file = state.folder / "secrets" / "objectstore-access-key-id"
    if not access_key_file.exists():
        write_private(access_key_file, objectstore.ACCESS_KEY_ID + "\n")
    ports = choose_ports(_PORT_NAMES, state.read_ports())
    state.write_ports(ports)
    write_platform_file(state, ports)


def _parts(state: StateFolder, options: Options) -> list[Part]:
    """All parts in an order in which they can be started, on the recorded ports.

    Raises:
        ConfigurationError: An option names no part.
    """
    parts = leave_out(_all_parts(state, state.read_ports(), options["scale"]), options["without"])
    marker = {MARKER_VARIABLE: str(state.folder)}
    return [with_environment(part, marker) for part in in_start_order(parts)]


def _all_parts(state: StateFolder, ports: dict[str, int], scale: float) -> Sequence[Part]:
    secret_access_key = state.secret("objectstore-secret-access-key")
    return [
        # Before all else what most has to wait for: the orchestrator's tables take longest to make.
        *cluster_parts(
            state,
            orchestrator.DATABASE_PART,
            ports[orchestrator.DATABASE_PART],
            ORCHESTRATOR_PARAMETERS,
            database=orchestrator.DATABASE,
        ),
        *orchestrator.orchestrator_parts(state, ports, _orchestration(state)),
        *cluster_parts(state, sample_platform.PRODUCTION, ports[sample_platform.PRODUCTION], PRODUCTION_PARAMETERS),
        redis_server.redis_part(
            state.data(redis_server.NAME), ports[redis_server.NAME], state.secret("redis-password")
        ),
        objectstore.objectstore_part(state.data(objectstore.NAME), ports[objectstore.NAME], secret_access_key),
        objectstore.bucket_part(ports[objectstore.NAME], secret_access_key, BUCKET),
        sample_platform.data_part(state, ports[sample_platform.PRODUCTION], scale),
        *sample_platform.program_parts(state, ports),
    ]


def _orchestration(state: StateFolder) -> orchestrator.Orchestration:
    return orchestrator.Orchestration(
        configuration=state.platform_file,
        workers=("local-stack",),
        # Somebody waits for each run.
        worker_settings={"PREFECT_WORKER_QUERY_SECONDS": "1"},
    )


def _places(state: StateFolder, addresses: Mapping[str, str]) -> dict[str, str]:
    """Paths, and the addresses of those parts that were not left out."""
    places = {"platform_file": str(state.platform_file)}
    if orchestrator.SERVER in addresses:
        places |= {"ui_url": addresses[orchestrator.SERVER]}
        places |= {"api_url": orchestrator.api_url(state.read_ports()[orchestrator.SERVER])}
        places |= {"login_file": str(orchestrator.login_file(state))}
    for key, name in (("frontend_url", sample_platform.FRONTEND), ("backend_url", sample_platform.BACKEND)):
        places |= {key: addresses[name]} if name in addresses else {}
    return places


def _use(state: StateFolder) -> str:
    programs = Path(sys.executable).parent
    return (
        f"Use it: export {CONFIG_VARIABLE}={state.platform_file} PATH={programs}:$PATH\n"
        "        keepwell doctor; keepwell run backup-and-verify; keepwell backup list"
    )
