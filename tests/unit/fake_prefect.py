"""A server that answers like Prefect's API, from a script of states, over real HTTP."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)


@dataclass
class FakePrefect:
    """What the server knows; tests change it as they go."""

    url: str = ""
    deployments: list[dict[str, Any]] = field(default_factory=list)
    workers: list[dict[str, Any]] = field(default_factory=list)
    has_pool: bool = True
    queues: dict[str, str] = field(default_factory=lambda: {"platform-esn": "READY", "watch": "READY"})
    # One state per look at the run; the last one stays.
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "COMPLETED"])
    lines: list[tuple[str, int, str]] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    last_run: dict[str, Any] | None = None
    auth_string: str | None = None
    csrf: bool = False
    failing: Callable[["FakePrefect"], int | None] = lambda _: None
    looks: int = 0
    created: list[dict[str, Any]] = field(default_factory=list)
    # Runs that wait for somebody, by id, with the form of each; what they were answered; what the server says to that.
    suspended: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusal: str | None = None

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """The document for one request; None when there is nothing at that path."""
        if path.startswith("/flow_runs/") and (waiting := self._answer_of_waiting(path, body)) is not None:
            return waiting
        if path.startswith("/flow_runs/") and path != "/flow_runs/filter":
            state = self.states[min(self.looks, len(self.states) - 1)]
            self.looks += 1
            return self._run(state)
        answers: dict[str, Callable[[], Any]] = {
            "/health": lambda: True,
            "/admin/version": lambda: "3.8.8",
            "/deployments/filter": lambda: self.deployments,
            "/flows/filter": lambda: [
                {"id": name, "name": name} for name in {one["flow_id"] for one in self.deployments}
            ],
            "/work_pools/keepwell/workers/filter": lambda: self.workers if self.has_pool else None,
            "/work_pools/keepwell/queues/filter": lambda: [
                {"name": name, "status": status} for name, status in self.queues.items()
            ],
            "/deployments/d1/create_flow_run": lambda: self._create(body),
            "/task_runs/filter": lambda: [
                {"id": "t1", "name": "dump-0", "state_type": "COMPLETED", "state_name": "Completed"}
            ],
            "/logs/filter": self._lines,
            "/artifacts/filter": lambda: self._artifacts(body["artifacts"]),
            "/flow_runs/filter": lambda: [self.last_run] if self.last_run else [],
        }
        return answers[path]() if path in answers else None

    def _answer_of_waiting(self, path: str, body: dict[str, Any]) -> Any:
        """Of a run that is suspended; None for anything else."""
        if path == "/flow_runs/filter" and body["flow_runs"].get("state", {}).get("type", {}).get("any_") == ["PAUSED"]:
            return [self._waiting(run_id) for run_id in self.suspended]
        run_id, _, rest = path.removeprefix("/flow_runs/").partition("/")
        if run_id not in self.suspended:
            return None
        if rest == "resume":
            self.answers.append((run_id, body["run_input"]))
            refused = {"status": "REJECT", "details": {"reason": self.refusal}}
            return refused if self.refusal else {"status": "ACCEPT", "details": {}}
        if rest.startswith("input/"):
            form = self.suspended[run_id]
            return form["text"] if rest.endswith("-description") else {"properties": form["fields"]}
        return self._waiting(run_id)

    def _waiting(self, run_id: str) -> dict[str, Any]:
        answered = run_id in [one for one, _ in self.answers] and self.refusal is None
        keyset = {"schema": "suspended-approval-schema", "description": "suspended-approval-description"}
        details = {"run_input_keyset": keyset, "pause_timeout": (NOW + timedelta(hours=12)).isoformat()}
        kind, name = ("SCHEDULED", "Resuming") if answered else ("PAUSED", "Suspended")
        state = {"type": kind, "name": name, "state_details": details}
        return {"id": run_id, "name": "restore/esn", "state_type": kind, "state_name": name, "state": state}

    def _artifacts(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        if wanted["type"]["any_"] == ["progress"]:
            return [{"id": "p1", "key": "dump", "data": json.dumps(p)} for p in self.progress]
        shown = [self.suspended[run_id]["page"] for run_id in wanted["flow_run_id"]["any_"] if run_id in self.suspended]
        return [{"id": "m1", "key": "esn-restore-plan", "data": page} for page in shown]

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"l{n}",
                "name": name,
                "level": level,
                "message": text,
                "timestamp": (NOW + timedelta(seconds=n)).isoformat(),
            }
            for n, (name, level, text) in enumerate(self.lines)
        ]

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.created.append(body["parameters"])
        return self._run("SCHEDULED")

    def _run(self, state: str) -> dict[str, Any]:
        said = {"type": state, "name": state.title(), "message": "it broke" if state == "FAILED" else None}
        return {
            "id": "r1", "name": "brave-owl", "deployment_id": "d1", "state_type": state, "state_name": state.title(),
            "state": said, "total_run_time": 3.0, "unknown_to_us": True,
        }  # fmt: skip


def deployment(procedure: str = "backup-and-verify", platform: str = "esn", **changes: Any) -> dict[str, Any]:
    schema = {"properties": {"platform": {"type": "string"}}}
    known = {"id": "d1", "name": platform, "paused": False, "work_pool_name": "keepwell", "parameters": {}}
    known |= {"work_queue_name": f"platform-{platform}", "flow_id": procedure}
    known |= {"tags": ["keepwell", f"platform:{platform}"], "schedules": []}
    return known | {"parameter_openapi_schema": schema} | changes


def worker(**changes: Any) -> dict[str, Any]:
    beat = datetime.now(UTC).isoformat()
    return {"name": "one", "status": "ONLINE", "last_heartbeat_time": beat} | changes


@contextmanager
def fake_prefect() -> Iterator[FakePrefect]:
    """A server on loopback for the length of a block."""
    fake = FakePrefect(deployments=[deployment()], workers=[worker()])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path = self.path.removeprefix("/api").partition("?")[0]
            status, document = self._decide(path, body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _decide(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
            wanted = fake.auth_string and "Basic " + base64.b64encode(fake.auth_string.encode()).decode()
            if wanted and path != "/health" and self.headers.get("authorization") != wanted:
                return 401, {"exception_message": "Unauthorized"}
            if path == "/csrf-token":
                return (200, {"token": "tok"}) if fake.csrf else (422, {"detail": "CSRF protection is disabled."})
            if fake.csrf and self.command == "POST" and self.headers.get("prefect-csrf-token") != "tok":
                return 403, {"detail": "Missing CSRF token."}
            failure = fake.failing(fake)
            if failure is not None:
                return failure, {"detail": "failing"}
            document = fake.answer(path, body)
            return (404, {"detail": "Not Found"}) if document is None else (200, document)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
