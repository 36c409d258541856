"""Where a server in a container can be reached: asked at each connection, since a new container has a new address."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwell.containers.engine import find_address, find_container, open_engine
from keepwell.containers.relay import Target, relay_to
from keepwell.errors import PreconditionFailed
from keepwell.settings import ContainedSettings

_LOOK_SECONDS = 2
_THIS_MACHINE = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where to connect to.

    Attributes:
        host: Name or address; for a socket, its folder.
        port: Of the server.
        socket: Path of the socket, where there is one.
    """

    host: str
    port: int
    socket: Path | None = None


def find_place(settings: ContainedSettings) -> Place:
    """Where a server is to be reached, for one connection.

    Args:
        settings: Of the server.

    Raises:
        PreconditionFailed: No engine answers here, no such container runs, or no network leads to it.
        ServiceUnavailable: The engine does not serve us.
    """
    if settings.reach == "host":
        return Place(settings.host, settings.port)
    container = settings.container or ""
    address = require_engine(f"reach is {settings.reach}")
    if settings.reach == "exec":
        path = relay_to(Target(address, container, settings.compose_project, settings.port))
        return Place(str(path.parent), settings.port, path)
    with open_engine(address) as client:
        found = find_container(client, container, settings.compose_project)
    return Place(choose_address(found, settings.port), settings.port)


def require_engine(why: str) -> str:
    """Address of the engine of this machine.

    Raises:
        PreconditionFailed: None answers.
    """
    address = find_address()
    if address is None:
        raise PreconditionFailed(
            f"No Docker Engine answers on this machine, and {why}.",
            hint="Start it, or let DOCKER_HOST name its socket; or publish the port and set reach = host.",
        )
    return address


def choose_address(container: Any, port: int) -> str:
    """The address of a container at which somebody listens, else its first one.

    Args:
        container: The SDK's, as it was when it was asked for.
        port: In the container.

    Raises:
        PreconditionFailed: It has none.
    """
    addresses = list(read_addresses(container))
    if not addresses:
        raise PreconditionFailed(
            f"The container {container.name} has no network of its own, so it has no address.",
            hint="Set reach = exec; or publish its port on 127.0.0.1 and set reach = host.",
        )
    return next((address for address in addresses if listens(address, port)), addresses[0])


def read_addresses(container: Any) -> Iterator[str]:
    """Addresses of a container, this machine's own where it shares its network."""
    settings = container.attrs["NetworkSettings"]
    for name, network in sorted((settings.get("Networks") or {}).items()):
        if name == "host":
            yield _THIS_MACHINE
        elif network.get("IPAddress"):
            yield str(network["IPAddress"])


def listens(address: str, port: int) -> bool:
    """Whether somebody takes connections there, from here."""
    with suppress(OSError):
        socket.create_connection((address, port), timeout=_LOOK_SECONDS).close()
        return True
    return False
