"""What runs a stack: patience with parts that die, parts that fall silent, logs that grow, and the service manager."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.running import lifecycle
from deployments.running.logs import keep_bounded
from deployments.running.parts import Part
from deployments.running.plan import Plan
from deployments.running.restarts import UNATTENDED, WATCHED, Patience, decide_restart
from deployments.running.service_manager import SOCKET_VARIABLE, tell_service_manager
from deployments.running.state import STATUS_DOCUMENT, SUPERVISOR, StateFolder
from deployments.running.supervised import PartState, Supervised
from deployments.running.supervisor import Supervisor
from keepwell.command import Command
from keepwell.errors import PreconditionFailed

Supervise = Callable[..., Supervisor]
NAP = (sys.executable, "-c", "import time; time.sleep(600)")


def a_plan(*parts: Part, patience: Patience = WATCHED) -> Plan:
    return Plan(
        title="trial",
        program="nowhere",
        options={},
        prepare=lambda state, _: state.prepare(),
        parts=lambda _, __: list(parts),
        places=lambda _, __: {},
        use=lambda _: "",
        start_command="start",
        status_command="status",
        patience=patience,
    )


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder.at(tmp_path / "state")
    folder.prepare()
    return folder


@pytest.fixture
def supervise(state: StateFolder) -> Iterator[Supervise]:
    """Makes supervisors in this process; whatever they started ends with the test."""
    made: list[Supervisor] = []

    def make(*parts: Part, patience: Patience = WATCHED) -> Supervisor:
        made.append(Supervisor(a_plan(*parts, patience=patience), state))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.close()


def drive(supervisor: Supervisor, until: Callable[[], bool], limit_seconds: float = 60) -> None:
    """Let a supervisor in this process do its rounds until something holds."""
    deadline = time.monotonic() + limit_seconds
    while not until():
        assert time.monotonic() < deadline
        supervisor._advance()
        time.sleep(0.02)


class TestPatience:
    def test_unattended_it_is_never_given_up_and_steps_are_done_again(self) -> None:
        failures = 0
        for _ in range(2_000):
            decision = decide_restart(quick_failures=failures, served_seconds=0, fails_again=True, patience=UNATTENDED)
            assert decision.delay_seconds is not None
            failures = decision.quick_failures
        assert decision.delay_seconds == UNATTENDED.longest_delay_seconds

    def test_watched_what_would_fail_again_is_told_at_once(self) -> None:
        assert decide_restart(quick_failures=0, served_seconds=0, fails_again=True).delay_seconds is None

    def test_a_step_that_fails_once_is_done_when_what_it_lacked_has_come(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        lacked = tmp_path / "lacked"
        step = Part("step", lambda: Command(("test", "-e", str(lacked))))
        supervisor = supervise(step, patience=UNATTENDED)
        one = supervisor._supervised["step"]
        drive(supervisor, lambda: one.restarts >= 1)
        lacked.touch()
        drive(supervisor, lambda: one.state is PartState.DONE)

    def test_a_command_that_cannot_even_be_made_is_tried_again_unattended(self, supervise: Supervise) -> None:
        missing = Part("missing", lambda: Command(("no-such-program-anywhere",)), ready=lambda _: True)
        supervisor = supervise(missing, patience=UNATTENDED)
        one = supervisor._supervised["missing"]
        drive(supervisor, lambda: one.restarts >= 2)
        assert "no-such-program-anywhere was not found" in one.detail

    def test_what_waits_for_a_step_starts_although_that_step_fails(self, supervise: Supervise) -> None:
        step = Part("register", lambda: Command(("false",)))
        server = Part("worker", lambda: Command(NAP), ready=lambda _: True, after=("register",))
        supervisor = supervise(step, server, patience=UNATTENDED)
        drive(supervisor, lambda: supervisor._supervised["worker"].state is PartState.READY)
        assert supervisor._supervised["register"].state in {PartState.BACKING_OFF, PartState.STARTING}
        assert supervisor._supervised["register"].restarts >= 1


class TestSilence:
    def test_a_part_that_runs_and_answers_nobody_is_started_again(self, supervise: Supervise) -> None:
        answering = True
        part = Part("server", lambda: Command(NAP), ready=lambda _: answering, check_seconds=0.01)
        supervisor = supervise(part)
        one = supervisor._supervised["server"]
        drive(supervisor, lambda: one.state is PartState.READY)
        assert one.process is not None
        first = one.process.pid
        answering = False
        drive(supervisor, lambda: one.restarts == 1)
        assert "silent for" in one.detail
        answering = True
        drive(supervisor, lambda: one.state is PartState.READY)
        assert one.process.pid != first

    def test_one_that_does_not_heed_its_polite_signal_goes_by_force(
        self, supervise: Supervise, state: StateFolder
    ) -> None:
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        answering = True
        part = Part(
            "deaf",
            lambda: Command((sys.executable, "-c", deaf)),
            ready=lambda _: answering and state.log("deaf").stat().st_size > 0,
            check_seconds=0.01,
            grace_seconds=0.1,
        )
        supervisor = supervise(part)
        one = supervisor._supervised["deaf"]
        drive(supervisor, lambda: one.state is PartState.READY)
        answering = False
        drive(supervisor, lambda: one.restarts == 1)
        assert "ended by signal 9" in one.detail

    def test_one_silence_is_forgiven(self) -> None:
        answers = iter([False, False, True, False, False, False])
        one = Supervised(Part("server", lambda: Command(NAP), ready=lambda _: next(answers), check_seconds=60))
        one.note_ready(0)
        assert not one.is_due_for_check(59)
        assert one.is_due_for_check(60)
        assert [one.is_silent(60) for _ in range(6)] == [False, False, False, False, False, True]

    def test_a_heartbeat_of_long_ago_is_no_sign_of_life(self) -> None:
        asked: list[float] = []
        one = Supervised(Part("worker", lambda: Command(NAP), ready=lambda since: not asked.append(since)))
        one.started_at = 1_000
        one.is_silent(10_000)
        assert asked == [9_850]


class TestReload:
    def test_what_depends_on_the_configuration_is_done_again_and_nothing_else(self, supervise: Supervise) -> None:
        parts = [
            Part(name, lambda: Command(("true",)), again_on_reload=name == "register") for name in ("make", "register")
        ]
        supervisor = supervise(*parts)
        ones = supervisor._supervised
        drive(supervisor, lambda: all(one.state is PartState.DONE for one in ones.values()))
        supervisor._reloading = True
        drive(supervisor, lambda: ones["register"].starts == 2 and ones["register"].state is PartState.DONE)
        assert ones["make"].starts == 1

    def test_what_keeps_failing_is_tried_at_once(self, supervise: Supervise) -> None:
        supervisor = supervise(Part("register", lambda: Command(("false",))), patience=UNATTENDED)
        one = supervisor._supervised["register"]
        drive(supervisor, lambda: one.state is PartState.BACKING_OFF)
        one.next_start_at, starts = time.time() + 3600, one.starts
        supervisor._reloading = True
        drive(supervisor, lambda: one.starts > starts)

    def test_what_does_not_run_cannot_reload(self, state: StateFolder) -> None:
        with pytest.raises(PreconditionFailed, match="does not run"):
            lifecycle.reload(a_plan(), state)


class TestHere:
    def test_what_runs_already_is_not_run_a_second_time(self, state: StateFolder) -> None:
        lock = state.try_lock(SUPERVISOR)
        assert lock is not None
        with lock, pytest.raises(PreconditionFailed, match="runs already"):
            lifecycle.serve_here(a_plan(), state)

    def test_the_supervisor_gets_no_secret_of_whoever_starts_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
        monkeypatch.setenv("KEEPWELL_STATE_DIRECTORY", "/srv/keepwell")
        environment = lifecycle._supervisor_environment()
        assert "hush" not in environment.values()
        assert environment["KEEPWELL_STATE_DIRECTORY"] == "/srv/keepwell"


class TestStuck:
    @pytest.mark.parametrize(
        ("patience", "one", "stuck"),
        [
            (UNATTENDED, {"state": "backing off", "restarts": 3}, True),
            (UNATTENDED, {"state": "backing off", "restarts": 2}, False),
            (WATCHED, {"state": "backing off", "restarts": 4}, False),
            (WATCHED, {"state": "failed", "restarts": 0}, True),
        ],
    )
    def test_waiting_ends_when_it_would_tell_nothing_new(
        self, patience: Patience, one: dict[str, object], stuck: bool, state: StateFolder
    ) -> None:
        lock = state.try_lock(SUPERVISOR)
        assert lock is not None
        part = {"name": "server", "address": "", "detail": "", "log": "", "start_seconds": None} | one
        with lock:
            state.write_document(STATUS_DOCUMENT, {"parts": [part]})
            report = lifecycle.read_report(a_plan(patience=patience), state, ask_parts=False)
            assert lifecycle._is_stuck(a_plan(patience=patience), report) is stuck


class TestLogs:
    def test_a_short_one_and_a_missing_one_stay(self, tmp_path: Path) -> None:
        log = tmp_path / "part.log"
        keep_bounded(log)
        log.write_text("short")
        keep_bounded(log, longest_bytes=6)
        assert [path.name for path in tmp_path.iterdir()] == ["part.log"]

    def test_a_long_one_is_cut_under_its_writer_and_the_newest_texts_stay(self, tmp_path: Path) -> None:
        log = tmp_path / "part.log"
        with log.open("ab") as writer:
            for number in range(5):
                writer.write(b"%d" % number * 10)
                writer.flush()
                keep_bounded(log, longest_bytes=10, kept=3)
            writer.write(b"after")
        kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert kept == {
            "part.log": b"after",
            "part.log.1": b"4" * 10,
            "part.log.2": b"3" * 10,
            "part.log.3": b"2" * 10,
        }

    def test_what_a_crash_left_half_copied_is_in_nobodys_way(self, tmp_path: Path) -> None:
        (tmp_path / "part.log.partial").write_text("half")
        (tmp_path / "part.log").write_text("0123456789")
        keep_bounded(tmp_path / "part.log", longest_bytes=10)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["part.log", "part.log.1"]

    def test_a_running_part_s_log_stays_bounded(
        self, supervise: Supervise, state: StateFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from deployments.running import supervisor as module

        monkeypatch.setattr(module, "keep_bounded", lambda log: keep_bounded(log, longest_bytes=20_000))
        talker = (sys.executable, "-u", "-c", "import time\nwhile True: print('x' * 500); time.sleep(0.001)")
        supervisor = supervise(Part("talker", lambda: Command(talker), ready=lambda _: True))
        log = state.log("talker")

        def rotated() -> bool:
            supervisor._bound_logs()
            return log.with_name("talker.log.3").exists()

        drive(supervisor, rotated)
        assert len(list(log.parent.glob("talker.log*"))) == 4


class TestServiceManager:
    def test_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        address = str(tmp_path / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(30)
            monkeypatch.setenv(SOCKET_VARIABLE, address)
            tell_service_manager(READY="1", STATUS="running")
            assert manager.recv(100) == b"READY=1\nSTATUS=running"

    def test_one_in_no_folder_is_told_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        name = f"keepwell-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"\0{name}")
            manager.settimeout(30)
            monkeypatch.setenv(SOCKET_VARIABLE, f"@{name}")
            tell_service_manager(WATCHDOG="1")
            assert manager.recv(100) == b"WATCHDOG=1"

    def test_none_and_one_that_is_gone_change_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
        tell_service_manager(READY="1")
        monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "gone"))
        tell_service_manager(READY="1")

    def test_parts_never_inherit_its_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from keepwell import command

        monkeypatch.setenv(SOCKET_VARIABLE, "/nowhere")
        assert SOCKET_VARIABLE not in command.run(Command(("env",))).decode()


def test_a_supervisor_of_ours_that_was_taken_down_is_not_left_for_running(state: StateFolder) -> None:
    supervisor = subprocess.Popen(["true"])
    lifecycle._launched.append(supervisor)
    os.waitid(os.P_PID, supervisor.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has noted it
    lifecycle.take_down(a_plan(), state)
    assert (supervisor.returncode, supervisor in lifecycle._launched) == (0, False)


def test_a_stack_of_nothing_stops_at_once(state: StateFolder) -> None:
    Supervisor(a_plan(), state).close()
    assert state.read_document(STATUS_DOCUMENT)["phase"] == "stopped"
