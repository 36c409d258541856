"""One set of two databases of one server, unlike in encoding and locale, alike in the names of their tables."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from backup_sets import (
    back_up,
    copy_set,
    failed_level,
    part_of,
    prove,
    replace_content,
    write_manifest,
)
from psycopg import sql
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.restore import restore_into
from keepwell.doctor.database import examine_database
from keepwell.errors import AccessDenied, ConfigurationError, KeepwellError, PreconditionFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import silent
from keepwell.settings import Platform, SmokeQuery
from keepwell.verdict import Finding, Verdict

MAIN = """
CREATE TABLE events (id serial PRIMARY KEY, what text);
INSERT INTO events (what) SELECT 'käuflich 雪 ' || n FROM generate_series(1, 40) n;
CREATE TABLE people (id int PRIMARY KEY);
"""
# The server writes names of roles as bytes of the database that made them: this one's is in UTF-8.
OWNER = "Jürgen of both"
FURTHER = """
CREATE TABLE events (id bigint PRIMARY KEY, what text);
INSERT INTO events SELECT n, 'gebühr ' || n FROM generate_series(1, 25) n;
CREATE SEQUENCE tickets; SELECT setval('tickets', 7);
SELECT lo_from_bytea(77, 'of the further one');
"""
COUNTED = SmokeQuery(name="events came back", sql="SELECT count(*) FROM events", at_least=25, database="analytics")


@dataclass(frozen=True)
class Proven:
    """A set of both databases that reached the last level."""

    platform: Platform
    store: Store
    manifest: Manifest
    proof: Proof


def holding(platform: Platform, *more_names: str, queries: tuple[SmokeQuery, ...] = ()) -> Platform:
    """The platform with more databases, and what is asked of them."""
    database = platform.database.model_copy(update={"more_names": more_names})
    asked = (*(query for query in platform.backup.smoke_queries if query.database is None), *queries)
    backup = platform.backup.model_copy(update={"smoke_queries": asked})
    return platform.model_copy(update={"database": database, "backup": backup})


@contextmanager
def analytics(server: Server) -> Iterator[str]:
    """A database whose text is in LATIN1, and which the role of the other one owns."""
    with server.connect() as connection:
        connection.execute("CREATE DATABASE analytics ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with server.connect("analytics") as connection:
            connection.execute(FURTHER)
        yield "analytics"
    finally:
        with server.connect() as connection:
            connection.execute("DROP DATABASE analytics WITH (FORCE)")


@pytest.fixture(scope="module")
def proven(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proven]:
    server = servers(17)
    with fresh_database(server) as database, analytics(server) as further:
        owner = sql.Identifier(OWNER)
        with server.connect(database) as connection:
            connection.execute(MAIN)
            connection.execute(sql.SQL("CREATE ROLE {0}; ALTER TABLE events OWNER TO {0}").format(owner))
        with server.connect(further) as connection:
            as_bytes_of_latin1 = sql.Identifier(OWNER.encode().decode("latin1"))
            connection.execute(sql.SQL("ALTER TABLE events OWNER TO {}").format(as_bytes_of_latin1))
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        platform = holding(platform, further, queries=(COUNTED,))
        manifest = back_up(platform)
        yield Proven(platform, open_store(platform), manifest, prove(platform, manifest.backup_id))
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(owner))


@pytest.fixture
def copied(proven: Proven) -> Manifest:
    """A copy of the proven set, for one test to damage."""
    return copy_set(proven.store, proven.manifest.backup_id)


def test_both_are_proven_to_the_last_level_and_each_level_tells_of_both(proven: Proven) -> None:
    assert (proven.proof.reached, proven.proof.verdict) == ("serving", Verdict.OK)
    told = {outcome.level: outcome.summary for outcome in proven.proof.levels}
    main, further = proven.manifest.databases
    assert told["complete"] == "3 streams of 2 databases end with their terminator and hold 65 rows"
    assert told["restored"].startswith("2 databases restored without an error on PostgreSQL 17")
    assert "3 tables of 2 databases, 65 rows" in told["equal"]
    assert f"{further.snapshot_at:%H:%M:%S} UTC (analytics)" in told["equal"]
    assert "in each of 2 databases indexes know every row, 2 sequences not behind" in told["sound"]
    assert told["serving"] == "2 smoke queries answered as they should"
    assert (main.source.encoding, further.source.encoding) == ("UTF8", "LATIN1")
    assert main.source.collate != further.source.collate


def test_each_is_of_a_snapshot_of_its_own_and_the_set_of_the_older_one(proven: Proven) -> None:
    main, further = proven.manifest.databases
    assert main.snapshot_at < further.snapshot_at
    assert proven.manifest.snapshot_at == main.snapshot_at


def test_the_first_lies_where_it_always_lay_and_the_second_beside_it(proven: Proven) -> None:
    names = {part.content_name for part in proven.manifest.parts}
    assert {"database/toc.dat", "schema.jsonl", "database-2/toc.dat", "schema-2.jsonl", "globals.sql"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"database", "database-2"}


def test_a_row_that_changed_in_the_second_is_found_though_the_manifest_agrees(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, "analytics: public.events")
    replace_content(
        proven.store, copied, part, lambda content: content.replace(b"geb\xfchr 7", b"geb\xfchr 8"), rebuild=True
    )
    proof = prove(proven.platform, copied.backup_id)
    failed = failed_level(proof)
    assert (failed.level, failed.verdict, proof.damaged) == ("equal", Verdict.ALERT, True)
    assert [finding.name for finding in failed.findings] == ["analytics: public.events"]
    assert failed.summary.startswith("1 finding: analytics: public.events: as many rows as the source")


def cut_at_a_row(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:10])


@pytest.mark.long
def test_a_stream_of_the_second_that_ends_early_is_incomplete(proven: Proven, copied: Manifest) -> None:
    replace_content(proven.store, copied, part_of(copied, "analytics: public.events"), cut_at_a_row, rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("complete", "analytics: public.events")


def test_an_object_of_the_second_that_rotted_is_named_with_its_database(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, "analytics: public.events")
    # What cannot be compressed, so that the stored object grows too.
    replace_content(proven.store, copied, part, lambda content: content + secrets.token_bytes(500), rebuild=False)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert failed.level == "uploaded"
    assert f"{part.name} (rows of analytics: public.events)" in failed.findings[0].message


def test_the_schema_of_one_does_not_pass_for_that_of_the_other(proven: Proven, copied: Manifest) -> None:
    """Their archives bear the same names: each must be compared with its own."""
    main, further = copied.databases
    swapped = (
        main.model_copy(update={"schema_file": further.schema_file, "schema_digest": further.schema_digest}),
        further.model_copy(update={"schema_file": main.schema_file, "schema_digest": main.schema_digest}),
    )
    write_manifest(proven.store, copied.model_copy(update={"databases": swapped}))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert failed.level == "restored"
    assert {finding.name for finding in failed.findings} == {"schema", "analytics: schema"}


def test_sequences_of_the_second_are_compared_with_its_own(proven: Proven, copied: Manifest) -> None:
    main, further = copied.databases
    ahead = tuple(sequence.model_copy(update={"last_value": 8}) for sequence in further.sequences)
    write_manifest(
        proven.store,
        copied.model_copy(update={"databases": (main, further.model_copy(update={"sequences": ahead}))}),
    )
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("sound", "analytics: public.tickets")


def test_a_question_is_asked_of_the_database_that_it_names(proven: Proven) -> None:
    queries = (COUNTED.model_copy(update={"at_least": 26}), COUNTED.model_copy(update={"database": "lost"}))
    asking = holding(proven.platform, "analytics", "lost", queries=queries)
    failed = failed_level(prove(asking, proven.manifest.backup_id))
    assert (failed.level, failed.verdict) == ("serving", Verdict.ALERT)
    answered, unasked = failed.findings
    assert (answered.name, answered.verdict) == ("analytics: events came back", Verdict.ALERT)
    assert "answered 25, less than 26" in answered.message
    assert (unasked.name, unasked.verdict) == ("events came back", Verdict.UNKNOWN)
    assert "asks lost, which this set does not hold" in unasked.message


# Before anything is stored.


def test_a_database_that_is_not_there_stops_the_backup_with_nothing_stored(
    platform: Platform, store: Store, server: Server
) -> None:
    with pytest.raises(ConfigurationError, match='"no such thing" does not exist') as raised:
        back_up(holding(platform, "no such thing"))
    assert "database.more_names" in raised.value.hint
    assert not read_catalogue(store)
    assert not [stored.key for folder in ("backups/", "unfinished/") for stored in store.list_objects(folder)]


@pytest.mark.parametrize(
    ("denied", "error", "said"),
    [
        ("REVOKE ALL ON events FROM weak_reader", PreconditionFailed, "{further}: The role weak_reader may not read"),
        ("REVOKE CONNECT ON DATABASE {further} FROM PUBLIC", AccessDenied, "permission denied for database"),
    ],
)
def test_what_may_not_be_read_of_the_second_stops_the_backup_and_turns_the_doctor_red(
    platform: Platform, server: Server, *, denied: str, error: type[KeepwellError], said: str
) -> None:
    with fresh_database(server) as further:
        with server.connect(further) as connection:
            connection.execute("CREATE TABLE events (a int)")
            connection.execute("CREATE ROLE weak_reader LOGIN PASSWORD 'weak'; GRANT SELECT ON events TO weak_reader")
            connection.execute(denied.format(further=further))
        try:
            weak = platform.database.model_copy(update={"user": "weak_reader", "password": "weak"})
            weak = type(platform.database).model_validate(weak.model_dump())
            limited = holding(platform.model_copy(update={"database": weak}), further)
            with pytest.raises(error, match=said.format(further=further)):
                back_up(limited)
            assert not list(open_store(platform).list_objects("backups/"))
            red = [finding for finding in examine_database(limited) if finding.verdict is Verdict.ALERT]
            assert red
            assert all(finding.name.startswith(f"{further}: ") for finding in red if finding.name != "scratch space")
        finally:
            with server.connect(further) as connection:
                connection.execute("DROP OWNED BY weak_reader; DROP ROLE weak_reader")


def found_by_name(platform: Platform) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_database(platform)}


def test_the_doctor_looks_at_each_and_at_the_space_for_all(proven: Proven) -> None:
    found, alone = found_by_name(proven.platform), found_by_name(holding(proven.platform))
    for name in ("database login", "pooler", "privileges", "migrations"):
        assert (found[name].verdict, found[f"analytics: {name}"].verdict) == (Verdict.OK, Verdict.OK)
    assert not [name for name in alone if name.startswith("analytics")]
    needed = [int(one["scratch space"].message.rpartition("take ")[2].split()[0]) for one in (alone, found)]
    assert needed[0] < needed[1]


def test_our_locks_may_live_in_none_of_them(proven: Proven) -> None:
    database = proven.platform.database.model_copy(update={"maintenance_name": "analytics"})
    found = found_by_name(proven.platform.model_copy(update={"database": database}))
    assert "is the maintained database analytics itself" in found["maintenance database"].message


# Restoring one of them.


@pytest.fixture
def beside(server: Server) -> Iterator[str]:
    """Name of a database to restore into."""
    yield "analytics_beside"
    with server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS analytics_beside")


def test_the_second_is_restored_alone_and_like_its_source(proven: Proven, server: Server, beside: str) -> None:
    # The role's name is other bytes in the maintenance database, where restores look for roles.
    with server.connect("analytics") as connection:
        connection.execute("ALTER TABLE events OWNER TO postgres")
    manifest = back_up(proven.platform)
    restored = restore_into(
        proven.platform,
        proven.store,
        manifest.backup_id,
        beside,
        silent,
        source="analytics",
        allow_unproven=True,
    )
    assert (restored.source, restored.tables, restored.rows) == ("analytics", 1, 25)
    with server.connect(beside) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("LATIN1",)
        assert connection.execute("SELECT what FROM events WHERE id = 7").fetchone() == ("gebühr 7",)
        assert connection.execute("SELECT to_regclass('people')").fetchone() == (None,)


def test_one_can_still_be_restored_when_the_other_is_lost(
    proven: Proven, copied: Manifest, server: Server, beside: str
) -> None:
    lost = part_of(copied, "analytics: public.events")
    proven.store.delete([layout.set_folder(copied.backup_id) + lost.name])
    assert prove(proven.platform, copied.backup_id).damaged
    with pytest.raises(PreconditionFailed, match="known to be damaged"):
        restore_into(proven.platform, proven.store, copied.backup_id, beside, silent)
    restored = restore_into(proven.platform, proven.store, copied.backup_id, beside, silent, allow_unproven=True)
    assert (restored.source, restored.rows) == (proven.platform.database.name, 40)


def test_a_database_that_the_set_does_not_hold_is_refused_with_those_that_it_holds(proven: Proven) -> None:
    with pytest.raises(PreconditionFailed, match=r"holds no database lost; it holds .*, analytics\."):
        restore_into(proven.platform, proven.store, proven.manifest.backup_id, "never", silent, source="lost")
