"""Emptying the cache, which may hold answers of a database that was replaced."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from keepwell.cache.probe import connection_place, translated
from keepwell.settings import RedisSettings


def flush_cache(settings: RedisSettings, *, timeout_seconds: float = 30) -> int:
    """Remove every key of the server, in all of its databases; one try.

    Returns:
        How many keys there were just before.

    Raises:
        AccessDenied: The user may not.
        ServiceUnavailable: No answer in time.
    """
    client = redis.Redis(
        **connection_place(settings),
        username=settings.user,
        password=settings.password.get_secret_value() if settings.password else None,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    with translated(f"Redis on {settings.place}"), client:
        keys = sum(int(one["keys"]) for one in client.info("keyspace").values())
        client.flushall()
    return keys
