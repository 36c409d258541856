"""A set on its way back from the store: every part read, opened, measured, and its rows fed to pg_restore at once.

Everything is read from the store, never from what is still in memory. What is wrong with a part is remembered and
told by the first three levels of a proof, which need no server: uploaded, readable, complete.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from keepwell.backup import layout
from keepwell.backup.database import Database
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.spool import require_space
from keepwell.backup.transfer import Received, receive
from keepwell.command import Command
from keepwell.errors import CommandFailed, VerificationFailed
from keepwell.objectstore.store import SIGNATURE_SUFFIX, ChecksumMismatch, ObjectMissing, Store, StoredObject
from keepwell.postgres import archive
from keepwell.postgres.archive import DataEntry, StreamCheck
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.fifos import (
    FifosUnavailable,
    FifoWriter,
    require_fifo_reader,
    require_fifos,
    restore_through_fifos,
)
from keepwell.progress import Progress, Step
from keepwell.verdict import Finding, Verdict

_DOWNLOADS = 4
# pg_restore opens as many streams as it has jobs; a few more hide the store's latency.
_MORE_STREAMS = 2
# They grow with the platform, so they are read as they come and never lie on a disk of ours.
_LISTS = (layout.UPLOADS_INDEX, layout.CACHE_KEYS)


class PartDamaged(VerificationFailed):
    """A stream that was being restored is not what was stored: the restore cannot go on."""


@dataclass
class PartReadBack:
    """What reading one part back gave.

    Attributes:
        part: What the manifest says.
        received: What really came.
        check: Rows and terminator, for a table's stream.
    """

    part: Part
    received: Received = field(default_factory=Received)
    check: StreamCheck = field(default_factory=StreamCheck)

    @property
    def sound(self) -> bool:
        """Whether it is what was stored, and held what was dumped."""
        received = self.received
        return (
            not received.fault
            and received.stored.sha256 == self.part.sha256
            and received.content.sha256 == self.part.content_sha256
        )


class SetReader:
    """Reads the parts of one set, each once.

    Args:
        store: Where the set lies.
        manifest: Of the set.
        folder: Existing, private folder for what has to lie on a disk: tables of contents, roles, schema lines.
        progress: Told how far it is.
        parts: Which of the set's parts are read; None for all.
        nice: How far pg_restore stands back for others.

    Attributes:
        spooled_bytes: Rows that lay on a disk on their way.
        index_seconds: How long pg_restore went on once it had the last row: indexes, constraints, views. None where
            rows came over a disk, so that nobody knows when it had them.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        folder: Path,
        progress: Progress,
        *,
        parts: Sequence[Part] | None = None,
        nice: int = 0,
    ) -> None:
        self._store, self._manifest, self._folder = store, manifest, folder
        self._progress, self._nice = progress, nice
        self._wanted = manifest.parts if parts is None else tuple(parts)
        self._wanted_bytes = sum(part.size_bytes for part in self._wanted)
        self._reads: dict[str, PartReadBack] = {}
        self._lock = Lock()
        self._read_bytes = 0
        self._fed_at = 0.0
        self.spooled_bytes = 0
        self.index_seconds: float | None = 0.0
        for database in manifest.databases:
            (folder / database.folder).mkdir()

    @property
    def parts(self) -> list[PartReadBack]:
        """What was read back so far, in the manifest's order."""
        return [self._reads[part.name] for part in self._wanted if part.name in self._reads]

    def find(self, name: str | None) -> PartReadBack | None:
        """What was read back under a part's name."""
        return self._reads.get(name or "")

    def find_content(self, name: str) -> PartReadBack | None:
        """What was read back of the part whose content is called so."""
        return next((read for read in self.parts if read.part.content_name == name), None)

    def fetch_files(self) -> list[PartReadBack]:
        """Read back what a restore needs as files; rows come later, when somebody restores them, and so do lists."""
        files = [part for part in self._wanted if not self._is_stream(part) and part.content_name not in _LISTS]
        with ThreadPoolExecutor(_DOWNLOADS, "reading back") as readers:
            return list(readers.map(self._fetch, files))

    def restore(self, database: Database, binaries: Binaries, call: Command, *, jobs: int) -> None:
        """Run pg_restore on one database's archive, its streams fed as they come from the store.

        Args:
            database: Which one.
            binaries: Whose pg_restore.
            call: Reads the archive in this reader's folder.
            jobs: How many streams it opens at a time.

        Raises:
            PartDamaged: A stream is not what was stored; the restore was ended.
            PreconditionFailed: Rows must lie on a disk on their way, and there is no space for them.
            KeepwellError: pg_restore failed, or the store did.
        """
        folder = self._folder / database.folder
        streams = {Path(part.content_name).name: part for part in self._wanted if _is_stream_of(database, part)}
        call = call.standing_back(self._nice)
        try:
            require_fifos(folder, len(streams))
            self._require_fifo_reader(database, binaries)
        except FifosUnavailable:
            self._restore_from_files(call, folder, streams)
            return
        feeds = {name: self._feed_of(part) for name, part in streams.items()}
        self._fed_at = time.monotonic()
        try:
            restore_through_fifos(call, folder, feeds, workers=jobs + _MORE_STREAMS, watch=_look_away)
            if self.index_seconds is not None:
                self.index_seconds += time.monotonic() - self._fed_at
        finally:
            for name in feeds:
                (folder / name).unlink(missing_ok=True)

    def _require_fifo_reader(self, database: Database, binaries: Binaries) -> None:
        """Try it on the first stream, in a folder beside the archive.

        Raises:
            FifosUnavailable: This pg_restore reads none, or there is no stream to tell by.
        """
        folder = self._folder / database.folder
        entry = next(iter(archive.list_data_entries(binaries, folder)), None)
        if entry is None:
            raise FifosUnavailable("The archive has no rows to try it with.")
        trial = folder.with_name(f"{folder.name}-trial")
        trial.mkdir()
        try:
            shutil.copyfile(folder / archive.CONTENTS_FILE, trial / archive.CONTENTS_FILE)
            require_fifo_reader(archive.build_trial_command(binaries, trial, entry), trial, entry.file_name)
        finally:
            shutil.rmtree(trial)

    def _restore_from_files(self, call: Command, folder: Path, streams: Mapping[str, Part]) -> None:
        """The way over a disk: every stream is fetched whole, and gone again afterwards."""
        self.index_seconds = None
        content_bytes = sum(part.content_size_bytes for part in streams.values())
        require_space(folder, content_bytes, "rows on their way, which this pg_restore does not take from a stream,")
        try:
            with ThreadPoolExecutor(_DOWNLOADS, "reading back") as readers:
                reads = list(readers.map(self._fetch, streams.values()))
            self.spooled_bytes += sum(read.received.content.size_bytes for read in reads)
            damaged = next((read.part for read in reads if not read.sound), None)
            if damaged is not None:
                raise PartDamaged(f"{_told(self._manifest, damaged)} is not what was stored.", hint=_DAMAGED_HINT)
            archive.run_tool(call)
        finally:
            for name in streams:
                (folder / name).unlink(missing_ok=True)

    def feed(self, name: str, target: Callable[[bytes], object]) -> PartReadBack | None:
        """Read one part back into somebody's hands; what is wrong with it is remembered for the proof.

        Args:
            name: Of its content, such as `redis.jsonl`.
            target: Gets the content as it comes; whether it was whole shows at the end.

        Returns:
            What came; None when the set has no such part.
        """
        part = next((part for part in self._wanted if part.content_name == name), None)
        return self._read(part, target) if part else None

    def drain(self) -> None:
        """Read back whatever nobody has read, only to measure it."""
        rest = [part for part in self._wanted if part.name not in self._reads]
        with ThreadPoolExecutor(_DOWNLOADS, "reading back") as readers:
            list(readers.map(lambda part: self._read(part, _nowhere), rest))

    def read_again(self, part: Part, target: Callable[[bytes], object]) -> None:
        """Hand out one part's content once more; what came of it the first time stands."""
        receive(self._store, layout.set_folder(self._manifest.backup_id), part, target)

    def _is_stream(self, part: Part) -> bool:
        database = self._manifest.database_of(part)
        return database is not None and _is_stream_of(database, part)

    def _fetch(self, part: Part) -> PartReadBack:
        with (self._folder / part.content_name).open("xb") as target:
            return self._read(part, target.write)

    def _feed_of(self, part: Part) -> Callable[[FifoWriter], None]:
        def feed(writer: FifoWriter) -> None:
            listening = True

            def deliver(chunk: bytes) -> None:
                # Somebody who stopped reading has an exit code to tell why; the part is measured to its end.
                nonlocal listening
                if listening:
                    try:
                        writer.write(chunk)
                    except BrokenPipeError:
                        listening = False

            if not self._read(part, deliver).sound:
                raise PartDamaged(f"{_told(self._manifest, part)} is not what was stored.", hint=_DAMAGED_HINT)
            self._fed_at = time.monotonic()

        return feed

    def _read(self, part: Part, target: Callable[[bytes], object]) -> PartReadBack:
        read = PartReadBack(part)

        def deliver(chunk: bytes) -> None:
            read.check.update(chunk)
            target(chunk)

        try:
            read.received = receive(self._store, layout.set_folder(self._manifest.backup_id), part, deliver)
        except ObjectMissing:
            read.received.fault = "vanished from the store"
        except ChecksumMismatch:
            read.received.fault = "does not fit the store's own checksum"
        with self._lock:
            self._reads[part.name] = read
            self._read_bytes += part.size_bytes
            read_bytes = self._read_bytes
        self._progress(Step("reading back", read_bytes, self._wanted_bytes, "bytes"))
        return read


def check_uploaded(
    manifest: Manifest, stored: list[StoredObject], parts: Sequence[Part] | None = None
) -> Iterator[Finding]:
    """Compare the manifest with the store's listing of the set: nothing missing, nothing else, sizes as written.

    Args:
        manifest: Of the set.
        stored: Every object in the set's folder.
        parts: Which of the set's parts must be there; None for all.
    """
    folder = layout.set_folder(manifest.backup_id)
    sizes = {entry.key.removeprefix(folder): entry.size_bytes for entry in stored}
    for part in manifest.parts if parts is None else parts:
        size_bytes = sizes.get(part.name)
        if size_bytes is None:
            yield _alert(part.name, f"{_told(manifest, part)} is missing from the store.")
        elif size_bytes != part.size_bytes:
            yield _alert(part.name, f"{_told(manifest, part)} has {size_bytes} bytes instead of {part.size_bytes}.")
    expected = {part.name for part in manifest.parts} | {layout.MANIFEST, layout.MANIFEST + SIGNATURE_SUFFIX}
    for name in sizes:
        if name not in expected and not name.startswith(layout.PROOFS):
            yield _alert(name, f"{name} lies in the set's folder, and the manifest does not know it.")


def check_readable(manifest: Manifest, parts: Iterable[PartReadBack]) -> Iterator[Finding]:
    """Compare what was read back with the manifest's hashes, stored and decompressed."""
    for read in parts:
        told, received = _told(manifest, read.part), read.received
        if received.stored.size_bytes and received.stored.sha256 != read.part.sha256:
            fault = f" It {received.fault}." if received.fault and not received.for_others else ""
            yield _alert(read.part.name, f"{told} reads back with another SHA-256 than was stored.{fault}")
        elif received.for_others:
            yield Finding(
                name=read.part.name,
                verdict=Verdict.UNKNOWN,
                message=f"{told} {received.fault}.",
                hint="sealing.identities_file must hold the key that it was sealed for; old ones belong there too.",
            )
        elif received.fault:
            yield _alert(read.part.name, f"{told} {received.fault}.")
        elif received.content.sha256 != read.part.content_sha256:
            yield _alert(read.part.name, f"{told} decompresses to something else than was dumped.")


def list_entries(database: Database, binaries: Binaries, folder: Path) -> list[DataEntry] | Finding:
    """The table of contents of one database's archive, or what is wrong with it.

    Args:
        database: Which one.
        binaries: Whose pg_restore lists.
        folder: Where the set's files were read back to.
    """
    try:
        return archive.list_data_entries(binaries, folder / database.folder)
    except CommandFailed as error:
        if archive.machine_lacks(error.message):
            return Finding(
                name=archive.CONTENTS_FILE,
                verdict=Verdict.UNKNOWN,
                message=f"The archive's table of contents could not be read here: {error.message}",
                hint="Verify it again where pg_restore can be run.",
            )
        return _alert(archive.CONTENTS_FILE, f"The archive's table of contents cannot be parsed: {error.message}")


def check_globals(folder: Path) -> Iterator[Finding]:
    """Look whether the roles are whole; that there are none, the restore tells.

    Args:
        folder: Where the set's files were read back to.
    """
    globals_sql = folder / layout.GLOBALS
    if globals_sql.exists() and not archive.ends_as_globals(globals_sql.read_bytes()):
        yield _alert(layout.GLOBALS, f"{layout.GLOBALS} ends early: pg_dumpall's closing line is missing.")


def check_contents(
    database: Database, parts: Iterable[Part], entries: Iterable[DataEntry], schema: PartReadBack | None
) -> Iterator[Finding]:
    """Compare one database's archive, by its own contents, with the manifest; needs none of the rows.

    Args:
        database: Whose archive.
        parts: Of the set; those of other databases are passed over.
        entries: From `list_entries`.
        schema: The schema's lines as they were read back; None when the set has none.
    """
    entries = list(entries)
    if schema is None or schema.received.content.sha256 != database.schema_digest:
        yield _alert(database.schema_file, "The stored schema is not the one that the manifest describes.")
    files = {Path(part.content_name).name: part.name for part in parts if part.name.startswith(database.folder)}
    listed = {entry.table_oid: files.get(entry.file_name) for entry in entries}
    for table in database.dumped_tables:
        found = listed.get(table.oid)
        if table.part is None or found is None:
            yield _alert(
                table.qualified, f"The archive holds no rows of {table.qualified}; the source has {table.rows}."
            )
        elif table.part != found:
            yield _alert(
                table.qualified, f"The archive keeps {table.qualified} in another stream than the manifest says."
            )
    yield from _check_strays(files, {name for name in listed.values() if name is not None})
    known = {table.oid for table in database.tables}
    for entry in entries:
        if entry.table_oid not in known:
            yield _alert(
                entry.file_name, f"The archive's {entry.file_name} holds rows that the manifest does not know."
            )
    if len(listed) != len(entries) or len(set(listed.values())) != len(listed):
        yield _alert(archive.CONTENTS_FILE, "The archive's table of contents names a table or a stream twice.")


def check_streams(database: Database, find: Callable[[str | None], PartReadBack | None]) -> Iterator[Finding]:
    """Compare each table's stream with the source's count of its rows."""
    for table in database.dumped_tables:
        read = find(table.part)
        if read is None:
            continue  # the archive's contents were found wrong
        if not read.check.terminated:
            yield _alert(table.qualified, f"The stream of {table.qualified} ends early, after {read.check.rows} rows.")
        elif read.check.rows != table.rows:
            yield _alert(
                table.qualified,
                f"The stream of {table.qualified} has {read.check.rows} rows, the source {table.rows}.",
            )


def _check_strays(files: Mapping[str, str], listed: set[str]) -> Iterator[Finding]:
    """Tell which of an archive's parts, by their file's name in it, hold rows that it does not list."""
    for file_name, name in files.items():
        if archive.is_table_data(file_name) and name not in listed:
            yield _alert(name, f"{name} holds rows that the archive's table of contents does not know.")


def _is_stream_of(database: Database, part: Part) -> bool:
    """Whether a part is the database's rows, or a large object, which pg_restore reads by itself and once."""
    return part.name.startswith(database.folder) and archive.is_stream(Path(part.content_name).name)


def _told(manifest: Manifest, part: Part) -> str:
    """A part in words: its name, and whose rows it holds."""
    for database in manifest.databases:
        for table in database.tables:
            if table.part == part.name:
                return f"{part.name} (rows of {database.tell(table.qualified)})"
    return part.name


def _nowhere(chunk: bytes) -> None:
    """Keep nothing."""


def _look_away() -> None:
    """A restore of ours stands in nobody's way."""


_DAMAGED_HINT = "Do not restore from this set: take another, and find out who or what changed it."


def _alert(name: str, message: str) -> Finding:
    return Finding(name=name, verdict=Verdict.ALERT, message=message, hint=_DAMAGED_HINT)
