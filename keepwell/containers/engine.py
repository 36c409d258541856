"""The Docker Engine of this machine: asked about containers and images, and never told to pull, change or stop one.

Only what is ours, by its label, is ever removed.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from requests.exceptions import RequestException

from keepwell.containers.run import FOLDER_LABEL
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed, ServiceUnavailable

ADDRESS_VARIABLE = "DOCKER_HOST"
_DEFAULT_SOCKET = Path("/var/run/docker.sock")
_UNIX = "unix://"
# The labels by which compose knows what is its own, in version 1 and 2 alike.
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"
_ONE_OFF = "com.docker.compose.oneoff"
_NAMES_HINT = "database.container names the container that the database's server runs in: `docker ps` lists them."
_ANSWER_SECONDS = 20
_SHOWN_ID = 12


@dataclass(frozen=True)
class Image:
    """One image that the engine has.

    Attributes:
        id: By its content, `sha256:…`: what runs is this and nothing else.
        name: What people call it, such as `postgres:15-alpine`; where its container knows none, the id's beginning.
    """

    id: str
    name: str


def find_address() -> str | None:
    """Where an engine of this machine listens: DOCKER_HOST, else the usual socket; None where nobody does.

    One that is reached by a network sees other folders than ours, so it is none for us.
    """
    told = os.environ.get(ADDRESS_VARIABLE, "")
    address = told or f"{_UNIX}{_DEFAULT_SOCKET}"
    return address if address.startswith(_UNIX) and _somebody_listens(address.removeprefix(_UNIX)) else None


def _somebody_listens(path: str) -> bool:
    """Asked without the SDK, which leaves sockets open when nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # such as a right that we lack: whoever opens it is told
    return True


@contextmanager
def open_engine(address: str) -> Iterator[Any]:
    """The SDK's client of an engine.

    Raises:
        ServiceUnavailable: It does not answer, or not in time, or refuses us.
    """
    try:
        with closing(docker.DockerClient(base_url=address, timeout=_ANSWER_SECONDS)) as client:
            yield client
    except (DockerException, RequestException) as error:
        raise ServiceUnavailable(
            f"The Docker Engine at {address} does not serve us: {_said(error)}",
            hint="Is it running, and may the user that Keepwell runs as use its socket?",
        ) from error


def find_container(client: Any, name: str, project: str | None = None) -> Any:
    """The running container of a name, or of a compose service.

    Args:
        client: From `open_engine`.
        name: The container's name or id, or a compose service's name.
        project: Compose project of the service; any by default.

    Raises:
        ServiceUnavailable: No such container runs: it may be being made anew.
        PreconditionFailed: Several of the service run.
    """
    running = _find_running(client, name, project)
    if len(running) > 1:
        raise PreconditionFailed(
            f"Several containers of a compose service {name} are running: {_names(running)}.",
            hint="Set container to the name of the right one, or compose_project to its project.",
        )
    if not running:
        raise ServiceUnavailable(
            _nothing_runs(name, project), hint="`docker ps --all` shows whether it ended, and why."
        )
    return running[0]


def find_container_image(client: Any, name: str, project: str | None = None) -> Image:
    """The image that a running container was made from.

    Args:
        client: From `open_engine`.
        name: As for `find_container`.
        project: As for `find_container`.

    Raises:
        PreconditionFailed: No such container runs, or several of different images.
    """
    running = _find_running(client, name, project)
    images = {container.attrs["Image"]: container.attrs["Config"]["Image"] for container in running}
    if not images:
        raise PreconditionFailed(_nothing_runs(name, project), hint=_NAMES_HINT)
    if len(images) > 1:
        raise PreconditionFailed(
            f"Several containers of a compose service {name} are running, from different images.",
            hint="Set database.container to the name of the one that the database's server runs in.",
        )
    ((image_id, told),) = images.items()
    return Image(image_id, _name(image_id, told))


def _find_running(client: Any, name: str, project: str | None) -> list[Any]:
    if project is None:
        with suppress(NotFound):
            container = client.containers.get(name)
            return [container] if container.status == "running" else []
    labels = [f"{COMPOSE_SERVICE}={name}", *([f"{COMPOSE_PROJECT}={project}"] if project else [])]
    found = client.containers.list(filters={"label": labels})
    # What `docker compose run` starts belongs to the service by its labels, and serves nobody.
    serving = [one for one in found if (one.labels or {}).get(_ONE_OFF, "False") != "True"]
    return [container for container in serving if container.status == "running"]


def _nothing_runs(name: str, project: str | None) -> str:
    where = f" of the project {project}" if project else ""
    return f"No container {name} is running, nor one of a compose service {name}{where}."


def _names(containers: list[Any]) -> str:
    return ", ".join(sorted(str(container.name) for container in containers))


def find_publishing_container(client: Any, port: int) -> str | None:
    """Name of the running container that publishes a TCP port of this machine, if one does.

    Args:
        client: From `open_engine`.
        port: Of this machine.
    """
    for container in client.containers.list(filters={"publish": str(port)}):
        bindings = [bound for inner in (container.ports or {}).values() for bound in inner or []]
        if any(bound.get("HostPort") == str(port) for bound in bindings):
            return str(container.name)
    return None


def find_image(client: Any, reference: str) -> Image:
    """An image by its reference, as the engine has it.

    Raises:
        ConfigurationError: It has none of that name.
    """
    try:
        image_id = str(client.images.get(reference).id)
    except (ImageNotFound, APIError) as error:
        raise ConfigurationError(
            f"The Docker Engine has no image {reference}.",
            hint="Keepwell pulls nothing: `docker pull` or `docker load` it, or correct backup.scratch_image.",
        ) from error
    return Image(image_id, _name(image_id, reference))


def sweep_containers(address: str, folder: Path) -> int:
    """End and remove the containers of a run that died.

    Args:
        address: Of the engine.
        folder: Of that run, as it was given to `ImageRunner`.

    Returns:
        How many there were.

    Raises:
        KeepwellError: The engine does not answer, or would not remove one.
    """
    with open_engine(address) as client:
        left = client.containers.list(all=True, filters={"label": f"{FOLDER_LABEL}={folder}"})
        for container in left:
            try:
                container.remove(force=True, v=True)
            except NotFound:
                continue
            except APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise KeepwellError(
                        f"The container {container.id[:_SHOWN_ID]} of a dead run cannot be removed: {_said(error)}",
                        hint="Remove it by hand: docker rm --force --volumes.",
                    ) from error
        return len(left)


def _name(image_id: str, told: str) -> str:
    by_id = told.removeprefix("sha256:") in image_id
    return image_id.removeprefix("sha256:")[:_SHOWN_ID] if by_id else told


def _said(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error).strip()
