"""Tables restored beside the live ones, into a schema of their own: every kind of them, and nothing else is touched."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from backup_sets import back_up, copy_set, part_of, replace_content
from real_servers import MAJORS, Server, bucket_settings, build_platform, fresh_database
from zoo import create_zoo

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.manifest import Manifest
from keepwell.backup.restore import temporary_prefix
from keepwell.backup.restored_schemas import (
    drop_restored_schema,
    find_restored_schema,
    read_restored_schemas,
    sweep_schemas,
)
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.facts import SchemaLine, read_schema
from keepwell.progress import silent
from keepwell.restore import parts
from keepwell.restore.parts import RestoredTables, plan_tables, restore_tables
from keepwell.restore.parts_choice import TablesWanted
from keepwell.settings import Platform
from keepwell.verdict import Verdict

SOURCE = """
CREATE EXTENSION citext;
CREATE TYPE "EventStatus" AS ENUM ('DRAFT', 'PUBLISHED');
CREATE FUNCTION even(n int) RETURNS bool IMMUTABLE RETURN n % 2 = 0;
CREATE TABLE users (id int PRIMARY KEY, email citext NOT NULL UNIQUE);
INSERT INTO users SELECT n, 'User' || n || '@example.org' FROM generate_series(1, 20) n;
CREATE TABLE events (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "organizerId" int NOT NULL REFERENCES users,
    status "EventStatus" NOT NULL DEFAULT 'DRAFT', tags "EventStatus"[], title text NOT NULL CHECK (title <> ''),
    loud text GENERATED ALWAYS AS (upper(title)) STORED, seats int CHECK (even(seats))
);
INSERT INTO events ("organizerId", tags, title, seats)
    SELECT n % 20 + 1, '{DRAFT,PUBLISHED}', 'event ' || n, n * 2 FROM generate_series(1, 100) n;
CREATE INDEX events_by_title ON events (lower(title));
CREATE TABLE registrations (id int PRIMARY KEY, "eventId" int NOT NULL REFERENCES events ON DELETE CASCADE);
INSERT INTO registrations SELECT n, n % 100 + 1 FROM generate_series(1, 300) n;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''a trigger of the source ran''; END';
CREATE TRIGGER telling BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION tell();
CREATE VIEW published AS SELECT * FROM events WHERE status = 'PUBLISHED';
"""
MISFORTUNE = "DELETE FROM events WHERE id <= 30; UPDATE events SET title = 'corrupted' WHERE id = 50"


def wanted(*tables: str, into: str = "restored", schemas: tuple[str, ...] = ()) -> TablesWanted:
    return TablesWanted(tables, schemas, into)


def restore(platform: Platform, store: Store, manifest: Manifest, what: TablesWanted) -> RestoredTables:
    return restore_tables(platform, store, manifest.backup_id, what, silent, allow_unproven=True)


def without(lines: list[SchemaLine], schema: str) -> list[SchemaLine]:
    """What a database holds beside one schema."""
    return [line for line in lines if f"{schema}." not in line.identity and line.identity != schema]


def leftovers(live: psycopg.Connection, platform: Platform) -> list[str]:
    """Databases and schemas under temporary names."""
    query = "SELECT datname::text FROM pg_database UNION ALL SELECT nspname::text FROM pg_namespace"
    return [name for (name,) in live.execute(query).fetchall() if name.startswith(temporary_prefix(platform))]


@pytest.fixture
def live(server: Server, platform: Platform) -> Iterator[psycopg.Connection]:
    with server.connect(platform.database.name) as connection:
        connection.execute(SOURCE)
        yield connection


@pytest.fixture
def manifest(live: psycopg.Connection, platform: Platform) -> Manifest:
    return back_up(platform)


def test_one_table_comes_back_beside_the_live_one_and_its_rows_can_go_back(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    live.execute(MISFORTUNE)
    before = read_schema(live)
    restored = restore(platform, store, manifest, wanted("public.events"))
    assert (restored.rows, [table.table for table in restored.tables]) == (100, ["public.events"])
    assert any("organizerId" in told and "users" in told for told in restored.left_out)
    assert live.execute("SELECT count(*), max(loud) FROM restored.events").fetchone() == (100, "EVENT 99")
    assert live.execute("SELECT title FROM restored.events WHERE id = 50").fetchone() == ("event 50",)
    # The live tables are as they were, rows and definitions.
    assert live.execute("SELECT count(*) FROM events").fetchone() == (70,)
    assert without(read_schema(live), "restored") == before
    assert leftovers(live, platform) == []
    # It stands alone: an index, its own type and function, a sequence where the source's was.
    assert live.execute("SELECT count(*) FROM pg_indexes WHERE schemaname = 'restored'").fetchone() == (2,)
    live.execute("INSERT INTO restored.events (\"organizerId\", title, seats) VALUES (999, 'new', 4)")
    assert live.execute("SELECT max(id) FROM restored.events").fetchone() == (101,)
    live.execute("DELETE FROM restored.events WHERE id = 101")
    live.execute("ALTER TABLE events DISABLE TRIGGER telling")
    live.execute(restored.tables[0].copy_back)
    assert live.execute("SELECT count(*) FROM events").fetchone() == (100,)
    assert drop_restored_schema(platform, restored.live, "restored").comment.endswith(": public.events")
    assert read_schema(live) == [
        SchemaLine(line.kind, line.identity, line.definition.replace("O CREATE TRIGGER", "D CREATE TRIGGER"))
        for line in before
    ]


def test_tables_that_refer_to_one_another_keep_their_foreign_keys(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    restored = restore(platform, store, manifest, wanted("events", "registrations", "public.users"))
    assert (restored.rows, restored.left_out) == (420, ())
    keys = "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
    inside = [pair for pair in live.execute(keys).fetchall() if pair[0].startswith("restored.")]
    assert sorted(inside) == [("restored.events", "restored.users"), ("restored.registrations", "restored.events")]
    live.execute('DELETE FROM restored.registrations WHERE "eventId" = 5; DELETE FROM restored.events WHERE id = 5')
    assert live.execute('SELECT count(*) FROM registrations WHERE "eventId" = 5').fetchone() == (3,)


@pytest.mark.parametrize("major", MAJORS)
def test_every_kind_of_table_comes_back(
    major: int, servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    server = servers(major)
    with fresh_database(server) as name, server.connect(name) as connection:
        create_zoo(server, name)
        platform = build_platform(server, name, bucket_settings(objectstore), tmp_path)
        store, manifest, before = open_store(platform), back_up(platform), read_schema(connection)
        odd = wanted(schemas=("Ünïcode Schéma", "select"), into='odd "schema"')
        assert restore(platform, store, manifest, odd).rows == 4
        restored = restore(platform, store, manifest, wanted(schemas=("public",)))
        dumped = {table.qualified for table in manifest.main.dumped_tables if table.table_schema == "public"}
        assert {table.table for table in restored.tables if table.rows is not None} == dumped
        assert leftovers(connection, platform) == []
        for schema in ('odd "schema"', "restored"):
            drop_restored_schema(platform, name, schema)
        assert read_schema(connection) == before


def test_a_partition_alone_is_cut_from_its_parent_and_a_parent_brings_its_partitions(
    server: Server, platform: Platform, store: Store
) -> None:
    create_zoo(server, platform.database.name)
    manifest = back_up(platform)
    alone = restore(platform, store, manifest, wanted("events_2024_low", into="alone"))
    assert "events_2024_low is a partition of public.events_2024" in alone.left_out[0]
    whole = restore(platform, store, manifest, wanted("public.events", into="whole"))
    assert (len(whole.tables), whole.rows) == (6, 400)
    with server.connect(platform.database.name) as connection:
        attached = "SELECT count(*) FROM pg_inherits WHERE inhparent IN ('events'::regclass, 'events_2024'::regclass)"
        assert connection.execute(attached).fetchone() == (5,)
        assert connection.execute("SELECT count(*) FROM whole.events").fetchone() == (400,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (400,)


def test_what_cannot_be_restored_is_refused_before_anything_is_touched(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    refused = [
        (wanted(), "Nothing was chosen"),
        (wanted("public.nothing"), r"holds no table public\.nothing"),
        (wanted(schemas=("nowhere",)), "holds no tables of a schema nowhere"),
        (wanted("events", into="public"), "The schema public exists already"),
        (wanted("events", into="pg_mine"), "PostgreSQL keeps names like pg_mine"),
        (wanted("events", into="x" * 64), "1 to 63 bytes"),
        (TablesWanted(("users",), (), "restored", "other"), "holds no database other"),
    ]
    before = read_schema(live)
    for what, said in refused:
        with pytest.raises(PreconditionFailed, match=said):
            restore(platform, store, manifest, what)
    assert (read_schema(live), leftovers(live, platform)) == (before, [])


def test_a_set_without_a_proof_is_refused_unless_it_is_allowed(
    platform: Platform, store: Store, manifest: Manifest
) -> None:
    with pytest.raises(PreconditionFailed, match="is not proven"):
        plan_tables(platform, store, manifest.backup_id, wanted("events"))
    plan = plan_tables(platform, store, manifest.backup_id, wanted("events"), allow_unproven=True)
    assert (plan.rows, plan.live, plan.left_behind) == (100, platform.database.name, ())


def test_tables_that_the_disk_of_the_live_server_has_no_room_for_are_refused(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "read_free_bytes", lambda *_: 1_000_000)
    with pytest.raises(PreconditionFailed, match=r"1\.0 MB are free on the disk of the live server"):
        restore(platform, store, manifest, wanted("events"))
    assert leftovers(live, platform) == []
    monkeypatch.setattr(parts, "read_free_bytes", lambda *_: None)
    (finding,) = plan_tables(platform, store, manifest.backup_id, wanted("events"), allow_unproven=True).findings
    assert (finding.name, finding.verdict) == ("space", Verdict.UNKNOWN)


def test_an_extension_that_the_live_database_lost_is_told_before_the_schema_is_made(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    live.execute("DROP EXTENSION citext CASCADE")
    before = read_schema(live)
    with pytest.raises(PreconditionFailed, match="use the extension citext in the schema public"):
        restore(platform, store, manifest, wanted("users"))
    assert (read_schema(live), leftovers(live, platform)) == (before, [])
    assert restore(platform, store, manifest, wanted("registrations")).rows == 300


def test_a_table_that_another_defines_is_refused_without_it(server: Server, platform: Platform, store: Store) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE base (a int); CREATE TABLE user_of (rows base[])")
        manifest = back_up(platform)
        with pytest.raises(PreconditionFailed, match=r"need others to be defined at all: public\.base"):
            restore(platform, store, manifest, wanted("user_of"))
        assert restore(platform, store, manifest, wanted("user_of", "base")).rows == 0


@pytest.mark.parametrize("rebuild", [False, True], ids=["a flipped bit", "an altered row"])
def test_a_damaged_table_is_found_before_the_schema_appears(
    rebuild: bool, live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    """A bit flipped; or one row altered and its hashes made to agree, so that only its source can tell."""
    copied, before = copy_set(store, manifest.backup_id), read_schema(live)
    part = part_of(copied, "public.events")
    if rebuild:
        replace_content(store, copied, part, lambda rows: rows.replace(b"event 50", b"event 05"), rebuild=True)
    else:
        key = layout.set_folder(copied.backup_id) + part.name
        stored = bytearray(store.get_bytes(key))
        stored[len(stored) // 2] ^= 1
        store.put_bytes(key, bytes(stored))
    said = "other contents" if rebuild else "is not what was stored"
    with pytest.raises(VerificationFailed, match=said):
        restore(platform, store, copied, wanted("events"))
    assert (read_schema(live), leftovers(live, platform)) == (before, [])
    # What was not asked for is not read, so it is in nobody's way.
    assert restore(platform, store, copied, wanted("users")).rows == 20


def test_only_a_schema_of_ours_that_nobody_needs_is_dropped(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    name = platform.database.name
    live.execute("CREATE SCHEMA mine; CREATE TABLE mine.kept (a int)")
    with pytest.raises(PreconditionFailed, match="no schema mine that Keepwell restored"):
        drop_restored_schema(platform, name, "mine")
    restore(platform, store, manifest, wanted("users"))
    assert [one.name for one in read_restored_schemas(platform, name)] == ["restored"]
    live.execute("CREATE VIEW mine.seen AS SELECT id FROM restored.users")
    with pytest.raises(PreconditionFailed, match=r"needs it and would go with it: view mine\.seen"):
        drop_restored_schema(platform, name, "restored")
    live.execute("DROP VIEW mine.seen; ALTER TABLE mine.kept ADD FOREIGN KEY (a) REFERENCES restored.users")
    with pytest.raises(PreconditionFailed, match=r"table mine\.kept"):
        drop_restored_schema(platform, name, "restored")
    live.execute("ALTER TABLE mine.kept DROP CONSTRAINT kept_a_fkey")
    live.execute(
        "CREATE FUNCTION restored.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER telling BEFORE INSERT ON mine.kept FOR EACH ROW EXECUTE FUNCTION restored.tell()"
    )
    with pytest.raises(PreconditionFailed, match=r"table mine\.kept"):
        drop_restored_schema(platform, name, "restored")
    live.execute("DROP TABLE mine.kept; CREATE TABLE restored.notes (a int)")
    assert find_restored_schema(platform, name, "restored").strangers == ("notes",)
    drop_restored_schema(platform, name, "restored")
    assert read_restored_schemas(platform, name) == []


def test_what_a_dead_restore_left_is_swept_by_the_next_and_nothing_else(
    live: psycopg.Connection, platform: Platform, store: Store, manifest: Manifest
) -> None:
    prefix = temporary_prefix(platform)
    live.execute(
        f"CREATE SCHEMA {prefix}dead; CREATE TABLE {prefix}dead.events (id int); CREATE SCHEMA keepwell_restoring"
    )
    assert sweep_schemas(platform, prefix) == [f"{prefix}dead"]
    live.execute(f"CREATE SCHEMA {prefix}dead")
    back_up(platform)
    assert leftovers(live, platform) == []
    live.execute(f"CREATE SCHEMA {prefix}dead")
    restore(platform, store, manifest, wanted("users"))
    assert leftovers(live, platform) == []
