"""`keepwell cron`: planned, approved, refused without a proven backup, and taken back."""

import json
from pathlib import Path
from typing import Any

import pytest
from memory_store import MemoryStore
from pydantic import SecretStr
from typer.testing import CliRunner

from keepwell.cli import console, cron
from keepwell.cli.main import app
from keepwell.discovery import crontabs, machine
from keepwell.discovery.facts import Machine
from keepwell.objectstore import bucket
from keepwell.settings import BackupSettings, BucketSettings, DatabaseSettings, Platform

LINE = "0 2 * * * root pg_dump -U postgres esn_db_prod > /backups/esn.sql\n"
OTHER = "0 3 * * * root pg_dump -U postgres shop > /backups/shop.sql\n"


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only one of this machine, where the database does not run in a container."""
    folder = tmp_path / "cron.d"
    folder.mkdir()
    (folder / "backups").write_text(OTHER + LINE)
    platform = Platform.model_construct(
        name="esn",
        database=DatabaseSettings(name="esn_db_prod", user="postgres", password=SecretStr("secret")),
        bucket=BucketSettings(name="keepwell", endpoint_url="http://127.0.0.1:1"),
        backup=BackupSettings(),
    )
    monkeypatch.setattr(console, "load_platform", lambda name: platform)
    monkeypatch.setattr(machine, "read_machine", lambda: Machine((), tuple(crontabs.read_crontabs([folder])[0])))
    monkeypatch.setattr(crontabs.plan_return, "__defaults__", ([folder],))
    monkeypatch.setattr(crontabs.read_crontabs, "__defaults__", ([folder],))
    return folder / "backups"


def run(*words: str, proven: bool = True) -> tuple[int, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        if proven:
            patch.setattr(cron, "_require_proven", lambda settings: None)
        ended = CliRunner().invoke(app, ["cron", *words, "--json"])
    return ended.exit_code, json.loads(ended.stdout)


def test_a_plan_changes_nothing_and_names_only_this_platforms_line(crontab: Path) -> None:
    code, envelope = run("retire", "--plan")
    (change,) = envelope["data"]["changes"]
    assert (code, change["number"], change["before"]) == (0, 2, LINE.rstrip("\n"))
    assert envelope["data"]["plan"] in envelope["hint"]
    assert crontab.read_text() == OTHER + LINE


def test_what_was_approved_is_done_and_taken_back(crontab: Path) -> None:
    _, planned = run("retire", "--plan")
    code, done = run("retire", "--approve", planned["data"]["plan"])
    assert (code, done["data"]["done"]) == (0, True)
    assert crontab.read_text().startswith(OTHER + "# keepwell retired this line on ")
    assert run("retire", "--plan")[1]["data"]["changes"] == []
    _, back = run("return", "--plan")
    assert run("return", "--approve", back["data"]["plan"])[0] == 0
    assert crontab.read_text() == OTHER + LINE


def test_a_password_in_a_line_is_retired_with_it_and_never_shown(crontab: Path) -> None:
    line = LINE.replace("pg_dump", "PGPASSWORD=geheim pg_dump")
    crontab.write_text(line)
    plan = json.loads(CliRunner().invoke(app, ["cron", "retire", "--plan", "--json"]).stdout)["data"]["plan"]
    for words in (["retire", "--plan"], ["retire", "--approve", plan, "--unproven"], ["return", "--plan"]):
        for flags in ([], ["--json"]) if "--plan" in words else ([],):
            told = CliRunner().invoke(app, ["cron", *words, *flags])
            assert told.exit_code == 0, told.output
            assert "PGPASSWORD=… pg_dump" in told.output.replace("\\u2026", "…")
            assert "geheim" not in told.output
    assert crontab.read_text().endswith(f": {line}")


def test_nobody_is_asked_without_a_terminal(crontab: Path) -> None:
    code, refused = run("retire")
    assert code == 1
    assert "--approve" in refused["hint"]
    assert crontab.read_text() == OTHER + LINE


def test_the_old_way_stays_while_no_backup_is_proven(crontab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "open_store", lambda platform: MemoryStore())
    _, planned = run("retire", "--plan", proven=False)
    plan = planned["data"]["plan"]
    code, refused = run("retire", "--approve", plan, proven=False)
    assert (code, crontab.read_text()) == (1, OTHER + LINE)
    assert "The old way stays until the new one is proven." in refused["data"]["message"]
    assert "keepwell run backup-and-verify --platform esn" in refused["hint"]
    assert run("retire", "--approve", plan, "--unproven", proven=False)[0] == 0


def test_a_crontab_that_could_not_be_read_is_no_answer(crontab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crontabs, "read_crontabs", lambda: ([], ["The crontabs in /somewhere cannot be read: no."]))
    code, envelope = run("retire", "--plan")
    assert (code, envelope["verdict"]) == (2, "unknown")
