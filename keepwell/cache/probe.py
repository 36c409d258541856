"""Asking the cache whether it serves us, with the real login."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from keepwell.containers.reach import find_place
from keepwell.errors import AccessDenied, KeepwellError, ServiceUnavailable
from keepwell.settings import RedisSettings


@dataclass(frozen=True)
class CacheFacts:
    """What the cache says of itself.

    Attributes:
        version: As it reports it, such as `7.2.4`.
        persistent: Whether it keeps an append-only file, or has saved a snapshot without an error.
        up_seconds: Since its start.
    """

    version: str
    persistent: bool
    up_seconds: int = 0


def read_facts(settings: RedisSettings, *, timeout_seconds: float = 5) -> CacheFacts:
    """Log in, PING, and read what the cache says of itself; one try, nothing is changed.

    Raises:
        AccessDenied: Wrong or missing password, or a user who may not ask.
        ServiceUnavailable: No answer in time, or it is still loading its data.
        KeepwellError: It answered something else.
    """
    client = redis.Redis(
        **connection_place(settings),
        username=settings.user,
        password=settings.password.get_secret_value() if settings.password else None,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    with translated(f"Redis on {settings.place}"), client:
        client.ping()
        info = client.info()
    return CacheFacts(
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        persistent=bool(info.get("aof_enabled")) or info.get("rdb_last_bgsave_status") == "ok",
        up_seconds=int(info.get("uptime_in_seconds") or 0),
    )


def connection_place(settings: RedisSettings) -> dict[str, Any]:
    """Where to connect to, as the driver's keywords; a server in a container is looked for now.

    Raises:
        PreconditionFailed: There is no way into its container.
        ServiceUnavailable: It does not run, or the engine does not answer.
    """
    place = find_place(settings)
    return {"unix_socket_path": str(place.socket)} if place.socket else {"host": place.host, "port": place.port}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours.

    Args:
        what: What was being spoken to, for the message.
    """
    try:
        yield
    except RedisError as error:
        raise translate(error, what) from error


def translate(error: RedisError, what: str) -> KeepwellError:
    """Our error for a driver's error; it names `what` and holds no password."""
    said = (str(error).splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, AuthenticationError | NoPermissionError) or said.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        if "HELLO must be called" in said:
            said = "it wants a login, and none is configured."
        return AccessDenied(f"{what} refused us: {said}", hint="Check redis.user and redis.password_file.")
    if isinstance(error, RedisTimeoutError):
        return ServiceUnavailable(f"{what} did not answer in time.", hint="Is it up, and does a firewall drop packets?")
    if isinstance(error, BusyLoadingError):
        return ServiceUnavailable(f"{what} is still loading its data.", hint="Wait for it.")
    if isinstance(error, RedisConnectionError):
        return ServiceUnavailable(
            f"{what} cannot be reached: {said}", hint="Check that it is up, and redis.host and redis.port."
        )
    hint = "Look at its log." if isinstance(error, ResponseError) else ""
    return KeepwellError(f"{what}: {said}", hint=hint)
