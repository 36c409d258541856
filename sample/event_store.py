"""The backend's two stores: PostgreSQL through a few kept connections, and Redis as a cache that may be missing."""

import json
import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Literal

import psycopg
import redis
from psycopg.rows import DictRow, dict_row
from redis.backoff import NoBackoff
from redis.retry import Retry

from sample.log_lines import ServiceLog

DatabaseState = Literal["connected", "disconnected"]
RedisState = Literal["connected", "error", "disconnected", "unknown"]
Event = dict[str, Any]

KEPT_CONNECTIONS = 5
CONNECT_TIMEOUT_SECONDS = 2
CACHE_SECONDS = 30
CACHE_KEY = "cache:events:upcoming"
MOST_EVENTS = 100

_UPCOMING_EVENTS = """
    SELECT "id", "title", "category"::text, "status"::text, "startDate", "endDate", "location", "maxParticipants"
    FROM "events"
    WHERE "isPublic" AND "status" IN ('PUBLISHED', 'REGISTRATION_OPEN', 'REGISTRATION_CLOSED', 'ONGOING')
      AND "startDate" > (SELECT max("startDate") FROM "events") - interval '60 days'
    ORDER BY "startDate" DESC, "id"
    LIMIT %s
"""

# Refusals by a server that answers; redis-py counts some of them as connection errors.
_REDIS_REFUSALS = (redis.ResponseError, redis.AuthenticationError, redis.BusyLoadingError)


def connect_redis(url: str) -> "redis.Redis":
    """A client that gives up after two seconds and never retries by itself."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


class EventStore:
    """Reads what the backend shows. Safe for threads; survives a restart of either server."""

    def __init__(self, database_url: str, redis_url: str | None, log: ServiceLog, *, slow_query_ms: int) -> None:
        self._database_url = database_url
        self._redis = connect_redis(redis_url) if redis_url else None
        self._log = log
        self._slow_query_ms = slow_query_ms
        self._idle: queue.LifoQueue[psycopg.Connection[DictRow]] = queue.LifoQueue(KEPT_CONNECTIONS)

    def read_upcoming_events(self) -> list[Event]:
        """The open public events of the last 60 days on the calendar, the latest first; at most 100.

        The calendar's own end stands for "now": the sample data are of a fixed day, so a clock would sooner or
        later find nothing. Dates are ISO text in UTC.

        Raises:
            psycopg.Error: The database could not answer; the failure is in the log already.
        """
        cached = self._read_cache()
        if cached is not None:
            return cached
        events = [_as_json(row) for row in self._query("event.findMany", _UPCOMING_EVENTS, (MOST_EVENTS,))]
        self._write_cache(events)
        return events

    def probe_database(self) -> DatabaseState:
        """Whether the database answers a query now."""
        try:
            self._query("health", "SELECT 1 AS answer", ())
        except psycopg.Error:
            return "disconnected"
        return "connected"

    def probe_redis(self) -> RedisState:
        """Whether Redis answers now; unknown when the backend was given none."""
        if self._redis is None:
            return "unknown"
        try:
            self._redis.ping()
        except _REDIS_REFUSALS:
            return "error"
        except (redis.RedisError, OSError):
            return "disconnected"
        return "connected"

    def close(self) -> None:
        """Give all connections back."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()
        if self._redis is not None:
            self._redis.close()

    def _query(self, name: str, statement: str, parameters: Sequence[Any]) -> list[DictRow]:
        started = time.monotonic()
        try:
            with self._connection() as connection:
                rows = connection.execute(statement.encode(), parameters).fetchall()
        except psycopg.Error as error:
            self._log.write_failed_query(name, _elapsed_ms(started), str(error))
            raise
        elapsed_ms = _elapsed_ms(started)
        if elapsed_ms >= self._slow_query_ms:
            self._log.write_slow_query(name, elapsed_ms)
        return rows

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        connection = self._take()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()

    def _take(self) -> psycopg.Connection[DictRow]:
        """A kept connection that still works, or a new one."""
        with suppress(queue.Empty):
            while True:
                kept = self._idle.get_nowait()
                try:
                    kept.execute("SELECT 1")
                except psycopg.Error:
                    # The server was restarted since; it has told this connection so by now.
                    kept.close()
                else:
                    return kept
        return psycopg.connect(
            self._database_url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="esn_backend",
        )

    def _read_cache(self) -> list[Event] | None:
        if self._redis is None:
            return None
        try:
            text = self._redis.get(CACHE_KEY)
        except (redis.RedisError, OSError) as error:
            self._log.write("warn", "CacheService", f"Cache read failed: {error}")
            return None
        if not isinstance(text, str):
            return None
        events: list[Event] = json.loads(text)
        return events

    def _write_cache(self, events: list[Event]) -> None:
        if self._redis is None:
            return
        try:
            self._redis.set(CACHE_KEY, json.dumps(events, ensure_ascii=False), ex=CACHE_SECONDS)
        except (redis.RedisError, OSError) as error:
            self._log.write("warn", "CacheService", f"Cache write failed: {error}")


def _as_json(row: DictRow) -> Event:
    return {
        key: f"{value.isoformat(timespec='milliseconds')}Z" if isinstance(value, datetime) else value
        for key, value in row.items()
    }


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
