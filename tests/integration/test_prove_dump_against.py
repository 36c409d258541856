"""A dump compared with the live database that it came from, which has moved on since."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dump_files import pg_dump
from real_servers import PASSWORD, Server, fresh_database
from typer.testing import CliRunner

from keepwell.cli.main import app
from keepwell.dumps.comparison import live_database
from keepwell.dumps.proof import DumpProof
from keepwell.dumps.prove import prove_dump
from keepwell.progress import silent
from keepwell.verdict import Verdict

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, name text);
INSERT INTO people SELECT n, 'person ' || n FROM generate_series(1, 100) n;
CREATE TABLE log (line text);
INSERT INTO log SELECT 'line ' || n FROM generate_series(1, 50) n;
CREATE TABLE "Odd Näme" ("Key" text, part int, PRIMARY KEY (part, "Key"));
INSERT INTO "Odd Näme" VALUES ('a', 1), ('b', 2);
CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY LIST (a);
CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
INSERT INTO parted VALUES (1);
"""


@pytest.fixture
def live(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database that was just dumped; its password is known to libpq alone."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with fresh_database(server) as database:
        change(server, database, SCHEMA)
        pg_dump(server, database, "-Fc", tmp_path / "dump")
        yield database


def change(server: Server, database: str, statements: str) -> None:
    with server.connect(database) as connection:
        for statement in filter(str.strip, statements.split(";\n")):
            connection.execute(statement)


def compare(server: Server, database: str, tmp_path: Path, user: str = "postgres") -> DumpProof:
    dsn = f"postgresql://{user}@127.0.0.1:{server.port}/{database}"
    return prove_dump(tmp_path / "dump", silent, live=live_database(dsn))


def differences(proof: DumpProof) -> dict[str, str]:
    assert proof.levels[-1].level == "equal"
    return {finding.name: f"{finding.verdict}: {finding.message}" for finding in proof.levels[-1].findings}


def test_an_unchanged_database_is_equal(live: str, server: Server, tmp_path: Path) -> None:
    proof = compare(server, live, tmp_path)
    assert (proof.verdict, differences(proof)) == (Verdict.OK, {})
    assert proof.levels[-1].summary == f"4 of 4 tables equal {live}"
    assert {table.name: table.rows_live for table in proof.tables}["people"] == 100


def test_what_moved_since_is_told_row_by_row(live: str, server: Server, tmp_path: Path) -> None:
    change(
        server,
        live,
        """INSERT INTO people SELECT n, 'new' FROM generate_series(101, 112) n;
        UPDATE people SET name = 'renamed' WHERE id <= 3;
        DELETE FROM people WHERE id = 50;
        INSERT INTO log VALUES ('line 51');
        DELETE FROM "Odd Näme" WHERE part = 2;
        """,
    )
    proof = compare(server, live, tmp_path)
    assert proof.verdict is Verdict.WARN
    assert differences(proof) == {
        "public.people": "warn: public.people: 12 rows only live, 1 only in the dump, 3 changed "
        "(100 in the dump, 111 live).",
        "public.log": "warn: public.log: 1 more live (50 in the dump, 51 live).",
        "public.Odd Näme": "warn: public.Odd Näme: 1 only in the dump (2 in the dump, 1 live).",
    }


def test_changed_contents_without_a_key_are_told(live: str, server: Server, tmp_path: Path) -> None:
    change(server, live, "UPDATE log SET line = 'other' WHERE line = 'line 7'")
    assert differences(compare(server, live, tmp_path)) == {
        "public.log": "warn: public.log: as many rows as live (50), with other contents."
    }


def test_a_table_that_the_dump_lacks_or_holds_empty_is_an_alert(live: str, server: Server, tmp_path: Path) -> None:
    change(server, live, "CREATE TABLE late (a int); INSERT INTO late VALUES (1), (2)")
    change(server, live, "CREATE TABLE was_empty (a int)")
    pg_dump(server, live, "-Fc --exclude-table=late", tmp_path / "dump")
    change(server, live, "INSERT INTO was_empty VALUES (1)")
    found = differences(compare(server, live, tmp_path))
    assert found["public.late"].startswith("alert: public.late: is not in the dump; live it holds 2 rows")
    assert found["public.was_empty"].startswith("alert: public.was_empty: the dump holds none of its 1 live rows")


def test_a_dropped_table_and_changed_columns_are_told(live: str, server: Server, tmp_path: Path) -> None:
    change(server, live, "DROP TABLE log;\nALTER TABLE people ADD COLUMN born date")
    found = differences(compare(server, live, tmp_path))
    assert found["public.log"] == "warn: public.log: the live database has no such table."
    assert found["public.people"] == "warn: public.people: its columns changed (born); compared by the others."


def test_a_table_that_may_not_be_read_is_unknown_and_the_others_are_compared(
    live: str, server: Server, tmp_path: Path
) -> None:
    change(
        server,
        live,
        f"""CREATE ROLE looker LOGIN PASSWORD '{PASSWORD}';
        GRANT SELECT ON people, log, parted_1 TO looker;
        """,
    )
    proof = compare(server, live, tmp_path, user="looker")
    change(server, live, "DROP OWNED BY looker;\nDROP ROLE looker")
    assert proof.verdict is Verdict.UNKNOWN
    ((name, said),) = differences(proof).items()
    assert name == "public.Odd Näme"
    assert said.startswith("unknown: public.Odd Näme: cannot be compared:")


def test_the_live_database_is_only_read_and_at_one_moment(
    live: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.connect(live) as connection:
        connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        connection.execute("SELECT pg_reload_conf()")
        before = connection.execute("SELECT sum(xact_commit) FROM pg_stat_database").fetchone()
        compare(server, live, tmp_path)
        rows = connection.execute(
            "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'people'"
        ).fetchone()
        connection.execute("ALTER SYSTEM RESET log_statement")
        connection.execute("SELECT pg_reload_conf()")
    assert before is not None
    assert rows == (100, 0, 0)


def test_a_live_database_that_does_not_answer_leaves_that_level_unknown(
    live: str, server: Server, tmp_path: Path
) -> None:
    proof = prove_dump(
        tmp_path / "dump", silent, live=live_database(f"host=127.0.0.1 port=1 user=postgres dbname={live}")
    )
    assert (proof.verdict, proof.levels[-1].level, proof.levels[3].verdict) == ("unknown", "equal", "ok")
    assert "PGPASSWORD" in proof.findings[0].hint


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:marked-secret@host/db",
        "host=h password=marked-secret",
        "postgresql://me@host/db?password=marked-secret",
        "postgresql://me@host/db?sslpassword=marked-secret",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("CREATE TABLE t (a int);")
    result = CliRunner().invoke(app, ["prove-dump", str(tmp_path / "dump.sql"), "--against", dsn, "--json"])
    assert result.exit_code == 1
    assert "PGPASSWORD" in json.loads(result.stdout)["hint"]
    assert "marked-secret" not in result.output


def test_an_address_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("CREATE TABLE t (a int);")
    result = CliRunner().invoke(app, ["prove-dump", str(tmp_path / "dump.sql"), "--against", "not an address"])
    assert result.exit_code == 1
    assert "cannot be understood" in result.stderr
