import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from deployments.local.objectstore import create_bucket, start_objectstore
from deployments.local.redis_server import start_redis
from deployments.running.processes import ProcessIdentity, find_by_variable, is_alive
from deployments.running.state import MARKER_VARIABLE, StateFolder
from keepwell.postgres.connection import connect
from keepwell.settings import load_platform

LIMIT_SECONDS = 400


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder.at(tmp_path / "a folder whose path is longer than that of a unix socket may be" / ("x" * 60))
    yield folder
    run(folder, "down")


def run(state: StateFolder, *arguments: str) -> dict[str, Any]:
    """A command of the stack; its envelope, and its exit code as `exit_code`."""
    argv = [sys.executable, "-m", "deployments.local", *arguments, "--state", str(state.folder), "--json"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout) | {"exit_code": ended.returncode}


def read_part(state: StateFolder, name: str) -> dict[str, Any]:
    return next(one for one in run(state, "status")["data"]["parts"] if one["name"] == name)


def marked(state: StateFolder) -> list[ProcessIdentity]:
    return list(find_by_variable(MARKER_VARIABLE, str(state.folder)))


def has_marker_table(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("KEEPWELL_CONFIG", str(state.platform_file))
    with connect(load_platform().database) as connection:
        return connection.execute("SELECT to_regclass('public.kept')").fetchone() != (None,)


def test_the_stack_survives_what_is_done_to_it(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # Up: everything serves, and a second `up` changes nothing.
    envelope = run(state, "up", "--scale", "0.02")
    assert (envelope["verdict"], envelope["exit_code"]) == ("ok", 0), envelope
    assert envelope["schema"] == "keepwell.local-stack/1"
    supervisor = state.recorded_processes()["supervisor"]
    assert run(state, "up")["verdict"] == "ok"
    assert state.recorded_processes()["supervisor"] == supervisor

    # A part that is killed comes back.
    pid = read_part(state, "redis")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (one := read_part(state, "redis"))["state"] == "ready" and bool(one["pid"] != pid))
    assert read_part(state, "redis")["restarts"] == 1

    # A killed supervisor takes its parts along; `down` removes what is left.
    monkeypatch.setenv("KEEPWELL_CONFIG", str(state.platform_file))
    with connect(load_platform().database) as connection:
        connection.execute("CREATE TABLE public.kept ()")
    recorded = state.recorded_processes()
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(process) for process in recorded.values()))
    assert run(state, "status")["data"]["running"] is False
    assert run(state, "down")["exit_code"] == 0
    assert not marked(state)

    # Up again with the same data, and down with nothing left.
    assert run(state, "up")["verdict"] == "ok"
    assert has_marker_table(state, monkeypatch)
    recorded = state.recorded_processes()
    assert run(state, "down")["exit_code"] == 0
    assert not any(is_alive(process) for process in recorded.values())
    assert not marked(state)


ONLY_PRODUCTION = ("redis", "objectstore", "orchestrator-database", "sample-frontend")


def without(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--without", name)]


def test_an_interrupted_load_is_done_again(state: StateFolder) -> None:
    up = [sys.executable, "-m", "deployments.local", "up", "--state", str(state.folder), "--scale", "0.2"]
    with subprocess.Popen([*up, *without(*ONLY_PRODUCTION)], stdout=subprocess.DEVNULL) as starting:
        wait_until(lambda: "load-sample-data" in state.recorded_processes())
        os.kill(state.recorded_processes()["supervisor"].pid, signal.SIGKILL)
        assert starting.wait(LIMIT_SECONDS) != 0
    assert run(state, "up", "--scale", "0.02", *without(*ONLY_PRODUCTION))["verdict"] == "ok"


def test_two_ups_at_once_make_one_stack(state: StateFolder) -> None:
    argv = [sys.executable, "-m", "deployments.local", "up", "--state", str(state.folder), "--json"]
    argv += without("create-production", "objectstore", "create-orchestrator-database")
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=LIMIT_SECONDS)[0]) for one in both]
    assert [answer["verdict"] for answer in answers] == ["ok", "ok"]
    assert answers[0]["data"]["parts"] == answers[1]["data"]["parts"]


def test_a_part_that_cannot_start_is_named(state: StateFolder) -> None:
    only_redis = without("create-production", "objectstore", "create-orchestrator-database", "sample-frontend")
    state.prepare()
    (state.folder / "redis").write_text("a file where a folder should be")
    envelope = run(state, "up", *only_redis)
    assert (envelope["verdict"], envelope["exit_code"]) == ("alert", 1)
    assert "redis" in envelope["hint"]
    (state.folder / "redis").unlink()
    assert run(state, "up", *only_redis)["verdict"] == "ok"


def test_a_killed_object_store_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    import boto3

    store = start_objectstore(tmp_path / "store")
    try:
        create_bucket(store.endpoint_url, store.access_key_id, store.secret_access_key, "bucket-1")
        client = boto3.client(
            "s3",
            endpoint_url=store.endpoint_url,
            region_name=store.region,
            aws_access_key_id=store.access_key_id,
            aws_secret_access_key=store.secret_access_key,
        )
        client.put_object(Bucket="bucket-1", Key="a/b", Body=b"kept")
        store.server.process.kill()
        store.server.process.wait()
        store = start_objectstore(tmp_path / "store", port=store.port, secret_access_key=store.secret_access_key)
        assert client.get_object(Bucket="bucket-1", Key="a/b")["Body"].read() == b"kept"
        client.close()
    finally:
        store.server.stop()


def test_a_killed_redis_comes_back_with_its_data(tmp_path: Path) -> None:
    import redis as driver

    server = start_redis(tmp_path)
    with driver.Redis(server.host, server.port, password=server.password) as client:
        client.set("key", "value")
    server.server.process.kill()
    server.server.process.wait()
    time.sleep(0.1)
    server = start_redis(tmp_path, port=server.port, password=server.password)
    try:
        with driver.Redis(server.host, server.port, password=server.password) as client:
            assert client.get("key") == b"value"
    finally:
        server.server.stop()
