"""Runs of a real Prefect server, by its REST API."""

import time
from collections.abc import Callable
from typing import Any

import httpx

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Api:
    """A Prefect server.

    Args:
        url: As PREFECT_API_URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self._url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self._url}{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a deployment; the run's id."""
        found = self.get(f"/deployments/name/{deployment}/{deployment}")
        body = {"parameters": found["parameters"] | parameters, "state": {"type": "SCHEDULED"}}
        return str(self.post(f"/deployments/{found['id']}/create_flow_run", **body)["id"])

    def wait(self, run_id: str, limit_seconds: float = 120) -> dict[str, Any]:
        """The run once it has ended."""
        wait_until(lambda: self.read(run_id)["state"]["type"] in FINAL, limit_seconds)
        return self.read(run_id)

    def read(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/flow_runs/{run_id}")
        return found

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Every run of a deployment, the next ones first."""
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", **body)
        return found

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """What a run shows, by key."""
        found = self.post("/artifacts/filter", flow_runs={"id": {"any_": [run_id]}})
        return {artifact["key"]: artifact for artifact in found}

    def tasks(self, run_id: str) -> dict[str, str]:
        """A run's steps and how they stand."""
        found = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return {task["name"]: task["state"]["type"] for task in found}


def wait_until(happened: Callable[[], bool], limit_seconds: float = 60) -> None:
    """Wait for something, looking twice a second."""
    deadline = time.monotonic() + limit_seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {limit_seconds:.0f} s"
        time.sleep(0.5)
