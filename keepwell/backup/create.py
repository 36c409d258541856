"""Write one backup set: guide "Backup & Recovery", items BK-1 and DB-6.

The order is the safety: lock, snapshot, dump, count and hash in the same snapshot, store, and the manifest last.
Nothing here calls the set good; only a proof does (`keepwell.backup.verify`).
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from keepwell.backup import layout, manifest
from keepwell.backup.companions import Companions, require_companions, store_companions
from keepwell.backup.companions_page import render_companions_page
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.platform_copy import render_without_secrets, without_login
from keepwell.backup.preflight import Readiness, require_ready
from keepwell.backup.restore import sweep_restores, temporary_prefix
from keepwell.backup.restore_page import FolderPlace, Place, render_restore_page
from keepwell.backup.restored_schemas import sweep_schemas
from keepwell.backup.spool import open_spool, sweep_spools
from keepwell.backup.store_databases import StoredDatabase, store_databases
from keepwell.backup.sweep import require_unswept, sweep_unfinished
from keepwell.backup.transfer import send
from keepwell.errors import VerificationFailed
from keepwell.objectstore.bucket import folder_of
from keepwell.objectstore.capabilities import require_keeping
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres import archive
from keepwell.progress import Progress
from keepwell.sealing import require_able_to_seal
from keepwell.settings import BucketSettings, Platform

# A few connections hide the store's latency without flooding it, and bound what waits in memory.
_UPLOADS = 4


def create_backup(platform: Platform, store: Store, progress: Progress) -> Manifest:
    """Dump a platform's databases and store them; the caller holds the platform for a backup.

    1. Look whether the store keeps what is asked of it, sweep what dead runs left.
    2. Look whether this run could finish.
    3. Mark the set as unfinished.
    4. For each database: lock, then take the snapshot; dump it into the store, count and hash what it shows; let go.
    5. Store the uploaded files that the store does not have, and the keys of Redis.
    6. Store what makes it readable, then the manifest, then take the mark away.

    Returns:
        The manifest as it was read back from the store.

    Raises:
        PreconditionFailed: The preflight said no; nothing was stored.
        TransientError: A lock, the server or the store was not to be had; the next run sweeps.
        CommandFailed: pg_dump failed.
    """
    require_keeping(store)
    sweep_spools(platform)
    sweep_unfinished(store)
    sweep_restores(platform)
    sweep_schemas(platform, temporary_prefix(platform))
    require_able_to_seal(platform.sealing, store.seal)
    ready = require_ready(platform, progress)
    require_companions(platform)
    backup_id = manifest.new_backup_id(ready.main.now_at)
    mark = secrets.token_bytes(16)
    store.put_bytes(layout.unfinished_key(backup_id), mark)
    with open_spool(platform) as work:
        written = _write(platform, store, backup_id, ready=ready.moved_to(work), work=work, progress=progress)
    require_unswept(store, backup_id, mark)
    store.put_signed(layout.manifest_key(backup_id), written.to_json())
    read_back = Manifest.from_json(store.get_signed(layout.manifest_key(backup_id)))
    if read_back != written:
        raise VerificationFailed(
            f"The manifest of {backup_id} reads back differently from what was written.", hint="Look at the store."
        )
    store.delete([layout.unfinished_key(backup_id)])
    return read_back


def _write(
    platform: Platform, store: Store, backup_id: str, *, ready: Readiness, work: Path, progress: Progress
) -> Manifest:
    """Everything of a set but its manifest."""
    started = time.monotonic()
    with Uploads(_UPLOADS) as uploads:
        stored = store_databases(platform, store, uploads, backup_id, client=ready.client, work=work, progress=progress)
        # After the snapshots: no table is locked meanwhile, and whatever file its rows speak of was there by then.
        beside = store_companions(platform, store, uploads, backup_id, progress)
        _write_globals(platform, ready, passwords=stored[0].role_passwords, work=work)
        _write_restore_page(platform, store, backup_id, ready=ready, stored=stored, beside=beside, work=work)
        last = [_store_file(store, uploads, backup_id, work, name) for name in _name_last(stored)]
    dump_seconds = sum(one.dump_seconds for one in stored)
    fingerprint_seconds = sum(one.fingerprint_seconds for one in stored)
    total_seconds = time.monotonic() - started
    return Manifest(
        backup_id=backup_id,
        platform=platform.name,
        finished_at=datetime.now(UTC),
        databases=tuple(one.document for one in stored),
        tools=manifest.Tools(
            keepwell=version("keepwell"),
            pg_dump=".".join(map(str, ready.client.version)),
            archive_major=ready.client.major,
        ),
        role_passwords=stored[0].role_passwords,
        parts=(*(part for one in stored for part in one.parts), *beside.parts, *last),
        uploads=beside.uploads,
        cache=beside.cache,
        sealed_for=tuple(map(str, store.seal.recipients)),
        blocked_others_seconds=max(one.blocked_others_seconds for one in stored),
        seconds=manifest.Seconds(
            dump=dump_seconds,
            fingerprint=fingerprint_seconds,
            upload=max(total_seconds - dump_seconds - fingerprint_seconds - beside.seconds, 0),
            total=total_seconds,
        ),
    )


def _name_last(stored: Sequence[StoredDatabase]) -> Iterator[str]:
    """What makes the rest of a set readable goes last: the archives' tables of contents at the very end."""
    yield layout.GLOBALS
    yield from (one.document.schema_file for one in stored)
    yield layout.PLATFORM_FILE
    yield layout.RESTORE_PAGE
    yield from (one.document.folder + archive.CONTENTS_FILE for one in stored)


def _write_globals(platform: Platform, ready: Readiness, *, passwords: bool, work: Path) -> None:
    """Roles, as a file."""
    archive.run_tool(
        archive.build_globals_command(ready.client, platform.database, work / layout.GLOBALS, passwords=passwords)
    )


def _write_restore_page(
    platform: Platform,
    store: Store,
    backup_id: str,
    *,
    ready: Readiness,
    stored: Sequence[StoredDatabase],
    beside: Companions,
    work: Path,
) -> None:
    """What somebody needs who finds nothing but this set, as files."""
    (work / layout.PLATFORM_FILE).write_text(render_without_secrets(platform), encoding="utf-8")
    page = render_restore_page(
        backup_id=backup_id,
        platform=platform.name,
        databases=[one.document for one in stored],
        archive_major=ready.client.major,
        place=_place_in(platform, platform.bucket),
        second=_find_second(platform),
        sealed_for=tuple(map(str, store.seal.recipients)),
        signed=store.seal.signer is not None,
        role_passwords=stored[0].role_passwords,
        more=render_companions_page(beside.uploads, beside.cache, backup_id),
    )
    (work / layout.RESTORE_PAGE).write_text(page, encoding="utf-8")


def _find_second(platform: Platform) -> Place | FolderPlace | None:
    """Where the second destination is, if there is one."""
    if platform.second_folder is not None:
        return FolderPlace(platform.second_folder.directory, platform.name)
    return _place_in(platform, platform.second_bucket) if platform.second_bucket is not None else None


def _place_in(platform: Platform, bucket: BucketSettings) -> Place:
    endpoint_url = without_login(bucket.endpoint_url or "") or None
    return Place(endpoint_url, bucket.region, f"{bucket.name}/{folder_of(platform.name, bucket)}".rstrip("/"))


def _store_file(store: Store, uploads: Uploads, backup_id: str, work: Path, name: str) -> Part:
    """Store one small file as it is, so that stock tools read it once it is opened; the page on that, without a key."""
    sealed = name != layout.RESTORE_PAGE
    with (work / name).open("rb") as file:
        return send(
            store, uploads, layout.set_folder(backup_id), name, file, level=None, taken=_uncounted, sealed=sealed
        )


def _uncounted(size_bytes: int) -> None:
    """Too little to show."""
