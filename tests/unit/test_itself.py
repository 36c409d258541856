"""Keepwell as one more platform: what its platform file says, and what it refuses."""

import json
import os
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from deployments.running import orchestrator, postgres_cluster
from keepwell.backup.platform_copy import render_without_secrets
from keepwell.cli.main import app
from keepwell.errors import PreconditionFailed
from keepwell.itself import source
from keepwell.served import STATE_VARIABLE, Served, render_served, serve_folder, served_file
from keepwell.settings import CONFIG_VARIABLE, DatabaseSettings, load_platform, load_platform_file

FILE = """
name = "{name}"
[database]
name = "d"
user = "u"
more_names = ["second"]
[bucket]
name = "b"
prefix = "prod"
lock_days = 7
[redis]
port = 6379
[retention]
keep_days = 60
[backup]
jobs = 3
[[backup.smoke_queries]]
name = "its own question"
sql = "SELECT 1"
database = "second"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Platform files in a folder, as /etc/keepwell is one."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "esn.toml").write_text(FILE.format(name="esn"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(etc))
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return etc


def own(*words: str) -> Result:
    return CliRunner().invoke(app, ["self", *words])


def test_what_is_looked_for_is_what_serve_runs() -> None:
    told = (orchestrator.DATABASE_PART, orchestrator.DATABASE, postgres_cluster.SUPERUSER)
    assert told == (source.DATABASE_PART, source.DATABASE, source.SUPERUSER)


def test_it_takes_the_bucket_the_keys_and_the_rules_of_another_platform_and_nothing_of_its_data(folder: Path) -> None:
    database = DatabaseSettings(port=5544, name="prefect", user="postgres", password=SecretStr("of the superuser"))
    itself = source.describe_itself(load_platform("esn"), database, folder / "password", folder)
    text = render_without_secrets(itself, head="# made\n")
    assert "of the superuser" not in text
    (folder / "password").write_text("of the role\n")
    (folder / "itself.toml").write_text(text)
    loaded = load_platform_file(folder / "itself.toml")
    assert (loaded.name, loaded.redis, loaded.database.names) == ("itself", None, ("prefect",))
    assert (loaded.database.port, loaded.database.user) == (5544, source.ROLE)
    assert (loaded.bucket.prefix, loaded.bucket.lock_days, loaded.retention.keep_days) == ("prod", 7, 60)
    assert loaded.uploads is not None
    assert (loaded.uploads.directory, loaded.uploads.only, loaded.uploads.seal_anew) == (folder, ("*.toml",), True)
    assert [query.sql for query in loaded.backup.smoke_queries] == ["SELECT count(*) FROM public.deployment"]
    assert loaded.backup.jobs == 3


def test_without_a_served_orchestrator_nothing_is_written(folder: Path) -> None:
    for command in ("add", "remove", "restore"):
        refused = own(command)
        assert (refused.exit_code, "No orchestrator" in refused.stderr) == (1, True)
    assert [path.name for path in folder.iterdir()] == ["esn.toml"]


def test_a_secret_of_serve_that_may_not_be_read_is_named() -> None:
    served_file(serve_folder()).parent.mkdir(parents=True)
    served = Served(
        "http://127.0.0.1:4200/api", "http://127.0.0.1:4200", "", "127.0.0.1", "", {source.DATABASE_PART: 5}
    )
    served_file(serve_folder()).write_text(render_served(served))
    refused = own("add")
    assert (refused.exit_code, "as the user that `keepwell serve` runs as" in refused.stderr) == (1, True)


def test_one_file_alone_leaves_no_room_for_a_second_platform(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(folder / "esn.toml"))
    refused = own("add")
    assert (refused.exit_code, "Put it into a folder of its own" in refused.stderr) == (1, True)


def test_what_is_there_is_replaced_only_when_that_is_asked_for(folder: Path) -> None:
    (folder / "itself.toml").write_text(FILE.format(name="itself"))
    refused = own("add", "--json")
    assert "is there already" in json.loads(refused.stdout)["data"]["message"]
    assert (folder / "itself.toml").read_text() == FILE.format(name="itself")


def test_of_several_platforms_one_must_be_named(folder: Path) -> None:
    (folder / "other.toml").write_text(FILE.format(name="other"))
    refused = own("add")
    assert (refused.exit_code, "--like: esn, other" in refused.stderr) == (1, True)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """As if root ran this: inode, owner and group of what it gives away."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda file, owner, group: calls.append((os.fstat(file).st_ino, owner, group)))
    monkeypatch.setattr(os, "chown", lambda file, owner, group: calls.append((Path(file).stat().st_ino, owner, group)))
    return calls


def test_root_gives_a_file_to_the_owner_of_its_folder(folder: Path, given: list[tuple[int, int, int]]) -> None:
    file = folder / "password"
    file.touch()
    source.give_to_owner_of(folder, file)
    assert given == [(file.stat().st_ino, folder.stat().st_uid, folder.stat().st_gid)]


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "second name", "folder", "pipe"])
def test_root_gives_nothing_away_that_was_put_in_the_place_of_a_file(
    folder: Path, tmp_path: Path, given: list[tuple[int, int, int]], kind: str
) -> None:
    """The owner of that folder would come by a file of another's."""
    of_another, place = tmp_path / "shadow", folder / "password"
    of_another.touch()
    match kind:
        case "link":
            place.symlink_to(of_another)
        case "link to nowhere":
            place.symlink_to(tmp_path / "nowhere")
        case "second name":
            place.hardlink_to(of_another)
        case "folder":
            place.mkdir()
        case _:
            os.mkfifo(place)
    with pytest.raises(PreconditionFailed, match="is not given to the owner"):
        source.give_to_owner_of(folder, place)
    assert given == []
