"""Write one backup set: guide "Backup & Recovery", items BK-1 and DB-6.

The order is the safety: lock, snapshot, dump, count and hash in the same snapshot, store, and the manifest last.
Nothing here calls the set good; only a proof does (`keepwell.backup.verify`).
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from keepwell.backup import layout, manifest
from keepwell.backup.companions import Companions, require_companions, store_companions
from keepwell.backup.companions_page import render_companions_page
from keepwell.backup.dumping import DatabaseDump
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.platform_copy import render_without_secrets, without_login
from keepwell.backup.preflight import Readiness, require_ready
from keepwell.backup.restore import sweep_restores
from keepwell.backup.restore_page import Place, render_restore_page
from keepwell.backup.schema import digest_schema, write_schema
from keepwell.backup.spool import open_spool, sweep_spools
from keepwell.backup.sweep import sweep_unfinished
from keepwell.backup.transfer import send
from keepwell.errors import KeepwellError, ServiceUnavailable, TransientError, VerificationFailed
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres import archive, facts
from keepwell.postgres.blocking import watched_blocking
from keepwell.postgres.connection import translated
from keepwell.postgres.facts import TableFacts
from keepwell.postgres.fingerprint import Fingerprint, fingerprint_large_objects, fingerprint_table
from keepwell.postgres.snapshot import Snapshot, joined_snapshot, shared_snapshot
from keepwell.progress import Progress, Step
from keepwell.sealing import require_able_to_seal
from keepwell.settings import Platform

# A few connections hide the store's latency without flooding it, and bound what waits in memory.
_UPLOADS = 4
# What makes the rest of a set readable goes last: the archive's table of contents at the very end.
_LAST = (
    layout.GLOBALS,
    layout.SCHEMA,
    layout.PLATFORM_FILE,
    layout.RESTORE_PAGE,
    layout.DATABASE + archive.CONTENTS_FILE,
)


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
    4. Lock, then take the snapshot; dump it into the store, count and hash what it shows; let go of it.
    5. Store the uploaded files that the store does not have, and the keys of Redis.
    6. Store what makes it readable, then the manifest, then take the mark away.

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
    require_able_to_seal(platform.sealing, store.seal)
    ready = require_ready(platform, progress)
    require_companions(platform)
    backup_id = manifest.new_backup_id(ready.database.now_at)
    mark = secrets.token_bytes(16)
    store.put_bytes(layout.unfinished_key(backup_id), mark)
    with open_spool(platform) as work:
        written = _write(platform, store, backup_id, ready=ready.moved_to(work), work=work, progress=progress)
    _require_unswept(store, backup_id, mark)
    store.put_signed(layout.manifest_key(backup_id), written.to_json())
    read_back = Manifest.from_json(store.get_signed(layout.manifest_key(backup_id)))
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
    platform: Platform, store: Store, backup_id: str, *, ready: Readiness, work: Path, progress: Progress
) -> Manifest:
    """Everything of a set but its manifest."""
    started = time.monotonic()
    settings = platform.backup
    with Uploads(_UPLOADS) as uploads:
        progress(Step("locking tables"))
        with (
            watched_blocking(platform.database, limit_seconds=settings.blocking_limit_seconds) as blocking,
            shared_snapshot(platform.database, lock_wait_seconds=settings.lock_wait_seconds) as snapshot,
        ):
            described = _describe(snapshot)
            dump = DatabaseDump(platform, store, uploads, backup_id, ready, snapshot, blocking, progress)
            dumped = dump.run(work)
            dump_seconds = time.monotonic() - started
            prints = _fingerprint_all(
                platform, snapshot, progress, standby=described.source.standby, watch=blocking.require_patience
            )
        # After the snapshot: no table is locked meanwhile, and whatever file its rows speak of was there by then.
        beside = store_companions(platform, store, uploads, backup_id, progress)
        _write_globals(platform, ready, described, work)
        _write_restore_page(platform, store, backup_id, ready=ready, described=described, beside=beside, work=work)
        last = [_store_file(store, uploads, backup_id, work, name) for name in _LAST]
    parts = (*dumped.parts, *beside.parts, *last)
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
        tables=_describe_tables(snapshot, prints, _parts_by_table(ready, work, parts)),
        sequences=described.sequences,
        large_objects=prints.large_objects,
        role_passwords=described.role_passwords,
        schema_digest=digest_schema(described.schema),
        parts=parts,
        uploads=beside.uploads,
        cache=beside.cache,
        sealed_for=tuple(map(str, store.seal.recipients)),
        spooled_bytes=dumped.spooled_bytes,
        blocked_others_seconds=blocking.longest_seconds,
        seconds=manifest.Seconds(
            dump=dump_seconds,
            fingerprint=prints.seconds,
            upload=max(time.monotonic() - started - dump_seconds - prints.seconds - beside.seconds, 0),
            total=time.monotonic() - started,
        ),
    )


def _write_globals(platform: Platform, ready: Readiness, described: _Described, work: Path) -> None:
    """Roles and schema lines, as files."""
    archive.run_tool(
        archive.build_globals_command(
            ready.client, platform.database, work / layout.GLOBALS, passwords=described.role_passwords
        )
    )
    write_schema(work / layout.SCHEMA, described.schema)


def _write_restore_page(
    platform: Platform,
    store: Store,
    backup_id: str,
    *,
    ready: Readiness,
    described: _Described,
    beside: Companions,
    work: Path,
) -> None:
    """What somebody needs who finds nothing but this set, as files."""
    (work / layout.PLATFORM_FILE).write_text(render_without_secrets(platform), encoding="utf-8")
    page = render_restore_page(
        backup_id=backup_id,
        platform=platform.name,
        source=described.source,
        archive_major=ready.client.major,
        place=Place(
            without_login(platform.bucket.endpoint_url or "") or None,
            platform.bucket.region,
            f"{store.bucket}/{store.key('').rstrip('/')}",
        ),
        sealed_for=tuple(map(str, store.seal.recipients)),
        signed=store.seal.signer is not None,
        role_passwords=described.role_passwords,
        more=render_companions_page(beside.uploads, beside.cache, backup_id),
    )
    (work / layout.RESTORE_PAGE).write_text(page, encoding="utf-8")


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


def _describe_tables(snapshot: Snapshot, prints: _Fingerprints, parts: Mapping[int, str]) -> tuple[manifest.Table, ...]:
    return tuple(
        _describe_table(table, prints.tables.get(table.oid), parts.get(table.oid))
        for table in snapshot.tables
        if table.kind != "S"
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


def _fingerprint_all(
    platform: Platform, snapshot: Snapshot, progress: Progress, *, standby: bool, watch: Callable[[], None]
) -> _Fingerprints:
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
                watch()
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


def _store_file(store: Store, uploads: Uploads, backup_id: str, work: Path, name: str) -> Part:
    """Store one small file as it is, so that stock tools read it once it is opened; the page on that, without a key."""
    sealed = name != layout.RESTORE_PAGE
    with (work / name).open("rb") as file:
        return send(
            store, uploads, layout.set_folder(backup_id), name, file, level=None, taken=_uncounted, sealed=sealed
        )


def _uncounted(size_bytes: int) -> None:
    """Too little to show."""


def _parts_by_table(ready: Readiness, work: Path, parts: Sequence[Part]) -> dict[int, str]:
    """Which part holds which table's rows, by the archive's own contents."""
    stored = {part.content_name: part.name for part in parts}
    entries = archive.list_data_entries(ready.client, work / layout.DATABASE)
    return {
        entry.table_oid: stored[f"{layout.DATABASE}{entry.file_name}"]
        for entry in entries
        if f"{layout.DATABASE}{entry.file_name}" in stored
    }
