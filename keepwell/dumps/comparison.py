"""Compares what a restore brought back with a live database, which has moved on since: what moved, and how far.

The live database is only read, in one transaction that sees one moment. Rows are told apart by 64-bit hashes of their
primary key and of their contents, made by the servers themselves, so no value leaves either of them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keepwell.dumps.examination import RestoredDatabase, RestoredTable, quiet_conninfo
from keepwell.dumps.proof import Table
from keepwell.dumps.restoring import Scratch
from keepwell.errors import ConfigurationError, KeepwellError, TransientError
from keepwell.postgres import facts
from keepwell.postgres.connection import connect_to, translated
from keepwell.postgres.facts import TableFacts
from keepwell.postgres.fingerprint import Fingerprint, fingerprint_table
from keepwell.progress import Progress, Step
from keepwell.verdict import Finding, Verdict, worst

# Beyond so many rows the live server would have to sort too much for us; then numbers alone are told.
_MOST_ROWS_APART = 1_000_000
_BATCH_ROWS = 10_000
_LOCK_WAIT_SECONDS = 10
_SECRETS = ("password", "sslpassword", "oauth_client_secret")


@dataclass(frozen=True)
class Live:
    """A live database to compare with: a connection string without any secret in it."""

    conninfo: str

    @property
    def name(self) -> str:
        """For people."""
        parts = conninfo_to_dict(self.conninfo)
        return str(parts.get("dbname") or parts.get("service") or os.environ.get("PGDATABASE") or "the live database")


@dataclass(frozen=True)
class Comparison:
    """What came out of it."""

    tables: tuple[Table, ...]
    summary: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Apart:
    """How far two versions of one table are apart, in rows by their primary key."""

    only_live: int
    only_restored: int
    changed: int


def live_database(dsn: str) -> Live:
    """A live database by its address.

    Args:
        dsn: `postgresql://user@host/name` or `host=… dbname=…`, or `service=…`.

    Raises:
        ConfigurationError: It cannot be parsed, or holds a password, which everybody on this machine could read.
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "The address of the live database cannot be understood.",
            hint="Write it like postgresql://user@host:5432/name, without a password.",
        ) from None
    if any(parts.get(name) for name in _SECRETS):
        raise ConfigurationError(
            "The address of the live database holds a password, which every user of this machine can read in its list "
            "of processes.",
            hint="Leave it out, and set PGPASSWORD, or write it into ~/.pgpass (chmod 600).",
        )
    return Live(make_conninfo("", **({"application_name": "keepwell"} | parts)))


def compare_with_live(
    live: Live, scratch: Scratch, databases: Sequence[RestoredDatabase], tables: Sequence[Table], progress: Progress
) -> Comparison:
    """Compare every table, and name those that only one side has.

    Args:
        live: Where to look; only read.
        scratch: Where the dump was restored.
        databases: What came back; the one of the live database's name, or the only one with tables.
        tables: As compared with the dump so far.
        progress: Told how many tables are done.

    Raises:
        KeepwellError: The live database cannot be reached.
    """
    with _looking_at(live) as connection:
        restored = _counterpart(databases, str(connection.info.dbname))
        there = {
            (table.schema, table.name): table for table in facts.read_tables(connection) if table.kind in ("r", "p")
        }
        came_back = {
            (table.facts.schema, table.facts.name): table for table in restored.tables if table.facts.kind == "r"
        }
        compared: dict[tuple[str, str], tuple[int | None, Finding]] = {}
        with connect_to(quiet_conninfo(scratch, restored.name)) as copy, ThreadPoolExecutor(1, "restored") as second:
            for number, key in enumerate(sorted({*came_back, *(k for k, t in there.items() if t.kind == "r")})):
                progress(Step("comparing", number, len(came_back), "tables"))
                compared[key] = _compare_table(connection, copy, second, there.get(key), came_back.get(key))
    several = len({table.database for table in tables}) > 1
    updated = []
    for table in tables:
        key = (table.table_schema, table.name)
        if key not in compared or (several and table.database != restored.name):
            updated.append(table)
            continue
        rows, finding = compared[key]
        remark = table.remark if not finding.message or table.remark else finding.message
        updated.append(replace(table, rows_live=rows, verdict=worst([table.verdict, finding.verdict]), remark=remark))
    findings = tuple(finding for _, finding in compared.values() if finding.message)
    same = len(compared) - len(findings)
    moved = f"; {len(findings)} moved on since" if findings else ""
    return Comparison(tuple(updated), f"{same} of {len(compared)} tables equal {live.name}{moved}", _named(findings))


def explain(name: str, restored: Fingerprint, live: Fingerprint, apart: Apart | None) -> Finding:
    """What a difference between a dump and its live database means. Pure.

    Args:
        name: Of the table.
        restored: Of the dump's rows.
        live: Of the live rows.
        apart: Row by row, where that was looked at.
    """
    if restored == live:
        return Finding(name=name, verdict=Verdict.OK, message="")
    if restored.rows == 0:
        return Finding(
            name=name,
            verdict=Verdict.ALERT,
            message=f"the dump holds none of its {live.rows:,} live rows",
            hint="Were they written after the dump? If not, the dump missed them.",
        )
    hint = "Normal for a database in use; what only the live one has would be lost by restoring this dump."
    if apart is not None:
        told = [
            f"{apart.only_live:,} rows only live" if apart.only_live else "",
            f"{apart.only_restored:,} only in the dump" if apart.only_restored else "",
            f"{apart.changed:,} changed" if apart.changed else "",
        ]
        message = ", ".join(filter(None, told)) + f" ({restored.rows:,} in the dump, {live.rows:,} live)"
    elif live.rows == restored.rows:
        message = f"as many rows as live ({live.rows:,}), with other contents"
    else:
        more = live.rows - restored.rows
        side = f"{more:,} more live" if more > 0 else f"{-more:,} fewer live"
        message = f"{side} ({restored.rows:,} in the dump, {live.rows:,} live)"
    return Finding(name=name, verdict=Verdict.WARN, message=message, hint=hint)


@contextmanager
def _looking_at(live: Live) -> Iterator[psycopg.Connection]:
    """The live database at one moment, only to be read, and never in anybody's way for long."""
    try:
        connection = connect_to(live.conninfo, autocommit=False, name=live.name)
    except KeepwellError as error:
        raise type(error)(
            error.message, hint="Check the address, and the password in PGPASSWORD or ~/.pgpass."
        ) from error
    with connection:
        with translated(live.name):
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            wait = sql.Literal(f"{_LOCK_WAIT_SECONDS}s")
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(wait))
        yield connection
        connection.rollback()


def _counterpart(databases: Sequence[RestoredDatabase], name: str) -> RestoredDatabase:
    with_tables = [database for database in databases if database.tables]
    named = next((database for database in databases if database.name == name), None)
    if named is not None:
        return named
    if len(with_tables) == 1:
        return with_tables[0]
    raise ConfigurationError(
        f"The dump holds {len(with_tables)} databases, and none of them is called {name}.",
        hint="Name a live database that is one of them.",
    )


def _compare_table(
    live: psycopg.Connection,
    copy: psycopg.Connection,
    second: ThreadPoolExecutor,
    there: TableFacts | None,
    back: RestoredTable | None,
) -> tuple[int | None, Finding]:
    """Rows of the live table, and what is to be said of it; an empty message says that both are equal."""
    facts_ = there or (back.facts if back else None)
    assert facts_ is not None  # noqa: S101 - one side has it
    name = facts_.qualified
    try:
        if there is None:
            message = "the live database has no such table"
            return None, Finding(name=name, verdict=Verdict.WARN, message=message, hint="Dropped since, or renamed?")
        if back is None:
            with live.transaction():
                return _only_live(live, there)
        with live.transaction(), copy.transaction():  # a savepoint of the one moment, which a failure must not end
            return _compare_rows(live, copy, second, there, back.facts)
    except TransientError:
        raise
    except KeepwellError as error:
        return None, Finding(
            name=name,
            verdict=Verdict.UNKNOWN,
            message=f"cannot be compared: {error.message}",
            hint="The role must be able to read every table: GRANT pg_read_all_data TO it.",
        )


def _only_live(live: psycopg.Connection, table: TableFacts) -> tuple[int, Finding]:
    rows = fingerprint_table(live, table.schema, table.name, [], table.condition).rows
    return rows, Finding(
        name=table.qualified,
        verdict=Verdict.ALERT if rows else Verdict.WARN,
        message=f"is not in the dump; live it holds {rows:,} rows",
        hint="Made after the dump? If not, the dump leaves it out, and a restore would lose it.",
    )


def _compare_rows(
    live: psycopg.Connection,
    copy: psycopg.Connection,
    second: ThreadPoolExecutor,
    there: TableFacts,
    back: TableFacts,
) -> tuple[int, Finding]:
    columns = [column for column in back.columns if column in there.columns]
    place = (there.schema, there.name)
    other = second.submit(fingerprint_table, copy, *place, columns, back.condition)
    found = fingerprint_table(live, *place, columns, there.condition)
    restored = other.result()
    apart = None
    if restored != found and max(restored.rows, found.rows) <= _MOST_ROWS_APART and columns:
        apart = _find_apart(live, copy, there, columns)
    finding = explain(there.qualified, restored, found, apart)
    if set(there.columns) != set(back.columns):
        differing = ", ".join(sorted(set(there.columns) ^ set(back.columns)))
        finding = Finding(
            name=there.qualified,
            verdict=worst([Verdict.WARN, finding.verdict]),
            message="; ".join(
                filter(None, (f"its columns changed ({differing}); compared by the others", finding.message))
            ),
            hint=finding.hint or "The schema moved on since the dump.",
        )
    return found.rows, finding


def _find_apart(
    live: psycopg.Connection, copy: psycopg.Connection, table: TableFacts, columns: Sequence[str]
) -> Apart | None:
    """Both sides row by row, in the order of their keys' hashes, so that neither is ever held in memory."""
    key = _primary_key(live, table)
    if not key or not set(key) <= set(columns) or key != _primary_key(copy, table):
        return None
    ours, theirs = (_hashed_rows(connection, table, key, columns) for connection in (copy, live))
    only_live = only_restored = changed = 0
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            only_restored += 1
            one = next(ours, None)
        elif one is None or other[0] < one[0]:
            only_live += 1
            other = next(theirs, None)
        else:
            changed += one[1] != other[1]
            one, other = next(ours, None), next(theirs, None)
    return Apart(only_live, only_restored, changed)


def _primary_key(connection: psycopg.Connection, table: TableFacts) -> list[str]:
    with translated(f"reading the primary key of {table.qualified}"):
        rows = connection.execute(
            """
            SELECT a.attname::text
            FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
            WHERE i.indisprimary AND n.nspname = %s AND c.relname = %s
            ORDER BY pg_catalog.array_position(i.indkey, a.attnum)
            """,
            (table.schema, table.name),
        ).fetchall()
    return [row[0] for row in rows]


def _hashed_rows(
    connection: psycopg.Connection, table: TableFacts, key: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Hashes of each row's key and contents, in their order."""
    hashes = [
        sql.SQL('pg_catalog.hashtextextended(ROW({})::text COLLATE "C", 0)').format(
            sql.SQL(", ").join(map(sql.Identifier, names))
        )
        for names in (key, columns)
    ]
    query = sql.SQL("SELECT {} AS k, {} AS c FROM ONLY {} ORDER BY k, c").format(
        *hashes, sql.Identifier(table.schema, table.name)
    )
    with translated(f"comparing {table.qualified}"), connection.cursor("keepwell_rows") as cursor:
        cursor.itersize = _BATCH_ROWS
        cursor.execute(query)
        yield from cursor


def _named(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings that say which table they mean."""
    return tuple(
        finding.model_copy(update={"message": f"{finding.name}: {re.sub(r'[.]$', '', finding.message)}."})
        for finding in findings
    )
