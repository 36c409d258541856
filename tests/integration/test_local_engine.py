"""The local stack's own Docker Engine: networks between containers, and nothing left, however it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import running_engine
from real_servers import PASSWORD, installation
from waiting import wait_until

from deployments.local import engine as local_engine
from deployments.local.engine import RunningEngine
from deployments.local.images import backend_recipe, build_image, frontend_recipe, postgres_recipe, redis_recipe
from deployments.running.ports import find_free_port
from deployments.running.processes import identify

pytestmark = [pytest.mark.docker, pytest.mark.long]
STARTING = """
import os, signal, sys
from deployments.local.engine import running_engine
from deployments.local.images import build_image, redis_recipe
with running_engine() as engine:
    build_image(engine.client, redis_recipe())
    engine.client.networks.create("left")
    container = engine.client.containers.run("keepwell-sample/redis:7", network="left", detach=True)
    print(engine.address, engine.client.api.inspect_container(container.id)["State"]["Pid"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    with running_engine() as running:
        yield running


def test_the_sample_platform_runs_in_containers_that_know_one_another_by_name(engine: RunningEngine) -> None:
    for recipe in (postgres_recipe(installation(15)), redis_recipe(), backend_recipe(), frontend_recipe()):
        build_image(engine.client, recipe)
    engine.client.networks.create("esn")
    backend_port, frontend_port = find_free_port(), find_free_port()
    database_url = f"postgresql://keeper:{PASSWORD}@database/esn"
    login = {"POSTGRES_USER": "keeper", "POSTGRES_DB": "esn", "POSTGRES_PASSWORD": PASSWORD}
    start(engine, "postgres:15", "database", login)
    start(engine, "redis:7", "cache", {})
    start(engine, "backend:1", "backend", {"DATABASE_URL": database_url, "REDIS_URL": "redis://cache"}, backend_port)
    start(engine, "frontend:1", "frontend", {"BACKEND_URL": "http://backend"}, frontend_port)

    wait_until(lambda: b'"database":"connected","redis":"connected"' in get(backend_port).replace(b" ", b""))
    wait_until(lambda: get(frontend_port) == b"healthy\n")
    address = engine.client.containers.get("database").attrs["NetworkSettings"]["Networks"]["esn"]["IPAddress"]
    socket.create_connection((address, 5432), timeout=5).close()


def start(engine: RunningEngine, image: str, name: str, environment: dict[str, str], port: int = 0) -> None:
    inner = {"backend": 4000, "frontend": 80}.get(name)
    engine.client.containers.run(
        f"keepwell-sample/{image}",
        name=name,
        network="esn",
        environment=environment,
        ports={f"{inner}/tcp": ("127.0.0.1", port)} if inner else {},
        detach=True,
    )


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().read()
    except OSError:
        return b""
    finally:
        connection.close()


@pytest.mark.parametrize("dies", ["the starter", "both"])
def test_what_a_killed_engine_left_is_gone_once_the_next_has_started(dies: str) -> None:
    call = [sys.executable, "-c", STARTING]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        address, contained = starter.stdout.readline().split()
        folder = Path(address.removeprefix("unix://")).parent
        bridges = local_engine._bridges(folder)
        assert len(bridges) == 1
        if dies == "both":
            os.kill(int((folder / "docker.pid").read_text()), signal.SIGKILL)
        starter.kill()
    with running_engine():
        assert not folder.exists()
        assert not any(Path("/sys/class/net", bridge).exists() for bridge in bridges)
        assert identify(int(contained)) is None
        assert str(folder) not in Path("/proc/self/mountinfo").read_text()
