"""Bring a stack up, look at it, and take it down: what the commands do, without their words.

Two locks make this safe to call at any time, twice at once too: `command.lock` is held while a supervisor is started or
stopped, `supervisor.lock` by the supervisor as long as it lives.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from deployments.running.orchestrator import ENGINE_VARIABLE
from deployments.running.plan import Plan
from deployments.running.processes import end, find_by_variable, is_alive
from deployments.running.service_manager import SOCKET_VARIABLE
from deployments.running.state import MARKER_VARIABLE, STATUS_DOCUMENT, SUPERVISOR, StateFolder
from deployments.running.supervised import PartState
from keepwell.command import clean_environment
from keepwell.errors import ConfigurationError, PreconditionFailed, ServiceUnavailable
from keepwell.served import STATE_VARIABLE
from keepwell.verdict import Verdict

_COMMAND = "command"
_LAUNCH_LIMIT_SECONDS = 20.0
_STOP_LIMIT_SECONDS = 60.0
_LEFTOVER_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_RESTARTS_THAT_TELL = 3
_SERVING = {PartState.READY, PartState.DONE}
NOT_ANSWERING = "not answering"
_launched: list["subprocess.Popen[bytes]"] = []

Progress = Callable[[dict[str, Any]], None]
"""Told of each part whose state changed, as the status names it."""


@dataclass(frozen=True)
class StackReport:
    """How a stack stands.

    Attributes:
        verdict: `ok` when every part serves, `warn` when nothing runs, `unknown` while it still starts, else `alert`.
        data: Parts, addresses and paths, for people and programs.
        hint: What to do next.
    """

    verdict: Verdict
    data: dict[str, Any]
    hint: str


def bring_up(
    plan: Plan, state: StateFolder, *, limit_seconds: float = 600, progress: Progress = lambda _: None
) -> StackReport:
    """Start the stack and wait until it serves; one that runs already is only waited for.

    Args:
        plan: Which stack; its options are used when it does not run yet. A running one keeps its own.
        state: Its folder.
        limit_seconds: How long to wait.
        progress: Told of each change.

    Raises:
        ConfigurationError: This machine, the folder or the options are not fit.
        ServiceUnavailable: The supervisor did not start.
    """
    require_linux(plan)
    state.prepare()
    with state.lock(_COMMAND):
        if state.is_supervised():
            _retry_failed_parts(state)
        else:
            clean_up(state)
            _launch(plan, state)
    return _follow(plan, state, limit_seconds, progress)


def take_down(plan: Plan, state: StateFolder, *, purge: bool = False) -> StackReport:
    """Stop everything of a stack, also what a killed supervisor left, and keep its data unless told to purge.

    Raises:
        ConfigurationError: The folder to purge is not a stack's.
    """
    require_linux(plan)
    if not state.is_ours():
        if purge and state.folder.exists():
            raise ConfigurationError(f"{state.folder} is not the state of a {plan.title}.", hint="Check --state.")
        return StackReport(Verdict.OK, {"running": False, "state_folder": str(state.folder)}, "Nothing was running.")
    with state.lock(_COMMAND):
        if state.is_supervised():
            _stop_supervisor(state)
        clean_up(state)
        _forget_ended()
        if purge:
            state.purge()
    hint = "Its data are gone too." if purge else "Its data are kept; --purge removes them."
    return StackReport(Verdict.OK, {"running": False, "state_folder": str(state.folder)}, hint)


def serve_here(plan: Plan, state: StateFolder) -> NoReturn:
    """Become the stack's supervisor in this process, until told to stop; what it says goes where ours does.

    Raises:
        ConfigurationError: This machine, the folder or the options are not fit.
        PreconditionFailed: Another supervisor has this stack.
    """
    require_linux(plan)
    state.prepare()
    with state.lock(_COMMAND):
        if state.is_supervised():
            raise PreconditionFailed(
                f"The {plan.title} runs already.", hint=f"`{plan.status_command}` shows it; stop it first."
            )
        clean_up(state)
        os.chdir(state.folder)
        # The lock goes with the program that we were: nothing we opened is handed on.
        os.execve(sys.executable, _supervisor_argv(plan, state), _supervisor_environment())  # noqa: S606 - argv only


def reload(plan: Plan, state: StateFolder, *, limit_seconds: float = 180) -> StackReport:
    """Have a running stack take up what was changed: steps that depend on the configuration are done again.

    Raises:
        PreconditionFailed: It does not run.
    """
    with state.lock(_COMMAND):
        supervisor = state.recorded_processes().get(SUPERVISOR)
        if supervisor is None or not state.is_supervised():
            raise PreconditionFailed(f"The {plan.title} does not run.", hint=f"Start it with `{plan.start_command}`.")
        options = state.read_document(STATUS_DOCUMENT).get("options", plan.options)
        again = {part.name for part in plan.with_options(options).read_parts(state) if part.again_on_reload}
        before = _read_starts(state, again)
        os.kill(supervisor.pid, signal.SIGHUP)
        deadline = time.monotonic() + limit_seconds
        _wait_while(lambda: any(now <= before[name] for name, now in _read_starts(state, again).items()), 30)
    return _follow(plan, state, max(0.0, deadline - time.monotonic()), lambda _: None)


def _read_starts(state: StateFolder, names: Collection[str]) -> dict[str, int]:
    """How often each of these parts was started."""
    parts = state.read_document(STATUS_DOCUMENT).get("parts", [])
    return {part["name"]: part["starts"] for part in parts if part["name"] in names}


def read_report(plan: Plan, state: StateFolder, *, ask_parts: bool = True) -> StackReport:
    """How a stack stands now.

    Args:
        plan: Which stack; if it runs, with whatever options.
        state: Its folder.
        ask_parts: Ask every part itself, rather than trust what the supervisor saw when it became ready.
    """
    if not state.is_supervised():
        data = {"running": False, "state_folder": str(state.folder)}
        return StackReport(Verdict.WARN, data, f"Start it with `{plan.start_command}`.")
    status = state.read_document(STATUS_DOCUMENT)
    parts = status.get("parts", [])
    if ask_parts:
        _ask_parts(plan.with_options(status.get("options", plan.options)), state, parts)
    data = {
        "running": True,
        "phase": status.get("phase"),
        "start_seconds": status.get("settled_seconds"),
        "parts": parts,
        "state_folder": str(state.folder),
        **plan.places(state, {part["name"]: part["address"] for part in parts}),
    }
    verdict = judge([part["state"] for part in parts])
    return StackReport(verdict, data, _hint(plan, state, verdict, parts))


def judge(part_states: list[str]) -> Verdict:
    """The verdict for parts in these states."""
    if any(state in {PartState.FAILED, PartState.BACKING_OFF, NOT_ANSWERING} for state in part_states):
        return Verdict.ALERT
    serving = bool(part_states) and all(state in _SERVING for state in part_states)
    return Verdict.OK if serving else Verdict.UNKNOWN


def require_linux(plan: Plan) -> None:
    """Stop early elsewhere.

    Raises:
        ConfigurationError: Not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(
            f"The {plan.title} needs Linux; this is {sys.platform}.",
            hint="Run it in a Linux virtual machine or container.",
        )


def clean_up(state: StateFolder) -> None:
    """End what a dead supervisor left: recorded processes that are still ours, then any that bear our mark."""
    # The interrupt is what PostgreSQL calls a fast shutdown, and polite enough for all others.
    end(state.recorded_processes().values(), polite=signal.SIGINT, grace_seconds=_LEFTOVER_GRACE_SECONDS)
    marked = list(find_by_variable(MARKER_VARIABLE, str(state.folder)))
    end(marked, polite=signal.SIGTERM, grace_seconds=_LEFTOVER_GRACE_SECONDS)
    for record in (state.folder / "run").glob("*.json"):
        record.unlink()


def _launch(plan: Plan, state: StateFolder) -> None:
    (state.folder / STATUS_DOCUMENT).unlink(missing_ok=True)
    with state.log(SUPERVISOR).open("ab") as log:
        began = log.tell()
        # The one program that must outlive us, so not through keepwell.command, whose children die with their parent.
        supervisor = subprocess.Popen(
            _supervisor_argv(plan, state),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=state.folder,
            env=_supervisor_environment(),
            start_new_session=True,
        )
    # It outlives us on purpose; without this, forgetting it would be reported as a mistake.
    _launched.append(supervisor)
    deadline = time.monotonic() + _LAUNCH_LIMIT_SECONDS
    while state.read_document(STATUS_DOCUMENT).get("supervisor", {}).get("pid") != supervisor.pid:
        if supervisor.poll() is not None or time.monotonic() > deadline:
            supervisor.kill()
            said = state.log(SUPERVISOR).read_bytes()[began:].decode(errors="replace").strip()
            raise ServiceUnavailable(f"The supervisor did not start: {said}", hint=f"Read {state.log(SUPERVISOR)}.")
        time.sleep(_POLL_SECONDS / 4)


def _forget_ended() -> None:
    """Take note of those of our own supervisors that have ended; else they would be taken for running at our end."""
    _launched[:] = [supervisor for supervisor in _launched if supervisor.poll() is None]


def _supervisor_argv(plan: Plan, state: StateFolder) -> list[str]:
    return [sys.executable, "-m", plan.program, str(state.folder), json.dumps(plan.options)]


def _supervisor_environment() -> dict[str, str]:
    """No secret that whoever starts us may have in theirs: it would outlive them, and nobody would know of it."""
    asked = (STATE_VARIABLE, SOCKET_VARIABLE, ENGINE_VARIABLE)
    return clean_environment() | {name: os.environ[name] for name in asked if name in os.environ}


def _retry_failed_parts(state: StateFolder) -> None:
    supervisor = state.recorded_processes().get(SUPERVISOR)
    states = [part["state"] for part in state.read_document(STATUS_DOCUMENT).get("parts", [])]
    if supervisor is not None and not {PartState.FAILED, PartState.BACKING_OFF}.isdisjoint(states):
        os.kill(supervisor.pid, signal.SIGHUP)
        _wait_while(lambda: _any_failed(state), 2)


def _any_failed(state: StateFolder) -> bool:
    return PartState.FAILED in [part["state"] for part in state.read_document(STATUS_DOCUMENT).get("parts", [])]


def _follow(plan: Plan, state: StateFolder, limit_seconds: float, progress: Progress) -> StackReport:
    """Until all parts serve, one is given up, the supervisor is gone, or time is up."""
    told: dict[str, str] = {}
    deadline = time.monotonic() + limit_seconds
    while True:
        report = read_report(plan, state, ask_parts=False)
        for part in report.data.get("parts", []):
            if told.get(part["name"]) != part["state"]:
                told[part["name"]] = part["state"]
                progress(part)
        settled = report.verdict is Verdict.OK or not report.data["running"] or _is_stuck(plan, report)
        if settled or time.monotonic() > deadline:
            return report
        time.sleep(_POLL_SECONDS)


def _is_stuck(plan: Plan, report: StackReport) -> bool:
    """Whether waiting any longer would tell nothing new: a part is given up, or keeps failing."""
    unattended = plan.patience.most_quick_failures is None
    return any(
        part["state"] == PartState.FAILED
        or (unattended and part["state"] == PartState.BACKING_OFF and part["restarts"] >= _RESTARTS_THAT_TELL)
        for part in report.data.get("parts", [])
    )


def _stop_supervisor(state: StateFolder) -> None:
    supervisor = state.recorded_processes().get(SUPERVISOR)
    if supervisor is None:
        # It took its lock a moment ago and will write its record next.
        _wait_while(lambda: SUPERVISOR not in state.recorded_processes() and state.is_supervised(), 5)
        supervisor = state.recorded_processes().get(SUPERVISOR)
    if supervisor is not None and is_alive(supervisor):
        end([supervisor], polite=signal.SIGTERM, grace_seconds=_STOP_LIMIT_SECONDS)
    _wait_while(state.is_supervised, 5)


def _wait_while(condition: Callable[[], bool], limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _ask_parts(plan: Plan, state: StateFolder, parts: list[dict[str, Any]]) -> None:
    probes = {part.name: part.ready for part in plan.read_parts(state)}
    for part in parts:
        probe = probes.get(part["name"])
        if part["state"] == PartState.READY and probe is not None and not probe(0.0):
            part["state"] = NOT_ANSWERING


def _hint(plan: Plan, state: StateFolder, verdict: Verdict, parts: list[dict[str, Any]]) -> str:
    if verdict is Verdict.OK:
        return plan.use(state)
    for part in parts:
        if part["state"] in {PartState.FAILED, PartState.BACKING_OFF, NOT_ANSWERING}:
            return f"{part['name']} {part['detail'] or part['state']}: read {part['log']}."
    return f"It is still starting; `{plan.status_command}` shows how far it is."
