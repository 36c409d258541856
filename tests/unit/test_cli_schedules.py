import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_prefect import FakePrefect, deployment, fake_prefect
from typer.testing import CliRunner

from keepwell.cli.main import app

PLATFORM = 'name = "{}"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n'
DUE = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)


def nightly(cron: str = "0 2 * * *", slug: str = "nightly", **changes: Any) -> dict[str, Any]:
    return {"slug": slug, "active": True, "schedule": {"cron": cron, "timezone": "UTC"}} | changes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePrefect]:
    for name in ("blog", "esn"):
        (tmp_path / f"{name}.toml").write_text(PLATFORM.format(name))
    monkeypatch.setenv("KEEPWELL_CONFIG", str(tmp_path))
    with fake_prefect() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        fake.deployments = [deployment(platform=name, schedules=[nightly()]) for name in ("blog", "esn")]
        fake.last_run = fake._run("SCHEDULED") | {"expected_start_time": DUE.isoformat(), "auto_scheduled": True}
        yield fake


def _ask(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["schedules", *words], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout


def test_what_runs_when(server: FakePrefect) -> None:
    code, printed = _ask()
    assert code == 0
    assert printed.count("Tue 2026-12-01 02:00") == 2
    code, printed = _ask("--json", "--platform", "esn")
    (one,) = json.loads(printed)["data"]["schedules"]
    assert one == {
        "platform": "esn",
        "procedure": "backup-and-verify",
        "rules": ["0 2 * * * UTC"],
        "next_at": "2026-12-01T02:00:00Z",
        "paused": False,
        "source": "release",
    }


def test_a_schedule_whose_run_nobody_makes_is_red(server: FakePrefect) -> None:
    server.last_run = None
    code, printed = _ask()
    assert code == 1
    assert "the server has no run of it planned" in printed


def test_a_run_that_somebody_asked_for_is_not_a_schedule_s(server: FakePrefect) -> None:
    assert server.last_run is not None
    server.last_run["auto_scheduled"] = False
    assert _ask()[0] == 1


def test_what_is_paused_or_switched_off_needs_no_run(server: FakePrefect) -> None:
    server.last_run = None
    server.deployments = [
        deployment(platform="blog", schedules=[nightly()], paused=True),
        deployment(platform="esn", schedules=[nightly(active=False)]),
    ]
    code, printed = _ask()
    assert code == 0
    assert "paused" in printed
    assert "not by itself" in printed


def test_a_platform_that_nobody_registered_is_red(server: FakePrefect) -> None:
    server.deployments = [deployment(platform="esn", schedules=[nightly()])]
    code, printed = _ask()
    assert code == 1
    assert "Nothing is registered for blog." in printed


def test_a_file_that_nobody_registered_is_told(server: FakePrefect, tmp_path: Path) -> None:
    (tmp_path / "schedules.toml").write_text('[platform.esn]\nbackup-and-verify = "30 3 * * *"\n')
    code, printed = _ask("--json")
    assert code == 0
    envelope = json.loads(printed)
    assert envelope["verdict"] == "warn"
    (finding,) = envelope["data"]["findings"]
    assert "the file says 30 3 * * * UTC, registered is 0 2 * * * UTC" in finding["message"]
    server.deployments[1]["schedules"] = [nightly("30 3 * * *", "own")]
    code, printed = _ask()
    assert "schedules.toml" in printed
    assert json.loads(_ask("--json")[1])["verdict"] == "ok"


def test_a_file_that_is_not_understood_is_refused(server: FakePrefect, tmp_path: Path) -> None:
    (tmp_path / "schedules.toml").write_text('[platform.esn]\nbackup-and-verify = "0 25 * * *"\n')
    result = CliRunner().invoke(app, ["schedules"])
    assert result.exit_code == 1
    assert "Bad hour" in result.stderr
