"""The nightly backup through a real server and a real worker, also when its process is killed."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runs import Api, wait_until

from keepwell.evidence import Evidence, read_last_evidence
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store
from keepwell.settings import Platform, load_platform
from keepwell.verdict import Verdict

if TYPE_CHECKING:
    from conftest import Stack


@pytest.fixture
def api(stack: "Stack") -> Api:
    return Api(stack.api_url)


@pytest.fixture
def platform(stack: "Stack", monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("KEEPWELL_CONFIG", str(stack.platform_file))
    return load_platform("esn")


@pytest.fixture
def store(platform: Platform) -> Store:
    return open_store(platform)


def last_evidence(store: Store, item: str) -> Evidence:
    found = read_last_evidence(store, item)
    assert found is not None
    return found


def test_is_proven_shown_and_recorded(api: Api, store: Store) -> None:
    run_id = api.start("backup-and-verify")
    run = api.wait(run_id)
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    shown = api.artifacts(run_id)
    assert shown["esn-backup-evidence"]["data"].startswith("# ✓ ok")
    assert "keepwell backup restore" in shown["esn-backup-evidence"]["data"]
    assert shown["esn-backup-progress"]["data"] == 100
    evidence = last_evidence(store, "BK-1")
    assert evidence.verdict is Verdict.OK
    assert evidence.flow_run == run_id
    assert float(evidence.numbers["restore_seconds"] or 0) > 0


def test_the_check_finds_it_and_the_schedule(api: Api, store: Store) -> None:
    run_id = api.start("backup-and-verify")
    api.wait(run_id)
    check = api.wait(api.start("check-backups"))
    assert check["state"]["name"] == "Completed", check["state"]["message"]
    assert last_evidence(store, "DAILY-5").verdict is Verdict.OK


def test_the_server_refuses_parameters_that_no_flow_takes(api: Api) -> None:
    import httpx

    with pytest.raises(httpx.HTTPStatusError) as refused:
        api.start("verify-backups", which="the-best-one")
    assert refused.value.response.status_code in (409, 422)


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A channel of ours: its Apprise address and what it took."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/keepwell", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def told(stack: "Stack", tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What people are told, by a channel that the platform file names for this test."""
    before = stack.platform_file.read_text()
    with receiver() as (address, taken):
        urls = tmp_path / "urls"
        urls.write_text(address)
        stack.platform_file.write_text(f'{before}\n[notify]\nurls_file = "{urls}"\n')
        try:
            yield taken
        finally:
            stack.platform_file.write_text(before)


def process_of(run_id: str) -> int:
    """The process of a flow run, known by the id in its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PREFECT__FLOW_RUN_ID={run_id}".encode() in environment and b"python" in words:
            return int(folder.name)
    pytest.fail("the run has no process")


def wait_for_its_turn(api: Api, run_id: str) -> None:
    """Until the run waits for the platform, which we hold."""
    wait_until(lambda: api.tasks(run_id).get("wait for our turn: backup") == "RUNNING", 60)


@pytest.mark.long
def test_people_hear_of_a_run_whose_process_was_killed(
    api: Api, platform: Platform, store: Store, told: list[dict[str, Any]]
) -> None:
    api.wait(api.start("backup-and-verify"))
    with hold_platform(platform, store, Procedure.BACKUP):
        run_id = api.start("backup-and-verify")
        wait_for_its_turn(api, run_id)
        os.kill(process_of(run_id), signal.SIGKILL)
        assert api.wait(run_id, 60)["state"]["name"] == "Crashed"
    wait_until(lambda: bool(told), 60)
    (message,) = told
    assert message["title"] == "esn: backup-and-verify was killed or crashed"
    assert "Still safe: the data as of" in message["message"]
    assert "keepwell run backup-and-verify --platform esn" in message["message"]
    assert last_evidence(store, "BK-1").flow_run == run_id


@pytest.mark.long
@pytest.mark.timeout(420)
def test_a_run_whose_worker_died_with_it_is_found_by_its_silence(
    stack: "Stack", api: Api, platform: Platform, store: Store, told: list[dict[str, Any]]
) -> None:
    with hold_platform(platform, store, Procedure.BACKUP):
        run_id = api.start("backup-and-verify")
        wait_for_its_turn(api, run_id)
        process = process_of(run_id)
        worker = json.loads((stack.state / "run" / "prefect-worker.json").read_text())["pid"]
        os.kill(worker, signal.SIGKILL)
        os.kill(process, signal.SIGKILL)
        assert api.wait(run_id, 240)["state"]["name"] == "Crashed"
    assert "silent" in api.read(run_id)["state"]["message"]
    wait_until(lambda: bool(told), 120)
    assert "silent" in told[0]["message"]


@pytest.mark.long
def test_a_run_that_is_done_is_not_taken_for_dead(api: Api) -> None:
    run_id = api.start("check-backups")
    api.wait(run_id)
    with pytest.raises(AssertionError, match="did not happen"):
        wait_until(lambda: api.read(run_id)["state"]["name"] == "Crashed", 130)
