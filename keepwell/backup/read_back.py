"""The first three levels of a proof, which need no server: uploaded, readable, complete.

Everything is read from the store, never from what is still in memory. The manifest is compared with the store, and
the archive's own contents with both.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import zstandard

from keepwell.backup import layout
from keepwell.backup.manifest import Manifest, Part, Table
from keepwell.backup.progress import Progress, Step
from keepwell.backup.transfer import Received, content_name, download
from keepwell.errors import CommandFailed
from keepwell.objectstore.store import ChecksumMismatch, ObjectMissing, Store, StoredObject
from keepwell.postgres import archive
from keepwell.postgres.binaries import Binaries
from keepwell.verdict import Finding, Verdict

_DOWNLOADS = 4


@dataclass
class PartReadBack:
    """What reading one part back gave.

    Attributes:
        part: What the manifest says.
        received: What really came.
        check: Rows and terminator, for a table's stream.
        fault: Why it could not be read; empty when it could.
    """

    part: Part
    received: Received = field(default_factory=Received)
    check: archive.StreamCheck = field(default_factory=archive.StreamCheck)
    fault: str = ""


def check_uploaded(manifest: Manifest, stored: list[StoredObject]) -> Iterator[Finding]:
    """Compare the manifest with the store's listing of the set: nothing missing, nothing else, sizes as written.

    Args:
        manifest: Of the set.
        stored: Every object in the set's folder.
    """
    folder = layout.set_folder(manifest.backup_id)
    sizes = {entry.key.removeprefix(folder): entry.size_bytes for entry in stored}
    for part in manifest.parts:
        size_bytes = sizes.get(part.name)
        if size_bytes is None:
            yield _alert(part.name, f"{_told(manifest, part)} is missing from the store.")
        elif size_bytes != part.size_bytes:
            yield _alert(part.name, f"{_told(manifest, part)} has {size_bytes} bytes instead of {part.size_bytes}.")
    expected = {part.name for part in manifest.parts} | {layout.MANIFEST}
    for name in sizes:
        if name not in expected and not name.startswith(layout.PROOFS):
            yield _alert(name, f"{name} lies in the set's folder, and the manifest does not know it.")


def read_all(store: Store, manifest: Manifest, spool: Path, progress: Progress) -> list[PartReadBack]:
    """Read every part back into a folder, decompressed, and measure what came.

    Raises:
        TransientError: The store does not answer; what is stored stays unjudged.
    """
    total_bytes = sum(part.size_bytes for part in manifest.parts)
    read_bytes, counting = 0, Lock()

    def count(size_bytes: int) -> None:
        nonlocal read_bytes
        with counting:
            read_bytes += size_bytes
            progress(Step("reading back", read_bytes, total_bytes, "bytes"))

    (spool / layout.DATABASE).mkdir()
    folder = layout.set_folder(manifest.backup_id)
    with ThreadPoolExecutor(_DOWNLOADS, "reading back") as readers:
        return list(readers.map(lambda part: _read_one(store, folder, part, spool, count), manifest.parts))


def _read_one(store: Store, folder: str, part: Part, spool: Path, on_bytes: Callable[[int], None]) -> PartReadBack:
    result = PartReadBack(part)
    try:
        with (spool / content_name(part)).open("xb") as target:
            for chunk in download(store, folder, part, target, result.received):
                result.check.update(chunk)
    except zstandard.ZstdError as error:
        result.fault = f"cannot be decompressed: {error}"
    except ObjectMissing:
        result.fault = "vanished from the store"
    except ChecksumMismatch:
        result.fault = "does not fit the store's own checksum"
    on_bytes(part.size_bytes)
    return result


def check_readable(manifest: Manifest, parts: list[PartReadBack]) -> Iterator[Finding]:
    """Compare what was read back with the manifest's hashes, stored and decompressed."""
    for read in parts:
        told = _told(manifest, read.part)
        if read.fault:
            yield _alert(read.part.name, f"{told} {read.fault}.")
        elif read.received.sha256 != read.part.sha256:
            yield _alert(read.part.name, f"{told} reads back with another SHA-256 than was stored.")
        elif read.received.content_sha256 != read.part.content_sha256:
            yield _alert(read.part.name, f"{told} decompresses to something else than was dumped.")


def check_complete(manifest: Manifest, parts: list[PartReadBack], binaries: Binaries, spool: Path) -> Iterator[Finding]:
    """Compare the archive's own contents with its streams, and each stream's rows with the source's count."""
    try:
        entries = archive.list_data_entries(binaries, spool / layout.DATABASE)
    except CommandFailed as error:
        yield _alert(archive.CONTENTS_FILE, f"The archive's table of contents cannot be parsed: {error.message}")
        return
    schema = next((read for read in parts if read.part.name == layout.SCHEMA), None)
    if schema is None or schema.received.content_sha256 != manifest.schema_digest:
        yield _alert(layout.SCHEMA, "The stored schema is not the one that the manifest describes.")
    globals_sql = spool / layout.GLOBALS
    if globals_sql.exists() and not archive.ends_as_globals(globals_sql.read_bytes()):
        yield _alert(layout.GLOBALS, f"{layout.GLOBALS} ends early: pg_dumpall's closing line is missing.")
    by_part = {read.part.name: read for read in parts}
    files = {content_name(part).removeprefix(layout.DATABASE): part.name for part in manifest.parts}
    listed = {entry.table_oid: files.get(entry.file_name) for entry in entries}
    for table in manifest.dumped_tables:
        yield from _check_table(table, listed.get(table.oid), by_part)
    yield from _check_strays(manifest, {name for name in listed.values() if name is not None})
    known = {table.oid for table in manifest.tables}
    for entry in entries:
        if entry.table_oid not in known:
            yield _alert(
                entry.file_name, f"The archive's {entry.file_name} holds rows that the manifest does not know."
            )
    if len(listed) != len(entries) or len(set(listed.values())) != len(listed):
        yield _alert(archive.CONTENTS_FILE, "The archive's table of contents names a table or a stream twice.")


def _check_table(table: Table, listed_part: str | None, by_part: dict[str, PartReadBack]) -> Iterator[Finding]:
    if table.part is None or listed_part is None:
        yield _alert(table.qualified, f"The archive holds no rows of {table.qualified}; the source has {table.rows}.")
        return
    if table.part != listed_part or table.part not in by_part:
        yield _alert(table.qualified, f"The archive keeps {table.qualified} in another stream than the manifest says.")
        return
    check = by_part[table.part].check
    if not check.terminated:
        yield _alert(table.qualified, f"The stream of {table.qualified} ends early, after {check.rows} rows.")
    elif check.rows != table.rows:
        yield _alert(
            table.qualified, f"The stream of {table.qualified} has {check.rows} rows, the source {table.rows}."
        )


def _check_strays(manifest: Manifest, listed: set[str]) -> Iterator[Finding]:
    for part in manifest.parts:
        name = content_name(part).removeprefix(layout.DATABASE)
        if part.name.startswith(layout.DATABASE) and archive.is_table_data(name) and part.name not in listed:
            yield _alert(part.name, f"{part.name} holds rows that the archive's table of contents does not know.")


def _told(manifest: Manifest, part: Part) -> str:
    """A part in words: its name, and whose rows it holds."""
    table = next((table for table in manifest.tables if table.part == part.name), None)
    return f"{part.name} (rows of {table.qualified})" if table else part.name


def _alert(name: str, message: str) -> Finding:
    return Finding(
        name=name,
        verdict=Verdict.ALERT,
        message=message,
        hint="Do not restore from this set: take another, and find out who or what changed it.",
    )
