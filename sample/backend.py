"""The sample platform's backend: `python -m sample.backend`.

Settings come from the environment: DATABASE_URL, REDIS_URL, HOST, PORT (0 picks a free one), NODE_ENV, FRONTEND_URL,
SAMPLE_LOG_FORMAT (nest, json, winston, pino), SAMPLE_THROTTLE (on, off), SAMPLE_SLOW_QUERY_MS.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from sample.event_store import Event, EventStore
from sample.graphql_request import GraphQLError, Selection, read_query
from sample.log_lines import ServiceLog
from sample.settings import Settings, SettingsError
from sample.throttle import Throttle

LARGEST_BODY_BYTES = 100_000
EVENT_FIELDS = frozenset({"id", "title", "category", "status", "startDate", "endDate", "location", "maxParticipants"})


class Backend:
    """Answers for each path, free of HTTP: a status and a document or text."""

    def __init__(self, store: EventStore, settings: Settings) -> None:
        self._store = store
        self._environment = settings.environment
        self._started = time.monotonic()

    def health(self) -> tuple[int, dict[str, Any]]:
        """The newer shape: always HTTP 200, and `degraded` says that a store is down."""
        database, redis_state = self._store.probe_database(), self._store.probe_redis()
        healthy = database == "connected" and redis_state in {"connected", "unknown"}
        document = {
            "status": "ok" if healthy else "degraded",
            "timestamp": _iso_now(),
            "uptime": round(self._uptime_seconds(), 3),
            "database": database,
            "redis": redis_state,
            "memory": _memory_megabytes(),
        }
        return 200, document

    def health_terminus(self) -> tuple[int, dict[str, Any]]:
        """The shape of @nestjs/terminus: 503 when a store is down."""
        states = {"database": self._store.probe_database() == "connected"}
        redis_state = self._store.probe_redis()
        if redis_state != "unknown":
            states["redis"] = redis_state == "connected"
        details = {name: {"status": "up" if up else "down"} for name, up in states.items()}
        healthy = all(states.values())
        document = {
            "status": "ok" if healthy else "error",
            "info": {name: details[name] for name, up in states.items() if up},
            "error": {name: details[name] for name, up in states.items() if not up},
            "details": details,
        }
        return (200 if healthy else 503), document

    def health_basic(self) -> tuple[int, dict[str, Any]]:
        """The older shape, which asks no store."""
        document = {
            "status": "ok",
            "timestamp": _iso_now(),
            "environment": self._environment,
            "uptime": round(self._uptime_seconds(), 3),
        }
        return 200, document

    def calendar_feed(self) -> str:
        """The public events as iCalendar text.

        Raises:
            psycopg.Error: The database could not answer.
        """
        return render_calendar(self._store.read_upcoming_events())

    def graphql(self, query: str) -> dict[str, Any]:
        """Answer one query; a failure becomes `errors` with `data` null, as Apollo answers it."""
        try:
            return {"data": {selection.name: self._resolve(selection) for selection in read_query(query)}}
        except GraphQLError as error:
            code = "UNAUTHENTICATED" if str(error) == "Unauthorized" else "GRAPHQL_VALIDATION_FAILED"
            return _graphql_failure(str(error), code)
        except psycopg.Error:
            return _graphql_failure("Internal server error", "INTERNAL_SERVER_ERROR")

    def _resolve(self, selection: Selection) -> Any:
        if selection.name == "healthCheck" and not selection.fields:
            return "OK"
        if selection.name == "me":
            raise GraphQLError("Unauthorized")
        if selection.name != "events":
            raise GraphQLError(f'Cannot query field "{selection.name}" on type "Query".')
        names = [chosen.name for chosen in selection.fields]
        unknown = [chosen.name for chosen in selection.fields if chosen.fields or chosen.name not in EVENT_FIELDS]
        if unknown or not names:
            raise GraphQLError(f'Cannot query field "{unknown[0] if unknown else "events"}" on type "Event".')
        return [{name: event[name] for name in names} for event in self._store.read_upcoming_events()]

    def _uptime_seconds(self) -> float:
        return time.monotonic() - self._started


def _graphql_failure(message: str, code: str) -> dict[str, Any]:
    return {"errors": [{"message": message, "extensions": {"code": code}}], "data": None}


def render_calendar(events: list[Event]) -> str:
    """Write events as iCalendar (RFC 5545): CRLF line ends, lines folded at 75 bytes, commas and the like escaped."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//ESN sample platform//EN"]
    for event in events:
        lines += [
            "BEGIN:VEVENT",
            f"UID:{event['id']}@esn.example",
            f"DTSTAMP:{_calendar_time(event['startDate'])}",
            f"DTSTART:{_calendar_time(event['startDate'])}",
            f"DTEND:{_calendar_time(event['endDate'])}",
            f"SUMMARY:{_calendar_text(event['title'])}",
            f"LOCATION:{_calendar_text(event['location'])}",
            "END:VEVENT",
        ]
    return "".join(_fold(line) for line in [*lines, "END:VCALENDAR"])


def _calendar_time(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y%m%dT%H%M%SZ")


def _calendar_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")
    return escaped.replace("\n", "\\n")


def _fold(line: str) -> str:
    folded, length = [], 0
    for character in line:
        size = len(character.encode())
        if length + size > 75:
            folded.append("\r\n ")
            length = 1
        folded.append(character)
        length += size
    return "".join(folded) + "\r\n"


def _iso_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _memory_megabytes() -> dict[str, int]:
    """Resident memory now and at its highest; Linux counts the latter in kilobytes."""
    used_bytes = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    highest_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"used": used_bytes >> 20, "total": max(used_bytes, highest_bytes) >> 20}


class BackendServer(ThreadingHTTPServer):
    """The listening socket with what its handlers need; on closing it waits for requests under way."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, settings: Settings, store: EventStore, log: ServiceLog) -> None:
        self.backend = Backend(store, settings)
        self.throttle = Throttle() if settings.throttled else None
        self.allowed_origin = settings.frontend_url or "*"
        self.log = log
        super().__init__((settings.host, settings.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A failure outside any answer, such as a client that went away, is worth one line, not a traceback."""
        del request
        error = sys.exception()
        self.log.write("error", "ExceptionsHandler", f"{type(error).__name__}: {error} (from {client_address[0]})")


class _Handler(BaseHTTPRequestHandler):
    """Translates between HTTP and `Backend`."""

    server: BackendServer
    timeout: ClassVar[float] = 10.0  # a silent client must not hold up a clean shutdown

    def do_GET(self) -> None:
        """Answer the health, root and calendar paths."""
        if not self._admitted():
            return
        backend, path = self.server.backend, self._path()
        if path == "/":
            self._send_text(200, "ESN Event Management API", "text/html; charset=utf-8")
        elif path == "/health":
            self._send_json(*backend.health())
        elif path == "/health/terminus":
            self._send_json(*backend.health_terminus())
        elif path == "/health/basic":
            self._send_json(*backend.health_basic())
        elif path == "/calendar/feed":
            self._send_calendar()
        else:
            self._send_failure(404, f"Cannot GET {path}", "Not Found")

    def do_POST(self) -> None:
        """Answer GraphQL."""
        if not self._admitted():
            return
        path = self._path()
        if path != "/graphql":
            self._send_failure(404, f"Cannot POST {path}", "Not Found")
            return
        query = self._read_query()
        if query is None:
            self._send_failure(400, "Send a JSON body with a text `query`.", "Bad Request")
        else:
            self._send_json(200, self.server.backend.graphql(query))

    def do_OPTIONS(self) -> None:
        """Answer a browser's preflight, which the throttle does not count."""
        self._send_text(204, "", "text/plain")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing here: `_send_text` writes one line for each answer, in the chosen format."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """Write the base class's complaints (a bad request line, a time-out) in the chosen format."""
        self.server.log.write("warn", "HttpServer", format % args)

    def parse_request(self) -> bool:
        """Note when the request came, for the response time."""
        self._arrived = time.monotonic()
        return super().parse_request()

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _admitted(self) -> bool:
        throttle = self.server.throttle
        wait_seconds = throttle.admit(self.client_address[0], time.monotonic()) if throttle else 0.0
        if wait_seconds <= 0:
            return True
        document = {"statusCode": 429, "message": "ThrottlerException: Too Many Requests"}
        self._send_json(429, document, {"Retry-After": str(int(wait_seconds) + 1)})
        return False

    def _read_query(self) -> str | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY_BYTES:
            return None
        try:
            document = json.loads(self.rfile.read(int(length)))
        except ValueError:
            return None
        query = document.get("query") if isinstance(document, dict) else None
        return query if isinstance(query, str) else None

    def _send_calendar(self) -> None:
        try:
            calendar = self.server.backend.calendar_feed()
        except psycopg.Error:
            self._send_failure(500, "Internal server error", None)
        else:
            self._send_text(200, calendar, "text/calendar; charset=utf-8")

    def _send_failure(self, status: int, message: str, error: str | None) -> None:
        document = {"statusCode": status, "message": message}
        self._send_json(status, document if error is None else {**document, "error": error})

    def _send_json(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        text = json.dumps(document, ensure_ascii=False)
        self._send_text(status, text, "application/json; charset=utf-8", headers)

    def _send_text(self, status: int, text: str, content_type: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", self.server.allowed_origin)
        self.send_header("Access-Control-Allow-Headers", "content-type")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        elapsed_ms = round((time.monotonic() - self._arrived) * 1000)
        # Before the body, so that whoever has read the answer finds its line in the log.
        self.server.log.write_request(self.command, self._path(), status, elapsed_ms)
        self.wfile.write(body)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and close the connections."""
    log = ServiceLog(settings.log_format)
    log.write("log", "NestFactory", "Starting Nest application...")
    store = EventStore(settings.database_url, settings.redis_url, log, slow_query_ms=settings.slow_query_ms)
    with BackendServer(settings, store, log) as server:
        stop_on_signal(server)
        host, port = server.server_address[:2]
        log.write("log", "Bootstrap", f"Application is running on: http://{host!s}:{port}")
        server.serve_forever(poll_interval=0.1)
        log.write("log", "Bootstrap", "Shutting down")
    store.close()


def stop_on_signal(server: ThreadingHTTPServer) -> None:
    """Make SIGTERM and SIGINT end `serve_forever`; from a thread, since it must be running to be told."""

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main() -> int:
    """Run the service; 0 after a clean stop, 1 with a message on stderr when it cannot start."""
    try:
        serve(Settings.from_environment(os.environ))
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"sample.backend: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
