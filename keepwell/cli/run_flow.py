"""`keepwell run`: run a procedure of a platform now, by its deployment, and watch it."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import difflib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError, PreconditionFailed, ServiceUnavailable

if TYPE_CHECKING:
    from keepwell.orchestrator import Deployment, FlowRun, Orchestrator, Queue
    from keepwell.settings import Platform

_POLL_SECONDS = 1.0
_LOST_SECONDS = 120.0
_NO_WORKER_SECONDS = 300.0
_WAITING_IS_LONG_SECONDS = 15.0
# Loggers send in batches, so a line may arrive after a later one.
_LATE_LINES = timedelta(seconds=10)
_WARNING = 30
# What the worker and the engine say of themselves is of no use while all is well.
_MACHINERY = {"prefect.flow_runs.worker", "prefect.flow_runs.runner", "prefect.deployment", "prefect.engine"}
# The task runs' own states say the same.
_CHATTER = ("Finished in state", "Beginning flow run", "Beginning subflow run")
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@console.command("run")
def run_flow(
    procedure: Annotated[str, typer.Argument(help="Such as backup-and-verify.", metavar="PROCEDURE")],
    platform: console.PlatformName = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="A parameter; the value as JSON or text.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Follow the run to its end.")] = True,
) -> Outcome:
    """Run a procedure of the guide now, and follow it.

    Ends with 0 when it completed, 1 when it failed, 2 when that could not be told. Interrupting stops the watching, not
    the run.
    """
    from keepwell import orchestrator

    settings = load_settings(platform)
    client = orchestrator.connect(settings.orchestrator if settings else None)
    if client is None:
        raise ConfigurationError(
            "No Prefect server is configured.",
            hint="`keepwell serve` runs one here; orchestrator.api_url or PREFECT_API_URL names one elsewhere; "
            "without one, `keepwell backup create` works by itself.",
        )
    with client:
        name = platform or (settings.name if settings else None)
        deployment = choose_deployment(procedure, name, client.read_deployments())
        parameters = parse_parameters(param or [])
        if name is not None and deployment.takes("platform"):
            parameters.setdefault("platform", name)
        if deployment.paused:
            console.say(f"{deployment.title} is paused: its schedule makes no runs. This run starts all the same.")
        _warn_without_worker(client, deployment)
        run = client.create_run(deployment, parameters)
        console.say(f"Run {run.name} of {deployment.title}: {client.address(run)}")
        if not watch:
            return _describe(client, run, deployment)
        return _describe(
            client, Watch(client, run, deployment, console.say, poll_seconds=_POLL_SECONDS).follow(), deployment
        )


def choose_deployment(wanted: str, platform: str | None, deployments: "Sequence[Deployment]") -> "Deployment":
    """The deployment of a procedure, for a platform.

    Args:
        wanted: The procedure.
        platform: Whose; None: the only one that has it. One that serves all platforms serves any.
        deployments: All of the server.

    Raises:
        ConfigurationError: There is none, or there are several; the hint names the nearest.
    """
    from keepwell.orchestrator import REGISTER_HINT

    procedures = sorted({one.procedure for one in deployments})
    found = [one for one in deployments if one.procedure == wanted]
    if found:
        return _choose_platform(wanted, platform, found)
    nearest = difflib.get_close_matches(wanted.replace("_", "-"), procedures, n=3, cutoff=0.5)
    if nearest:
        hint = f"Did you mean {' or '.join(nearest)}?"
    elif procedures:
        hint = f"There are: {', '.join(procedures)}."
    else:
        hint = f"The server has no deployment at all. Register them: {REGISTER_HINT}."
    raise ConfigurationError(f"No procedure {wanted!r} is registered.", hint=hint)


def _choose_platform(wanted: str, platform: str | None, found: "Sequence[Deployment]") -> "Deployment":
    from keepwell.orchestrator import REGISTER_HINT

    fitting = [one for one in found if platform is None or one.platform in (platform, None)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(one.platform or one.name for one in found))
    if not fitting:
        raise ConfigurationError(
            f"{wanted} is not registered for {platform}, only for: {names}.",
            hint=f"Register it: {REGISTER_HINT}. `keepwell schedules` shows what is registered.",
        )
    raise ConfigurationError(f"{wanted} is registered for: {names}.", hint="Name one of them with --platform.")


def parse_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters from `key=value`; a value that is JSON is taken as such, anything else as text.

    Raises:
        ConfigurationError: A text without a key or an equals sign.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--param {text!r} is not KEY=VALUE.", hint="Such as --param count=3.")
        try:
            parameters[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            parameters[key.strip()] = value
    return parameters


@dataclass
class Watch:
    """Following one run: whatever is new since the last look is said once.

    Attributes:
        client: The server.
        run: The run as last seen.
        deployment: What it is a run of.
        say: Where news goes.
        poll_seconds: Between two looks.
        lost_seconds: How long the server may be silent before we give up.
        no_worker_seconds: How long a run may wait without any worker.
    """

    client: "Orchestrator"
    run: "FlowRun"
    deployment: "Deployment"
    say: Callable[[str], None]
    poll_seconds: float = _POLL_SECONDS
    lost_seconds: float = _LOST_SECONDS
    no_worker_seconds: float = _NO_WORKER_SECONDS
    _said: set[tuple[str, str]] = field(default_factory=set)
    _newest_line_at: datetime | None = None
    _waiting_since: float | None = None

    def follow(self) -> "FlowRun":
        """Look again and again until the run has ended.

        Raises:
            ServiceUnavailable: The server was silent for too long, or no worker came for the run.
        """
        seen_at = time.monotonic()
        while True:
            try:
                self._look()
            except ServiceUnavailable as error:
                silent_seconds = time.monotonic() - seen_at
                if silent_seconds > self.lost_seconds:
                    raise ServiceUnavailable(
                        f"The Prefect server has been silent for {silent_seconds:.0f} s; how the run ended is unknown.",
                        hint=f"Look at it once the server is back: {self.client.address(self.run)}",
                    ) from error
                self._once("server", "silent", "The Prefect server does not answer; still trying.")
            else:
                self._said.discard(("server", "silent"))
                seen_at = time.monotonic()
                if self.run.state_type in _FINAL:
                    # Its last lines are sent after its last state.
                    time.sleep(self.poll_seconds)
                    self._say_lines()
                    return self.run
                self._require_worker()
            time.sleep(self.poll_seconds)

    def _look(self) -> None:
        # The state first: once it is final, everything that the run logged is there to be read after it.
        self.run = self.client.read_run(self.run.id)
        self._say_lines()
        for task in self.client.read_task_runs(self.run.id):
            if task.state_name:
                self._once(task.id, task.state_name, f"  {task.name}: {task.state_name}")
        for progress in self.client.read_progress(self.run.id):
            label = progress.description or progress.key or "progress"
            if 0 < progress.percent < 100:  # its beginning and its end are the task's own
                self._once(progress.id, f"{progress.percent:.0f}", f"  {label}: {progress.percent:.0f} %")
        said = f": {self.run.message}" if self.run.message else ""
        self._once(self.run.id, str(self.run.state_name), f"{self.run.name}: {self.run.state_name}{said}")
        if self.run.state_name == "Suspended":
            self._once(self.run.id, "asks", f"  It waits for an approval: keepwell approve {self.run.id}")

    def _say_lines(self) -> None:
        since = None if self._newest_line_at is None else self._newest_line_at - _LATE_LINES
        for line in self.client.read_log(self.run.id, since=since):
            if line.level >= _WARNING or not (line.name in _MACHINERY or line.message.startswith(_CHATTER)):
                self._once("line", line.id, f"    {line.timestamp.astimezone(UTC):%H:%M:%S}  {shorten(line.message)}")
            self._newest_line_at = max(line.timestamp, self._newest_line_at or line.timestamp)

    def _once(self, subject: str, state: str, text: str) -> None:
        if (subject, state) not in self._said:
            self._said.add((subject, state))
            self.say(text)

    def _require_worker(self) -> None:
        """A run that waits for a worker that is not there would be watched for ever."""
        if self.run.state_type != "SCHEDULED":
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        waited_seconds = time.monotonic() - self._waiting_since
        if waited_seconds < min(_WAITING_IS_LONG_SECONDS, self.no_worker_seconds):
            return
        absence = describe_absence(self.client, self.deployment)
        if absence is None:
            return
        self._once("worker", "absent", absence)
        if waited_seconds > self.no_worker_seconds:
            raise ServiceUnavailable(
                f"The run has waited for {waited_seconds:.0f} s: {absence}",
                hint=f"It starts when a worker comes: prefect worker start --pool {self.deployment.work_pool_name}",
            )


def shorten(message: str) -> str:
    """A logged message's first line; a traceback belongs to the run's page, not between steps."""
    first, _, rest = message.strip().partition("\n")
    return f"{first} (+{len(rest.splitlines())} lines)" if rest else first


def describe_absence(client: "Orchestrator", deployment: "Deployment") -> str | None:
    """That no worker is there for a deployment, in words; None when one is, or when it needs none."""
    pool = deployment.work_pool_name
    if pool is None:
        return None
    try:
        workers = client.read_workers(pool)
        if any(worker.is_online for worker in workers):
            return _describe_unpolled(client.read_queues(pool), deployment)
    except PreconditionFailed:
        return f"There is no work pool {pool}."
    beats = [worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time is not None]
    if not beats:
        return f"No worker has ever polled pool {pool}."
    return f"No worker has polled pool {pool} for {(datetime.now(UTC) - max(beats)).total_seconds():,.0f} s."


def _describe_unpolled(queues: "Sequence[Queue]", deployment: "Deployment") -> str | None:
    """A worker may serve other queues of the pool only."""
    own = [queue for queue in queues if queue.name == deployment.work_queue_name]
    if not own or own[0].is_polled:
        return None
    return f"No worker polls the queue {own[0].name} of pool {deployment.work_pool_name}."


def _warn_without_worker(client: "Orchestrator", deployment: "Deployment") -> None:
    absence = describe_absence(client, deployment)
    if absence is not None:
        console.say(f"{absence} The run will wait for one.")


def load_settings(platform: str | None) -> "Platform | None":
    """The platform; None where there is no platform file at all but the environment names a server."""
    from keepwell.settings import configuration_place

    if platform is None and not configuration_place().exists() and os.environ.get("PREFECT_API_URL"):
        return None
    return console.load_platform(platform)


def _describe(client: "Orchestrator", run: "FlowRun", deployment: "Deployment") -> Outcome:
    from keepwell.verdict import Verdict

    # A run that has not ended was not watched, and asking for it went well.
    ended = run.state_type in _FINAL
    verdict = Verdict.OK if run.state_type == "COMPLETED" or not ended else Verdict.ALERT
    data = {
        "id": run.id,
        "name": run.name,
        "deployment": deployment.title,
        "state": run.state_name,
        "message": run.message,
        "address": client.address(run),
        "run_seconds": run.total_run_time,
    }
    how = f"{run.state_name} after {run.total_run_time:.0f} s" if ended else f"{run.state_name}, not watched"
    hint = f"Look at it: {client.address(run)}" if verdict is Verdict.ALERT else ""
    return Outcome(
        verdict,
        data=data,
        hint=hint,
        show=lambda screen: screen.print(f"{deployment.title}: {how}", markup=False),
    )
