import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keepwell.cli import stack
from keepwell.cli.main import app
from keepwell.guide import Standing, read_guide

HEAVY = ("boto3", "psycopg", "apprise", "httpx", "redis", "prefect", "pydantic", "rich.table")


def test_help_imports_nothing_heavy() -> None:
    script = f"import sys, keepwell.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_every_command_is_listed_and_takes_json() -> None:
    listed = CliRunner().invoke(app, ["--help"]).stdout
    for words in (
        "init",
        "doctor",
        "prove-dump",
        "run",
        "guide",
        "bucket policies",
        "keys make",
        "keys show",
        "keys rotate",
        "notify test",
        "up",
        "status",
        "down",
    ):
        assert words.split()[0] in listed
        assert "--json" in CliRunner().invoke(app, [*words.split(), "--help"]).stdout


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("keepwell ")


def test_the_guide_is_printed_with_its_counts() -> None:
    result = CliRunner().invoke(app, ["guide"])
    assert result.exit_code == 0
    assert "BK-1" in result.stdout
    automated = sum(1 for item in read_guide() if item.standing is Standing.AUTOMATED)
    assert f"66 items: {automated} automated" in result.stdout


@pytest.mark.parametrize(
    ("section", "first", "count"), [("daily", "DAILY-1", 5), ("bk", "BK-1", 5), ("Disaster", "DR-1", 4)]
)
def test_one_section_of_the_guide(section: str, first: str, count: int) -> None:
    data = json.loads(CliRunner().invoke(app, ["guide", "--section", section, "--json"]).stdout)["data"]
    assert data["items"][0]["id"] == first
    assert len(data["items"]) == sum(data["counts"].values()) == count


def test_an_unknown_section_names_the_known() -> None:
    result = CliRunner().invoke(app, ["guide", "--section", "monthlies"])
    assert result.exit_code == 1
    assert "Did you mean Monthly?" in result.stderr


@pytest.mark.parametrize("verb", ["up", "status", "down"])
def test_the_stacks_commands_hand_on_flags_and_exit_code(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "stack_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    seen = tmp_path / "seen"
    (package / "__main__.py").write_text(f"import sys; open({str(seen)!r}, 'w').write(repr(sys.argv[1:])); sys.exit(7)")
    monkeypatch.setattr(stack, "_MODULE", "stack_of_a_test")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = CliRunner().invoke(app, [verb, "--state", "/somewhere", "--json", "extra"])
    assert result.exit_code == 7
    assert seen.read_text() == repr([verb, "--state", "/somewhere", "extra", "--json"])


def test_an_installation_without_the_stack_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_MODULE", "no_such_package.local")
    result = CliRunner().invoke(app, ["up", "--json"])
    assert result.exit_code == 1
    assert "local-stack" in json.loads(result.stdout)["hint"]


def test_the_doctor_of_a_missing_platform_file_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    envelope = json.loads(result.stdout)
    assert (result.exit_code, envelope["verdict"]) == (1, "alert")
    assert envelope["data"]["findings"][0]["name"] == "platform file"
