"""The last levels on a scratch server whose restored database was damaged: what no archive could show."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from real_servers import installation

from keepwell.backup.database import Database
from keepwell.backup.describing import describe_sequence, describe_table
from keepwell.backup.manifest import Manifest
from keepwell.backup.rehearsal import Target, check_serving, check_sound, create_like
from keepwell.errors import ServiceUnavailable
from keepwell.postgres import facts
from keepwell.postgres.connection import connect_to
from keepwell.postgres.fingerprint import Fingerprint, fingerprint_table
from keepwell.postgres.server import throwaway_server
from keepwell.postgres.soundness import _with_memory
from keepwell.settings import SmokeQuery
from keepwell.verdict import Finding, Verdict

GOLDEN = Path(__file__).parent.parent / "cases" / "manifest-1.json"
RESTORED = """
CREATE TABLE people (id serial PRIMARY KEY, name text);
INSERT INTO people (name) SELECT 'marker-' || to_char(n, 'FM0000') FROM generate_series(1, 200) n;
CREATE INDEX people_name ON people (name);
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM people;
CREATE SEQUENCE down INCREMENT -1 MINVALUE -100 MAXVALUE -1 START -1;
SELECT nextval('down'), nextval('down');
CHECKPOINT;
"""


@dataclass(frozen=True)
class Scratch:
    """A throwaway server with a restored database `whole`, which tests copy and damage."""

    conninfo: str
    folder: Path

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.conninfo, dbname=database), autocommit=True)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    folder = tmp_path_factory.mktemp("scratch")
    with throwaway_server(installation(17), folder) as conninfo:
        running = Scratch(conninfo, folder)
        with running.connect("postgres") as connection:
            connection.execute("CREATE DATABASE whole")
        with running.connect("whole") as connection:
            for statement in RESTORED.split(";\n"):
                connection.execute(statement)
        yield running


@pytest.fixture
def copy(scratch: Scratch, request: pytest.FixtureRequest) -> str:
    """Name of a copy of the restored database."""
    return copy_database(scratch, "whole", f"copy_{abs(hash(request.node.name))}")


def copy_database(scratch: Scratch, template: str, name: str) -> str:
    """A copy made from the files on the disk, so that nothing of it is in the server's memory."""
    with scratch.connect("postgres") as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return name


@pytest.fixture
def described(scratch: Scratch) -> Database:
    """What a manifest says of the restored database, truly."""
    golden = Manifest.from_json(GOLDEN.read_bytes()).main
    with scratch.connect("whole") as connection:
        relations = [table for table in facts.read_tables(connection) if table.kind != "S"]
        sequences = facts.read_sequences(connection)
    return golden.model_copy(
        update={
            "tables": tuple(describe_table(table, None, None) for table in relations),
            "sequences": tuple(map(describe_sequence, sequences)),
            "source": golden.source.model_copy(update={"stale_collations": ()}),
        }
    )


def soundness(scratch: Scratch, database: str, described: Database) -> list[Finding]:
    target = Target(make_conninfo(scratch.conninfo, dbname=database), 17, 2)
    return list(check_sound(described, installation(17), target))


def damage_file(scratch: Scratch, database: str, relation: str, pattern: bytes, replacement: bytes) -> None:
    """Change bytes of a relation on the disk, where the server has not read them yet."""
    with scratch.connect(database) as connection:
        row = connection.execute("SELECT pg_relation_filepath(%s::regclass)", (relation,)).fetchone()
        connection.execute("CHECKPOINT")
    assert row is not None
    file = scratch.folder / "data" / row[0]
    content = file.read_bytes()
    assert content.count(pattern) >= 1
    file.write_bytes(content.replace(pattern, replacement))


def test_a_whole_database_is_sound(scratch: Scratch, copy: str, described: Database) -> None:
    assert soundness(scratch, copy, described) == []


def test_the_check_of_indexes_gets_the_memory_that_it_needs_beside_what_its_login_asks_for(
    scratch: Scratch, copy: str
) -> None:
    conninfo = make_conninfo(scratch.conninfo, dbname=copy, options="-c event_triggers=off")
    with connect_to(conninfo) as connection:
        own = _with_memory(conninfo, connection)
    with connect_to(own) as connection:
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("maintenance_work_mem", "event_triggers")]
    assert shown == [("1MB",), ("off",)]


def test_an_index_that_is_out_of_order_is_not_sound(scratch: Scratch, copy: str, described: Database) -> None:
    damage_file(scratch, copy, "people_name", b"marker-0100", b"zarker-0100")
    (finding,) = soundness(scratch, copy_database(scratch, copy, f"{copy}_read"), described)
    assert (finding.name, finding.verdict) == ("indexes", Verdict.ALERT)
    assert "people_name" in finding.message


def test_a_row_that_its_index_does_not_know_is_not_sound(scratch: Scratch, copy: str, described: Database) -> None:
    """The index is in order; only comparing it with the table shows it."""
    damage_file(scratch, copy, "people", b"marker-0100", b"marker-xxxx")
    (finding,) = soundness(scratch, copy_database(scratch, copy, f"{copy}_read"), described)
    assert finding.verdict is Verdict.ALERT
    assert "lacks matching index tuple" in finding.message


def test_a_page_that_cannot_be_read_is_not_sound(scratch: Scratch, copy: str, described: Database) -> None:
    with scratch.connect(copy) as connection:
        row = connection.execute("SELECT pg_relation_filepath('people_pkey')").fetchone()
        connection.execute("CHECKPOINT")
    assert row is not None
    file = scratch.folder / "data" / row[0]
    file.write_bytes(b"\xff" * len(file.read_bytes()))
    findings = soundness(scratch, copy_database(scratch, copy, f"{copy}_read"), described)
    assert {finding.verdict for finding in findings} == {Verdict.ALERT}
    assert [finding.name for finding in findings] == ["indexes", "public.people_id_seq"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("SELECT setval('people_id_seq', 199)", "public.people_id_seq"),
        ("SELECT setval('down', -1)", "public.down"),
        ("DROP SEQUENCE down", "public.down"),
        ("REFRESH MATERIALIZED VIEW counted WITH NO DATA", "public.counted"),
        ("DROP MATERIALIZED VIEW counted", "public.counted"),
    ],
)
def test_what_came_back_behind_empty_or_not_at_all_is_not_sound(
    scratch: Scratch, copy: str, described: Database, damage: str, named: str
) -> None:
    with scratch.connect(copy) as connection:
        connection.execute(damage)
    alerts = [finding for finding in soundness(scratch, copy, described) if finding.verdict is Verdict.ALERT]
    assert [finding.name for finding in alerts] == [named]


@pytest.mark.parametrize("ahead", ["SELECT setval('people_id_seq', 5000)", "SELECT setval('down', -50)"])
def test_a_sequence_that_is_ahead_of_its_snapshot_is_sound(
    scratch: Scratch, copy: str, described: Database, ahead: str
) -> None:
    with scratch.connect(copy) as connection:
        connection.execute(ahead)
    assert soundness(scratch, copy, described) == []


def test_rows_beyond_their_sequence_are_a_warning_since_the_source_is_like_that(
    scratch: Scratch, copy: str, described: Database
) -> None:
    with scratch.connect(copy) as connection:
        connection.execute("INSERT INTO people VALUES (9000, 'by hand')")
    (finding,) = soundness(scratch, copy, described)
    assert (finding.name, finding.verdict, "9000" in finding.message) == ("public.people_id_seq", Verdict.WARN, True)


def test_a_stale_collation_of_the_source_is_a_warning(scratch: Scratch, copy: str, described: Database) -> None:
    stale = described.source.model_copy(update={"stale_collations": ("public.german",)})
    (finding,) = soundness(scratch, copy, described.model_copy(update={"source": stale}))
    assert (finding.name, finding.verdict) == ("public.german", Verdict.WARN)


def test_where_indexes_cannot_be_checked_nothing_is_known(scratch: Scratch, copy: str, described: Database) -> None:
    """A role that may not install amcheck stands for a machine that lacks it."""
    with scratch.connect(copy) as connection:
        connection.execute("DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
        connection.execute("GRANT pg_read_all_data TO plain")
    target = Target(make_conninfo(scratch.conninfo, dbname=copy, user="plain"), 17, 2)
    findings = list(check_sound(described, installation(17), target))
    assert [(finding.name, finding.verdict) for finding in findings] == [("indexes", Verdict.UNKNOWN)]


def test_a_check_of_indexes_that_runs_out_of_disk_finds_no_damage(
    scratch: Scratch, copy: str, described: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_amcheck reports a server's error as if the relation were at fault, with the same exit code."""
    said = 'btree index "whole.public.people_pkey":\n    ERROR:  could not write to file "base/pgsql_tmp/x": '
    for reason, verdict in (("No space left on device", Verdict.UNKNOWN), ("Input/output error", Verdict.ALERT)):
        monkeypatch.setattr("keepwell.postgres.archive.run_index_check", lambda call, r=reason: said + r)
        (finding,) = soundness(scratch, copy, described)
        assert (finding.name, finding.verdict) == ("indexes", verdict)


def ask(scratch: Scratch, database: str, statement: str, at_least: float | None = None) -> str:
    target = Target(make_conninfo(scratch.conninfo, dbname=database), 17, 2)
    found = list(check_serving((SmokeQuery(name="asked", sql=statement, at_least=at_least),), target))
    return found[0].message if found else "fine"


@pytest.mark.parametrize(
    ("statement", "at_least", "answer"),
    [
        ("SELECT count(*) FROM people", 200, "fine"),
        ("SELECT true", None, "fine"),
        ("SELECT 'text'", None, "fine"),
        ("SELECT 0", None, "fine"),
        ("SELECT '100%'", None, "fine"),
        ("SELECT count(*) FROM people", 201, "The smoke query “asked” answered 200, less than 201."),
        ("SELECT false", None, "The smoke query “asked” answered False."),
        ("SELECT NULL", None, "The smoke query “asked” answered None."),
        ("SELECT 1 WHERE false", None, "The smoke query “asked” answered nothing."),
        ("SELECT 'many'", 1, "The smoke query “asked” did not answer with a number."),
    ],
)
def test_smoke_queries_are_judged_by_the_first_value_of_their_first_row(
    scratch: Scratch, statement: str, at_least: float | None, answer: str
) -> None:
    assert ask(scratch, "whole", statement, at_least) == answer


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT 1 FROM absent", "does not exist"),
        ("DELETE FROM people", "read-only transaction"),
        ("SELECT 1/0", "division by zero"),
        ("VACUUM", "cannot run inside a transaction"),
    ],
)
def test_a_smoke_query_that_fails_or_writes_is_told_in_the_servers_words(
    scratch: Scratch, statement: str, said: str
) -> None:
    assert said in ask(scratch, "whole", statement)


def test_a_scratch_server_that_ends_under_a_smoke_query_is_no_answer(scratch: Scratch) -> None:
    """Its session is ended in the midst of the query, and again between two of them."""
    target = Target(make_conninfo(scratch.conninfo, dbname="whole"), 17, 2)
    end_own = "SELECT pg_terminate_backend(pg_backend_pid())"
    end_others = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'whole')"
    with pytest.raises(ServiceUnavailable):
        list(check_serving((SmokeQuery(name="ends itself", sql=end_own),), target))
    asked = check_serving(
        (SmokeQuery(name="false", sql="SELECT false"), SmokeQuery(name="true", sql="SELECT true")), target
    )
    assert next(asked).verdict is Verdict.ALERT
    with scratch.connect("postgres") as other:
        other.execute(end_others)
    with pytest.raises(ServiceUnavailable):
        next(asked)


def test_a_dead_server_is_told_when_a_smoke_query_is_rolled_back(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered and died at once."""
    target = Target(make_conninfo(scratch.conninfo, dbname="whole"), 17, 2)

    def ask_and_die(connection: psycopg.Connection, query: SmokeQuery) -> str:
        connection.execute("SELECT 1")
        with scratch.connect("postgres") as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return ""

    monkeypatch.setattr("keepwell.backup.rehearsal._ask", ask_and_die)
    with pytest.raises(ServiceUnavailable, match="smoke query"):
        list(check_serving((SmokeQuery(name="asked", sql="SELECT 1"),), target))


def test_a_collation_that_this_machine_lacks_is_replaced_and_said(scratch: Scratch, described: Database) -> None:
    source = described.source.model_copy(update={"collate": "xx_YY.UTF-8", "ctype": "xx_YY.UTF-8"})
    with scratch.connect("postgres") as connection:
        findings = list(create_like(connection, "elsewhere", source))
        row = connection.execute("SELECT datcollate FROM pg_database WHERE datname = 'elsewhere'").fetchone()
    assert [finding.name for finding in findings] == ["collation"]
    assert row == ("C.UTF-8",)


# Fingerprints.


def rows_hashed(connection: psycopg.Connection, values: str) -> Fingerprint:
    connection.execute("DROP TABLE IF EXISTS hashed; CREATE TABLE hashed (a text, b int)")
    connection.execute(f"INSERT INTO hashed VALUES {values}")
    return fingerprint_table(connection, "public", "hashed", ["a", "b"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("('x', 1), ('x', 1)", "('y', 1), ('y', 1)"),
        ("('x', 1)", "('x', 1), ('x', 1)"),
        ("('x', 1), ('x', 1), ('x', 1)", "('x', 1)"),
        ("('x', 1), ('y', 2)", "('x', 2), ('y', 1)"),
        ("('', 1)", "(NULL, 1)"),
        ("('1', NULL)", "(NULL, 1)"),
        ("(',', 1)", "('\",\"', 1)"),
    ],
)
def test_different_rows_have_different_fingerprints(scratch: Scratch, copy: str, one: str, other: str) -> None:
    with scratch.connect(copy) as connection:
        assert rows_hashed(connection, one) != rows_hashed(connection, other)


def test_the_order_of_rows_does_not_matter_to_a_fingerprint(scratch: Scratch, copy: str) -> None:
    with scratch.connect(copy) as connection:
        first = rows_hashed(connection, "('x', 1), ('y', 2), ('x', 1)")
        assert first == rows_hashed(connection, "('x', 1), ('x', 1), ('y', 2)")
        assert first.rows == 3
