"""Keepwell's own database on a real server: a role that reads and no more, and databases that change places."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from real_servers import BUCKET, PASSWORD, Server, fresh_database
from typer.testing import CliRunner, Result

from keepwell.cli.main import app
from keepwell.errors import PreconditionFailed
from keepwell.itself import source, taking_over
from keepwell.itself.taking_over import exchange
from keepwell.keyring import write_secret
from keepwell.postgres.connection import connect
from keepwell.served import STATE_VARIABLE, Served, render_served, serve_folder, served_file
from keepwell.settings import CONFIG_VARIABLE, DatabaseSettings, load_platform

RESTORED, BEFORE = "prefect_restored_1", "prefect_before_1"
# Ended by SIGKILL before one of its statements; how many it lives through is its first argument.
KILLED = """
import os, signal, sys
import psycopg
from keepwell.itself import source, taking_over

own, execute, left = source.find_own_database(), psycopg.Connection.execute, [int(sys.argv[1])]

def counted(*words, **named):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return execute(*words, **named)

psycopg.Connection.execute = counted
taking_over.exchange(own, sys.argv[2], sys.argv[3])
"""


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


def test_a_password_that_a_killed_run_of_root_left_is_given_to_who_serves(
    own: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = serve_folder() / "secrets" / source.PASSWORD_FILE
    write_secret(left, "left by a run that was killed\n")
    given: list[int] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda file, *_: given.append(os.fstat(file).st_ino))
    assert source.ensure_role(own) == left
    assert given == [left.stat().st_ino]


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


def test_killed_before_any_of_its_statements_both_databases_stay_open(own: DatabaseSettings, server: Server) -> None:
    with fresh_database(server, RESTORED):
        lived_through = 0
        while True:
            words = (sys.executable, "-c", KILLED, str(lived_through), RESTORED, BEFORE)
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != -signal.SIGKILL:
                break
            assert is_open(server, source.DATABASE)
            assert is_open(server, RESTORED)
            lived_through += 1
        assert (done.returncode, done.stderr) == (0, "")
        # At least: the names that there are, the sessions, and either rename.
        assert lived_through >= 4
        assert is_open(server, BEFORE)
        exchange(own, BEFORE, RESTORED)


@pytest.fixture
def came() -> Iterator[list[psycopg.Connection]]:
    """Sessions of whoever came back."""
    sessions: list[psycopg.Connection] = []
    yield sessions
    for session in sessions:
        session.close()


def come_back(
    came: list[psycopg.Connection], server: Server, name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody logs in to that database whenever its sessions were ended, so many times."""
    end_sessions = taking_over._end_sessions

    def end_and_come_back(connection: psycopg.Connection, *names: str) -> None:
        end_sessions(connection, *names)
        if len(came) < times:
            came.append(server.connect(name))

    monkeypatch.setattr(taking_over, "_end_sessions", end_and_come_back)


def test_who_comes_back_a_few_times_is_ended_again(
    own: DatabaseSettings, server: Server, came: list[psycopg.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(server, RESTORED):
        come_back(came, server, source.DATABASE, 2, monkeypatch)
        exchange(own, RESTORED, BEFORE)
        assert len(came) == 2
        for session in came:
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        with server.connect(BEFORE) as connection:
            assert connection.execute("SELECT count(*) FROM deployment").fetchone() == (1,)
        exchange(own, BEFORE, RESTORED)


def test_a_second_rename_that_cannot_be_done_undoes_the_first(
    own: DatabaseSettings, server: Server, came: list[psycopg.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_over, "_TRIES", 1)
    with fresh_database(server, RESTORED):
        come_back(came, server, RESTORED, 1, monkeypatch)
        with pytest.raises(PreconditionFailed, match="somebody logs in again") as refused:
            exchange(own, RESTORED, BEFORE)
        assert "pg_stat_activity" in refused.value.hint
        assert came[0].execute("SELECT 1").fetchone() == (1,)
        with server.connect(source.DATABASE) as connection:
            assert connection.execute("SELECT count(*) FROM deployment").fetchone() == (1,)
