"""What a container can be: the program it becomes, and what only the container itself may know.

Everything that is no secret stands in compose.yaml, where an operator looks for it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from deployments.deployment_file import POOL
from deployments.production.compose.passwords import DATABASE_PASSWORD, LOGIN, REDIS_PASSWORD

DATABASE_USER, DATABASE = "keepwell", "prefect"
# Host and port of what a container speaks to, in its compose file.
DATABASE_VARIABLE, REDIS_VARIABLE, SERVER_VARIABLE = "ORCHESTRATOR_DATABASE", "ORCHESTRATOR_REDIS", "ORCHESTRATOR"
_POSTGRES_PORT, _REDIS_PORT, SERVER_PORT = 5432, 6379, 4200
# Of the container; what the machine publishes, and where, compose.yaml says.
_EVERYWHERE = "0.0.0.0"  # noqa: S104


@dataclass(frozen=True)
class Call:
    """A program that a container becomes.

    Attributes:
        argv: The program and its arguments.
        secrets: Variables that are added to those of compose; never shown.
        waits_for: Host and port of each server that must listen first.
    """

    argv: tuple[str, ...]
    secrets: Mapping[str, str] = field(repr=False)
    waits_for: tuple[tuple[str, int], ...] = ()


def build_call(
    role: str, arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]
) -> Call:
    """What a container of this role becomes.

    Args:
        role: One of `ROLES`.
        arguments: Added to its program's own.
        environment: What compose said.
        read_password: From a password's name.

    Raises:
        PreconditionFailed: A password is missing.
    """
    return ROLES[role](arguments, environment, read_password)


def _serve(arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    argv = ("prefect", "server", "start", "--host", _EVERYWHERE, "--port", str(SERVER_PORT), *arguments)
    return _of_the_server(argv, environment, read_password)


def _serve_background(
    arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]
) -> Call:
    return _of_the_server(("prefect", "server", "services", "start", *arguments), environment, read_password)


def _migrate(arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    argv = ("prefect", "server", "database", "upgrade", "--yes", *arguments)
    return _of_the_server(argv, environment, read_password)


def _of_the_server(argv: tuple[str, ...], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    host = environment[DATABASE_VARIABLE]
    password = quote(read_password(DATABASE_PASSWORD), safe="")
    secrets = {
        "PREFECT_SERVER_API_AUTH_STRING": read_password(LOGIN),
        "PREFECT_API_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://{DATABASE_USER}:{password}@{host}:{_POSTGRES_PORT}/{DATABASE}"
        ),
    }
    waits_for = [(host, _POSTGRES_PORT)]
    redis = environment.get(REDIS_VARIABLE)
    if redis is not None:
        address = f"redis://:{quote(read_password(REDIS_PASSWORD), safe='')}@{redis}:{_REDIS_PORT}"
        # Two databases of it, so that what one keeps never meets what the other does.
        secrets |= {"PREFECT_REDIS_MESSAGING_URL": f"{address}/0", "PREFECT_SERVER_DOCKET_URL": f"{address}/1"}
        waits_for.append((redis, _REDIS_PORT))
    return Call(argv, secrets, tuple(waits_for))


def _register(arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    return _of_a_client(("python", "-m", "deployments.register", *arguments), environment, read_password)


def _work(arguments: Sequence[str], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    argv = ("prefect", "worker", "start", "--pool", POOL, "--no-create-pool-if-not-found", "--install-policy", "never")
    return _of_a_client((*argv, "--with-healthcheck", *arguments), environment, read_password)


def _of_a_client(argv: tuple[str, ...], environment: Mapping[str, str], read_password: Callable[[str], str]) -> Call:
    secrets = {"PREFECT_API_AUTH_STRING": read_password(LOGIN)}
    return Call(argv, secrets, ((environment[SERVER_VARIABLE], SERVER_PORT),))


ROLES: Mapping[str, Callable[[Sequence[str], Mapping[str, str], Callable[[str], str]], Call]] = {
    "server": _serve,
    "services": _serve_background,
    "migrate": _migrate,
    "register": _register,
    "worker": _work,
}


def become(call: Call) -> None:
    """Replace this process by the program; does not return."""
    os.execvpe(call.argv[0], call.argv, {**os.environ, **call.secrets})  # noqa: S606 - argv only, in our place
