"""The sample services' settings, read from the environment only, as compose passes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

LogFormat = Literal["nest", "json", "winston", "pino"]

# Prisma writes these into the address; libpq refuses what it does not know.
_PRISMA_ONLY = frozenset(
    {"schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size"}
)


class SettingsError(Exception):
    """An environment variable is missing or wrong; the message says which and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a sample service needs to know to start."""

    database_url: str
    redis_url: str | None
    host: str
    port: int
    environment: str
    frontend_url: str | None
    log_format: LogFormat
    throttled: bool
    slow_query_ms: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read and check all settings.

        Raises:
            SettingsError: DATABASE_URL is missing, or a value makes no sense.
        """
        log_format = environment.get("SAMPLE_LOG_FORMAT", "nest")
        if log_format not in get_args(LogFormat):
            raise SettingsError(f"SAMPLE_LOG_FORMAT is {log_format!r}: use one of {', '.join(get_args(LogFormat))}")
        throttle = environment.get("SAMPLE_THROTTLE", "on")
        if throttle not in {"on", "off"}:
            raise SettingsError(f"SAMPLE_THROTTLE is {throttle!r}: use on or off")
        return cls(
            database_url=_database_url(environment),
            redis_url=environment.get("REDIS_URL") or None,
            host=environment.get("HOST", "127.0.0.1"),
            port=whole_number(environment, "PORT", default=4000, highest=65_535),
            environment=environment.get("NODE_ENV", "development"),
            frontend_url=environment.get("FRONTEND_URL") or None,
            log_format=log_format,  # type: ignore[arg-type]  # narrowed by the membership test above
            throttled=throttle == "on",
            slow_query_ms=whole_number(environment, "SAMPLE_SLOW_QUERY_MS", default=1_000, highest=3_600_000),
        )


def _database_url(environment: Mapping[str, str]) -> str:
    url = environment.get("DATABASE_URL", "").strip()
    if not url:
        raise SettingsError("DATABASE_URL is missing: set it to postgresql://user:password@host:port/database")
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise SettingsError("DATABASE_URL must begin with postgresql://")
    known = [(key, value) for key, value in parse_qsl(parts.query) if key not in _PRISMA_ONLY]
    return urlunsplit(parts._replace(query=urlencode(known)))


def whole_number(environment: Mapping[str, str], name: str, *, default: int, highest: int) -> int:
    """Read a number from 0 to `highest`.

    Raises:
        SettingsError: It is something else.
    """
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) > highest:
        raise SettingsError(f"{name} is {text!r}: use a number from 0 to {highest}")
    return int(text)
