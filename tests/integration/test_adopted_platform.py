"""`keepwell init --directory` on a platform that runs under compose: what is found, written, and backed up from it."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from backup_sets import back_up_and_prove
from docker_engine import running_engine
from real_servers import BUCKET

from deployments.local.contained_platform import ContainedPlatform, find_compose, running_platform
from deployments.local.engine import RunningEngine
from deployments.local.objectstore import RunningObjectStore
from keepwell.settings import CONFIG_VARIABLE, load_platform_file

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.major(15)]
PROJECT = "esn-adopted"


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    with running_engine() as running:
        yield running


@pytest.fixture(scope="module")
def contained(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainedPlatform]:
    folder = tmp_path_factory.mktemp("contained")
    with running_platform(engine, folder, project=PROJECT, compose=find_compose(), scale=0.05) as platform:
        yield platform


def keepwell(engine: RunningEngine, *words: str, **environment: str) -> tuple[int, dict[str, Any]]:
    program = Path(sys.executable).with_name("keepwell")
    ended = subprocess.run(
        [program, *words, "--json"],
        env={"PATH": os.environ["PATH"], **engine.environment, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        text=True,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def answers(objectstore: RunningObjectStore) -> Mapping[str, str]:
    return {
        "KEEPWELL_BUCKET__NAME": BUCKET,
        "KEEPWELL_BUCKET__ENDPOINT_URL": objectstore.endpoint_url,
        "AWS_ACCESS_KEY_ID": objectstore.access_key_id,
        "AWS_SECRET_ACCESS_KEY": objectstore.secret_access_key,
        "KEEPWELL_NOTIFY__URLS": '["json://127.0.0.1:1/phone"]',
    }


def test_what_runs_is_found_written_and_backed_up(
    engine: RunningEngine, contained: ContainedPlatform, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    directory, offline = tmp_path / "keepwell", tmp_path / "offline.key"
    words = ("init", "--directory", str(directory), "--offline-identity-file", str(offline), "--prefix", "adopted")
    _, envelope = keepwell(engine, *words, "--region", objectstore.region, **answers(objectstore))
    found = {finding["name"]: finding for finding in envelope["data"]["findings"]}
    assert found["database way"]["verdict"] == "ok"
    assert "at its container's address (reach = container)" in found["database way"]["message"]
    assert "MB/s" in found["database way"]["message"]
    for name in ("database", "redis", "redis way", "uploads", "addresses", "roles"):
        assert found[name]["verdict"] == "ok"

    file = directory / f"{PROJECT}.toml"
    assert envelope["data"]["path"] == str(file)
    platform = load_platform_file(file)
    database = platform.database
    assert (database.reach, database.container, database.compose_project) == ("container", "postgres", PROJECT)
    assert (database.name, database.user) == ("esn_db_prod", "postgres")
    assert platform.uploads is not None
    assert platform.uploads.directory == contained.uploads
    assert platform.redis is not None
    assert platform.redis.reach == "container"
    assert [url.get_secret_value() for url in platform.notify.urls] == ["json://127.0.0.1:1/phone"]
    assert "CREATE ROLE" in (directory / f"{PROJECT}-roles.sql").read_text()
    told = json.dumps(envelope) + file.read_text()
    assert contained.password not in told
    assert objectstore.secret_access_key not in told
    for path in (file, offline, *directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    proof = back_up_and_prove(platform)
    assert (proof.reached, "(image keepwell-sample/postgres:15)" in proof.server) == ("sound", True)

    code, again = keepwell(engine, *words, **answers(objectstore))
    assert (code, again["data"]["message"]) == (1, f"{file} is there already.")


def test_a_second_platform_joins_the_first_in_its_place(
    engine: RunningEngine, contained: ContainedPlatform, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    directory = tmp_path / "keepwell"
    words = ("--offline-identity-file", str(tmp_path / "offline.key"))
    keepwell(engine, "init", "--directory", str(directory), "--name", "first", *words, **answers(objectstore))
    place = {CONFIG_VARIABLE: str(directory)}
    _, added = keepwell(engine, "platform", "add", "second", "--project", PROJECT, **place)
    assert added["data"]["path"] == str(directory / "second.toml")
    code, listed = keepwell(engine, "platform", "list", **place)
    assert (code, [row["name"] for row in listed["data"]["platforms"]]) == (0, ["first", "second"])
    first, second = (load_platform_file(directory / f"{name}.toml") for name in ("first", "second"))
    assert first.bucket == second.bucket
    assert first.sealing == second.sealing
    assert first.database.password_file != second.database.password_file
    code, missing = keepwell(engine, "platform", "add", "third", "--project", "nowhere", **place)
    assert code == 1
    assert "No container with a PostgreSQL server that fits was found." in missing["data"]["message"]
