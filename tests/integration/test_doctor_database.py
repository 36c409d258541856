"""The doctor on a real database: each thing that would spoil a backup turns it red."""

import json
import re
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from backup_sets import back_up, back_up_and_prove, prove
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner

from keepwell import disk_space
from keepwell.backup.space import estimate_scratch_bytes
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.doctor import examine
from keepwell.doctor.database import examine_database
from keepwell.errors import PreconditionFailed
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict


def _changed(platform: Platform, **changes: Any) -> Platform:
    return platform.model_copy(update={"database": platform.database.model_copy(update=changes)})


def _find(platform: Platform, name: str) -> Finding:
    return next(finding for finding in examine_database(platform) if finding.name == name)


@pytest.fixture
def weak(platform: Platform, database_url: str) -> Iterator[Platform]:
    """The platform, seen by a role that owns nothing."""
    role, password = f"weak_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(_url_of(platform, database_url), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        )
        connection.execute("CREATE TABLE open (a int)")
        connection.execute('CREATE TABLE "Closed" (a int)')
        connection.execute(sql.SQL("GRANT SELECT ON open TO {}").format(sql.Identifier(role)))
        yield _changed(platform, user=role, password=SecretStr(password))
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def _url_of(platform: Platform, database_url: str) -> str:
    """The superuser's way into the platform's own database."""
    return psycopg.conninfo.make_conninfo(database_url, dbname=platform.database.name)


def test_a_sound_database_has_no_alert(platform: Platform, database_url: str) -> None:
    with psycopg.connect(_url_of(platform, database_url), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (a int)")
    found = {finding.name: finding.verdict for finding in examine_database(platform)}
    for name in ("database login", "pooler", "maintenance database", "privileges", "database clock", "client tools"):
        assert found[name] is Verdict.OK, name
    assert Verdict.ALERT not in found.values()


def test_a_table_that_may_not_be_read_is_named_with_the_grant(weak: Platform) -> None:
    finding = _find(weak, "privileges")
    assert finding.verdict is Verdict.ALERT
    assert "Closed" in finding.message
    assert "public.open" not in finding.message
    assert "GRANT" in finding.hint


def test_a_schema_that_may_not_be_entered_is_an_alert(weak: Platform, database_url: str) -> None:
    role = sql.Identifier(weak.database.user)
    with psycopg.connect(_url_of(weak, database_url), autocommit=True) as connection:
        connection.execute(sql.SQL('GRANT SELECT ON "Closed" TO {}').format(role))
        connection.execute("CREATE SCHEMA walled; CREATE TABLE walled.t (a int)")
        connection.execute(sql.SQL("GRANT SELECT ON walled.t TO {}").format(role))
        finding = _find(weak, "privileges")
        assert finding.verdict is Verdict.ALERT
        assert "walled.t" in finding.message
        assert "USAGE on each schema" in finding.hint
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA walled TO {}").format(role))
        assert _find(weak, "privileges").verdict is Verdict.OK


def test_rows_hidden_by_row_security_are_an_alert(weak: Platform, database_url: str) -> None:
    role = sql.Identifier(weak.database.user)
    with psycopg.connect(_url_of(weak, database_url), autocommit=True) as connection:
        connection.execute(sql.SQL('GRANT SELECT ON "Closed" TO {}').format(role))
        assert _find(weak, "privileges").verdict is Verdict.OK
        connection.execute('ALTER TABLE "Closed" ENABLE ROW LEVEL SECURITY')
    finding = _find(weak, "privileges")
    assert finding.verdict is Verdict.ALERT
    assert "BYPASSRLS" in finding.hint


def test_a_large_object_that_may_not_be_read_is_an_alert(weak: Platform, database_url: str) -> None:
    role = sql.Identifier(weak.database.user)
    with psycopg.connect(_url_of(weak, database_url), autocommit=True) as connection:
        connection.execute(sql.SQL('GRANT SELECT ON "Closed" TO {}').format(role))
        connection.execute("SELECT lo_create(4711)")
        finding = _find(weak, "privileges")
        assert finding.verdict is Verdict.ALERT
        assert "1 large objects" in finding.message
        connection.execute(sql.SQL("GRANT SELECT ON LARGE OBJECT 4711 TO {}").format(role))
        assert _find(weak, "privileges").verdict is Verdict.OK


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"password": SecretStr("wrong")}, "database.password_file"),
        ({"name": "no_such_database"}, "database.name"),
        ({"port": 1}, "Nothing listens there"),
    ],
)
def test_a_login_that_fails_says_why(platform: Platform, changes: dict[str, object], hint: str) -> None:
    login, rest = examine_database(_changed(platform, **changes))
    assert (login.verdict, rest.verdict) == (Verdict.ALERT, Verdict.UNKNOWN)
    assert hint in login.hint


def test_the_source_cannot_be_its_own_maintenance_database(platform: Platform) -> None:
    finding = _find(_changed(platform, maintenance_name=platform.database.name), "maintenance database")
    assert finding.verdict is Verdict.ALERT


def test_a_maintenance_database_that_is_not_there_is_an_alert_and_the_rest_is_still_checked(platform: Platform) -> None:
    found = list(examine_database(_changed(platform, maintenance_name="no_such_database")))
    verdicts = {finding.name: finding.verdict for finding in found}
    assert verdicts["maintenance database"] is Verdict.ALERT
    assert verdicts["client tools"] is Verdict.OK


def test_a_pooler_is_told(platform: Platform) -> None:
    with _pooler(platform) as port:
        finding = _find(_changed(platform, host="127.0.0.1", port=port, sslmode="disable"), "pooler")
    assert finding.verdict is Verdict.ALERT
    assert "database.port" in finding.hint


@pytest.mark.parametrize("enough", [True, False])
def test_space_is_judged_by_what_would_stop_a_backup_or_its_proof(
    platform: Platform, database_url: str, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(_url_of(platform, database_url), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT repeat('x', 1000) AS a FROM generate_series(1, 2000)")
    manifest = back_up(platform)
    needed_bytes = estimate_scratch_bytes(manifest.source_bytes) + disk_space._RESERVE_BYTES
    free_bytes = needed_bytes + 100_000_000 if enough else needed_bytes - 1
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=free_bytes))
    assert (_find(platform, "scratch space").verdict is Verdict.OK) is enough
    if enough:
        assert back_up_and_prove(platform).reached == "serving"
    else:
        with pytest.raises(PreconditionFailed, match="the scratch server of the proof needs about"):
            prove(platform, manifest.backup_id)


def test_a_folder_for_temporary_files_that_is_not_there_is_an_alert(platform: Platform) -> None:
    backup = platform.backup.model_copy(update={"spool_directory": Path("/no/such/folder")})
    finding = _find(platform.model_copy(update={"backup": backup}), "scratch space")
    assert finding.verdict is Verdict.ALERT
    assert "backup.spool_directory" in finding.hint


def test_a_server_that_is_too_old_is_an_alert_and_the_rest_is_not_checked(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwell.backup.preflight._OLDEST_SERVER", 99)
    login, version, rest = examine_database(platform)
    assert (login.verdict, version.verdict, rest.verdict) == (Verdict.OK, Verdict.ALERT, Verdict.UNKNOWN)
    assert "is too old: 99 is needed" in version.message


def test_migrations_at_work_or_half_applied_are_told(platform: Platform, database_url: str) -> None:
    with psycopg.connect(_url_of(platform, database_url), autocommit=True) as connection:
        assert _find(platform, "migrations").verdict is Verdict.OK
        connection.execute("SELECT pg_advisory_lock(72707369)")
        running = _find(platform, "migrations")
        assert (running.verdict, "Prisma is running" in running.message) == (Verdict.WARN, True)
        connection.execute("SELECT pg_advisory_unlock(72707369)")
        connection.execute(
            "CREATE TABLE _prisma_migrations (migration_name text, finished_at timestamptz, rolled_back_at timestamptz)"
        )
        connection.execute("INSERT INTO _prisma_migrations VALUES ('1_init', now(), NULL)")
        assert "the newest is 1_init" in _find(platform, "migrations").message
        connection.execute("INSERT INTO _prisma_migrations VALUES ('2_half', NULL, NULL)")
        half = _find(platform, "migrations")
    assert (half.verdict, "2_half" in half.message) == (Verdict.WARN, True)


def test_the_whole_examination_and_its_command(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    names = {finding.name for finding in examine(platform)}
    assert {"database login", "bucket", "cache", "uploads", "orchestrator", "notifications"} <= names
    broken = _changed(platform, password=SecretStr("wrong"))
    monkeypatch.setattr(console, "load_platform", lambda _: broken)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    envelope = json.loads(result.stdout)
    assert (result.exit_code, envelope["verdict"]) == (1, "alert")
    verdicts = {finding["name"]: finding["verdict"] for finding in envelope["data"]["findings"]}
    assert (verdicts["database login"], verdicts["bucket"]) == ("alert", "ok")
    assert platform.bucket.secret_access_key is None or (
        platform.bucket.secret_access_key.get_secret_value() not in result.output
    )
    assert re.search(r'"schema": "keepwell\.doctor/1"', result.stdout)


@contextmanager
def _pooler(platform: Platform) -> Iterator[int]:
    """A proxy that tells its own process number in place of the server's, as PgBouncer does."""
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        with client, _reach(platform) as server:
            threads.append(threading.Thread(target=_pump, args=(client, server), daemon=True))
            threads[-1].start()
            _relay_answers(server, client)

    def accept() -> None:
        while not stopping.is_set():
            with suppress(OSError):
                client, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1]
        stopping.set()
        acceptor.join()
    for thread in threads:
        thread.join(5)


def _reach(platform: Platform) -> socket.socket:
    host, port = platform.database.host, platform.database.port
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    reached = socket.socket(socket.AF_UNIX)
    reached.connect(f"{host}/.s.PGSQL.{port}")
    return reached


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _relay_answers(server: socket.socket, client: socket.socket) -> None:
    """Relay whole messages; in BackendKeyData the process number becomes another."""
    buffer = b""
    with suppress(OSError):
        while data := server.recv(65536):
            buffer += data
            while len(buffer) >= 5 and len(buffer) >= 1 + struct.unpack("!I", buffer[1:5])[0]:
                size = 1 + struct.unpack("!I", buffer[1:5])[0]
                message, buffer = buffer[:size], buffer[size:]
                if message[:1] == b"K":
                    message = message[:5] + struct.pack("!I", 4711) + message[9:]
                client.sendall(message)
