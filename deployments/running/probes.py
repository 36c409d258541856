"""Questions to a server on loopback whether it serves; each takes half a second at most and never raises."""

import base64
import http.client
import json
import socket
from datetime import datetime

import psycopg

from deployments.running.parts import Probe
from deployments.running.ports import HOST

_LIMIT_SECONDS = 0.5


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


def answers_http(port: int, path: str = "/") -> Probe:
    """Whether a path answers with a status below 400."""
    return lambda _: _request(port, "GET", path) is not None


def has_worker(port: int, pool: str, name: str, login: str | None = None) -> Probe:
    """Whether the Prefect server has heard from this worker since it was started; with the login that it asks for."""

    def probe(started_at: float) -> bool:
        answer = _request(port, "POST", f"/api/work_pools/{pool}/workers/filter", {}, login)
        if answer is None:
            return False
        return any(
            worker.get("name") == name and _seconds(worker.get("last_heartbeat_time")) >= started_at
            for worker in json.loads(answer)
        )

    return probe


def _seconds(time_text: str | None) -> float:
    return datetime.fromisoformat(time_text).timestamp() if time_text else 0.0


def _request(port: int, method: str, path: str, document: object = None, login: str | None = None) -> bytes | None:
    """Body of a good answer; None for any other, or none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_LIMIT_SECONDS)
    try:
        body = None if document is None else json.dumps(document)
        headers = {"Content-Type": "application/json"} if body else {}
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        connection.request(method, path, body, headers)
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
