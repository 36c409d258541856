"""Which way leads to a server in a container, tried and measured: loopback, its address, a program in there."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keepwell.cache.probe import read_facts
from keepwell.discovery.judgement import FoundServer
from keepwell.errors import AccessDenied, ConfigurationError, KeepwellError
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings, Reach, RedisSettings
from keepwell.verdict import Finding, Verdict

_MEGABYTES = 32
_WORDS = {
    "host": "at its published port",
    "container": "at its container's address",
    "exec": "by a program in its container",
}


@dataclass(frozen=True)
class Way:
    """A way that works.

    Attributes:
        values: For the platform file: host, port, reach, container and compose_project.
        finding: What was measured, in words.
    """

    values: dict[str, str | int]
    finding: Finding


def measure_database(found: FoundServer, password: str) -> Way | Finding:
    """The first way into a database that works, the fastest kind first.

    Args:
        found: Its server.
        password: Empty for none.

    Returns:
        What works; else what every way said.
    """
    login = {"name": found.name, "user": found.user, "password": password or None}

    def ask(values: dict[str, str | int]) -> str:
        settings = DatabaseSettings.model_validate(login | values)
        began = time.monotonic()
        with connect(settings, application_name="keepwell init") as connection, translated("measuring the way"):
            answered = time.monotonic()
            connection.execute("SELECT repeat('x', 1000000) FROM generate_series(1, %s)", [_MEGABYTES]).fetchall()
            rate = _MEGABYTES / max(time.monotonic() - answered, 0.001)
        return f"logged in after {(answered - began) * 1000:.0f} ms, {rate:.0f} MB/s"

    return _first_way("database way", found, ask)


def measure_cache(found: FoundServer) -> Way | Finding:
    """The first way into a cache that works, as `measure_database` does it."""
    login = {"user": found.user, "password": found.password or None}

    def ask(values: dict[str, str | int]) -> str:
        began = time.monotonic()
        facts = read_facts(RedisSettings.model_validate(login | values))
        return f"version {facts.version}, answered after {(time.monotonic() - began) * 1000:.0f} ms"

    return _first_way("redis way", found, ask)


def _first_way(name: str, found: FoundServer, ask: Callable[[dict[str, str | int]], str]) -> Way | Finding:
    refused = []
    for reach, values in _ways(found):
        try:
            told = ask(values)
        except (AccessDenied, ConfigurationError) as error:
            # It answers, and another way would lead to the same answer.
            return Finding(name=name, verdict=Verdict.ALERT, message=error.message, hint=error.hint)
        except KeepwellError as error:
            refused.append(f"{_WORDS[reach]}: {error.message}")
            continue
        message = f"Reached {_WORDS[reach]} (reach = {reach}): {told}."
        if refused:
            message += f" Not {'; nor '.join(refused)}"
        return Way(values, Finding(name=name, verdict=Verdict.OK, message=message))
    return Finding(
        name=name,
        verdict=Verdict.UNKNOWN,
        message=f"No way leads to it. {' '.join(refused)}",
        hint="Is it up? Publish its port on 127.0.0.1, or let this user use the Docker Engine.",
    )


def _ways(found: FoundServer) -> Iterator[tuple[Reach, dict[str, str | int]]]:
    contained: dict[str, str | int] = {"container": found.container}
    if found.project:
        contained["compose_project"] = found.project
    if found.published_port:
        yield "host", contained | {"host": "127.0.0.1", "port": found.published_port}
    for reach in ("container", "exec"):
        yield reach, contained | {"reach": reach, "port": found.port}
