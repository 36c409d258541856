"""Whether the orchestrator is kept from strangers: its login, its guard against forged pages, and where it listens.

Whoever reaches it may start runs and change what deployments run, which is to say: act as the worker's user.
"""

import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keepwell.doctor.outcome import alert, guarded, not_applicable, not_checked, ok, warn
from keepwell.orchestrator import Orchestrator
from keepwell.served import Served, read_served
from keepwell.verdict import Finding

LOGIN, CSRF, LISTENERS = "orchestrator login", "orchestrator CSRF", "orchestrator listeners"
# Told by the compose stack, whose containers see no socket of the machine: where it publishes the server.
PUBLISHED_VARIABLE = "ORCHESTRATOR_PUBLISHED"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING = "0A"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Listener:
    """A TCP socket of this machine that waits for connections."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        mapped = getattr(self.address, "ipv4_mapped", None)
        return (mapped or self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def examine_protection(client: Orchestrator) -> Iterator[Finding]:
    """Login, CSRF protection and listeners of the server that a client speaks with."""
    yield from guarded(LOGIN, lambda: [_judge_login(lets_anybody_in=client.lets_anybody_in())])
    yield from guarded(CSRF, lambda: [_judge_csrf(protected=client.has_csrf_protection())])
    yield _examine_listeners(client.api_url)


def _judge_login(*, lets_anybody_in: bool) -> Finding:
    if lets_anybody_in:
        return alert(
            LOGIN,
            "The Prefect server lets in whoever reaches it, and they may run anything as the worker's user.",
            hint="Give it PREFECT_SERVER_API_AUTH_STRING, or let `keepwell serve` run it.",
        )
    return ok(LOGIN, "The Prefect server refuses whoever has no login.")


def _judge_csrf(*, protected: bool) -> Finding:
    if not protected:
        return alert(
            CSRF,
            "A page that an operator opens elsewhere could start and change runs: CSRF protection is off.",
            hint="Set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true for the server.",
        )
    return ok(CSRF, "The Prefect server takes no change without a token of its own.")


def _examine_listeners(api_url: str) -> Finding:
    parts = urlsplit(api_url)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    if not _is_here(host):
        published = os.environ.get(PUBLISHED_VARIABLE)
        if published:
            return judge_published(published)
        if parts.scheme == "http":
            message = f"The Prefect server is reached at {host} without TLS: the login can be read on the way."
            return warn(LISTENERS, message, hint="Put a proxy with TLS before it, and name https:// in api_url.")
        return not_applicable(LISTENERS, f"The Prefect server is on another machine, {host}: examine it there.")
    served = read_served()
    ours = served if served is not None and served.api_url.rstrip("/") == api_url else None
    ports = {"the Prefect server": port} if ours is None else ours.ports
    return judge_listeners(read_listeners(ports.values()), ports, ours)


def judge_published(address: str) -> Finding:
    """Where the compose stack publishes its server.

    Args:
        address: Of this machine, as the stack's settings have it.
    """
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        return not_checked(LISTENERS, f"The stack publishes the Prefect server on {address!r}, which is no address.")
    if loopback:
        return ok(LISTENERS, f"The stack publishes the Prefect server on {address} alone.")
    return alert(
        LISTENERS,
        f"The stack publishes the Prefect server on {address}, where others reach it without TLS.",
        hint="Set STACK_ADDRESS=127.0.0.1, and put compose.tls.yaml before it.",
    )


def judge_listeners(found: Iterable[Listener], ports: Mapping[str, int], served: Served | None) -> Finding:
    """Whether others than this machine reach the orchestrator.

    Args:
        found: Sockets that listen on those ports.
        ports: Which ports are the orchestrator's, by name.
        served: How it was asked to listen, where we serve it ourselves.
    """
    found = list(found)
    missing = sorted(name for name, port in ports.items() if port not in {one.port for one in found})
    if missing:
        message = f"Nothing was seen to listen for {', '.join(missing)}, so who reaches it is unknown."
        return not_checked(LISTENERS, message, hint="Examine it where it runs, such as inside its container.")
    open_ones = [one for one in found if not one.is_loopback]
    unasked = [one for one in open_ones if served is None or str(one.address) != served.listen]
    if unasked:
        return alert(
            LISTENERS,
            f"Beyond this machine, {', '.join(map(str, unasked))} is reached, without TLS.",
            hint="Let it listen on 127.0.0.1, and reach it through SSH or a proxy with TLS.",
        )
    if open_ones:
        return warn(
            LISTENERS,
            f"{', '.join(map(str, open_ones))} is reached from elsewhere, as --listen asked, without TLS.",
            hint="SSH or a proxy with TLS keeps the login from being read on the way.",
        )
    return ok(LISTENERS, f"Only this machine reaches {', '.join(map(str, found))}.")


def read_listeners(ports: Collection[int]) -> list[Listener]:
    """What listens on some ports of this machine, in its own network namespace."""
    return [
        listener
        for table in _TABLES
        if table.exists()
        for listener in parse_listeners(table.read_text())
        if listener.port in ports
    ]


def parse_listeners(table: str) -> list[Listener]:
    """Listening sockets of a table such as /proc/net/tcp or tcp6."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [_parse_socket(row[1]) for row in rows if len(row) > 3 and row[3] == _LISTENING]


def _parse_socket(text: str) -> Listener:
    """Such as 0100007F:1068; each four bytes of the address stand in the machine's own order."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(address), 8)]
    return Listener(ipaddress.ip_address(b"".join(words)), int(port, 16))


def _is_here(host: str) -> bool:
    """Whether a name means this machine: only its own addresses can be bound."""
    try:
        families = {(info[0], info[4]) for info in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return any(_can_bind(family, address) for family, address in families)


def _can_bind(family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
