import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deployments.local import objectstore_server, platform_file, redis_server
from deployments.local.stack import plan_stack, prepare_state
from deployments.running import lifecycle, orchestrator, postgres_cluster, processes
from deployments.running.parts import Part, in_start_order, leave_out, startable, stoppable, with_environment
from deployments.running.ports import choose_ports, find_free_port, is_free
from deployments.running.probes import always
from deployments.running.processes import ProcessIdentity
from deployments.running.restarts import MOST_QUICK_FAILURES, SETTLED_SECONDS, decide_restart
from deployments.running.state import MARKER_VARIABLE, StateFolder, write_private
from keepwell.command import Command
from keepwell.errors import ConfigurationError, ServiceUnavailable
from keepwell.postgres.binaries import Binaries
from keepwell.settings import load_platform
from keepwell.verdict import Verdict


def part(name: str, *needs: str, step: bool = False) -> Part:
    return Part(name, lambda: Command((name,)), ready=None if step else always, needs=needs)


def names(parts: list[Part]) -> list[str]:
    return [one.name for one in parts]


class TestOrder:
    def test_each_part_comes_after_what_it_needs(self) -> None:
        order = names(in_start_order([part("worker", "server"), part("server", "database"), part("database")]))
        assert order == ["database", "server", "worker"]

    def test_a_circle_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="circle"):
            in_start_order([part("a", "b"), part("b", "a")])

    def test_a_need_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="needs b"):
            in_start_order([part("a", "b")])

    def test_only_parts_whose_needs_are_ready_start(self) -> None:
        parts = [part("database"), part("server", "database"), part("redis")]
        assert names(startable(parts, started=set(), ready=set())) == ["database", "redis"]
        assert names(startable(parts, started={"database", "redis"}, ready={"redis"})) == []
        assert names(startable(parts, started={"database", "redis"}, ready={"database"})) == ["server"]

    def test_what_only_waits_for_a_step_starts_once_that_was_tried_however_it_went(self) -> None:
        parts = [part("server"), part("register", "server", step=True)]
        parts.append(Part("worker", lambda: Command(("worker",)), ready=always, needs=("server",), after=("register",)))
        assert names(startable(parts, started={"server", "register"}, ready={"server"})) == []
        for ready, failed in (({"server", "register"}, set()), ({"server"}, {"register"})):
            found = startable(parts, started={"server", "register"}, ready=ready, failed=failed)
            assert names(found) == ["worker"]
        assert names(leave_out(parts, ["register"])) == ["server"]
        assert names(in_start_order(parts[::-1])) == ["server", "register", "worker"]

    def test_a_part_stops_after_all_that_need_it_even_through_a_step(self) -> None:
        parts = [part("database"), part("load", "database", step=True), part("backend", "load")]
        assert names(stoppable(parts, {"database", "backend"})) == ["backend"]
        assert names(stoppable(parts, {"database"})) == ["database"]

    def test_leaving_one_out_leaves_out_what_needs_it(self) -> None:
        parts = [part("worker", "server"), part("server", "database"), part("database"), part("redis")]
        assert names(leave_out(parts, ["server"])) == ["database", "redis"]

    def test_leaving_out_an_unknown_part_names_the_known_ones(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            leave_out([part("redis")], ["reddis"])
        assert "redis" in caught.value.hint

    def test_added_variables_keep_the_others(self) -> None:
        one = Part("a", lambda: Command(("a",), {"X": "1"}))
        assert with_environment(one, {"Y": "2"}).build().environment == {"X": "1", "Y": "2"}


class TestRestart:
    def test_a_part_that_had_settled_starts_again_at_once(self) -> None:
        decision = decide_restart(quick_failures=4, served_seconds=SETTLED_SECONDS)
        assert (decision.quick_failures, decision.delay_seconds) == (1, 0.5)

    def test_delays_grow_to_a_bound_and_then_it_is_given_up(self) -> None:
        failures, delays = 0, list[float]()
        while True:
            decision = decide_restart(quick_failures=failures, served_seconds=1)
            if decision.delay_seconds is None:
                break
            failures = decision.quick_failures
            delays.append(decision.delay_seconds)
        assert delays == sorted(delays)
        assert len(delays) == MOST_QUICK_FAILURES
        assert max(delays) <= 10


class TestPorts:
    def test_recorded_ports_are_kept_while_they_are_free(self) -> None:
        assert choose_ports(["a"], {"a": 25_000}, free=lambda _: True) == {"a": 25_000}

    def test_a_taken_port_is_chosen_anew(self) -> None:
        chosen = choose_ports(["a", "b"], {"a": 25_000, "b": 25_001}, free=lambda port: port != 25_000)
        assert chosen["a"] not in {25_000, 25_001}
        assert chosen["b"] == 25_001

    def test_no_two_get_the_same(self) -> None:
        chosen = choose_ports([str(number) for number in range(200)], {})
        assert len(set(chosen.values())) == 200

    def test_a_listened_port_is_not_free(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert not is_free(listener.getsockname()[1])

    def test_no_free_port_at_all_is_said(self) -> None:
        with pytest.raises(ServiceUnavailable, match="No free port"):
            find_free_port(free=lambda _: False)


class TestProcessOwnership:
    def test_this_process_is_alive(self) -> None:
        own = processes.identify(os.getpid())
        assert own is not None
        assert processes.is_alive(own)

    def test_a_reused_pid_is_not_ours(self) -> None:
        recorded = ProcessIdentity(100, 5_000, "boot-1")
        assert not processes.is_alive(recorded, lambda _: ProcessIdentity(100, 9_000, "boot-1"))
        assert not processes.is_alive(recorded, lambda _: ProcessIdentity(100, 5_000, "boot-2"))
        assert not processes.is_alive(recorded, lambda _: None)

    def test_ending_leaves_a_process_alone_whose_start_differs(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            real = processes.identify(other.pid)
            assert real is not None
            stranger = ProcessIdentity(real.pid, real.start_ticks - 1, real.boot_id)
            processes.end([stranger], polite=signal.SIGKILL, grace_seconds=1)
            assert other.poll() is None
            processes.end([real], polite=signal.SIGTERM, grace_seconds=5)
            assert other.wait(5) == -signal.SIGTERM

    def test_a_zombie_is_not_alive(self) -> None:
        with subprocess.Popen(["true"]) as child:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert processes.identify(child.pid) is None

    def test_what_bears_our_mark_is_found(self) -> None:
        value = f"/nowhere/{os.getpid()}"
        with subprocess.Popen(["sleep", "60"], env=os.environ | {MARKER_VARIABLE: value}) as child:
            found = list(processes.find_by_variable(MARKER_VARIABLE, value))
            assert [one.pid for one in found] == [child.pid]
            assert not list(processes.find_by_variable(MARKER_VARIABLE, value + "0"))
            child.kill()

    @pytest.mark.parametrize("document", [{}, {"pid": 1}, {"pid": "x", "start_ticks": 1, "boot_id": "b"}])
    def test_an_unusable_record_names_nobody(self, document: dict[str, object]) -> None:
        assert ProcessIdentity.from_document(document) is None


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder.at(tmp_path / "state")
    prepare_state(folder)
    return folder


class TestState:
    def test_secrets_are_private_and_stay(self, state: StateFolder) -> None:
        path = state.secret_file("redis-password")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert state.secret("redis-password") == state.secret("redis-password")

    def test_a_broken_document_reads_as_empty(self, state: StateFolder) -> None:
        (state.folder / "status.json").write_text('{"parts": [')
        assert state.read_document("status.json") == {}

    def test_a_folder_of_somebody_else_is_refused_and_never_purged(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        other = StateFolder.at(tmp_path)
        with pytest.raises(ConfigurationError, match="something else"):
            other.prepare()
        with pytest.raises(ConfigurationError, match="not the state"):
            lifecycle.take_down(plan_stack(), other, purge=True)
        assert (tmp_path / "thesis.txt").exists()

    def test_purge_leaves_only_locks_and_can_be_followed_by_a_new_start(self, state: StateFolder) -> None:
        lifecycle.take_down(plan_stack(), state, purge=True)
        assert {path.suffix for path in state.folder.iterdir()} == {".lock"}
        prepare_state(state)
        assert state.platform_file.exists()

    def test_a_record_of_a_dead_process_is_not_listed(self, state: StateFolder) -> None:
        state.record_process("redis", os.getpid())
        document = json.loads((state.folder / "run" / "redis.json").read_text())
        assert state.recorded_processes()["redis"].pid == os.getpid()
        state.write_document("run/redis.json", document | {"start_ticks": 1})
        assert state.recorded_processes() == {}

    def test_the_supervisors_lock_tells_whether_it_lives(self, state: StateFolder) -> None:
        assert not state.is_supervised()
        lock = state.try_lock("supervisor")
        assert lock is not None
        assert state.is_supervised()
        assert state.try_lock("supervisor") is None
        lock.close()
        assert not state.is_supervised()

    def test_clean_up_ends_what_was_recorded(self, state: StateFolder) -> None:
        with subprocess.Popen(["sleep", "60"]) as orphan:
            state.record_process("redis", orphan.pid)
            lifecycle.clean_up(state)
            assert orphan.wait(5) == -signal.SIGINT
        assert not list((state.folder / "run").iterdir())


class TestClusterFolder:
    PACKAGE, SYSTEM = Binaries(Path("/p"), (17, 10), "package"), Binaries(Path("/s"), (15, 18), "system")

    @pytest.fixture(autouse=True)
    def _servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Binaries, "has_server", property(lambda _: True))

    def test_a_new_cluster_takes_the_systems_server(self, tmp_path: Path) -> None:
        chosen = postgres_cluster.choose_installation(tmp_path / "new", [self.PACKAGE, self.SYSTEM])
        assert chosen == self.SYSTEM

    def test_a_cluster_stays_with_its_major_version(self, tmp_path: Path) -> None:
        (tmp_path / "PG_VERSION").write_text("17\n")
        assert postgres_cluster.choose_installation(tmp_path, [self.PACKAGE, self.SYSTEM]) == self.PACKAGE
        (tmp_path / "PG_VERSION").write_text("16\n")
        with pytest.raises(ConfigurationError, match="PostgreSQL 16"):
            postgres_cluster.choose_installation(tmp_path, [self.PACKAGE, self.SYSTEM])

    def test_half_a_cluster_is_made_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "production.partial" / "base").mkdir(parents=True)
        monkeypatch.setattr(postgres_cluster, "choose_installation", lambda _: self.SYSTEM)
        monkeypatch.setattr(postgres_cluster, "create_cluster", lambda _, folder, __: folder.mkdir())
        postgres_cluster.ensure_cluster(tmp_path / "production", "secret", "postgres")
        assert not list((tmp_path / "production").iterdir())
        assert not (tmp_path / "production.partial").exists()


class TestWholeStack:
    def test_it_can_be_started_in_the_given_order(self, state: StateFolder) -> None:
        seen: set[str] = set()
        for one in plan_stack().read_parts(state):
            assert set(one.needs) <= seen
            seen.add(one.name)

    def test_no_secret_is_on_a_command_line_and_each_process_is_marked(self, state: StateFolder) -> None:
        files = [path for path in (state.folder / "secrets").rglob("*") if path.is_file() and path.suffix != ".json"]
        secrets = [path.read_text().split()[-1] for path in files if "key-id" not in path.name]
        for one in plan_stack().read_parts(state):
            command = one.build()
            assert not [secret for secret in secrets if any(secret in argument for argument in command.argv)]
            assert command.environment[MARKER_VARIABLE] == str(state.folder)

    def test_the_platform_file_is_one(self, state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEEPWELL_CONFIG", str(state.platform_file))
        platform = load_platform()
        assert platform.name == platform_file.PLATFORM
        assert platform.database.password is not None
        assert platform.database.password.get_secret_value() == state.secret("production-password")
        text = state.platform_file.read_text()
        assert state.secret("production-password") not in text
        assert len(tomllib.loads(text)["backup"]["smoke_queries"]) == 3

    def test_the_login_is_made_at_random_or_put_there_and_known_to_those_alone_who_need_it(
        self, state: StateFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def known_to() -> dict[str, set[str]]:
            environments = {one.name: one.build().environment for one in plan_stack().read_parts(state)}
            return {
                name: {variable for variable in environment if "AUTH_STRING" in variable}
                for name, environment in environments.items()
                if any("AUTH_STRING" in variable for variable in environment)
            }

        monkeypatch.setenv("KEEPWELL_CONFIG", str(state.platform_file))
        made = load_platform().orchestrator.auth_string
        assert made is not None
        assert len(made.get_secret_value()) > 30
        assert orchestrator.login_file(state).stat().st_mode & 0o777 == 0o600
        write_private(orchestrator.login_file(state), "operator:hush\n")
        prepare_state(state)
        client = {"PREFECT_API_AUTH_STRING"}
        assert known_to() == {
            orchestrator.SERVER: {"PREFECT_SERVER_API_AUTH_STRING"},
            orchestrator.REGISTRATION: client,
            orchestrator.WORKER: client,
        }
        login = load_platform().orchestrator.auth_string
        assert login is not None
        assert login.get_secret_value() == "operator:hush"

    @pytest.mark.parametrize(
        ("states", "verdict"),
        [
            ([], Verdict.UNKNOWN),
            (["ready", "done"], Verdict.OK),
            (["ready", "starting"], Verdict.UNKNOWN),
            (["waiting", "failed"], Verdict.ALERT),
            (["ready", "not answering"], Verdict.ALERT),
        ],
    )
    def test_the_verdict(self, states: list[str], verdict: Verdict) -> None:
        assert lifecycle.judge(states) is verdict

    def test_elsewhere_than_on_linux_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(ConfigurationError, match="needs Linux"):
            lifecycle.require_linux(plan_stack())

    def test_a_file_system_without_attributes_is_refused_early(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
        with pytest.raises(ConfigurationError, match="extended attributes"):
            objectstore_server.require_extended_attributes(tmp_path)

    def test_redis_reads_its_password_from_a_private_file(self, tmp_path: Path) -> None:
        command = redis_server.redis_part(tmp_path, 25_000, "hush").build()
        configuration = Path(command.argv[-1])
        assert "requirepass hush" in configuration.read_text()
        assert configuration.stat().st_mode & 0o777 == 0o600
