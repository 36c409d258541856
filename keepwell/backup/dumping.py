"""One database on its way into the store: pg_dump in parallel, each stream checked, compressed, sealed and sent.

Rows go through FIFOs and touch no disk. Where a machine has no FIFOs, or too many streams for one process, they take
the way over a disk, which is said in the manifest.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from keepwell.backup.manifest import Part
from keepwell.backup.space import estimate_dump_bytes
from keepwell.backup.spool import require_space
from keepwell.backup.transfer import send
from keepwell.command import Command
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres import archive, facts
from keepwell.postgres.archive import StreamCheck
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.blocking import BlockingWatch
from keepwell.postgres.connection import client_encoding
from keepwell.postgres.fifos import FifosUnavailable, dump_through_fifos, require_fifos
from keepwell.postgres.snapshot import Snapshot
from keepwell.progress import Progress, Step
from keepwell.sealing import Readable
from keepwell.settings import DatabaseSettings, Platform

# Beside those that pg_dump writes at a time, some that are compressed and sent to their end.
_MORE_STREAMS = 2


@dataclass(frozen=True)
class Dumped:
    """What was stored of one database.

    Attributes:
        parts: Its streams, without the archive's table of contents.
        spooled_bytes: Of rows that took the way over a disk.
    """

    parts: tuple[Part, ...]
    spooled_bytes: int


@dataclass
class DatabaseDump:
    """One dump: what it needs, and what has become of its streams so far.

    Attributes:
        platform: Whose settings hold.
        database: The source.
        store: Where the set lies.
        uploads: Sends the streams.
        set_folder: Of the set in the store.
        folder: Of the archive below it, and below the run's own folder.
        client: Whose pg_dump.
        encoding: The source's.
        snapshot: What is dumped.
        blocking: Who waits behind it.
        progress: Told how far it is.
    """

    platform: Platform
    database: DatabaseSettings
    store: Store
    uploads: Uploads
    set_folder: str
    folder: str
    client: Binaries
    encoding: str
    snapshot: Snapshot
    blocking: BlockingWatch
    progress: Progress
    _parts: dict[str, Part] = field(default_factory=dict)
    _unterminated: list[str] = field(default_factory=list)
    _taken_bytes: int = 0
    _total_bytes: int = 0
    _lock: Lock = field(default_factory=Lock)
    _began: float = field(default_factory=time.monotonic)

    def run(self, work: Path) -> Dumped:
        """Dump into the store.

        Args:
            work: Folder of this run; afterwards it holds the archive with nothing but its table of contents.

        Raises:
            VerificationFailed: pg_dump ended well, and what it wrote is not whole.
            KeepwellError: pg_dump, the server or the store failed, or our locks kept somebody waiting too long.
        """
        settings = self.platform.backup
        self._total_bytes = sum(table.data_bytes for table in self.snapshot.tables if table.has_rows)
        self.progress(Step("dumping"))
        pinned = {
            "snapshot_id": self.snapshot.snapshot_id,
            "encoding": client_encoding(self.encoding),
            "lock_wait_seconds": settings.lock_wait_seconds,
        }
        client, database = self.client, self.database
        foreseen = archive.foresee_data_entries(
            client,
            archive.build_contents_command(client, database, **pinned),  # type: ignore[arg-type]
        )
        names = [entry.file_name for entry in foreseen] + _large_object_files(self.snapshot)
        folder = work / self.folder
        call = archive.build_dump_command(client, database, folder, jobs=settings.jobs, **pinned).standing_back(  # type: ignore[arg-type]
            settings.nice
        )
        files = self._dump(call, folder, names)
        spooled_bytes = self._send_files(files)
        self._require_whole([entry.file_name for entry in foreseen])
        return Dumped(tuple(self._parts[name] for name in sorted(self._parts)), spooled_bytes)

    def watch(self) -> None:
        """Look whether the dump may go on.

        Raises:
            ServiceUnavailable: The store has taken nothing for too long.
            LockTimeout: Somebody has waited behind our locks for too long.
        """
        self.blocking.require_patience()
        limit_seconds = self.platform.backup.stall_limit_seconds
        if self.uploads.stalled_seconds > limit_seconds:
            self.uploads.abandon()
            raise ServiceUnavailable(
                f"The object store has taken no byte for {limit_seconds} s; the dump let go of its snapshot.",
                hint="Look at the store and the network between; backup.stall_limit_seconds is the limit.",
            )

    def _dump(self, call: Command, folder: Path, names: Sequence[str]) -> list[Path]:
        """Run pg_dump; streams that went through FIFOs are stored, the regular files that it wrote are returned."""
        try:
            require_fifos(folder.parent, len(names))
        except FifosUnavailable:
            require_space(folder.parent, estimate_dump_bytes(self.snapshot.tables), "the dump")
            archive.run_watched(call, self.watch)
            return sorted(folder.iterdir())
        streams = self.platform.backup.jobs + _MORE_STREAMS
        return dump_through_fifos(call, folder, names, self._take, workers=streams, watch=self.watch)

    def _take(self, name: str, source: Readable) -> None:
        _stand_back(self.platform.backup.nice)
        self._send(name, source)

    def _send_files(self, files: Sequence[Path]) -> int:
        """Store what came as regular files; all but the table of contents are gone afterwards.

        Returns:
            Their bytes, as far as they were rows.
        """
        waiting = [path for path in files if path.name != archive.CONTENTS_FILE]
        spooled_bytes = sum(path.stat().st_size for path in waiting if archive.is_stream(path.name))

        def work(path: Path) -> None:
            self.watch()
            with path.open("rb") as file:
                self._send(path.name, file)
            path.unlink()

        with ThreadPoolExecutor(self.platform.backup.jobs + _MORE_STREAMS, "storing") as senders:
            list(senders.map(work, waiting))
        return spooled_bytes

    def _send(self, name: str, source: Readable) -> None:
        check = StreamCheck()
        part = send(
            self.store,
            self.uploads,
            self.set_folder,
            self.folder + name,
            source,
            level=self.platform.backup.compression_level,
            check=check,
            taken=self._count,
        )
        with self._lock:
            self._parts[name] = part
            if archive.is_table_data(name) and not check.terminated:
                self._unterminated.append(name)

    def _count(self, size_bytes: int) -> None:
        """Show what has come so far, and hold back what comes too fast."""
        with self._lock:
            self._taken_bytes += size_bytes
            taken_bytes = self._taken_bytes
        shown_bytes = min(taken_bytes, self._total_bytes)
        self.progress(Step("dumping and storing", shown_bytes, self._total_bytes, "bytes"))
        most = self.platform.backup.most_bytes_per_second
        if most is not None:
            ahead_seconds = taken_bytes / most - (time.monotonic() - self._began)
            time.sleep(max(0.0, ahead_seconds))

    def _require_whole(self, foreseen: Sequence[str]) -> None:
        """pg_dump's exit code and the end of a stream alone prove nothing."""
        missing = [name for name in foreseen if name not in self._parts]
        if missing or self._unterminated:
            what = f"{missing[0]} was never written" if missing else f"{self._unterminated[0]} has no end"
            raise VerificationFailed(
                f"pg_dump ended well, and yet its stream {what}.",
                hint="Nothing was published. Run it again; if it stays like this, look at the disk and the tools.",
            )


def _large_object_files(snapshot: Snapshot) -> list[str]:
    return [f"blob_{number}.dat" for number in facts.read_large_object_numbers(snapshot.coordinator)]


def _stand_back(nice: int) -> None:
    """Let this thread of ours give way to whoever wants the processor more."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
