"""One frozen view of the source that the dump and every hash share.

Stock pg_dump takes its snapshot first and its locks later: a TRUNCATE in between is dumped as an empty table, and
nothing complains. So here all tables are locked first, in a transaction that has no snapshot yet; only then is the
snapshot taken and exported. Source: PostgreSQL manual, "Explicit Locking" and "Snapshot Synchronization Functions".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from keepwell.errors import LockTimeout
from keepwell.postgres import facts
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

_ATTEMPTS = 5
# LOCK TABLE takes any number of tables; a batch bounds the length of one statement.
_LOCK_BATCH = 500


@dataclass(frozen=True)
class Snapshot:
    """An exported snapshot, valid while its coordinator's transaction stays open.

    Attributes:
        snapshot_id: For `pg_dump --snapshot` and `SET TRANSACTION SNAPSHOT`.
        taken_at: The server's clock when all locks were held: whatever was committed by then is in it.
        tables: What it shows, every one of them locked against changes of its definition and against TRUNCATE.
        coordinator: The session that holds it.
    """

    snapshot_id: str
    taken_at: datetime
    tables: tuple[facts.TableFacts, ...]
    coordinator: psycopg.Connection


@contextmanager
def shared_snapshot(database: DatabaseSettings, *, lock_wait_seconds: int) -> Iterator[Snapshot]:
    """Lock, then look; hold both until the block ends.

    Args:
        database: The source.
        lock_wait_seconds: How long to queue for one table before giving up.

    Raises:
        LockTimeout: A table was not to be had in time, or the schema kept changing.
        AccessDenied: A table may not be read.
    """
    name = "keepwell backup coordinator"
    with connect(database, autocommit=False, application_name=name, lock_wait_seconds=lock_wait_seconds) as coordinator:
        for _ in range(_ATTEMPTS):
            snapshot = _try_snapshot(database, coordinator, lock_wait_seconds)
            if snapshot is not None:
                yield snapshot
                coordinator.rollback()
                return
            coordinator.rollback()
    raise LockTimeout(
        f"Tables were created or dropped during each of {_ATTEMPTS} attempts to take a snapshot.",
        hint="A migration may be at work: try again when it is done.",
    )


def _try_snapshot(
    database: DatabaseSettings, coordinator: psycopg.Connection, lock_wait_seconds: int
) -> Snapshot | None:
    """None when the tables that were locked are not the tables that the snapshot shows."""
    with connect(database, lock_wait_seconds=lock_wait_seconds) as lister:
        expected = _lockable(facts.read_tables(lister))
    with translated("locking the tables for a snapshot"):
        # The first statement that needs a snapshot takes it; SET and LOCK TABLE need none.
        coordinator.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for batch in _batches(expected):
            names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in batch)
            try:
                coordinator.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return None
        # The transaction began before the locks were waited for; this statement's time is a moment before the
        # snapshot, so what was committed by then is in it.
        row = coordinator.execute("SELECT pg_catalog.pg_export_snapshot(), pg_catalog.statement_timestamp()").fetchone()
    tables = tuple(facts.read_tables(coordinator))
    if row is None or _identities(_lockable(tables)) != _identities(expected):
        return None
    return Snapshot(row[0], row[1], tables, coordinator)


@contextmanager
def joined_snapshot(
    database: DatabaseSettings, snapshot_id: str, *, lock_wait_seconds: int
) -> Iterator[psycopg.Connection]:
    """Another session that sees exactly what the coordinator sees, with canonical output."""
    name = "keepwell backup hashing"
    with connect(database, autocommit=False, application_name=name, lock_wait_seconds=lock_wait_seconds) as connection:
        with translated("joining the snapshot"):
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_id)))
            # As many sessions as were asked for, and not a worker more, take the source's processors.
            connection.execute("SET max_parallel_workers_per_gather = 0")
        yield connection
        connection.rollback()


def _lockable(tables: Sequence[facts.TableFacts]) -> list[facts.TableFacts]:
    """Tables with rows, and partitioned parents; what pg_dump itself would lock, as far as LOCK TABLE goes."""
    return [table for table in tables if table.kind in ("r", "p") and table.readable]


def _identities(tables: Sequence[facts.TableFacts]) -> set[tuple[int, str, str]]:
    return {(table.oid, table.schema, table.name) for table in tables}


def _batches(tables: Sequence[facts.TableFacts]) -> Iterator[Sequence[facts.TableFacts]]:
    for start in range(0, len(tables), _LOCK_BATCH):
        yield tables[start : start + _LOCK_BATCH]
