"""A zoo of types, names and objects on each major version, proven to the last level."""

from collections.abc import Callable
from pathlib import Path

import pytest
from backup_sets import back_up, back_up_and_prove, prove
from pydantic import SecretStr
from real_servers import MAJORS, Server, bucket_settings, build_platform, fresh_database
from zoo import create_zoo

from deployments.local.objectstore import RunningObjectStore
from keepwell.postgres import binaries
from keepwell.settings import Platform
from keepwell.verdict import Verdict


@pytest.mark.parametrize("major", MAJORS)
def test_a_zoo_of_every_kind_is_proven_serving_on_a_server_of_its_own_major(
    major: int, servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    server = servers(major)
    with fresh_database(server) as database:
        create_zoo(server, database)
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path)
        proof = back_up_and_prove(platform)
    not_ok = [finding.name for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert not_ok == ["above_zero of public.unchecked"]  # a NOT VALID constraint, and named as such
    assert (proof.reached, proof.same_major, proof.damaged) == ("serving", True, False)
    assert [f.name for f in proof.findings] == [
        "public.counted",
        "public.counted_twice",
        "public.far_away",
        "public.not_yet",
        "above_zero of public.unchecked",
    ]


def bears_column_versions(server: Server, database: str) -> bool:
    """Whether each column bears a version as an option, as since 15.20: servers that know none refuse such a dump."""
    with server.connect(database) as connection:
        options = connection.execute("SELECT FROM pg_attribute WHERE attoptions::text LIKE '%pg_attver=%' LIMIT 1")
        return options.fetchone() is not None


@pytest.mark.major(15)
def test_a_dump_from_15_is_proven_on_17_or_what_17_does_not_know_is_told(
    servers: Callable[[int], Server],
    objectstore: RunningObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = servers(15)
    with fresh_database(server) as database:
        create_zoo(server, database)
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path)
        newer_only = [found for found in binaries.find_installations() if found.major == 17]
        for module in ("keepwell.backup.preflight", "keepwell.backup.scratch_restore"):
            monkeypatch.setattr(f"{module}.find_installations", lambda configured: newer_only)
        manifest = back_up(platform)
        proof = prove(platform, manifest.backup_id)
        versioned = bears_column_versions(server, database)
    assert (manifest.main.source.server_major, manifest.tools.archive_major) == (15, 17)
    if versioned and not bears_column_versions(servers(17), "postgres"):
        told = [finding.message for finding in proof.findings if finding.verdict is Verdict.ALERT]
        assert ["pg_attver" in message for message in told] == [True], told
        assert (proof.reached, proof.verdict) == ("complete", Verdict.ALERT)
        return
    not_ok = [finding.name for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert not_ok == ["above_zero of public.unchecked"]  # a NOT VALID constraint, and named as such
    assert (proof.reached, proof.same_major) == ("serving", False)
    assert "as far as versions 15 and 17 word it alike" in proof.levels[3].summary


@pytest.mark.parametrize(
    "name",
    [
        "we\"ird'; DROP --",
        "with spaces  and = signs",
        "ünïcode 雪",
        "-leading-dash",
        "--help",
        "dbname=postgres",
        "a\\b$c",
    ],
)
def test_a_hostile_database_name_is_only_a_name(
    name: str, server: Server, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    with fresh_database(server, name) as database:
        with server.connect(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 3) AS a")
        manifest = back_up(build_platform(server, database, bucket_settings(objectstore), tmp_path))
    assert (manifest.main.source.database, manifest.rows) == (name, 3)


@pytest.mark.parametrize("encoding", ["LATIN1", pytest.param("EUC_JP", marks=pytest.mark.long)])
def test_a_database_of_another_encoding_is_proven_equal(
    encoding: str, server: Server, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    name, owner = f"encoded_{encoding.lower()}", {"LATIN1": "zoé", "EUC_JP": "日本"}[encoding]
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with server.connect(name, client_encoding=encoding) as connection:
        connection.execute("CREATE TABLE t (a text)")
        raw = {"LATIN1": b"\xe9", "EUC_JP": b"\xc6\xfc\xcb\xdc"}[encoding]
        connection.execute(b"INSERT INTO t VALUES ('" + raw + b"'), ('a')")
        # The server keeps a role's name as bytes of the database in which it was created.
        connection.execute(f'CREATE ROLE "{owner}"; ALTER TABLE t OWNER TO "{owner}"')
        try:
            proof = back_up_and_prove(build_platform(server, name, bucket_settings(objectstore), tmp_path))
        finally:
            connection.execute(f'DROP OWNED BY "{owner}"; DROP ROLE "{owner}"')
    with server.connect() as connection:
        connection.execute(f"DROP DATABASE {name}")
    assert not [finding.message for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert proof.reached == "serving"


def test_bytes_without_an_encoding_are_dumped_as_they_are(
    server: Server, objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    with server.connect() as connection:
        connection.execute("CREATE DATABASE raw_bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with server.connect("raw_bytes", client_encoding="SQL_ASCII") as connection:
        connection.execute(b"CREATE TABLE t (a text); INSERT INTO t VALUES ('\xff\xfe neither UTF-8 nor anything')")
    platform = build_platform(server, "raw_bytes", bucket_settings(objectstore), tmp_path)
    proof = back_up_and_prove(platform)
    with server.connect() as connection:
        connection.execute("DROP DATABASE raw_bytes")
    assert not [finding.message for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert proof.reached == "serving"


@pytest.mark.parametrize(
    ("grant", "role_passwords"),
    [("GRANT pg_read_all_data TO reading", True), ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reading", False)],
)
def test_a_role_that_may_only_read_backs_up_a_database_whole(
    platform: Platform, server: Server, grant: str, role_passwords: bool
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 2)")
        connection.execute("CREATE TABLE u (a int); ALTER TABLE u ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE ROLE reading LOGIN BYPASSRLS PASSWORD 'p'")
        connection.execute(grant)
        reading = platform.database.model_copy(update={"user": "reading", "password": SecretStr("p")})
        manifest = back_up(platform.model_copy(update={"database": reading}))
        proof = prove(platform, manifest.backup_id)
        connection.execute("DROP OWNED BY reading; DROP ROLE reading")
    assert not [finding.message for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert (proof.reached, manifest.role_passwords) == ("serving", role_passwords)


def test_a_database_without_a_public_schema_is_proven_serving(platform: Platform, server: Server) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("DROP SCHEMA public; CREATE SCHEMA app; CREATE TABLE app.t AS SELECT 1 AS a")
    proof = back_up_and_prove(platform)
    assert not [finding.message for finding in proof.findings if finding.verdict is not Verdict.OK]
    assert proof.reached == "serving"


def test_an_empty_database_is_proven_too(platform: Platform) -> None:
    assert back_up_and_prove(platform).reached == "serving"


@pytest.mark.long
def test_two_thousand_tables_are_proven_serving(platform: Platform, server: Server) -> None:
    with server.connect(platform.database.name) as connection:
        for start in range(0, 2000, 200):
            connection.execute(
                f"""DO $$ BEGIN FOR n IN {start}..{start + 199} LOOP
                    EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, body text)', n);
                    EXECUTE format('INSERT INTO t%s SELECT g, md5(g::text) FROM generate_series(1, %s) g', n, n %% 5);
                END LOOP; END $$""".replace("%%", "%")
            )
    manifest = back_up(platform)
    assert len(manifest.tables) == 2000
    assert prove(platform, manifest.backup_id).reached == "serving"
