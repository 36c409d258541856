"""Looks at what a restore left on the scratch server: its tables with their rows, and whether it is sound."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from keepwell.dumps.content import Content
from keepwell.dumps.restoring import Scratch
from keepwell.errors import KeepwellError, TransientError
from keepwell.postgres import facts, soundness
from keepwell.postgres.connection import connect_to
from keepwell.postgres.facts import TableFacts
from keepwell.postgres.fingerprint import count_rows
from keepwell.postgres.server import database_on
from keepwell.progress import Progress, Step
from keepwell.verdict import Finding, Verdict

_PARTITIONED, _TABLE, _VIEW = "p", "r", "m"


@dataclass(frozen=True)
class RestoredTable:
    """One table, or materialized view, as it came back.

    Attributes:
        database: On the scratch server.
        facts: From the catalogue.
        rows: Its own; of a partitioned table, those of its partitions. None where it cannot be read.
        fault: Why it cannot be read; empty when it can.
    """

    database: str
    facts: TableFacts
    rows: int | None
    fault: str = ""


@dataclass(frozen=True)
class RestoredDatabase:
    """One database as it came back."""

    name: str
    tables: tuple[RestoredTable, ...]
    extensions: frozenset[str]
    size_bytes: int


def read_databases(scratch: Scratch, names: Sequence[str], progress: Progress) -> tuple[RestoredDatabase, ...]:
    """Count every table of the databases that a dump was restored into; those that do not exist are left out.

    Args:
        scratch: The server.
        names: Of its databases.
        progress: Told how many tables are done.

    Raises:
        KeepwellError: The server failed.
    """
    with connect_to(scratch.conninfo) as connection:
        existing = {row[0] for row in connection.execute("SELECT datname::text FROM pg_catalog.pg_database").fetchall()}
    return tuple(_read_database(scratch, name, progress) for name in names if name in existing)


def _read_database(scratch: Scratch, name: str, progress: Progress) -> RestoredDatabase:
    conninfo = quiet_conninfo(scratch, name)
    with connect_to(conninfo) as connection:
        tables = [table for table in facts.read_tables(connection) if table.kind in (_PARTITIONED, _TABLE, _VIEW)]
        extensions = frozenset(extension for extension, _ in facts.read_extensions(connection))
        size_bytes = facts.read_database(connection).size_bytes
    waiting: SimpleQueue[TableFacts] = SimpleQueue()
    for table in sorted(tables, key=lambda table: -table.data_bytes):
        waiting.put(table)

    def work() -> list[RestoredTable]:
        counted: list[RestoredTable] = []
        with connect_to(conninfo) as connection:
            while True:
                try:
                    table = waiting.get_nowait()
                except Empty:
                    return counted
                progress(Step("counting rows", len(tables) - waiting.qsize(), len(tables), "tables"))
                if not table.populated:
                    counted.append(RestoredTable(name, table, None))
                    continue
                try:
                    rows = count_rows(
                        connection,
                        table.schema,
                        table.name,
                        table.condition,
                        with_children=table.kind == _PARTITIONED,
                    )
                except TransientError:
                    raise
                except KeepwellError as error:
                    counted.append(RestoredTable(name, table, None, error.message))
                else:
                    counted.append(RestoredTable(name, table, rows))

    with ThreadPoolExecutor(scratch.jobs, "counting") as workers:
        done = [workers.submit(work) for _ in range(scratch.jobs)]
        found = [table for one in done for table in one.result()]
    found.sort(key=lambda table: (table.facts.schema, table.facts.name))
    return RestoredDatabase(name, tuple(found), extensions, size_bytes)


def quiet_conninfo(scratch: Scratch, database: str) -> str:
    """How to look at a restored database without setting off what it does at a login."""
    return database_on(scratch.conninfo, database, major=scratch.binaries.major)


def check_sound(
    scratch: Scratch, databases: Sequence[RestoredDatabase], content: Content, progress: Progress
) -> Iterator[Finding]:
    """Check indexes against rows, sequences against columns, constraints, and that views were filled.

    Raises:
        KeepwellError: The server failed.
    """
    for number, database in enumerate(databases):
        progress(Step("checking indexes", number, len(databases), "databases"))
        conninfo = quiet_conninfo(scratch, database.name)
        hint = "A fresh restore built these: look at the scratch machine's disk and memory."
        yield from soundness.check_indexes(scratch.binaries, conninfo, jobs=scratch.jobs, hint=hint)
        with connect_to(conninfo) as connection:
            for sequence in facts.read_sequences(connection):
                try:
                    yield from soundness.check_owned_column(connection, sequence)
                except TransientError:
                    raise
                except KeepwellError as error:
                    yield Finding(
                        name=f"{sequence.schema}.{sequence.name}",
                        verdict=Verdict.ALERT,
                        message=f"The column of the sequence cannot be read: {error.message}",
                    )
            yield from soundness.check_constraints(connection)
        yield from _check_views(database, content)


def _check_views(database: RestoredDatabase, content: Content) -> Iterator[Finding]:
    filled = {(schema, name) for _, schema, name in content.refreshed}
    for table in database.tables:
        view = table.facts
        if view.kind == _VIEW and not view.populated and (view.schema, view.name) in filled:
            yield Finding(
                name=view.qualified,
                verdict=Verdict.ALERT,
                message=f"The materialized view {view.qualified} came back empty, although the dump fills it.",
                hint="Look for an error of REFRESH MATERIALIZED VIEW above.",
            )
