import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drills import STARTED, a_drill
from memory_store import MemoryStore
from typer.testing import CliRunner, Result

from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.drill.documents import keep_drill
from keepwell.objectstore import bucket
from keepwell.sealing import make_identity
from keepwell.settings import BackupSettings, Platform
from keepwell.verdict import Verdict


def a_platform() -> Platform:
    return Platform.model_construct(name="esn", backup=BackupSettings())


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    made = MemoryStore()
    monkeypatch.setattr(console, "load_platform", lambda name: None)
    monkeypatch.setattr(bucket, "open_store", lambda platform: made)
    return made


@pytest.fixture
def keepwell(store: MemoryStore) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, ["drill", *words])


def data(result: Result) -> Any:
    return json.loads(result.stdout)["data"]


def test_lists_drills_newest_first_with_the_newest_one_s_verdict(store: MemoryStore, keepwell: Any) -> None:
    keep_drill(store, a_drill(STARTED.replace(month=10)))  # type: ignore[arg-type]
    keep_drill(store, a_drill(STARTED, verdict=Verdict.ALERT))  # type: ignore[arg-type]
    listed = keepwell("list", "--json")
    assert listed.exit_code == 1
    assert [one["drill_id"][:8] for one in data(listed)["drills"]] == ["20261101", "20261001"]
    assert "RPO 3.0 h" in keepwell("list").stdout


def test_no_drill_yet_says_what_to_type(keepwell: Any) -> None:
    assert "keepwell drill run" in keepwell("list").output
    refused = keepwell("show")
    assert refused.exit_code == 1
    assert "keepwell drill run" in refused.output


def test_shows_a_drill_and_fails_with_one_that_failed(store: MemoryStore, keepwell: Any) -> None:
    keep_drill(store, a_drill(verdict=Verdict.ALERT))  # type: ignore[arg-type]
    shown = keepwell("show")
    assert shown.exit_code == 1
    assert "Does the checker turn red?" in shown.stdout
    assert data(keepwell("show", a_drill().drill_id, "--json"))["seed"] == 7
    assert keepwell("show", "20200101T000000Z-000000").exit_code == 1


def test_writes_a_report_and_never_over_another_file(store: MemoryStore, keepwell: Any, tmp_path: Path) -> None:
    keep_drill(store, a_drill())  # type: ignore[arg-type]
    for name, begins in (("drill.html", "<!doctype html>"), ("drill.md", "# Restore drill of esn")):
        assert keepwell("report", "--to", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_text().startswith(begins)
        assert "exists already" in keepwell("report", "--to", str(tmp_path / name)).output
    assert "not as drill.pdf" in keepwell("report", "--to", str(tmp_path / "drill.pdf")).output
    assert "cannot be written" in keepwell("report", "--to", str(tmp_path / "nowhere" / "drill.md")).output


def test_the_offline_key_is_tried_from_a_file_or_skipped_for_a_reason(
    store: MemoryStore, keepwell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "load_platform", lambda name: a_platform())
    skipped = keepwell("offline-key", "--skip", "Ada is on leave", "--json")
    assert skipped.exit_code == 0
    assert (data(skipped)["outcome"], data(skipped)["message"]) == ("skipped", "Ada is on leave")
    (tmp_path / "key").write_text(make_identity()[0])
    assert "no proven backup set" in keepwell("offline-key", "--key-file", str(tmp_path / "key")).output
    assert "no terminal" in keepwell("offline-key").output
    assert "contradict" in keepwell("offline-key", "--skip", "x", "--key-file", "y").output


def test_a_machine_that_only_reads_begins_no_drill(store: MemoryStore, keepwell: Any) -> None:
    store.may_write = False  # type: ignore[misc]
    refused = keepwell("run")
    assert refused.exit_code == 1
    assert "only reads" in refused.output
