"""The databases of one set, one after the other: each locked, dumped, counted and hashed at a snapshot of its own.

PostgreSQL has no snapshot across databases, so each document says of which moment its own is.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from keepwell.backup import layout
from keepwell.backup.database import Database
from keepwell.backup.describing import describe, describe_tables
from keepwell.backup.dumping import DatabaseDump
from keepwell.backup.hashing import fingerprint_all
from keepwell.backup.manifest import Part
from keepwell.backup.schema import digest_schema, write_schema
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres import archive
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.blocking import watched_blocking
from keepwell.postgres.snapshot import shared_snapshot
from keepwell.progress import Progress, Step
from keepwell.settings import DatabaseSettings, Platform


@dataclass(frozen=True)
class StoredDatabase:
    """One database in the store; its table of contents and its schema's lines still lie in the run's folder.

    Attributes:
        document: What the manifest says of it.
        parts: Its streams.
        role_passwords: Whether we may read the server's password hashes.
        dump_seconds: From the first lock on, until the last byte was sent off.
        fingerprint_seconds: Of counting and hashing.
        blocked_others_seconds: Longest that somebody waited for a lock behind it.
    """

    document: Database
    parts: tuple[Part, ...]
    role_passwords: bool
    dump_seconds: float
    fingerprint_seconds: float
    blocked_others_seconds: float


def store_databases(
    platform: Platform,
    store: Store,
    uploads: Uploads,
    backup_id: str,
    *,
    client: Binaries,
    work: Path,
    progress: Progress,
) -> tuple[StoredDatabase, ...]:
    """Dump a platform's databases into a set that is being written; the caller holds the platform for a backup.

    Args:
        platform: Whose databases, the main one first.
        store: Where the set lies.
        uploads: Sends what is dumped.
        backup_id: Of the set.
        client: Whose pg_dump.
        work: Folder of this run.
        progress: Told how far it is.

    Raises:
        KeepwellError: One could not be dumped whole; without each of them there is no set.
    """
    stored = []
    for number, name in enumerate(platform.database.names, start=1):
        shown = progress if number == 1 else _naming(progress, name)
        one = _OneDatabase(platform, platform.database.of(name), store, uploads, backup_id, number, client, shown)
        stored.append(one.store_at_snapshot(work))
    return tuple(stored)


@dataclass(frozen=True)
class _OneDatabase:
    """What taking one database into a set needs."""

    platform: Platform
    database: DatabaseSettings
    store: Store
    uploads: Uploads
    backup_id: str
    number: int
    client: Binaries
    progress: Progress

    def store_at_snapshot(self, work: Path) -> StoredDatabase:
        """Lock, then take the snapshot; dump it into the store, count and hash what it shows; let go of it."""
        started = time.monotonic()
        settings, folder = self.platform.backup, layout.database_folder(self.number)
        self.progress(Step("locking tables"))
        with (
            watched_blocking(self.database, limit_seconds=settings.blocking_limit_seconds) as blocking,
            shared_snapshot(self.database, lock_wait_seconds=settings.lock_wait_seconds) as snapshot,
        ):
            described = describe(snapshot)
            dump = DatabaseDump(
                platform=self.platform,
                database=self.database,
                store=self.store,
                uploads=self.uploads,
                set_folder=layout.set_folder(self.backup_id),
                folder=folder,
                client=self.client,
                encoding=described.source.encoding,
                snapshot=snapshot,
                blocking=blocking,
                progress=self.progress,
            )
            dumped = dump.run(work)
            dump_seconds = time.monotonic() - started
            prints = fingerprint_all(
                self.database,
                settings,
                snapshot,
                self.progress,
                standby=described.source.standby,
                watch=blocking.require_patience,
            )
        write_schema(work / layout.schema_file(self.number), described.schema)
        document = Database(
            folder=folder,
            schema_file=layout.schema_file(self.number),
            snapshot_at=snapshot.taken_at,
            source=described.source,
            tables=describe_tables(snapshot, prints, self._parts_by_table(work / folder, dumped.parts)),
            sequences=described.sequences,
            large_objects=prints.large_objects,
            schema_digest=digest_schema(described.schema),
            spooled_bytes=dumped.spooled_bytes,
        )
        return StoredDatabase(
            document,
            dumped.parts,
            described.role_passwords,
            dump_seconds,
            prints.seconds,
            blocking.longest_seconds,
        )

    def _parts_by_table(self, folder: Path, parts: Iterable[Part]) -> dict[int, str]:
        """Which part holds which table's rows, by the archive's own contents."""
        stored = {Path(part.content_name).name: part.name for part in parts}
        entries = archive.list_data_entries(self.client, folder)
        return {entry.table_oid: stored[entry.file_name] for entry in entries if entry.file_name in stored}


def _naming(progress: Progress, name: str) -> Progress:
    """Progress that says which database it is of."""
    return lambda step: progress(replace(step, stage=f"{name}: {step.stage}"))
