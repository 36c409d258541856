"""A restore beside the live database leaves it as it is, byte for byte; the guide's pipe into it does not."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_sets import back_up, prove
from psycopg import sql
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.restore import restore_into
from keepwell.errors import PreconditionFailed
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import silent
from keepwell.settings import Platform

SOURCE = """
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO people SELECT n, 'person ' || n FROM generate_series(1, 100) n;
CREATE TABLE visits (id int PRIMARY KEY, person int NOT NULL REFERENCES people, note text);
INSERT INTO visits SELECT n, n % 100 + 1, md5(n::text) FROM generate_series(1, 300) n;
CREATE INDEX ON visits (person);
"""
# What happened to the live database after its backup.
MISFORTUNE = "DELETE FROM visits WHERE id <= 50; UPDATE people SET name = 'corrupted' WHERE id = 7"
LOST = "SELECT (SELECT count(*) FROM visits WHERE id <= 50), (SELECT name FROM people WHERE id = 7)"


def dump(server: Server, database: str) -> bytes:
    """Everything that stock pg_dump says of a database, but for the key that it draws anew each time."""
    call = [server.binaries.program("pg_dump"), "--dbname", server.url(database)]
    said = subprocess.run(call, capture_output=True, check=True).stdout
    return re.sub(rb"(?m)^\\(un)?restrict .*\n", b"", said)


@pytest.fixture
def live(server: Server, platform: Platform) -> Iterator[str]:
    """Name of the live database, before anything happened to it."""
    with server.connect(platform.database.name) as connection:
        connection.execute(SOURCE)
    yield platform.database.name
    with server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS beside")


def test_the_guides_pipe_into_the_live_database_exits_0_and_brings_nothing_back(
    server: Server, live: str, tmp_path: Path
) -> None:
    program, url, file = server.binaries.folder, server.url(live), tmp_path / "backup.sql.gz"
    subprocess.run(["bash", "-c", f"{program}/pg_dump '{url}' | gzip > {file}"], check=True)
    with server.connect(live) as connection:
        connection.execute(MISFORTUNE)
        pipe = f"set -o pipefail; gunzip -c {file} | {program}/psql '{url}'"
        ended = subprocess.run(["bash", "-c", pipe], capture_output=True, check=False, text=True)
        assert connection.execute(LOST).fetchone() == (0, "corrupted")
    assert ended.returncode == 0
    assert ended.stderr.count("ERROR:") >= 6


def test_a_truncated_dump_fills_half_a_table_with_exit_code_0(server: Server, live: str, tmp_path: Path) -> None:
    """`gzip -t` is content, and so is psql, even when told to stop at the first error."""
    whole = dump(server, live)
    cut = whole[: whole.index(b"\n", whole.index(b"person 50\n"))] + b"\n"
    (tmp_path / "cut.sql").write_bytes(cut)
    subprocess.run(["gzip", tmp_path / "cut.sql"], check=True)
    subprocess.run(["gzip", "-t", tmp_path / "cut.sql.gz"], check=True)
    with fresh_database(server) as other:
        restore = f"gunzip -c {tmp_path}/cut.sql.gz | {server.binaries.program('psql')} -v ON_ERROR_STOP=1"
        subprocess.run(["bash", "-c", f"set -o pipefail; {restore} '{server.url(other)}'"], check=True)
        with server.connect(other) as connection:
            assert connection.execute("SELECT count(*) FROM people").fetchone() == (50,)


def test_ours_refuses_the_live_database_and_restores_beside_it_what_was_lost(
    server: Server, live: str, platform: Platform, store: Store
) -> None:
    manifest = back_up(platform)
    assert prove(platform, manifest.backup_id).reached == "serving"
    with server.connect(live) as connection:
        connection.execute(MISFORTUNE)
    before = dump(server, live)
    with hold_platform(platform, store, Procedure.RESTORE):
        with pytest.raises(PreconditionFailed, match=f"The database {live} exists already"):
            restore_into(platform, store, manifest.backup_id, live, silent)
        assert dump(server, live) == before
        restored = restore_into(platform, store, manifest.backup_id, "beside", silent)
    assert restored.rows == 400
    with server.connect("beside") as connection:
        assert connection.execute(LOST).fetchone() == (50, "person 7")
    assert dump(server, live) == before
    with server.connect(live) as connection:
        assert connection.execute(LOST).fetchone() == (0, "corrupted")


@pytest.mark.parametrize("name", ["we\"ird'; DROP --", "--help", "dbname=postgres user=nobody"])
def test_a_hostile_database_name_is_only_a_name_when_its_set_is_proven_and_restored(
    name: str, server: Server, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    into = f"{name} 2"
    with fresh_database(server, name) as database:
        with server.connect(database) as connection:
            connection.execute(SOURCE)
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path)
        manifest, before = back_up(platform), dump(server, database)
        assert prove(platform, manifest.backup_id).reached == "serving"
        try:
            restored = restore_into(platform, open_store(platform), manifest.backup_id, into, silent)
            assert (restored.database, restored.rows) == (into, 400)
            assert dump(server, into) == before
        finally:
            with server.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(into)))
        assert dump(server, database) == before
