"""Servers in containers that publish nothing: by the container's address, which changes, or by a program in there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backup_sets import back_up, back_up_and_prove, prove
from docker_engine import running_engine
from pydantic import SecretStr, ValidationError
from real_servers import PASSWORD, bucket_settings, build_platform, installation
from waiting import wait_until

from deployments.local.engine import RunningEngine
from deployments.local.images import Recipe, build_image, postgres_recipe, redis_recipe
from deployments.local.objectstore import RunningObjectStore
from keepwell.cache.keys import read_server
from keepwell.cache.probe import read_facts
from keepwell.containers.engine import COMPOSE_PROJECT, COMPOSE_SERVICE
from keepwell.errors import PreconditionFailed, ServiceUnavailable
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.connection import connect, conninfo
from keepwell.settings import DatabaseSettings, Platform, RedisSettings

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.major(15)]
LOGIN = {"POSTGRES_DB": "esn", "POSTGRES_PASSWORD": PASSWORD}
POSTGRES, REDIS = "keepwell-sample/postgres:15", "keepwell-sample/redis:7"
BUSYBOX, BARE = "keepwell-tests/postgres:busybox", "keepwell-tests/postgres:bare"
HOLDING = """
import sys
from pathlib import Path
from pydantic import SecretStr
from keepwell.postgres.connection import connect
from keepwell.settings import DatabaseSettings
login = {"name": "esn", "user": "postgres", "password": SecretStr(sys.argv[1])}
settings = DatabaseSettings(container="alone", reach="exec", **login)
with connect(settings, application_name="killed") as connection:
    connection.execute("SELECT 1")
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    with running_engine() as running:
        for recipe in (postgres_recipe(installation(15)), redis_recipe(), *other_images()):
            build_image(running.client, recipe)
        running.client.networks.create("esn_default")
        yield running


def other_images() -> list[Recipe]:
    """One with busybox, as Alpine's image has it; and one with nothing that relays."""
    busybox = Path(shutil.which("busybox") or pytest.fail("busybox-static is missing"))
    nc = {"usr/local/bin/nc": f'#!/bin/sh\nexec {busybox} nc "$@"\n'}
    # It is linked statically, so it has no libraries to bring along.
    return [
        Recipe(BUSYBOX, (), base=POSTGRES, trees={busybox: busybox}, texts=nc),
        Recipe(BARE, (), base=POSTGRES, instructions=("USER 0", "RUN rm /usr/bin/perl", "USER 999:999")),
    ]


@contextmanager
def contained(
    engine: RunningEngine,
    image: str,
    name: str,
    *,
    network: str = "esn_default",
    project: str = "esn",
    volumes: Mapping[str, Mapping[str, str]] = {},
) -> Iterator[None]:
    """A container as compose makes it, with no port published."""
    labels = {COMPOSE_PROJECT: project, COMPOSE_SERVICE: name.partition("_")[2] or name}
    container = engine.client.containers.run(
        image, name=name, network=network, environment=LOGIN, labels=labels, volumes=volumes, detach=True
    )
    try:
        yield
    finally:
        container.remove(force=True, v=True)


def settings(**changes: object) -> DatabaseSettings:
    login = {"name": "esn", "user": "postgres", "password": SecretStr(PASSWORD)}
    return DatabaseSettings.model_validate(login | {"reach": "container", "container": "postgres"} | changes)


def wait_until_it_serves(database: DatabaseSettings) -> None:
    def serves() -> bool:
        try:
            connect(database).close()
        except ServiceUnavailable:
            return False
        return True

    wait_until(serves)


@pytest.fixture
def platform(objectstore: RunningObjectStore, tmp_path: Path) -> Platform:
    server = type("Nowhere", (), {"port": 1})()
    return build_platform(server, "esn", bucket_settings(objectstore), tmp_path)


def on(platform: Platform, database: DatabaseSettings) -> Platform:
    return platform.model_copy(update={"database": database})


def fill(database: DatabaseSettings) -> None:
    with connect(database) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 20000) n"
        )


def test_an_unpublished_server_is_backed_up_before_and_after_its_container_was_made_anew(
    engine: RunningEngine, platform: Platform
) -> None:
    platform = on(platform, settings())
    data = {"esn_data": {"bind": "/var/lib/postgresql/data", "mode": "rw"}}
    with contained(engine, POSTGRES, "esn_postgres", volumes=data):
        wait_until_it_serves(platform.database)
        fill(platform.database)
        before = address(platform.database)
        proof = back_up_and_prove(platform)
        assert (proof.reached, proof.server[-len(f"(image {POSTGRES})") :]) == ("serving", f"(image {POSTGRES})")
    with pytest.raises(ServiceUnavailable, match="No container postgres is running"):
        connect(platform.database)
    with contained(engine, REDIS, "esn_other"), contained(engine, POSTGRES, "esn_postgres", volumes=data):
        wait_until_it_serves(platform.database)
        assert address(platform.database) != before
        assert back_up_and_prove(platform).reached == "serving"


def address(database: DatabaseSettings) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(conninfo(database))["host"])


@pytest.mark.parametrize("image", [POSTGRES, BUSYBOX])
def test_a_server_without_any_network_is_backed_up_through_a_program_in_its_container(
    engine: RunningEngine, platform: Platform, image: str
) -> None:
    with contained(engine, image, "alone", network="none"):
        with pytest.raises(PreconditionFailed, match="has no network of its own") as refused:
            connect(settings(container="alone"))
        assert "reach = exec" in refused.value.hint
        database = settings(container="alone", reach="exec")
        wait_until_it_serves(database)
        fill(database)
        manifest = back_up(on(platform, database))
        assert manifest.rows == 20_000
        assert prove(on(platform, database), manifest.backup_id).reached == "serving"
        assert open_store(platform).list_objects("backups/")
        wait_until(lambda: sessions(database) == 0)
        # PostgreSQL is process 1 in there: the orphan of a relay would be a child of its own that crashed.
        (container,) = engine.client.containers.list(filters={"name": "alone"})
        assert b"terminated by signal" not in container.logs()


def sessions(database: DatabaseSettings) -> int:
    """Of others than the one that asks."""
    with connect(database, application_name="asking") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND application_name <> 'asking'"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("image", [POSTGRES, BUSYBOX])
def test_a_killed_run_leaves_no_session_behind_in_the_container(engine: RunningEngine, image: str) -> None:
    database = settings(container="alone", reach="exec")
    with contained(engine, image, "alone", network="none"):
        wait_until_it_serves(database)
        call = [sys.executable, "-c", HOLDING, PASSWORD]
        with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "up\n"
            assert sessions(database) == 1
            holder.kill()
        wait_until(lambda: sessions(database) == 0)
        (container,) = engine.client.containers.list(filters={"name": "alone"})
        wait_until(lambda: relays_in(container) == [])
        assert b"terminated by signal" not in container.logs()


def relays_in(container: Any) -> list[str]:
    """Calls of processes in a container that are not its server's own."""
    calls = [row[-1] for row in container.top(ps_args="-eo pid,args")["Processes"]]
    return [call for call in calls if not call.startswith("postgres")]


def test_an_image_with_nothing_that_relays_is_refused_by_name(engine: RunningEngine) -> None:
    with (
        contained(engine, BARE, "bare", network="none"),
        pytest.raises(PreconditionFailed, match="none of socat, nc, perl"),
    ):
        connect(settings(container="bare", reach="exec"))


def test_services_of_one_name_are_told_apart_by_their_projects(engine: RunningEngine) -> None:
    with contained(engine, POSTGRES, "esn_postgres"), contained(engine, POSTGRES, "shop_postgres", project="shop"):
        with pytest.raises(PreconditionFailed, match="esn_postgres, shop_postgres") as refused:
            conninfo(settings())
        assert "compose_project" in refused.value.hint
        wait_until_it_serves(settings(compose_project="shop"))
        addresses = [address(settings(compose_project=project)) for project in ("esn", "shop")]
        assert addresses == [address(settings(container=f"{project}_postgres")) for project in ("esn", "shop")]


@pytest.mark.parametrize("reach", ["container", "exec"])
def test_the_cache_is_reached_in_the_same_ways(engine: RunningEngine, reach: str) -> None:
    settings = RedisSettings.model_validate({"reach": reach, "container": "redis"})
    with contained(engine, REDIS, "esn_redis"):
        wait_until(lambda: answers(settings))
        assert read_facts(settings).version
        assert read_server(settings).product == "valkey"
    with pytest.raises(ServiceUnavailable, match="No container redis is running"):
        read_facts(settings)


def answers(settings: RedisSettings) -> bool:
    try:
        read_facts(settings)
    except ServiceUnavailable:
        return False
    return True


def test_a_way_into_a_container_names_its_container() -> None:
    with pytest.raises(ValidationError, match="container does not name"):
        DatabaseSettings.model_validate({"name": "esn", "user": "postgres", "reach": "exec"})
