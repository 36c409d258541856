"""`keepwell serve` as an operator uses it, on the platform of the local stack, with an orchestrator of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from runs import Api, find_process, last_evidence, wait_for_its_turn, wait_until
from screenshot import photograph

from deployments.production.footprint import measure_memory_bytes
from deployments.running.orchestrator import REGISTRATION, SERVER, WORKER
from deployments.running.ports import find_free_port
from deployments.running.processes import find_by_variable, is_alive
from deployments.running.state import MARKER_VARIABLE, StateFolder
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store
from keepwell.served import STATE_VARIABLE
from keepwell.settings import CONFIG_VARIABLE, Platform

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
LIMIT_SECONDS = 400


@dataclass(frozen=True)
class Served:
    """What `keepwell serve` runs for these tests.

    Attributes:
        state: Its folder.
        port: Of the Prefect server.
        environment: Of an operator who names nothing but where things lie.
    """

    state: StateFolder
    port: int
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> str:
        return (self.state.folder / "secrets" / "prefect-login").read_text().strip()

    @property
    def api(self) -> Api:
        return Api(f"{self.url}/api", self.login)

    def keepwell(self, *words: str) -> tuple[int, str]:
        """A command of the console: its exit code and what it printed."""
        argv = [Path(sys.executable).with_name("keepwell"), *words]
        ended = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        return ended.returncode, ended.stdout

    def ask(self, *words: str) -> dict[str, Any]:
        """A command's one JSON object."""
        code, printed = self.keepwell(*words, "--json")
        assert printed, code
        return json.loads(printed) | {"exit_code": code}

    def start(self) -> dict[str, Any]:
        return self.ask("serve", "--detach", "--port", str(self.port))

    def part(self, name: str) -> dict[str, Any]:
        return next(one for one in self.ask("serve", "status")["data"]["parts"] if one["name"] == name)


@pytest.fixture(scope="module")
def served(stack: "Stack", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    configuration = folder / "etc"
    configuration.mkdir()
    # As the local stack's, but that no orchestrator is named: the console must find the one that is served.
    text = stack.platform_file.read_text()
    before, _, after = text.partition("[orchestrator]\n")
    (configuration / "esn.toml").write_text(before + after[after.index("\n[") :])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    places = {CONFIG_VARIABLE: str(configuration), STATE_VARIABLE: str(folder / "state")}
    one = Served(StateFolder.at(folder / "state" / "serve"), find_free_port(), clean | places)
    try:
        answer = one.start()
        assert (answer["verdict"], answer["exit_code"]) == ("ok", 0), answer
        yield one
    finally:
        one.keepwell("serve", "stop")
        assert not list(find_by_variable(MARKER_VARIABLE, str(one.state.folder)))


def test_a_backup_is_run_and_proven_and_nothing_had_to_be_exported(served: Served, store: Store) -> None:
    code, said = served.keepwell("run", "backup-and-verify", "--platform", "esn")
    assert code == 0, said
    assert last_evidence(store, "BK-1").verdict == "ok"


def test_the_doctor_finds_it_kept_from_strangers(served: Served) -> None:
    found = {one["name"]: one["verdict"] for one in served.ask("doctor")["data"]["findings"]}
    for name in ("orchestrator", "orchestrator login", "orchestrator CSRF", "orchestrator listeners", "worker"):
        assert found[name] == "ok", found


@pytest.mark.parametrize("login", [None, ("keepwell", "wrong"), ("", "")])
def test_a_stranger_is_refused(served: Served, login: tuple[str, str] | None) -> None:
    for path in ("/admin/version", "/csrf-token?client=x", "/admin/settings"):
        assert httpx.get(f"{served.url}/api{path}", auth=login).status_code == 401
    # A token is of no use without the login.
    user, _, password = served.login.partition(":")
    token = httpx.get(f"{served.url}/api/csrf-token?client=x", auth=(user, password)).json()["token"]
    headers = {"Prefect-Csrf-Client": "x", "Prefect-Csrf-Token": token}
    answer = httpx.post(f"{served.url}/api/deployments/filter", json={}, headers=headers, auth=login)
    assert answer.status_code == 401


def test_a_change_without_a_token_is_refused_even_with_the_login(served: Served) -> None:
    user, _, password = served.login.partition(":")
    answer = httpx.post(f"{served.url}/api/flow_runs/filter", json={}, auth=(user, password))
    assert answer.status_code == 403
    assert "CSRF" in answer.text


def test_it_listens_on_loopback_alone(served: Served) -> None:
    # Another address of loopback is answered by whatever listens on every address.
    for port in served.state.read_ports().values():
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10)


@pytest.mark.chromium
def test_the_pages_ask_for_the_login_and_open_with_it(served: Served, tmp_path: Path) -> None:
    asked = photograph(served.url, tmp_path / "login.png", ("Login",))
    assert "backup-and-verify" not in asked
    opened = photograph(f"{served.url}/deployments", tmp_path / "in.png", ("backup-and-verify",), login=served.login)
    assert "check-backups" in opened


def test_no_secret_is_in_what_it_says_or_on_a_command_line(served: Served) -> None:
    secrets = [path.read_text().strip().split(":")[-1] for path in (served.state.folder / "secrets").iterdir()]
    assert len(secrets) == 2
    said = [path.read_text(errors="replace") for path in (served.state.folder / "logs").iterdir()]
    said += [served.state.folder.joinpath(name).read_text() for name in ("status.json", "served.json", "ports.json")]
    for process in served.state.recorded_processes().values():
        said.append(Path(f"/proc/{process.pid}/cmdline").read_text())
    assert not [secret for secret in secrets for text in said if secret in text]


def test_reloading_registers_anew_while_everything_serves_on(served: Served) -> None:
    pids = {name: served.part(name)["pid"] for name in (SERVER, WORKER)}
    starts = served.part(REGISTRATION)["starts"]
    assert served.ask("serve", "reload")["verdict"] == "ok"
    assert served.part(REGISTRATION)["starts"] == starts + 1
    assert {name: served.part(name)["pid"] for name in pids} == pids


def test_a_run_goes_on_when_its_server_is_killed(served: Served, platform: Platform, store: Store) -> None:
    api = served.api
    with hold_platform(platform, store, Procedure.BACKUP):
        run_id = api.start("backup-and-verify")
        wait_for_its_turn(api, run_id)
        killed = served.state.recorded_processes()[SERVER]
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed))
        wait_until(lambda: served.part(SERVER)["state"] == "ready")
        assert find_process(run_id) is not None
    ended = api.wait(run_id, 240)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
    assert served.part(SERVER)["restarts"] == 1


def test_a_second_one_is_refused_and_a_second_detach_changes_nothing(served: Served) -> None:
    before = served.state.recorded_processes()
    code, said = served.keepwell("serve", "--port", str(find_free_port()))
    assert code == 1
    assert "runs already" in said
    assert served.start()["verdict"] == "ok"
    assert served.state.recorded_processes() == before


def test_it_takes_little_memory(served: Served) -> None:
    assert 100_000_000 < measure_memory_bytes(served.state) < 600_000_000


def test_stopped_nothing_is_left_and_started_again_its_history_and_login_are_there(served: Served) -> None:
    run_id, login = served.api.start("check-backups"), served.login
    ended = served.api.wait(run_id)["state"]["name"]
    recorded = served.state.recorded_processes()
    assert served.ask("serve", "stop")["exit_code"] == 0
    assert not any(is_alive(process) for process in recorded.values())
    assert not list(find_by_variable(MARKER_VARIABLE, str(served.state.folder)))
    assert served.ask("serve", "status")["exit_code"] == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=10)

    # In the foreground this time, as a service manager would have it.
    argv = [Path(sys.executable).with_name("keepwell"), "serve", "--port", str(served.port)]
    with subprocess.Popen(argv, env=served.environment, stdout=subprocess.PIPE, text=True) as foreground:
        try:
            wait_until(lambda: served.ask("serve", "status")["verdict"] == "ok", 240)
            assert served.state.recorded_processes()["supervisor"].pid == foreground.pid
            assert served.login == login
            assert served.api.read(run_id)["state"]["name"] == ended
        finally:
            foreground.send_signal(signal.SIGTERM)
            said = foreground.communicate(timeout=120)[0]
    assert foreground.returncode == 0
    assert "The supervisor ends." in said
    assert not list(find_by_variable(MARKER_VARIABLE, str(served.state.folder)))
