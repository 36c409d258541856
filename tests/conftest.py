"""Real servers for the tests: each suite starts what it asks for, once, and ends it with the session."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from docker_engine import missing_for_an_engine
from hypothesis import HealthCheck, settings
from locking_store import LockingStore, running_locking_store
from pydantic import SecretStr
from real_servers import (
    BUCKET,
    Server,
    bucket_settings,
    build_platform,
    find_installation,
    fresh_database,
    running_postgres,
)
from screenshot import find_chromium

from deployments.local.objectstore import RunningObjectStore, create_bucket, running_objectstore
from deployments.local.redis_server import RunningRedis, running_redis
from keepwell.containers.engine import ADDRESS_VARIABLE
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.served import STATE_VARIABLE
from keepwell.settings import (
    Platform,
    RedisSettings,
)

# A busy machine is slow, and no property is wrong for that.
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# Whatever engine this machine has is none of ours; tests in containers start their own.
os.environ[ADDRESS_VARIABLE] = "unix:///nowhere/docker.sock"
# Nor is whatever orchestrator is served on it.
os.environ[STATE_VARIABLE] = "/nowhere/keepwell"


def missing_tools() -> list[str]:
    """Which of the stock tools that restore a set by hand are not installed here."""
    return [name for name in ("age", "openssl", "rclone", "zstd") if shutil.which(name) is None]


def missing_for_a_stack() -> list[str]:
    """Which of the programs that its images hold, or that bring it up, are not installed here."""
    programs = ("docker-compose", "nginx", "tini")
    return [name for name in programs if shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") is None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run, in one line each at the top; where CI is set, it fails instead."""
    if os.environ.get("CI"):
        return
    opening = [item for item in items if item.get_closest_marker("chromium")]
    if opening and find_chromium() is None:
        _leave_out(config, items, opening, "tests that open the UI; no Chromium answers here")
    for major in sorted({wanted for item in items if (wanted := wanted_major(item)) is not None}):
        if find_installation(major) is None:
            on_it = [item for item in items if wanted_major(item) == major]
            _leave_out(config, items, on_it, f"tests on PostgreSQL {major}, which is not installed here")
    by_hand = [item for item in items if item.get_closest_marker("stock_tools")]
    if by_hand and (missing := missing_tools()):
        _leave_out(config, items, by_hand, f"tests that restore by hand; not installed here: {', '.join(missing)}")
    of_units = [item for item in items if item.get_closest_marker("systemd")]
    if of_units and shutil.which("systemd-analyze") is None:
        _leave_out(config, items, of_units, "tests of systemd units; systemd-analyze is not installed here")
    composed = [item for item in items if item.get_closest_marker("composed")]
    if composed and (missing := missing_for_a_stack()):
        _leave_out(config, items, composed, f"tests of the production stack; not installed here: {', '.join(missing)}")
    in_containers = [item for item in items if item.get_closest_marker("docker")]
    if in_containers and (missing := missing_for_an_engine()):
        _leave_out(config, items, in_containers, f"tests in containers; missing here: {', '.join(missing)}")


def _leave_out(config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item], which: str) -> None:
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.get_terminal_writer().line(f"Left out: {len(left_out)} {which}.")


def wanted_major(item: pytest.Item) -> int | None:
    """Which PostgreSQL a test asks for: its parameter `major`, or its mark; None takes the package's, always there."""
    marker = item.get_closest_marker("major")
    call = getattr(item, "callspec", None)
    return marker.args[0] if marker else call.params.get("major") if call else None


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Server]]:
    """Servers by major version, each started when first asked for."""
    started: dict[int, Server] = {}
    contexts = []

    def server(major: int) -> Server:
        if major not in started:
            context = running_postgres(major, tmp_path_factory.mktemp(f"pg{major}"))
            contexts.append(context)
            started[major] = context.__enter__()
        return started[major]

    yield server
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def server(servers: Callable[[int], Server]) -> Server:
    """The server that most tests use; parametrize `major` for both."""
    return servers(17)


@pytest.fixture(scope="session")
def objectstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningObjectStore]:
    with running_objectstore(tmp_path_factory.mktemp("store")) as running:
        create_bucket(running.endpoint_url, running.access_key_id, running.secret_access_key, BUCKET)
        yield running


@pytest.fixture(scope="session")
def locking_store() -> Iterator[LockingStore]:
    with running_locking_store() as running:
        yield running


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis_url(redis_server: RunningRedis) -> str:
    return f"redis://:{redis_server.password}@127.0.0.1:{redis_server.port}/0"


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """Name of a fresh, empty database."""
    with fresh_database(server) as name:
        yield name


@pytest.fixture
def database_url(server: Server, database: str) -> str:
    return server.url(database)


@pytest.fixture
def platform(
    server: Server,
    database: str,
    objectstore: RunningObjectStore,
    redis_server: RunningRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Platform:
    """A platform with a fresh database, a fresh folder of the bucket and a spool of its own."""
    spool = tmp_path_factory.mktemp("spool")
    redis = RedisSettings(host="127.0.0.1", port=redis_server.port, password=SecretStr(redis_server.password))
    return build_platform(server, database, bucket_settings(objectstore), spool, redis=redis)


@pytest.fixture
def store(platform: Platform) -> Store:
    return open_store(platform)
