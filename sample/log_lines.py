"""Renders log lines as NestJS (text or JSON), winston and pino write them, and prints them to stdout."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from sample.settings import LogFormat

Level = Literal["log", "warn", "error"]

_WINSTON_LEVELS: dict[Level, str] = {"log": "info", "warn": "warn", "error": "error"}
_PINO_LEVELS: dict[Level, int] = {"log": 30, "warn": 40, "error": 50}


def render_nest(level: Level, context: str, message: str, *, at: datetime, pid: int) -> str:
    """`[Nest] 1  - 11/23/2026, 6:32:03 PM   ERROR [Context] message`, in American English as Node does by default."""
    clock = f"{at.hour % 12 or 12}:{at:%M:%S} {'AM' if at.hour < 12 else 'PM'}"
    return f"[Nest] {pid}  - {at.month}/{at.day}/{at.year}, {clock} {level.upper():>7} [{context}] {message}"


def render_nest_json(level: Level, context: str, message: str, *, at: datetime, pid: int) -> str:
    """One JSON object, as Nest's console logger writes it with `json: true`."""
    return _json({"level": level, "pid": pid, "timestamp": _milliseconds(at), "message": message, "context": context})


def render_winston(level: Level, context: str, message: str, *, at: datetime) -> str:
    """One JSON object with an ISO time."""
    iso = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _json({"level": _WINSTON_LEVELS[level], "message": message, "timestamp": iso, "context": context})


def render_pino(
    level: Level, context: str, message: str, *, at: datetime, pid: int, request: dict[str, Any] | None = None
) -> str:
    """One JSON object with a numeric level; a request line adds req, res and responseTime."""
    head = {"level": _PINO_LEVELS[level], "time": _milliseconds(at), "pid": pid, "context": context}
    return _json({**head, **(request or {}), "msg": message})


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _utc_now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


class ServiceLog:
    """Writes whole lines, so that threads never mix theirs, in the one format the service was given."""

    def __init__(
        self, log_format: LogFormat, stream: TextIO | None = None, *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._format = log_format
        self._stream = stream or sys.stdout
        self._now = now
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def write(self, level: Level, context: str, message: str) -> None:
        """Write one message."""
        self._print(self._render(level, context, message, None))

    def write_request(self, method: str, path: str, status: int, elapsed_ms: int) -> None:
        """Write one line for an answered request."""
        request = {
            "req": {"method": method, "url": path},
            "res": {"statusCode": status},
            "responseTime": elapsed_ms,
        }
        level: Level = "error" if status >= 500 else "warn" if status >= 400 else "log"
        message = "request completed" if self._format == "pino" else f"{method} {path} {status} {elapsed_ms}ms"
        self._print(self._render(level, "HTTP", message, request))

    def write_slow_query(self, name: str, elapsed_ms: int) -> None:
        """Warn of a query that worked but took too long."""
        self.write("warn", "Performance", f"⚠️  SLOW QUERY: {name} took {elapsed_ms}ms")

    def write_failed_query(self, name: str, elapsed_ms: int, reason: str) -> None:
        """Report a query that failed: Nest's line, and before it Prisma's own, which spans several lines."""
        first_line = (reason.strip() or "unknown error").splitlines()[0]
        if self._format == "nest":
            self._print(f"prisma:error \nInvalid `prisma.{name}()` invocation:\n\n\n{reason.strip()}")
        self.write("error", "Performance", f"❌ FAILED QUERY: {name} took {elapsed_ms}ms - {first_line}")

    def _render(self, level: Level, context: str, message: str, request: dict[str, Any] | None) -> str:
        at = self._now()
        if self._format == "json":
            return render_nest_json(level, context, message, at=at, pid=self._pid)
        if self._format == "winston":
            return render_winston(level, context, message, at=at)
        if self._format == "pino":
            return render_pino(level, context, message, at=at, pid=self._pid, request=request)
        return render_nest(level, context, message, at=at, pid=self._pid)

    def _print(self, text: str) -> None:
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()
