"""The whole stack as a list of parts, from a state folder and a few options."""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.local import objectstore, orchestrator, redis_server, sample_platform
from deployments.local.parts import Part, in_start_order, leave_out, with_environment
from deployments.local.platform_file import BUCKET, write_platform_file
from deployments.local.ports import choose_ports
from deployments.local.postgres_cluster import ORCHESTRATOR_PARAMETERS, PRODUCTION_PARAMETERS, cluster_parts
from deployments.local.state import MARKER_VARIABLE, StateFolder, write_private

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
_PORTS_DOCUMENT = "ports.json"


@dataclass(frozen=True)
class StackOptions:
    """What `up` was asked for.

    Attributes:
        scale: Size of the sample data, used when they are made: 1 is about 60 MB.
        without: Parts to leave out, with whatever needs them.
    """

    scale: float = DEFAULT_SCALE
    without: tuple[str, ...] = ()


def plan_stack(state: StateFolder, options: StackOptions) -> list[Part]:
    """All parts in an order in which they can be started, on the recorded ports.

    Raises:
        ConfigurationError: An option names no part.
    """
    ports = read_ports(state)
    parts = leave_out(_all_parts(state, ports, options.scale), options.without)
    marker = {MARKER_VARIABLE: str(state.folder)}
    return [with_environment(part, marker) for part in in_start_order(parts)]


def prepare_state(state: StateFolder) -> None:
    """Choose ports and write what parts read: secrets, the platform file. Called when nothing runs.

    Raises:
        ServiceUnavailable: There are not enough free ports.
    """
    state.prepare()
    access_key_file = state.folder / "secrets" / "objectstore-access-key-id"
    if not access_key_file.exists():
        write_private(access_key_file, objectstore.ACCESS_KEY_ID + "\n")
    ports = choose_ports(_PORT_NAMES, read_ports(state))
    state.write_document(_PORTS_DOCUMENT, dict(ports))
    write_platform_file(state, ports)


def read_ports(state: StateFolder) -> dict[str, int]:
    """The recorded ports by part; empty before the first start."""
    return state.read_document(_PORTS_DOCUMENT)


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
        *orchestrator.orchestrator_parts(state, ports),
        *cluster_parts(state, sample_platform.PRODUCTION, ports[sample_platform.PRODUCTION], PRODUCTION_PARAMETERS),
        redis_server.redis_part(
            state.data(redis_server.NAME), ports[redis_server.NAME], state.secret("redis-password")
        ),
        objectstore.objectstore_part(state.data(objectstore.NAME), ports[objectstore.NAME], secret_access_key),
        objectstore.bucket_part(ports[objectstore.NAME], secret_access_key, BUCKET),
        sample_platform.data_part(state, ports[sample_platform.PRODUCTION], scale),
        *sample_platform.program_parts(state, ports),
    ]
