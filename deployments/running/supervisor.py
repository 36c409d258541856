"""The one process that starts the parts of a stack, starts again those that die, and stops all of them in order.

It works in its main thread only: the kernel ends a child with the *thread* that started it.
"""

import argparse
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any

from deployments.running.logs import keep_bounded
from deployments.running.parts import startable, stoppable
from deployments.running.plan import Plan
from deployments.running.processes import end, find_by_variable, identify
from deployments.running.restarts import decide_restart
from deployments.running.service_manager import tell_service_manager
from deployments.running.state import MARKER_VARIABLE, STATUS_DOCUMENT, SUPERVISOR, StateFolder
from deployments.running.supervised import PartState, Supervised
from keepwell import command
from keepwell.errors import KeepwellError

_BUSY_POLL_SECONDS = 0.1
_IDLE_POLL_SECONDS = 30.0
_LEFTOVER_GRACE_SECONDS = 5.0


class Supervisor:
    """Runs parts until it is told to stop.

    Args:
        plan: Which stack; its options are recorded in the status, so that others can plan the same parts.
        state: Where logs, pid records and the status go.

    Raises:
        KeepwellError: The parts cannot be planned.
    """

    def __init__(self, plan: Plan, state: StateFolder) -> None:
        self._plan, self._state = plan, state
        self._supervised = {part.name: Supervised(part) for part in plan.read_parts(state)}
        self._began_at = time.time()
        self._settled_seconds: float | None = None
        self._stopping = self._reloading = False
        self._published: dict[str, Any] = {}
        self._wake, self._waker = socket.socketpair()

    def run(self) -> None:
        """Start everything, look after it, and return when told to stop and everything has ended."""
        self._listen_to_signals()
        tell_service_manager(READY="1")
        while not self._stopping:
            self._advance()
            self._bound_logs()
            self._publish("running")
            self._sleep()
        tell_service_manager(STOPPING="1")
        self.close()

    def close(self) -> None:
        """Stop everything, and return when everything has ended."""
        self._stop_all()
        # The kernel writes into it at each signal, until it is told of another place.
        signal.set_wakeup_fd(-1)
        for end_of_pair in (self._wake, self._waker):
            end_of_pair.close()

    def _listen_to_signals(self) -> None:
        for end_of_pair in (self._wake, self._waker):
            end_of_pair.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

        def stop(_: int, __: FrameType | None) -> None:
            self._stopping = True

        def reload(_: int, __: FrameType | None) -> None:
            self._reloading = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)
        # Only so that the end of a child wakes us up.
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _advance(self) -> None:
        if self._reloading:
            self._reload()
        for supervised in self._supervised.values():
            self._look_at(supervised)
        parts = [supervised.part for supervised in self._supervised.values()]
        started = {name for name, one in self._supervised.items() if one.state is not PartState.WAITING}
        ready = self._names(PartState.READY, PartState.DONE)
        failed = self._names(PartState.FAILED, PartState.BACKING_OFF)
        for part in startable(parts, started, ready, failed):
            self._start(self._supervised[part.name])
        if self._settled_seconds is None and len(ready) == len(parts):
            self._settled_seconds = round(time.time() - self._began_at, 1)

    def _reload(self) -> None:
        """Try again at once what failed, and do again what depends on the configuration."""
        self._reloading = False
        for one in self._supervised.values():
            failed = one.state in {PartState.FAILED, PartState.BACKING_OFF}
            if failed or (one.state is PartState.DONE and one.part.again_on_reload):
                one.again()

    def _names(self, *states: PartState) -> set[str]:
        return {name for name, supervised in self._supervised.items() if supervised.state in states}

    def _look_at(self, one: Supervised) -> None:
        """Notice that a part became ready, ended, took too long, fell silent, or is due again."""
        now = time.time()
        if one.process is not None and one.process.poll() is not None:
            self._handle_end(one, one.process.returncode)
        elif one.process is not None and one.kill_at and now > one.kill_at:
            one.process.kill()
        elif one.state is PartState.STARTING and one.part.ready is not None and one.part.ready(one.started_at):
            one.note_ready(time.time())
            _say(f"{one.part.name} is ready after {one.ready_at - one.started_at:.1f} s")
        elif one.state is PartState.STARTING and now > one.started_at + one.part.start_limit_seconds:
            one.detail = f"not ready within {one.part.start_limit_seconds:.0f} s"
            if one.process is not None:
                one.process.kill()
        elif one.is_due_for_check(now) and one.is_silent(now):
            self._end_silent(one)
        elif one.state is PartState.BACKING_OFF and now >= one.next_start_at:
            self._start(one)

    def _end_silent(self, one: Supervised) -> None:
        """It runs and answers nobody: end it, so that it is started again."""
        one.detail = f"silent for {one.silences} checks"
        _say(f"{one.part.name} is {one.detail}, and is ended")
        if one.process is not None and not one.kill_at:
            one.process.send_signal(one.part.stop_signal)
            one.kill_at = time.time() + one.part.grace_seconds

    def _start(self, one: Supervised) -> None:
        name = one.part.name
        try:
            with self._state.log(name).open("ab") as log:
                process = command.start(
                    one.part.build(),
                    stdout=log,
                    stderr=log,
                    cwd=self._state.folder,
                    death_signal=one.part.death_signal,
                )
        except (KeepwellError, OSError) as error:
            one.detail = str(error)
            _say(f"{name} cannot be started: {error}")
            self._decide_restart(one, fails_again=True)
            return
        one.note_start(process, time.time())
        self._state.record_process(name, process.pid)
        _say(f"{name} started as process {process.pid}")

    def _bound_logs(self) -> None:
        """Ours too, where somebody let us write to one."""
        for name in (SUPERVISOR, *self._supervised):
            keep_bounded(self._state.log(name))

    def _handle_end(self, one: Supervised, exit_code: int) -> None:
        served_seconds = time.time() - one.ready_at if one.ready_at else 0
        one.process = None
        self._state.forget_process(one.part.name)
        ended = f"ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        _say(f"{one.part.name} {ended}")
        if one.part.is_step and exit_code == 0:
            one.state, one.ready_at = PartState.DONE, time.time()
            return
        one.detail = ", ".join(filter(None, [one.detail, ended]))
        self._decide_restart(one, served_seconds=served_seconds, fails_again=one.part.is_step)

    def _decide_restart(self, one: Supervised, *, served_seconds: float = 0, fails_again: bool) -> None:
        decision = decide_restart(
            quick_failures=one.quick_failures,
            served_seconds=served_seconds,
            fails_again=fails_again,
            patience=self._plan.patience,
        )
        one.quick_failures = decision.quick_failures
        if decision.delay_seconds is None:
            one.state = PartState.FAILED
            return
        one.state, one.restarts = PartState.BACKING_OFF, one.restarts + 1
        one.next_start_at = time.time() + decision.delay_seconds

    def _publish(self, phase: str) -> None:
        """Write the status where it changed."""
        own = identify(os.getpid())
        document = {
            "phase": phase,
            "supervisor": own.as_document() if own is not None else {},
            "began_at": self._began_at,
            "settled_seconds": self._settled_seconds,
            "options": dict(self._plan.options),
            "parts": [one.as_document(self._state) for one in self._supervised.values()],
        }
        if document != self._published:
            self._state.write_document(STATUS_DOCUMENT, document)
            self._published = document
            serving = len(self._names(PartState.READY, PartState.DONE))
            tell_service_manager(STATUS=f"{phase}: {serving} of {len(self._supervised)} parts serve")

    def _sleep(self) -> None:
        """Until a signal comes, or something must be looked at again."""
        tell_service_manager(WATCHDOG="1")
        if self._names(PartState.STARTING) or any(one.kill_at for one in self._supervised.values() if one.process):
            limit = _BUSY_POLL_SECONDS
        else:
            due = [one.next_start_at - time.time() for one in self._supervised.values() if one.next_start_at]
            limit = min([_IDLE_POLL_SECONDS, *(max(seconds, _BUSY_POLL_SECONDS) for seconds in due if seconds > 0)])
        self._pause(limit)

    def _pause(self, limit_seconds: float) -> None:
        if select.select([self._wake], [], [], limit_seconds)[0]:
            self._wake.recv(4_096)

    def _stop_all(self) -> None:
        """Each part after all that need it; by force when it outlives its grace."""
        told_at: dict[str, float] = {}
        parts = [one.part for one in self._supervised.values()]
        while running := {name: one for name, one in self._supervised.items() if one.process is not None}:
            for part in stoppable(parts, running):
                self._tell_to_stop(running[part.name], told_at)
            self._publish("stopping")
            self._pause(_BUSY_POLL_SECONDS)
            for one in running.values():
                if one.process is not None and one.process.poll() is not None:
                    one.process, one.state = None, PartState.STOPPED
                    self._state.forget_process(one.part.name)
                    _say(f"{one.part.name} stopped")
        leftovers = find_by_variable(MARKER_VARIABLE, str(self._state.folder))
        end(leftovers, polite=signal.SIGTERM, grace_seconds=_LEFTOVER_GRACE_SECONDS)
        self._publish("stopped")

    def _tell_to_stop(self, one: Supervised, told_at: dict[str, float]) -> None:
        if one.process is None:
            return
        name, now = one.part.name, time.time()
        if name not in told_at:
            told_at[name] = now
            one.process.send_signal(one.part.stop_signal)
        elif now > told_at[name] + one.part.grace_seconds:
            one.process.kill()


def _say(what: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {what}\n")
    sys.stdout.flush()


def _take_lock(state: StateFolder) -> IO[str] | None:
    """Those who only ask whether we run hold it for a moment, so one refusal says little."""
    for _ in range(20):
        lock = state.try_lock(SUPERVISOR)
        if lock is not None:
            return lock
        time.sleep(0.05)
    return None


def main(plan: Plan) -> int:
    """Supervise a stack as a program: its state folder and its options stand on the command line."""
    parser = argparse.ArgumentParser(description=f"Supervise the {plan.title}; `{plan.start_command}` starts this.")
    parser.add_argument("state", type=Path)
    parser.add_argument("options", type=json.loads)
    arguments = parser.parse_args()
    return supervise(plan.with_options(arguments.options), StateFolder.at(arguments.state))


def supervise(plan: Plan, state: StateFolder) -> int:
    """Supervise a stack in this process until told to stop.

    Returns:
        An exit code: 1 when another supervisor has it, or it cannot be prepared.
    """
    lock = _take_lock(state)
    if lock is None:
        _say("Another supervisor has this stack.")
        return 1
    with lock:
        try:
            plan.prepare(state, plan.options)
            supervisor = Supervisor(plan, state)
        except KeepwellError as error:
            _say(str(error))
            return 1
        state.record_process(SUPERVISOR, os.getpid())
        _say("The supervisor starts.")
        supervisor.run()
        state.forget_process(SUPERVISOR)
        _say("The supervisor ends.")
    return 0
