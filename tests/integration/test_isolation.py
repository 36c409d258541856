"""What code can reach that a restore runs: the source's index functions, its triggers, COPY's programs."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from backup_sets import back_up, failed_level, prove
from real_servers import MAJORS, Server, installation, is_nobody_for_real, reachable_folder

from keepwell.postgres import confinement, isolation
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.isolation import UNPRIVILEGED_ID, isolate
from keepwell.postgres.server import throwaway_server
from keepwell.settings import Platform
from keepwell.verdict import Verdict

SECRET = "only its owner may read this"


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done on machines that cannot give a server a view of its own."""
    monkeypatch.setattr(confinement, "_can_confine", lambda: False)


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file of ours with mode 0600, where its path keeps nobody out."""
    with reachable_folder() as folder:
        file = folder / "secret"
        file.write_text(SECRET)
        file.chmod(0o600)
        yield file


@contextmanager
def scratch_session(binaries: Binaries, folder: Path) -> Iterator[psycopg.Connection]:
    with throwaway_server(binaries, folder) as conninfo, psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (line text)")
        yield connection


def run_program(connection: psycopg.Connection, program: str) -> str:
    """What a program says that the server starts, as a restored trigger could start it."""
    connection.execute("TRUNCATE seen")
    connection.execute(psycopg.sql.SQL("COPY seen FROM PROGRAM {}").format(psycopg.sql.Literal(program)))
    return "\n".join(line for (line,) in connection.execute("SELECT line FROM seen"))


@pytest.mark.parametrize("major", MAJORS)
def test_restored_code_reads_no_file_of_roots_and_the_evidence_says_what_it_could(major: int, secret: Path) -> None:
    binaries = installation(major)
    with reachable_folder() as folder:
        told = str(isolate(binaries, folder))
        with scratch_session(binaries, folder) as connection:
            user = run_program(connection, "id -u")
            reading = (f"COPY seen FROM PROGRAM 'cat {secret}'", f"SELECT pg_read_file('{secret}')")
            if is_nobody_for_real(binaries):
                assert told == "another user, no network, empty environment"
                assert int(user) == UNPRIVILEGED_ID
                # No set-user-id program gives it more.
                assert run_program(connection, "grep NoNewPrivs /proc/self/status | tr -cd 01") == "1"
                for statement in reading:
                    with pytest.raises(psycopg.Error, match=r"Permission denied|failed"):
                        connection.execute(statement)
            elif os.geteuid() == 0:
                assert told.startswith("root, seemingly another user (a namespace; files of root can be read)")
            else:
                assert told.startswith("this user, ")
                assert connection.execute(reading[1]).fetchone() == (SECRET,)


def test_out_of_nobodys_reach_the_evidence_says_that_files_of_root_can_be_read(secret: Path, tmp_path: Path) -> None:
    """Below a private folder, such as /root, nobody could not run the server."""
    tmp_path.chmod(0o700)
    folder = tmp_path / "scratch"
    folder.mkdir(mode=0o700)
    binaries = installation(17)
    told = str(isolate(binaries, folder))
    with scratch_session(binaries, folder) as connection:
        assert connection.execute(f"SELECT pg_read_file('{secret}')").fetchone() == (SECRET,)
    said = "root, seemingly another user (a namespace; files of root can be read)" if os.geteuid() == 0 else "this user"
    assert told.startswith(f"{said}, ")


def test_an_ordinary_users_scratch_server_is_called_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.os, "geteuid", lambda: 1000)
    assert str(isolate(installation(17), tmp_path)).startswith("this user, ")
    monkeypatch.setattr(isolation, "_works", lambda prefix: False)
    assert str(isolate(installation(17), tmp_path)) == "this user, a socket only, empty environment"


def test_restored_code_has_no_network() -> None:
    with (
        reachable_folder() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
        scratch_session(installation(17), folder) as connection,
    ):
        assert "no network" in str(isolate(installation(17), folder))
        interfaces = run_program(connection, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")
        port = listener.getsockname()[1]
        reach = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached || echo out of reach' 2> /dev/null"
        reached = run_program(connection, reach)
    assert (interfaces, reached) == ("lo", "out of reach")


def test_no_other_user_gets_into_a_scratch_servers_folder() -> None:
    with reachable_folder() as place:
        folder = place / "scratch"
        folder.mkdir(mode=0o700)
        with scratch_session(installation(17), folder):
            assert folder.stat().st_mode & stat.S_IRWXO == 0
            assert (folder / "data").stat().st_mode & 0o077 == 0
            assert (folder / "socket").stat().st_mode & 0o077 == 0


def test_an_index_function_of_the_source_reads_no_file_of_roots_when_its_set_is_proven(
    platform: Platform, server: Server, secret: Path
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute(
            "CREATE FUNCTION public.spy() RETURNS text IMMUTABLE LANGUAGE sql AS"
            f" $$SELECT pg_catalog.pg_read_file('{secret}')$$"
        )
        connection.execute("CREATE TABLE t (a text); INSERT INTO t VALUES ('a'); CREATE INDEX ON t ((a || spy()))")
    with reachable_folder() as place:
        backup = platform.backup.model_copy(update={"spool_directory": place})
        reachable = platform.model_copy(update={"backup": backup})
        proof = prove(reachable, back_up(reachable).backup_id)
    if is_nobody_for_real(installation(17)):
        assert proof.isolation == "another user, no network, empty environment"
        assert failed_level(proof).level == "restored"
        assert "Permission denied" in failed_level(proof).summary
    else:
        assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
        assert proof.isolation is not None
        assert not proof.isolation.startswith("another user")
