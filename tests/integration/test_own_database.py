"""Keepwell's own database on a real server: a role that reads and no more, and databases that change places."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from real_servers import BUCKET, PASSWORD, Server, fresh_database
from typer.testing import CliRunner, Result

from keepwell.cli.main import app
from keepwell.errors import PreconditionFailed
from keepwell.itself import source
from keepwell.itself.taking_over import exchange
from keepwell.keyring import write_secret
from keepwell.postgres.connection import connect
from keepwell.served import STATE_VARIABLE, Served, render_served, serve_folder, served_file
from keepwell.settings import CONFIG_VARIABLE, DatabaseSettings, load_platform

RESTORED, BEFORE = "prefect_restored_1", "prefect_before_1"


@pytest.fixture
def own(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseSettings]:
    """A server that stands for the served orchestrator's, with a database of its name."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "esn.toml").write_text(
        f'name = "esn"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "{BUCKET}"\n'
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "etc"))
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    secrets = serve_folder() / "secrets"
    secrets.mkdir(parents=True)
    write_secret(secrets / f"{source.DATABASE_PART}-password", f"{PASSWORD}\n")
    ports = {source.DATABASE_PART: server.port}
    served = Served("http://127.0.0.1:1/api", "http://127.0.0.1:1", "", "127.0.0.1", "", ports)
    served_file(serve_folder()).write_text(render_served(served))
    with fresh_database(server, source.DATABASE):
        with server.connect(source.DATABASE) as connection:
            connection.execute("CREATE TABLE deployment AS SELECT 1 AS id")
        yield source.find_own_database()
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(source.ROLE)))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["self", *words])


def test_what_is_added_logs_in_reads_and_can_do_nothing_more(own: DatabaseSettings, server: Server) -> None:
    added = run("add")
    assert added.exit_code == 0, added.stderr
    itself = load_platform("itself")
    assert itself.database.password is not None
    assert itself.database.password.get_secret_value() not in added.output
    with connect(itself.database) as connection:
        assert connection.execute("SELECT count(*) FROM public.deployment").fetchone() == (1,)
        for forbidden in (
            "DELETE FROM public.deployment",
            "CREATE ROLE x",
            "CREATE DATABASE x",
            "CHECKPOINT",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)  # type: ignore[call-overload]
    # What comes later, by an update of the orchestrator, is read too.
    with server.connect(source.DATABASE) as mighty:
        mighty.execute("CREATE SCHEMA later; CREATE TABLE later.t AS SELECT 1 AS a")
    with connect(itself.database) as connection:
        assert connection.execute("SELECT count(*) FROM later.t").fetchone() == (1,)


def test_adding_it_again_keeps_the_password_and_removing_it_takes_role_and_file_away(
    own: DatabaseSettings, server: Server
) -> None:
    assert run("add").exit_code == 0
    first = load_platform("itself").database.password
    assert run("add").exit_code == 1
    assert run("add", "--force").exit_code == 0
    assert load_platform("itself").database.password == first
    removed = run("remove")
    assert removed.exit_code == 0, removed.stderr
    assert "Its sets are still in the bucket" in removed.stdout
    with server.connect() as connection:
        known = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", (source.ROLE,))
        assert known.fetchone() == (0,)
    assert load_platform().name == "esn"
    assert "There was nothing to remove" in run("remove").stdout


def test_a_login_that_does_not_work_leaves_no_platform_file(
    own: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is meant for another platform's database stands before every file."""
    monkeypatch.setenv("KEEPWELL_DATABASE__PASSWORD", "of another database")
    refused = run("add")
    assert (refused.exit_code, "itself.toml" in refused.stdout) == (1, False)
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["esn.toml"]


def is_open(server: Server, name: str) -> bool:
    with server.connect(name) as connection:
        return connection.execute("SELECT true").fetchone() == (True,)


def test_databases_change_places_under_open_sessions_and_the_old_one_is_kept(
    own: DatabaseSettings, server: Server
) -> None:
    with fresh_database(server, RESTORED), server.connect(source.DATABASE) as busy:
        with server.connect(RESTORED) as connection:
            connection.execute("CREATE TABLE from_the_set AS SELECT 1 AS a")
        exchange(own, RESTORED, BEFORE)
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
        with server.connect(source.DATABASE) as connection:
            assert connection.execute("SELECT count(*) FROM from_the_set").fetchone() == (1,)
        with server.connect(BEFORE) as connection:
            assert connection.execute("SELECT count(*) FROM deployment").fetchone() == (1,)
        # And back again, which is the undo.
        exchange(own, BEFORE, RESTORED)
        with server.connect(source.DATABASE) as connection:
            assert connection.execute("SELECT count(*) FROM deployment").fetchone() == (1,)


def test_an_exchange_that_cannot_be_done_changes_nothing(own: DatabaseSettings, server: Server) -> None:
    with pytest.raises(PreconditionFailed, match="There is no database"):
        exchange(own, RESTORED, BEFORE)
    with (
        fresh_database(server, RESTORED),
        fresh_database(server, BEFORE),
        pytest.raises(PreconditionFailed, match="is there already"),
    ):
        exchange(own, RESTORED, BEFORE)
    assert is_open(server, source.DATABASE)
