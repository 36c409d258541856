"""Write one backup set: guide "Backup & Recovery", items BK-1 and DB-6.

The order is the safety: lock, snapshot, dump, count and hash in the same snapshot, store, and the manifest last.
Nothing here calls the set good; only a proof does (`keepwell.backup.verify`).
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from keepwell.backup import layout, manifest
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.preflight import Readiness, require_ready
from keepwell.backup.progress import Progress, Step
from keepwell.backup.restore import sweep_restores
from keepwell.backup.schema import digest_schema, write_schema
from keepwell.backup.spool import open_spool, sweep_spools
from keepwell.backup.sweep import sweep_unfinished
from keepwell.backup.transfer import content_name, upload
from keepwell.errors import KeepwellError, ServiceUnavailable, TransientError, VerificationFailed
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.postgres import archive, facts
from keepwell.postgres.connection import client_encoding, translated
from keepwell.postgres.facts import TableFacts
from keepwell.postgres.fingerprint import Fingerprint, fingerprint_large_objects, fingerprint_table
from keepwell.postgres.snapshot import Snapshot, joined_snapshot, shared_snapshot
from keepwell.settings import Platform

# Most files of a set are small; a few connections hide the store's latency without flooding it.
_UPLOADS = 4


@dataclass(frozen=True)
class _Described:
    """The source's catalogue as its snapshot shows it."""

    source: manifest.Source
    sequences: tuple[manifest.Sequence, ...]
    schema: tuple[facts.SchemaLine, ...]
    role_passwords: bool


@dataclass(frozen=True)
class _Fingerprints:
    """What the snapshot's rows are, by the table's oid."""

    tables: Mapping[int, Fingerprint]
    large_objects: manifest.LargeObjects
    seconds: float


def create_backup(platform: Platform, store: Store, progress: Progress) -> Manifest:
    """Dump a platform's database and store it; the caller holds the platform for a backup.

    1. Sweep what dead runs left.
    2. Look whether this run could finish.
    3. Mark the set as unfinished.
    4. Lock, then take the snapshot; dump, count and hash what it shows.
    5. Store every file, then the manifest, then take the mark away.

    Returns:
        The manifest as it was read back from the store.

    Raises:
        PreconditionFailed: The preflight said no; nothing was stored.
        TransientError: A lock, the server or the store was not to be had; the next run sweeps.
        CommandFailed: pg_dump failed.
    """
    sweep_spools(platform)
    sweep_unfinished(store)
    sweep_restores(platform)
    ready = require_ready(platform, progress)
    backup_id = manifest.new_backup_id(ready.database.now_at)
    mark = secrets.token_bytes(16)
    store.put_bytes(layout.unfinished_key(backup_id), mark)
    with open_spool(platform) as spool:
        written = _write(platform, store, backup_id, ready=ready, spool=spool, progress=progress)
    _require_unswept(store, backup_id, mark)
    store.put_bytes(layout.manifest_key(backup_id), written.to_json())
    read_back = Manifest.from_json(store.get_bytes(layout.manifest_key(backup_id)))
    if read_back != written:
        raise VerificationFailed(
            f"The manifest of {backup_id} reads back differently from what was written.", hint="Look at the store."
        )
    store.delete([layout.unfinished_key(backup_id)])
    return read_back


def _require_unswept(store: Store, backup_id: str, mark: bytes) -> None:
    """Look whether our mark still stands: a run whose lock was lost may have been swept as if it were dead.

    Raises:
        ServiceUnavailable: Somebody swept this set while it was being written.
    """
    try:
        unswept = store.get_bytes(layout.unfinished_key(backup_id)) == mark
    except ObjectMissing:
        unswept = False
    if not unswept:
        raise ServiceUnavailable(
            f"Another run took {backup_id} for dead and swept it.",
            hint="The interlock's session was lost on the way: look at the database's connections, then run it again.",
        )


def _write(
    platform: Platform, store: Store, backup_id: str, *, ready: Readiness, spool: Path, progress: Progress
) -> Manifest:
    """Everything of a set but its manifest."""
    started = time.monotonic()
    with ThreadPoolExecutor(1, "storing") as storing:
        progress(Step("locking tables"))
        with shared_snapshot(platform.database, lock_wait_seconds=platform.backup.lock_wait_seconds) as snapshot:
            described = _describe(snapshot)
            progress(Step("dumping"))
            _dump(platform, ready, snapshot, described, spool)
            dump_seconds = time.monotonic() - started
            # The source counts and hashes while the archive is compressed and sent: the snapshot is let go of as
            # soon as the source is done, however slow the store.
            stored: Future[list[Part]] = storing.submit(_store_all, platform, store, backup_id, spool, progress)
            prints = _fingerprint_all(platform, snapshot, progress, standby=described.source.standby)
        parts = stored.result()
    data_parts = _parts_by_table(ready, spool, parts)
    total_seconds = time.monotonic() - started
    return Manifest(
        backup_id=backup_id,
        platform=platform.name,
        snapshot_at=snapshot.taken_at,
        finished_at=datetime.now(UTC),
        source=described.source,
        tools=manifest.Tools(
            keepwell=version("keepwell"),
            pg_dump=".".join(map(str, ready.client.version)),
            archive_major=ready.client.major,
        ),
        tables=tuple(
            _describe_table(table, prints.tables.get(table.oid), data_parts.get(table.oid))
            for table in snapshot.tables
            if table.kind != "S"
        ),
        sequences=described.sequences,
        large_objects=prints.large_objects,
        role_passwords=described.role_passwords,
        schema_digest=digest_schema(described.schema),
        parts=tuple(parts),
        seconds=manifest.Seconds(
            dump=dump_seconds,
            fingerprint=prints.seconds,
            upload=max(total_seconds - dump_seconds, 0),
            total=total_seconds,
        ),
    )


def _dump(platform: Platform, ready: Readiness, snapshot: Snapshot, described: _Described, spool: Path) -> None:
    """Roles, schema lines and the database, as files of the spool."""
    database = platform.database
    archive.run_tool(
        archive.build_globals_command(
            ready.client, database, spool / layout.GLOBALS, passwords=described.role_passwords
        )
    )
    write_schema(spool / layout.SCHEMA, described.schema)
    archive.run_tool(
        archive.build_dump_command(
            ready.client,
            database,
            spool / layout.DATABASE,
            snapshot_id=snapshot.snapshot_id,
            encoding=client_encoding(described.source.encoding),
            jobs=platform.backup.jobs,
            lock_wait_seconds=platform.backup.lock_wait_seconds,
        )
    )


def _describe(snapshot: Snapshot) -> _Described:
    coordinator = snapshot.coordinator
    database = facts.read_database(coordinator)
    migrations = facts.read_migrations(coordinator)
    return _Described(
        source=manifest.Source(
            database=database.name,
            server_version=database.server_version,
            server_major=database.server_major,
            encoding=database.encoding,
            collate=database.collate,
            ctype=database.ctype,
            locale_provider=database.locale_provider,
            collation_version=database.collation_version,
            locale=database.locale,
            owner=database.owner,
            has_grants=database.has_grants,
            settings=tuple(database.settings),
            size_bytes=database.size_bytes,
            standby=database.standby,
            extensions=dict(facts.read_extensions(coordinator)),
            stale_collations=tuple(facts.read_stale_collations(coordinator)),
            tablespaces=dict(facts.read_tablespaces(coordinator)),
            roles=tuple(facts.read_roles_in_use(coordinator)),
            migration_head=migrations.head,
            unfinished_migrations=migrations.unfinished,
            undumped=(
                *(f"rows of {name}, a table of an extension" for name in facts.read_undumped_tables(coordinator)),
                *(f"subscription {name}" for name in facts.read_subscriptions(coordinator)),
            ),
        ),
        sequences=tuple(_describe_sequence(sequence) for sequence in facts.read_sequences(coordinator)),
        schema=tuple(facts.read_schema(coordinator)),
        role_passwords=facts.may_read_password_hashes(coordinator),
    )


def _describe_sequence(sequence: facts.SequenceFacts) -> manifest.Sequence:
    owner = (sequence.owner_schema, sequence.owner_table, sequence.owner_column)
    return manifest.Sequence(
        sequence_schema=sequence.schema,
        name=sequence.name,
        increment=sequence.increment,
        cycles=sequence.cycles,
        last_value=sequence.last_value,
        owner=owner if sequence.owner_table is not None else None,
    )


def _describe_table(table: TableFacts, found: Fingerprint | None, part: str | None) -> manifest.Table:
    kinds: Mapping[str, tuple[str, str | None]] = {
        "r": ("table", None),
        "p": ("partitioned", None),
        "m": ("materialized view", "its rows are computed anew by a restore"),
        "f": ("foreign table", "its rows live on another server and are not dumped"),
    }
    kind, unproven = kinds[table.kind]
    if table.kind == "r" and found is None:
        unproven = "it is unlogged, and so without rows on a standby"
    return manifest.Table(
        oid=table.oid,
        table_schema=table.schema,
        name=table.name,
        kind=kind,
        columns=tuple(table.columns),
        condition=table.condition,
        populated=table.populated,
        size_bytes=table.size_bytes,
        rows=found.rows if found else None,
        content_hash=found.content_hash if found else None,
        part=part,
        unproven=unproven,
    )


def _fingerprint_all(platform: Platform, snapshot: Snapshot, progress: Progress, *, standby: bool) -> _Fingerprints:
    """Count and hash all tables on several connections, the largest first."""
    started = time.monotonic()
    readable = [t for t in snapshot.tables if t.has_rows and not (standby and t.unlogged)]
    waiting = sorted(readable, key=lambda table: table.data_bytes)
    total, found, turn = len(waiting), {}, Lock()

    def work() -> dict[int, Fingerprint]:
        mine: dict[int, Fingerprint] = {}
        with joined_snapshot(
            platform.database, snapshot.snapshot_id, lock_wait_seconds=platform.backup.lock_wait_seconds
        ) as connection:
            while True:
                with turn:
                    if not waiting:
                        return mine
                    table, done = waiting.pop(), total - len(waiting)
                progress(Step("counting and hashing", done, total, "tables"))
                # Its locks go with the savepoint: a large schema would fill the server's lock table otherwise.
                with translated(f"hashing {table.qualified}"), connection.transaction(force_rollback=True):
                    mine[table.oid] = fingerprint_table(
                        connection, table.schema, table.name, table.columns, table.condition
                    )

    with ThreadPoolExecutor(platform.backup.jobs, "hashing") as workers:
        for result in [workers.submit(work) for _ in range(platform.backup.jobs)]:
            found.update(result.result())
    return _Fingerprints(found, _fingerprint_large_objects(snapshot), time.monotonic() - started)


def _fingerprint_large_objects(snapshot: Snapshot) -> manifest.LargeObjects:
    """Large objects, or why they cannot be hashed: too large for one value, or not readable."""
    try:
        found = fingerprint_large_objects(snapshot.coordinator)
    except TransientError:
        raise
    except KeepwellError as error:
        return manifest.LargeObjects(count=0, content_hash=None, unproven=error.message)
    return manifest.LargeObjects(count=found.rows, content_hash=found.content_hash)


def _store_all(platform: Platform, store: Store, backup_id: str, spool: Path, progress: Progress) -> list[Part]:
    """Store every file of the spool, the archive's contents last of the archive."""
    archive_files = sorted((spool / layout.DATABASE).iterdir(), key=lambda path: -path.stat().st_size)
    total_bytes = sum(path.stat().st_size for path in archive_files)
    sent_bytes, counting = 0, Lock()

    def count(size_bytes: int) -> None:
        nonlocal sent_bytes
        with counting:
            sent_bytes += size_bytes
            progress(Step("storing", sent_bytes, total_bytes, "bytes"))

    def send(path: Path) -> Part:
        plain = path.name == archive.CONTENTS_FILE or path.parent == spool
        name = path.name if path.parent == spool else f"{layout.DATABASE}{path.name}"
        level = None if plain else platform.backup.compression_level
        part = upload(store, layout.set_folder(backup_id), name, path, level=level, on_bytes=count)
        if not plain:
            path.unlink()  # stored: its space is free for whoever else needs it
        return part

    streams = [path for path in archive_files if path.name != archive.CONTENTS_FILE]
    with ThreadPoolExecutor(_UPLOADS, "uploading") as senders:
        parts = list(senders.map(send, streams))
    last = (spool / layout.GLOBALS, spool / layout.SCHEMA, spool / layout.DATABASE / archive.CONTENTS_FILE)
    return parts + [send(path) for path in last]


def _parts_by_table(ready: Readiness, spool: Path, parts: Sequence[Part]) -> dict[int, str]:
    """Which part holds which table's rows, by the archive's own contents."""
    stored = {content_name(part): part.name for part in parts}
    entries = archive.list_data_entries(ready.client, spool / layout.DATABASE)
    return {
        entry.table_oid: stored[f"{layout.DATABASE}{entry.file_name}"]
        for entry in entries
        if f"{layout.DATABASE}{entry.file_name}" in stored
    }
