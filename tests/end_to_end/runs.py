"""Runs of a real Prefect server, by its REST API."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import waiting

from keepwell.evidence import Evidence, read_last_evidence
from keepwell.objectstore.store import Store

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# Each look asks a server.
wait_until = partial(waiting.wait_until, poll_seconds=0.5)


class Api:
    """A Prefect server.

    Args:
        url: As PREFECT_API_URL.
        login: `user:password`, as PREFECT_API_AUTH_STRING.
    """

    def __init__(self, url: str, login: str) -> None:
        user, _, password = login.partition(":")
        self._url, self._login = url, (user, password)
        self._token: dict[str, str] = {}

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, body)

    def put(self, path: str, **body: Any) -> Any:
        return self._ask("PUT", path, body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._request(method, path, body)
        if answer.status_code == 403 and "CSRF" in answer.text:
            client = str(uuid.uuid4())
            token = self._request("GET", f"/csrf-token?client={client}", None).json()["token"]
            self._token = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}
            answer = self._request(method, path, body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _request(self, method: str, path: str, body: Any) -> httpx.Response:
        address = f"{self._url}{path}"
        return httpx.request(method, address, json=body, auth=self._login, headers=self._token, timeout=30)

    def start(self, procedure: str, platform: str = "esn", **parameters: Any) -> str:
        """Start a procedure of a platform; the run's id."""
        found = self.get(f"/deployments/name/{procedure}/{platform}")
        body = {"parameters": found["parameters"] | parameters, "state": {"type": "SCHEDULED"}}
        return str(self.post(f"/deployments/{found['id']}/create_flow_run", **body)["id"])

    def wait(self, run_id: str, limit_seconds: float = 300) -> dict[str, Any]:
        """The run once it has ended."""
        wait_until(lambda: self.read(run_id)["state"]["type"] in FINAL, limit_seconds)
        return self.read(run_id)

    def read(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/flow_runs/{run_id}")
        return found

    def runs(self, procedure: str) -> list[dict[str, Any]]:
        """Every run of a procedure, of whatever platform, the next ones first."""
        body = {"flows": {"name": {"any_": [procedure]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", **body)
        return found

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """What a run shows, by key."""
        found = self.post("/artifacts/filter", flow_runs={"id": {"any_": [run_id]}})
        return {artifact["key"]: artifact for artifact in found}

    def log(self, run_id: str) -> list[str]:
        """What a run logged; it is sent in batches, so the last lines may come later."""
        found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run_id]}})
        return [line["message"] for line in found]

    def tasks(self, run_id: str) -> dict[str, str]:
        """A run's steps and how they stand."""
        found = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return {task["name"]: task["state"]["type"] for task in found}


# The automation that finds runs whose machine died; tests that wait for it let it wait for less than in earnest.
SILENT, SILENT_SECONDS = "keepwell: a silent run is dead", 40


@contextmanager
def impatient_automation(api: Api, name: str, seconds: int) -> Iterator[None]:
    """An automation that waits for less while the block lasts."""
    (found,) = [one for one in api.post("/automations/filter") if one["name"] == name]
    address = f"/automations/{found['id']}"
    wanted = {key: value for key, value in found.items() if key not in ("id", "created", "updated")}
    api.put(address, **wanted | {"trigger": wanted["trigger"] | {"within": seconds}})
    try:
        yield
    finally:
        api.put(address, **wanted)


def last_evidence(store: Store, item: str) -> Evidence:
    """The newest evidence of an item of the guide."""
    found = read_last_evidence(store, item)
    assert found is not None
    return found


def wait_for_its_turn(api: Api, run_id: str) -> None:
    """Until a backup's run waits for the platform, which the test holds."""
    wait_until(lambda: api.tasks(run_id).get("wait for our turn: backup") == "RUNNING")


def find_process(run_id: str) -> int | None:
    """The process of a flow run, known by the id in its environment; None when there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        if read_environment(int(folder.name)).get("PREFECT__FLOW_RUN_ID") != run_id:
            continue
        try:
            if b"prefect.engine" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return None


def process_of(run_id: str) -> int:
    """The process of a flow run that is at work."""
    found = find_process(run_id)
    assert found is not None, "the run has no process"
    return found


def read_environment(pid: int) -> dict[str, str]:
    """What a process was started with; empty when it is gone, or somebody else's."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}
