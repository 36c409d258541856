"""Counting and hashing what a snapshot shows: several connections, the largest table first."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from keepwell.backup.database import LargeObjects
from keepwell.errors import KeepwellError, TransientError
from keepwell.postgres.connection import translated
from keepwell.postgres.fingerprint import Fingerprint, fingerprint_large_objects, fingerprint_table
from keepwell.postgres.snapshot import Snapshot, joined_snapshot
from keepwell.progress import Progress, Step
from keepwell.settings import BackupSettings, DatabaseSettings


@dataclass(frozen=True)
class Fingerprints:
    """What the snapshot's rows are, by the table's oid."""

    tables: Mapping[int, Fingerprint]
    large_objects: LargeObjects
    seconds: float


def fingerprint_all(
    database: DatabaseSettings,
    settings: BackupSettings,
    snapshot: Snapshot,
    progress: Progress,
    *,
    standby: bool,
    watch: Callable[[], None],
) -> Fingerprints:
    """Count and hash all tables.

    Args:
        database: The source.
        settings: How many connections, and how long they may wait for a table.
        snapshot: Which all of them join.
        progress: Told how far it is.
        standby: Whether the server is one, where unlogged tables cannot be read.
        watch: Called before each table; raises to end it.

    Raises:
        KeepwellError: The server refused, or went away.
    """
    started = time.monotonic()
    readable = [t for t in snapshot.tables if t.has_rows and not (standby and t.unlogged)]
    waiting = sorted(readable, key=lambda table: table.data_bytes)
    total, found, turn = len(waiting), {}, Lock()

    def work() -> dict[int, Fingerprint]:
        mine: dict[int, Fingerprint] = {}
        with joined_snapshot(
            database, snapshot.snapshot_id, lock_wait_seconds=settings.lock_wait_seconds
        ) as connection:
            while True:
                with turn:
                    if not waiting:
                        return mine
                    table, done = waiting.pop(), total - len(waiting)
                watch()
                progress(Step("counting and hashing", done, total, "tables"))
                # Its locks go with the savepoint: a large schema would fill the server's lock table otherwise.
                with translated(f"hashing {table.qualified}"), connection.transaction(force_rollback=True):
                    mine[table.oid] = fingerprint_table(
                        connection, table.schema, table.name, table.columns, table.condition
                    )

    with ThreadPoolExecutor(settings.jobs, "hashing") as workers:
        for result in [workers.submit(work) for _ in range(settings.jobs)]:
            found.update(result.result())
    return Fingerprints(found, _fingerprint_large_objects(snapshot), time.monotonic() - started)


def _fingerprint_large_objects(snapshot: Snapshot) -> LargeObjects:
    """Large objects, or why they cannot be hashed: too large for one value, or not readable."""
    try:
        found = fingerprint_large_objects(snapshot.coordinator)
    except TransientError:
        raise
    except KeepwellError as error:
        return LargeObjects(count=0, content_hash=None, unproven=error.message)
    return LargeObjects(count=found.rows, content_hash=found.content_hash)
