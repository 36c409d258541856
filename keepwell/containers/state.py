"""How containers are, those that ended too: what an incident begins with."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docker.errors import NotFound

from keepwell.containers.engine import COMPOSE_PROJECT, COMPOSE_SERVICE

# What the engine says where something has not happened.
_NEVER = "0001-01-01"


@dataclass(frozen=True)
class ContainerState:
    """One container, as the engine tells it.

    Attributes:
        name: Of the container.
        status: In the engine's words, such as `running`, `exited` or `restarting`.
        health: By the container's own check, such as `healthy`; empty where it has none.
        exit_code: Of its last end; 0 while it runs.
        killed_for_memory: Whether the kernel killed it, or something in it, because memory ran out.
        restarts: How often the engine's restart policy began it anew.
        started_at: Its last start; None where it was never started.
        ended_at: Its last end; None where it never ended.
    """

    name: str
    status: str
    health: str
    exit_code: int
    killed_for_memory: bool
    restarts: int
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.status == "running"


def read_states(client: Any, places: Sequence[tuple[str, str | None]]) -> tuple[ContainerState, ...]:
    """The state of named containers, and of all others of their compose projects.

    Args:
        client: From `open_engine`.
        places: Name of a container, or of a compose service, and the service's project where several have one.

    Returns:
        By name, each once; a name that nothing bears is told as a container that is `missing`.
    """
    found: dict[str, Any] = {}
    missing = []
    for name, project in places:
        containers = _find(client, name, project)
        if not containers:
            missing.append(ContainerState(name, "missing", "", 0, False, 0, None, None))
        for container in containers:
            found[container.name] = container
            own = (container.labels or {}).get(COMPOSE_PROJECT)
            if own:
                beside = client.containers.list(all=True, filters={"label": f"{COMPOSE_PROJECT}={own}"})
                found |= {one.name: one for one in beside}
    read = [_read_state(container) for container in found.values()]
    return tuple(sorted([*read, *missing], key=lambda state: state.name))


def _find(client: Any, name: str, project: str | None) -> list[Any]:
    if project is None:
        with suppress(NotFound):
            return [client.containers.get(name)]
    labels = [f"{COMPOSE_SERVICE}={name}", *([f"{COMPOSE_PROJECT}={project}"] if project else [])]
    return list(client.containers.list(all=True, filters={"label": labels}))


def _read_state(container: Any) -> ContainerState:
    state = container.attrs.get("State") or {}
    return ContainerState(
        name=str(container.name),
        status=str(state.get("Status") or container.status),
        health=str((state.get("Health") or {}).get("Status") or ""),
        exit_code=int(state.get("ExitCode") or 0),
        killed_for_memory=bool(state.get("OOMKilled")),
        restarts=int(container.attrs.get("RestartCount") or 0),
        started_at=_moment(state.get("StartedAt")),
        ended_at=_moment(state.get("FinishedAt")),
    )


def _moment(text: str | None) -> datetime | None:
    """The engine tells nanoseconds, which Python reads down to its microseconds."""
    if not text or text.startswith(_NEVER):
        return None
    return datetime.fromisoformat(text)
