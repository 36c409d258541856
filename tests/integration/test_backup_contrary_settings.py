"""Roles and databases may set anything for their applications; a proof must not depend on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from backup_documents import change_main
from backup_sets import back_up, back_up_and_prove, prove, write_manifest
from psycopg import sql
from real_servers import MAJORS, Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.catalogue import read_entry
from keepwell.backup.restore import restore_into, sweep_restores
from keepwell.errors import PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent
from keepwell.settings import Platform
from keepwell.verdict import Verdict

CONTRARY = {
    "TimeZone": "Europe/Berlin",
    "bytea_output": "escape",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-10",
    "search_path": "pg_temp",
    "statement_timeout": "100ms",
    "idle_in_transaction_session_timeout": "20ms",
    "default_transaction_read_only": "on",
    "row_security": "off",
}
ROWS = """
CREATE TABLE public.t (a timestamptz, b bytea, c interval, d float8, e date);
INSERT INTO public.t VALUES
    ('2026-03-29 02:30:00+01', '\\x0001ff5c', '1 year -2 days 03:04', 0.1 + 0.2, '2026-11-24')
"""


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("whose", ["DATABASE", "ROLE"])
def test_settings_of_a_role_or_a_database_change_no_proof(
    whose: str, major: int, servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    server = servers(major)
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute(ROWS)
            target = sql.Identifier(database if whose == "DATABASE" else "postgres")
            for name, value in CONTRARY.items():
                statement = sql.SQL("ALTER {} {} SET {} = {}")
                connection.execute(statement.format(sql.SQL(whose), target, sql.SQL(name), sql.Literal(value)))
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path)
        try:
            proof = back_up_and_prove(platform)
        finally:
            with server.connect("postgres", options="-c default_transaction_read_only=off") as connection:
                connection.execute("SET statement_timeout = 0")
                connection.execute(sql.SQL("ALTER {} {} RESET ALL").format(sql.SQL(whose), target))
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK), proof.findings


def test_rows_that_pg_dump_leaves_out_are_named(platform: Platform, server: Server) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE EXTENSION pg_trgm; CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        connection.execute("ALTER EXTENSION pg_trgm ADD TABLE t")
    proof = back_up_and_prove(platform)
    named = [finding for finding in proof.findings if "leaves it out" in finding.message]
    assert [finding.verdict for finding in named] == [Verdict.WARN]
    assert "public.t" in named[0].name


def test_a_message_quotes_no_rows(platform: Platform, server: Server) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t (email text); INSERT INTO t VALUES ('a@marked.person'), ('a@marked.person')")
        connection.execute("CREATE UNIQUE INDEX u ON t (email) WHERE false")
        connection.execute("ALTER TABLE t ADD CONSTRAINT c CHECK (email <> 'nobody') NOT VALID")
        connection.execute("UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'u'::regclass")
    proof = back_up_and_prove(platform)
    assert proof.damaged
    assert "marked.person" not in proof.to_json().decode()


def test_a_set_swept_while_it_was_written_is_never_published(
    platform: Platform, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keepwell.backup import create
    from keepwell.backup.sweep import sweep_unfinished

    store = open_store(platform)
    write = create._write

    def be_swept(*args: object, **kwargs: object) -> object:
        written = write(*args, **kwargs)  # type: ignore[arg-type]
        assert sweep_unfinished(store) == [written.backup_id]
        return written

    monkeypatch.setattr(create, "_write", be_swept)
    with pytest.raises(ServiceUnavailable, match="swept"):
        back_up(platform)
    assert not [key for key in store.list_objects("backups/") if key.key.endswith("manifest.json")]


def test_a_proof_that_cannot_be_read_lets_no_older_one_speak(platform: Platform, server: Server) -> None:
    store = open_store(platform)
    manifest = back_up(platform)
    prove(platform, manifest.backup_id)
    assert read_entry(store, manifest.backup_id).is_proven("equal")
    store.put_signed(f"backups/{manifest.backup_id}/proofs/99991231T235959Z-ffffff.json", b'{"torn')
    assert not read_entry(store, manifest.backup_id).is_proven("equal")


class TestARestoreBesideTheLiveDatabase:
    def test_leaves_other_platforms_restores_alone(self, platform: Platform, server: Server) -> None:
        other = platform.model_copy(update={"name": "other"})
        with server.connect() as connection:
            connection.execute("CREATE DATABASE keepwell_restoring_00000000_aaaa")
        try:
            assert sweep_restores(platform) == sweep_restores(other) == []
        finally:
            with server.connect() as connection:
                connection.execute("DROP DATABASE keepwell_restoring_00000000_aaaa")

    def test_is_refused_before_anything_is_read_when_the_role_may_not_own_it(
        self, platform: Platform, server: Server
    ) -> None:
        manifest = back_up(platform)
        prove(platform, manifest.backup_id)
        with server.connect() as connection:
            connection.execute("CREATE ROLE restoring LOGIN CREATEDB PASSWORD 'p'")
        try:
            role = platform.database.model_copy(update={"user": "restoring"})
            limited = platform.model_copy(update={"database": role})
            with server.connect() as connection:
                connection.execute("ALTER ROLE restoring PASSWORD 'marked-secret-of-the-database'")
            with pytest.raises(PreconditionFailed, match="may not act as"):
                restore_into(limited, open_store(platform), manifest.backup_id, "copy", silent)
        finally:
            with server.connect() as connection:
                connection.execute("DROP ROLE restoring")

    def test_is_gone_again_when_it_is_not_equal(
        self, platform: Platform, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with server.connect(platform.database.name) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        manifest = back_up(platform)
        prove(platform, manifest.backup_id)
        store = open_store(platform)
        # The rows differ from what the source had at its snapshot, as the manifest tells it.
        tables = tuple(table.model_copy(update={"content_hash": "0"}) for table in manifest.tables)
        write_manifest(store, change_main(manifest, tables=tables))
        with pytest.raises(VerificationFailed, match="other contents"):
            restore_into(platform, store, manifest.backup_id, "copy", silent, allow_unproven=True)
        with server.connect() as connection:
            left = connection.execute(
                "SELECT datname FROM pg_database WHERE datname = 'copy' OR datname LIKE 'keepwell_restoring%'"
            ).fetchall()
        assert left == []

    def test_carries_rows_owner_and_name(self, platform: Platform, server: Server) -> None:
        with server.connect(platform.database.name) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 5) AS a")
        manifest = back_up(platform)
        prove(platform, manifest.backup_id)
        restored = restore_into(platform, open_store(platform), manifest.backup_id, 'a "copy"', silent)
        try:
            assert (restored.rows, restored.tables, restored.findings) == (5, 1, ())
            with server.connect('a "copy"') as connection:
                assert connection.execute("SELECT sum(a) FROM t").fetchone() == (15,)
            with pytest.raises(PreconditionFailed, match="exists already"):
                restore_into(platform, open_store(platform), manifest.backup_id, 'a "copy"', silent)
        finally:
            with server.connect() as connection:
                connection.execute('DROP DATABASE "a ""copy"""')
