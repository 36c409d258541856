"""Taking in what runs here: what is refused before anything is written, and what counts more than what is found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_discovery import PASSWORD, POSTGRES
from typer.testing import CliRunner

from keepwell.cli import adoption, platform
from keepwell.cli.adoption import adopt
from keepwell.cli.draft import SealingAnswers
from keepwell.discovery import machine, ways
from keepwell.discovery.facts import Machine
from keepwell.discovery.judgement import FoundServer
from keepwell.errors import ConfigurationError, PreconditionFailed
from keepwell.settings import CONFIG_VARIABLE, load_platform_file
from keepwell.verdict import Finding, Verdict

GIVEN = {"bucket.name": "keepwell"}
SHOP = 'name = "shop"\n\n[database]\nname = "shop"\nuser = "shop"\n\n[bucket]\nname = "shops-bucket"\n'
OK = Finding(name="database way", verdict=Verdict.OK, message="Reached.")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str, str]]:
    """User, database and password of every login that was tried."""
    tried: list[tuple[str | None, str, str]] = []

    def measure(found: FoundServer, password: str) -> ways.Way:
        tried.append((found.user, found.name, password))
        return ways.Way({"host": "127.0.0.1", "port": 1}, OK)

    monkeypatch.setattr(machine, "read_machine", lambda: Machine((POSTGRES,)))
    monkeypatch.setattr(ways, "measure_database", measure)
    monkeypatch.setattr(adoption, "_write_roles", lambda output: OK)
    return tried


def take_in(directory: Path, *, project: str | None = None, **given: Any) -> Path:
    """Adopt it without keys, and nobody to ask; the file."""
    told = GIVEN | {key.replace("__", "."): value for key, value in given.items()}
    wanted = SealingAnswers(wanted=False, directory=directory, offline_recipient=None, offline_identity_file=None)
    path: Path = adopt(directory, told, wanted, project=project, ask=False).data["path"]
    return path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["My Shop", "../x", "schedules", "shop\n", "-x", "/tmp/x"])
def test_a_name_that_is_none_is_refused_before_anything_is_looked_at(
    name: str, measured: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="No platform can be called"):
        take_in(tmp_path / "keepwell", name=name)
    assert (measured, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("name", ["esn", None])
def test_a_name_that_another_file_gives_is_refused_and_its_secrets_stay(
    name: str | None, measured: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "secrets/esn").mkdir(parents=True)
    (tmp_path / "secrets/esn/database_password").write_text("the live one\n")
    (tmp_path / "production.toml").write_text('name = "esn"\n')
    before = contents(tmp_path)
    with pytest.raises(PreconditionFailed, match=r"production\.toml describes a platform esn already") as refused:
        take_in(tmp_path, name=name)
    assert refused.value.hint == "Nothing was changed. `keepwell platform list`."
    assert (measured, contents(tmp_path)) == ([], before)


def test_schedules_and_keepwell_itself_are_no_platforms_to_share_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "itself.toml").write_text('name = "itself"\n[bucket]\nname = "its-own"\n')
    (tmp_path / "schedules.toml").write_text("[backup-and-verify]\n")
    with pytest.raises(ConfigurationError, match="holds no platform file"):
        platform._read_shared(tmp_path, None)
    (tmp_path / "shop.toml").write_text(SHOP)
    assert platform._read_shared(tmp_path, None)["bucket.name"] == "shops-bucket"
    assert platform._read_shared(tmp_path, "itself")["bucket.name"] == "its-own"
    (tmp_path / "itself.toml").unlink()
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
    listed = CliRunner().invoke(platform.app, ["list"])
    assert listed.exit_code == 0, listed.output
    assert "schedules.toml" not in listed.output


def test_a_login_that_is_told_is_the_one_that_is_measured_and_written(
    measured: list[tuple[str | None, str, str]], tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("of-the-reader\n")
    told = {"database__user": "reader", "database__name": "esn_copy", "database__password_file": secret}
    database = load_platform_file(take_in(tmp_path / "keepwell", **told)).database
    assert measured == [("reader", "esn_copy", "of-the-reader")]
    assert (database.user, database.name, database.password_file) == ("reader", "esn_copy", secret)
    assert not (tmp_path / "keepwell/secrets/esn/database_password").exists()


def test_a_password_of_the_environment_is_measured_and_kept(
    measured: list[tuple[str | None, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPWELL_DATABASE__PASSWORD", "of-the-environment")
    take_in(tmp_path)
    assert measured == [("keeper", "esn_db_prod", "of-the-environment")]
    assert (tmp_path / "secrets/esn/database_password").read_text() == "of-the-environment\n"


@pytest.mark.parametrize(("user", "password"), [(None, PASSWORD), ("keeper", PASSWORD), ("reader", "")])
def test_the_password_that_was_found_is_tried_for_the_role_that_was_found_only(
    user: str | None, password: str, measured: list[tuple[str | None, str, str]], tmp_path: Path
) -> None:
    take_in(tmp_path, database__user=user)
    assert measured == [(user or "keeper", "esn_db_prod", password)]
    assert (tmp_path / "secrets/esn/database_password").exists() == bool(password)


def test_two_servers_of_one_project_are_told_apart_by_their_containers(
    measured: list[tuple[str | None, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(POSTGRES, name="esn_reports", service="reports", environment={"PGDATA": "/data"})
    alone = replace(POSTGRES, name="shop_postgres", project="shop")
    monkeypatch.setattr(machine, "read_machine", lambda: Machine((POSTGRES, other, alone)))
    for project in (None, "esn"):
        with pytest.raises(PreconditionFailed, match="esn_postgres, esn_reports") as refused:
            take_in(tmp_path, project=project)
        assert ("shop" in refused.value.message, "esn," in refused.value.message) == (project is None, False)
    database = load_platform_file(take_in(tmp_path, project="esn_reports", name="reports")).database
    assert (database.name, measured) == ("postgres", [("postgres", "postgres", "")])
