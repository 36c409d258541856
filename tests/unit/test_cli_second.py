"""`keepwell backup copy` and `prepare-second`, without a database: what they refuse, and what they say."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from memory_store import MemoryStore
from stored_sets import put_history, put_set
from typer.testing import CliRunner

from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.destination import Destination
from keepwell.objectstore import destinations
from keepwell.settings import Platform, SecondFolderSettings
from keepwell.verdict import Verdict


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> dict[Destination, MemoryStore]:
    made = {destination: MemoryStore() for destination in Destination}
    monkeypatch.setattr(destinations, "open_destination", lambda platform, destination: made[destination])
    monkeypatch.setattr(console, "load_platform", lambda name: Platform.model_construct(name="esn"))
    return made


def run(*argv: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["backup", *argv, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_set_that_is_not_proven_is_not_copied_by_mistake(stores: dict[Destination, MemoryStore]) -> None:
    backup_id = put_set(stores[Destination.FIRST], datetime.now(UTC).replace(microsecond=0), proven=False)
    said = run("copy", backup_id, code=1)
    assert "is not proven in the first destination" in said["data"]["message"]
    assert stores[Destination.SECOND].objects == {}


def test_where_nothing_is_missing_that_is_said_and_a_damaged_copy_is_not_nothing(
    stores: dict[Destination, MemoryStore],
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for store in stores.values():
        put_history(store, now, 0.1, 1)
    assert "Nothing is missing" in run("copy")["hint"]
    older = put_history(stores[Destination.FIRST], now, 2)[0]
    put_set(stores[Destination.SECOND], now - timedelta(days=2), reached="complete", stopped_by=Verdict.ALERT)
    said = run("copy")
    assert (said["verdict"], said["hint"], said["data"]["copies"]) == ("warn", "", [])
    assert older in said["data"]["noticed"][0]["message"]


@pytest.mark.parametrize("command", [("list",), ("show",), ("expire", "--plan"), ("verify",), ("pin", "newest")])
def test_each_command_looks_where_it_is_told_to(
    stores: dict[Destination, MemoryStore], command: tuple[str, ...]
) -> None:
    """The second holds nothing, which each of them says in its way; the first alone is fine."""
    put_history(stores[Destination.FIRST], datetime.now(UTC).replace(microsecond=0), 0.1)
    said = run(*command, "--destination", "second", code=1)
    assert said["verdict"] == "alert"
    assert "unknown destination" not in json.dumps(said)


def test_a_destination_that_there_is_none_of_is_refused(stores: dict[Destination, MemoryStore]) -> None:
    result = CliRunner().invoke(app, ["backup", "list", "--destination", "third"])
    assert result.exit_code != 0


def test_without_a_second_destination_copying_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform.model_construct(name="esn", bucket={"prefix": ""})
    monkeypatch.setattr(console, "load_platform", lambda name: platform)
    monkeypatch.setattr(destinations, "open_store", lambda platform: MemoryStore())
    said = run("copy", code=1)
    assert "There is no second destination" in said["data"]["message"]
    assert "[second_folder]" in said["hint"]
    assert "no [second_folder]" in run("prepare-second", code=1)["data"]["message"]


def test_a_folder_is_prepared_and_says_on_which_disk_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = SecondFolderSettings(directory=tmp_path)
    monkeypatch.setattr(
        console, "load_platform", lambda name: Platform.model_construct(name="esn", second_folder=folder)
    )
    first, again = run("prepare-second"), run("prepare-second")
    assert (first["data"]["is_new"], again["data"]["is_new"]) == (True, False)
    assert "is mounted at" in first["hint"]
    assert (tmp_path / "keepwell-destination.json").is_file()
