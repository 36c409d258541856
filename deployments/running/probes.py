"""Questions to a server of this machine whether it serves; each takes a few seconds at most and never raises."""

import base64
import http.client
import json
import socket
from collections.abc import Mapping
from datetime import datetime

import psycopg

from deployments.running.parts import Probe
from deployments.running.ports import HOST

_LIMIT_SECONDS = 2.0
_CSRF_CLIENT = "supervisor"


def logs_in_to_postgres(port: int, password: str, database: str = "postgres") -> Probe:
    """Whether a login works."""

    def probe(_: float) -> bool:
        try:
            psycopg.connect(
                host=HOST, port=port, user="postgres", password=password, dbname=database, connect_timeout=2
            ).close()
        except psycopg.Error:
            return False
        return True

    return probe


def answers_redis(port: int, password: str) -> Probe:
    """Whether the server lets us in and answers a PING: it refuses while it loads its data."""

    def probe(_: float) -> bool:
        try:
            with socket.create_connection((HOST, port), timeout=_LIMIT_SECONDS) as connection:
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                answer = connection.makefile("rb")
                return answer.readline() == b"+OK\r\n" and answer.readline() == b"+PONG\r\n"
        except OSError:
            return False

    return probe


def answers_http(port: int, path: str = "/", host: str = HOST) -> Probe:
    """Whether a path answers with a status below 400."""
    return lambda _: _request((host, port), "GET", path, {}) is not None


def has_worker(port: int, pool: str, name: str, login: str, host: str = HOST) -> Probe:
    """Whether the Prefect server has heard from this worker since the given time."""
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}

    def probe(since: float) -> bool:
        token = _request((host, port), "GET", f"/api/csrf-token?client={_CSRF_CLIENT}", headers)
        if token is None:
            return False
        allowed = headers | {
            "Content-Type": "application/json",
            "Prefect-Csrf-Client": _CSRF_CLIENT,
            "Prefect-Csrf-Token": str(json.loads(token)["token"]),
        }
        answer = _request((host, port), "POST", f"/api/work_pools/{pool}/workers/filter", allowed, "{}")
        return answer is not None and any(
            worker.get("name") == name and _seconds(worker.get("last_heartbeat_time")) >= since
            for worker in json.loads(answer)
        )

    return probe


def _seconds(time_text: str | None) -> float:
    return datetime.fromisoformat(time_text).timestamp() if time_text else 0.0


def _request(
    place: tuple[str, int], method: str, path: str, headers: Mapping[str, str], body: str | None = None
) -> bytes | None:
    """Body of a good answer; None for any other, or none."""
    connection = http.client.HTTPConnection(*place, timeout=_LIMIT_SECONDS)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return content if response.status < 400 else None


def always(_: float) -> bool:
    """For a part that serves nobody: it is ready as soon as it runs."""
    return True
