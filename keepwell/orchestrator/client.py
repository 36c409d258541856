"""A small client of Prefect's REST API: what the console and the doctor ask, and nothing more."""

import base64
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keepwell.errors import (
    AccessDenied,
    ConfigurationError,
    KeepwellError,
    PreconditionFailed,
    ServiceUnavailable,
    Throttled,
)
from keepwell.served import read_served
from keepwell.settings import OrchestratorSettings

WORK_POOL = "keepwell"
# What makes the pool, its queues, the deployments and the automations; it lies in a layer above this one.
REGISTER_COMMAND = "python -m deployments.register"
# How people get to it: where Keepwell serves itself, the address of its server is known to it alone.
REGISTER_HINT = f"`keepwell serve reload`; with a server of your own: `{REGISTER_COMMAND}`"
# What a deployment is tagged with, before its platform's name.
PLATFORM_TAG = "platform:"
API_VARIABLE = "PREFECT_API_URL"
AUTH_VARIABLE = "PREFECT_API_AUTH_STRING"
# Prefect's own, for where people open its pages.
PAGES_VARIABLE = "PREFECT_UI_URL"
_PAGE = 200
_INFO = 20
# A token that is made only to see whether there are any.
_NOBODY = "examination"

# One line per request would drown the run that is being followed.
logging.getLogger("httpx").setLevel(logging.WARNING)


class _Answer(BaseModel):
    """A part of one of the server's documents; the rest of it is none of our business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


T = TypeVar("T", bound=_Answer)


class Schedule(_Answer):
    """When a deployment starts by itself."""

    slug: str | None = None
    active: bool = True
    schedule: dict[str, Any] = Field(default_factory=dict)

    @property
    def cron(self) -> str:
        """Its five fields; empty where it is of another kind, as somebody's own may be."""
        return str(self.schedule.get("cron") or "")

    @property
    def timezone(self) -> str:
        """Whose clock it goes by."""
        return str(self.schedule.get("timezone") or "UTC")


class Deployment(_Answer):
    """What can be run: one procedure, of one platform or of none."""

    id: str
    name: str
    flow_id: str | None = None
    procedure: str = Field(default="", description="Name of its flow.")
    tags: tuple[str, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    paused: bool = False
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    parameter_openapi_schema: dict[str, Any] | None = None

    @property
    def platform(self) -> str | None:
        """Whose it is; None where it serves all."""
        return next((tag.removeprefix(PLATFORM_TAG) for tag in self.tags if tag.startswith(PLATFORM_TAG)), None)

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.procedure}/{self.name}" if self.platform else self.procedure or self.name

    def takes(self, parameter: str) -> bool:
        """Whether the flow has such a parameter; True where the server does not know."""
        properties = (self.parameter_openapi_schema or {}).get("properties")
        return properties is None or parameter in properties


class FlowRun(_Answer):
    """One run of a deployment."""

    id: str
    name: str
    deployment_id: str | None = None
    auto_scheduled: bool = False
    state_type: str | None = None
    state_name: str | None = None
    state: dict[str, Any] | None = None
    expected_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: float = Field(default=0, description="Seconds.")

    @property
    def changed_at(self) -> datetime | None:
        """When its state came to be what it is."""
        told = (self.state or {}).get("timestamp")
        return datetime.fromisoformat(told) if told else None

    @property
    def message(self) -> str:
        """What the state says of itself."""
        return str((self.state or {}).get("message") or "")

    @property
    def state_details(self) -> dict[str, Any]:
        """What the server keeps beside the state."""
        return dict((self.state or {}).get("state_details") or {})


class TaskRun(_Answer):
    """One step of a flow run."""

    id: str
    name: str
    state_type: str | None = None
    state_name: str | None = None


class LogLine(_Answer):
    """One line that a flow run logged."""

    id: str
    name: str = Field(default="", description="Of the logger.")
    level: int
    message: str
    timestamp: datetime


class Progress(_Answer):
    """How far something has come."""

    id: str
    key: str | None = None
    description: str | None = None
    percent: float


class Worker(_Answer):
    """A process that takes runs out of a work pool."""

    name: str
    last_heartbeat_time: datetime | None = None
    status: str | None = None

    @property
    def is_online(self) -> bool:
        """As the server judges by its heartbeats."""
        return self.status == "ONLINE"


class Queue(_Answer):
    """A queue of a work pool: a worker may take runs out of some of them only."""

    name: str
    status: str | None = None
    last_polled: datetime | None = None

    @property
    def is_polled(self) -> bool:
        """As the server judges by when a worker last asked for its runs."""
        return self.status == "READY"


class Automation(_Answer):
    """Something that the server does by itself when something else happened."""

    id: str
    name: str
    enabled: bool = True


class Orchestrator:
    """The server's API; close it, or use it in a `with` block. Each call is one request, never retried here."""

    def __init__(self, api_url: str, auth_string: str | None, *, timeout_seconds: float = 10) -> None:
        headers = {} if auth_string is None else {"Authorization": _basic(auth_string)}
        self._client = httpx.Client(base_url=api_url.rstrip("/"), headers=headers, timeout=timeout_seconds)
        self.api_url = api_url.rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def require_healthy(self) -> None:
        """Ask whether the server serves us, with our login.

        Raises:
            ServiceUnavailable: No answer, or an ill one.
            AccessDenied: The login is wrong.
        """
        self._ask("GET", "/health")
        # The health address answers without a login, so ask something that needs one.
        self._ask("GET", "/admin/version")

    def lets_anybody_in(self) -> bool:
        """Whether the server answers who has no login."""
        parts = urlsplit(self.api_url)
        stranger = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        with _translated():
            answer = httpx.get(f"{stranger}/admin/version", timeout=self._client.timeout)
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return False
        _require_success(answer)
        return True

    def has_csrf_protection(self) -> bool:
        """Whether the server takes no change without a token that only pages of its own can get."""
        with _translated():
            answer = self._client.get("/csrf-token", params={"client": _NOBODY})
        if answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            return False
        _require_success(answer)
        return True

    def read_deployments(self) -> list[Deployment]:
        """Every deployment, by name, with its flow's."""
        found = self._pages("/deployments/filter", {"sort": "NAME_ASC"})
        flows = {flow["id"]: flow["name"] for flow in self._pages("/flows/filter", {})}
        return _parse(Deployment, [one | {"procedure": flows.get(one.get("flow_id"), "")} for one in found])

    def read_workers(self, pool: str) -> list[Worker]:
        """Workers that the server remembers of a pool.

        Raises:
            PreconditionFailed: There is no such pool.
        """
        return _parse(Worker, self._ask("POST", f"/work_pools/{pool}/workers/filter", {}))

    def read_queues(self, pool: str) -> list[Queue]:
        """Queues of a pool.

        Raises:
            PreconditionFailed: There is no such pool.
        """
        return _parse(Queue, self._pages(f"/work_pools/{pool}/queues/filter", {}))

    def read_last_run(self, deployment: Deployment) -> FlowRun | None:
        """The newest run of a deployment that has ended; None when none has."""
        wanted = {
            "flow_runs": {
                "deployment_id": {"any_": [deployment.id]},
                "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}},
            },
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": 1,
        }
        found = _parse(FlowRun, self._ask("POST", "/flow_runs/filter", wanted))
        return found[0] if found else None

    def read_last_runs(self, deployments: Sequence[Deployment], *, since: datetime, limit: int) -> list[FlowRun]:
        """The newest runs of several deployments that began since a time, the newest first."""
        wanted = {
            "flow_runs": {
                "deployment_id": {"any_": [one.id for one in deployments]},
                "start_time": {"after_": since.isoformat()},
            },
            "sort": "START_TIME_DESC",
            "limit": limit,
        }
        return _parse(FlowRun, self._ask("POST", "/flow_runs/filter", wanted)) if deployments else []

    def read_next_run(self, deployment: Deployment) -> FlowRun | None:
        """The next run that the server made by a schedule and that has not begun; None when there is none."""
        wanted = {
            "flow_runs": {"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        runs = _parse(FlowRun, self._ask("POST", "/flow_runs/filter", {**wanted, "limit": _PAGE}))
        return next((run for run in runs if run.auto_scheduled), None)

    def read_open_runs(self, deployment: Deployment) -> list[FlowRun]:
        """Runs that are at work, or that wait although no schedule made them for later; by when they are due."""
        states = {"any_": ["RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING"]}
        wanted = {
            "flow_runs": {"deployment_id": {"any_": [deployment.id]}, "state": {"type": states}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        runs = _parse(FlowRun, self._pages("/flow_runs/filter", wanted))
        return [run for run in runs if not (run.auto_scheduled and run.state_name == "Scheduled")]

    def read_unfinished_runs(self) -> list[FlowRun]:
        """Every run that has begun, or is about to, and has not ended."""
        wanted = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
        return _parse(FlowRun, self._pages("/flow_runs/filter", {"flow_runs": wanted}))

    def read_suspended_runs(self) -> list[FlowRun]:
        """Every run that waits for somebody to go on, by when it was due."""
        wanted = {"state": {"type": {"any_": ["PAUSED"]}, "name": {"any_": ["Suspended"]}}}
        found = self._pages("/flow_runs/filter", {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC"})
        return _parse(FlowRun, found)

    def read_input(self, run: FlowRun, key: str) -> Any:
        """What a run keeps under a key for whoever answers it.

        Raises:
            PreconditionFailed: There is nothing.
        """
        return self._ask("GET", f"/flow_runs/{run.id}/input/{key}")

    def resume_run(self, run: FlowRun, answer: Mapping[str, Any]) -> FlowRun:
        """Answer a suspended run, so that it goes on.

        Returns:
            The run, read back.

        Raises:
            PreconditionFailed: The server refused the answer, which it says with a status of 200; the run stays as it
                is.
        """
        said = self._ask("POST", f"/flow_runs/{run.id}/resume", {"run_input": dict(answer)})
        now = self.read_run(run.id)
        if said.get("status") != "ACCEPT" or now.state_type == "PAUSED":
            why = str((said.get("details") or {}).get("reason") or "it said nothing of why").rstrip(".")
            raise PreconditionFailed(
                f"The Prefect server did not take the answer: {why}. The run {run.name} is {now.state_name}.",
                hint="What waits, and for what: keepwell approve",
            )
        return now

    def mark_crashed(self, run: FlowRun, why: str) -> None:
        """Say that a run is over which nobody runs any more; what it held is free then.

        Raises:
            KeepwellError: The server did not take it.
        """
        state = {"type": "CRASHED", "name": "Crashed", "message": why}
        answer = self._ask("POST", f"/flow_runs/{run.id}/set_state", {"state": state})
        if answer.get("status") != "ACCEPT":
            raise KeepwellError(f"The Prefect server did not end the run {run.name}.", hint="Cancel it in its pages.")

    def create_run(
        self, deployment: Deployment, parameters: Mapping[str, Any], *, at: datetime | None = None
    ) -> FlowRun:
        """Ask for a run, now or at a time.

        Raises:
            KeepwellError: The server refused the parameters; the message holds why.
        """
        wanted: dict[str, Any] = {"parameters": dict(parameters)}
        if at is not None:
            wanted["state"] = {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}
        return _parse_one(FlowRun, self._ask("POST", f"/deployments/{deployment.id}/create_flow_run", wanted))

    def delete_run(self, run: FlowRun) -> None:
        """Forget a run that has not begun."""
        self._ask("DELETE", f"/flow_runs/{run.id}")

    def switch_deployment(self, deployment: Deployment, *, paused: bool) -> None:
        """Let its schedules make no runs, and forget those that they made for later; or let them make runs again."""
        self._ask("POST", f"/deployments/{deployment.id}/{'pause' if paused else 'resume'}_deployment")

    def read_automations(self) -> list[Automation]:
        """Every automation."""
        return _parse(Automation, self._pages("/automations/filter", {}))

    def switch_automation(self, automation: Automation, *, enabled: bool) -> None:
        """Switch it on or off."""
        self._ask("PATCH", f"/automations/{automation.id}", {"enabled": enabled})

    def read_variable(self, name: str) -> Any:
        """What the server keeps under a name, as JSON; None when there is nothing."""
        found = self._ask("POST", "/variables/filter", {"variables": {"name": {"any_": [name]}}})
        return found[0]["value"] if found else None

    def write_variable(self, name: str, value: Any) -> None:
        """Keep something under a name, in place of what was there."""
        if self.read_variable(name) is None:
            self._ask("POST", "/variables/", {"name": name, "value": value})
        else:
            self._ask("PATCH", f"/variables/name/{name}", {"value": value})

    def read_run(self, run_id: str) -> FlowRun:
        """One run as it stands."""
        return _parse_one(FlowRun, self._ask("GET", f"/flow_runs/{run_id}"))

    def read_task_runs(self, run_id: str) -> list[TaskRun]:
        """The steps of a run so far, oldest first."""
        wanted = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return _parse(TaskRun, self._pages("/task_runs/filter", wanted))

    def read_log(self, run_id: str, *, since: datetime | None) -> list[LogLine]:
        """What a run logged from a time on, oldest first, information and above."""
        logs: dict[str, Any] = {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": _INFO}}
        if since is not None:
            logs["timestamp"] = {"after_": since.isoformat()}
        return _parse(LogLine, self._pages("/logs/filter", {"logs": logs, "sort": "TIMESTAMP_ASC"}))

    def read_progress(self, run_id: str) -> list[Progress]:
        """The progress artifacts of a run."""
        artifacts = {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["progress"]}}
        found = self._pages("/artifacts/filter", {"artifacts": artifacts})
        return _parse(Progress, [artifact | {"percent": _percent(artifact.get("data"))} for artifact in found])

    def read_pages(self, run_id: str) -> dict[str, str]:
        """The markdown artifacts of a run, by key."""
        artifacts = {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["markdown"]}}
        found = self._pages("/artifacts/filter", {"artifacts": artifacts})
        return {str(one.get("key")): str(one.get("data") or "") for one in found}

    def address(self, run: FlowRun) -> str:
        """Where a person looks at a run; unless it is told otherwise, the pages are served beside the API."""
        if told := os.environ.get(PAGES_VARIABLE):
            return f"{told.rstrip('/')}/runs/flow-run/{run.id}"
        parts = urlsplit(self.api_url)
        root = parts.path.removesuffix("/api")
        # Credentials in the address stay with us.
        place = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{place}{root}/runs/flow-run/{run.id}"

    def _pages(self, path: str, wanted: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        while True:
            page = self._ask("POST", path, {**wanted, "limit": _PAGE, "offset": len(found)})
            found += page
            if len(page) < _PAGE:
                return found

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        with _translated():
            answer = self._client.request(method, path, json=body)
            if answer.status_code == HTTPStatus.FORBIDDEN and "CSRF" in answer.text and self._fetch_csrf_token():
                answer = self._client.request(method, path, json=body)
            _require_success(answer)
            return answer.json() if answer.content else None

    def _fetch_csrf_token(self) -> bool:
        """Get what a server with CSRF protection wants to see; True when it gave one."""
        client = str(uuid.uuid4())
        answer = self._client.get("/csrf-token", params={"client": client})
        if answer.status_code != HTTPStatus.OK:
            return False
        self._client.headers["Prefect-Csrf-Client"] = client
        self._client.headers["Prefect-Csrf-Token"] = str(answer.json()["token"])
        return True


def connect(settings: OrchestratorSettings | None, *, timeout_seconds: float = 10) -> Orchestrator | None:
    """A client for the configured server, or else for the one served here; nothing is asked of it yet.

    Args:
        settings: Of the platform; None where there is no platform file.
        timeout_seconds: Per request.

    Returns:
        None when neither the platform file nor PREFECT_API_URL names a server, and none was served here.
    """
    api_url = (settings.api_url if settings else None) or os.environ.get(API_VARIABLE)
    if api_url:
        secret = settings.auth_string.get_secret_value() if settings and settings.auth_string else None
        return Orchestrator(api_url, secret or os.environ.get(AUTH_VARIABLE), timeout_seconds=timeout_seconds)
    served = read_served()
    if served is None:
        return None
    # Its login is for it alone: a server that is named gets what is given for that one.
    return Orchestrator(served.api_url, served.read_login(), timeout_seconds=timeout_seconds)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the client's errors into ours; their texts may hold the address with its login, so only the kind is kept."""
    try:
        yield
    except httpx.TransportError as error:
        raise ServiceUnavailable(
            f"The Prefect server does not answer: {type(error).__name__}.",
            hint="Check that it is up (`keepwell serve status`), and orchestrator.api_url or PREFECT_API_URL.",
        ) from None
    except (httpx.InvalidURL, json.JSONDecodeError, KeyError) as error:
        raise ConfigurationError(
            f"What answers is not a Prefect API: {type(error).__name__}.",
            hint="orchestrator.api_url ends with /api, such as http://127.0.0.1:4200/api.",
        ) from None


def _require_success(answer: httpx.Response) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise AccessDenied(
            f"The Prefect server refused our login (HTTP {status}).",
            hint="Check orchestrator.auth_string_file: user:password, as PREFECT_SERVER_API_AUTH_STRING has it.",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise Throttled("The Prefect server asked us to slow down.", hint="Try again in a minute.")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ServiceUnavailable(f"The Prefect server failed (HTTP {status}).", hint="Look at its log.")
    if status == HTTPStatus.NOT_FOUND:
        raise PreconditionFailed(
            f"The Prefect server knows nothing at {answer.request.url.path}.",
            hint="Check that orchestrator.api_url ends with /api, and that the deployments are registered.",
        )
    raise KeepwellError(f"The Prefect server refused the request (HTTP {status}): {_said(answer)}")


def _said(answer: httpx.Response) -> str:
    try:
        document = answer.json()
    except ValueError:
        return answer.text[:300]
    detail = document.get("detail", document) if isinstance(document, dict) else document
    return str(detail)[:500]


def _parse(kind: type[T], documents: Iterable[Any]) -> list[T]:
    try:
        return [kind.model_validate(document) for document in documents]
    except ValidationError as error:
        raise _not_understood(error) from None


def _parse_one(kind: type[T], document: Any) -> T:
    return _parse(kind, [document])[0]


def _not_understood(error: ValidationError) -> KeepwellError:
    places = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)[:3])
    return KeepwellError(
        f"The Prefect server's answer was not understood: {places}.", hint="Keepwell is tried with Prefect 3.8."
    )


def _percent(data: Any) -> float:
    try:
        return float(json.loads(data) if isinstance(data, str) else data)
    except (TypeError, ValueError):
        return 0.0


def _basic(auth_string: str) -> str:
    return f"Basic {base64.b64encode(auth_string.encode()).decode()}"
