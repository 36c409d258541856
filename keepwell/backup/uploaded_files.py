"""The platform's uploads folder on its way into the store, by content: only what the store does not have is sent.

Read after the database's snapshot was let go: a file that a row of the snapshot speaks of was there then, unless
somebody removed it, and no table is locked while files are sent. What cannot be included is named, never passed over.
"""

import base64
import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BufferedReader

from keepwell.backup import layout
from keepwell.backup.lines import LineSource
from keepwell.backup.manifest import Part, UploadedFiles
from keepwell.backup.transfer import send, stored_name
from keepwell.backup.uploads_index import FileEntry, name_path
from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.progress import Progress, Step
from keepwell.settings import UploadsSettings

# A file that changes under each of so many readings is named instead.
_READINGS = 3
_BATCH = 1000
_READERS = 4
_NAMED = 20
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Never through a link, and never waiting for whoever writes into a pipe that took a file's place.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class StoredFiles:
    """What was stored of an uploads folder."""

    index: Part
    summary: UploadedFiles


class FileChanged(Exception):
    """A file is not what it was a moment ago."""


def require_uploads(settings: UploadsSettings) -> None:
    """Look whether the folder is there, before anything is dumped.

    Raises:
        PreconditionFailed: It is not, or may not be listed.
    """
    try:
        os.scandir(settings.directory).close()
    except OSError as error:
        raise PreconditionFailed(
            f"The uploads folder {settings.directory} cannot be read: {error.strerror}.",
            hint="Is it mounted here, and does uploads.directory name it? Without it the set would not be whole.",
        ) from None


def store_uploads(
    settings: UploadsSettings,
    store: Store,
    uploads: Uploads,
    backup_id: str,
    progress: Progress,
    *,
    level: int,
    anew: bool = False,
) -> StoredFiles:
    """Store what the uploads folder holds and the store does not; the caller holds the platform for a backup.

    1. List the folder, never through a link.
    2. Hash each file; send those contents that the store does not have.
    3. Read again what changed meanwhile; name what never holds still.
    4. Lock what is used again for as long as this set is, where sets are locked.
    5. Store the index, which names the content of each file.

    Args:
        settings: Which folder.
        store: Where to.
        uploads: Whose threads send.
        backup_id: Of the set that gets the index.
        progress: Told how far it is.
        level: zstd level.
        anew: Send also what the store has: it is sealed for others than today's recipients.

    Raises:
        PreconditionFailed: The folder is not there any more.
        KeepwellError: The store did not take something.
    """
    began_at, began = datetime.now(UTC), time.monotonic()
    require_uploads(settings)
    with _opened_folder(os.fsencode(settings.directory)) as root:
        run = _Run(root, store, uploads, level, progress, anew)
        listed = list_folder(root)
        entries = run.store_files([one for one in listed if one.kind == "folder" or takes(settings, one.location)])
    store.keep_longer({entry.key for entry in entries if entry.kind == "file" and not entry.sent})
    entries.sort(key=lambda entry: entry.location)
    index = send(
        store,
        uploads,
        layout.set_folder(backup_id),
        layout.UPLOADS_INDEX,
        LineSource(entry.to_line() for entry in entries),
        level=level,
        taken=_uncounted,
    )
    return StoredFiles(index, _summarize(entries, began_at, time.monotonic() - began))


def takes(settings: UploadsSettings, location: bytes) -> bool:
    """Whether a set is to hold what lies there below the uploads folder."""
    names = location.split(b"/")
    patterns = [os.fsencode(pattern).split(b"/") for pattern in settings.only]
    return not patterns or any(
        len(names) == len(pattern) and all(map(fnmatch.fnmatchcase, names, pattern)) for pattern in patterns
    )


def list_folder(root: int) -> list[FileEntry]:
    """Everything below a folder, in no order; files as they are listed, without their content.

    Args:
        root: Descriptor of the folder.
    """
    found: list[FileEntry] = []
    waiting = [b""]
    while waiting:
        place = waiting.pop()
        try:
            with _opened_below(root, place, _FOLDER_FLAGS) as folder, os.scandir(folder) as listing:
                names = [os.fsencode(entry.name) for entry in listing]
                for name in names:
                    entry = _describe(folder, name, place + b"/" + name if place else name)
                    found.append(entry)
                    if entry.kind == "folder":
                        waiting.append(entry.location)
        except OSError as error:
            if not place:
                raise PreconditionFailed(f"The uploads folder cannot be listed: {error.strerror}.") from None
            found = [entry for entry in found if entry.location != place]
            found.append(_left_out(place, f"cannot be listed: {error.strerror}"))
    return found


def _describe(folder: int, name: bytes, location: bytes) -> FileEntry:
    path, raw_path = name_path(location)
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind = stat.S_IFMT(facts.st_mode)
        if kind == stat.S_IFLNK:
            target = base64.b64encode(os.readlink(name, dir_fd=folder)).decode()
            return FileEntry("link", path, raw_path, modified_at_ns=facts.st_mtime_ns, target=target)
    except OSError as error:
        return _left_out(location, _why(error))
    if kind == stat.S_IFREG:
        return FileEntry("file", path, raw_path)  # the rest is read together with its content
    if kind == stat.S_IFDIR:
        return FileEntry("folder", path, raw_path, stat.S_IMODE(facts.st_mode), facts.st_mtime_ns)
    return _left_out(location, f"is {_KINDS.get(kind, 'no file')}")


@dataclass
class _Run:
    """One folder on its way into the store, and what is known of the store's contents."""

    root: int
    store: Store
    uploads: Uploads
    level: int
    progress: Progress
    anew: bool
    known: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)

    def store_files(self, listed: Sequence[FileEntry]) -> list[FileEntry]:
        """The entries, files with the object that holds their content."""
        self.known = {found.key: found.size_bytes for found in self.store.list_objects(layout.UPLOADS)}
        self.damaged = {
            found.key.removeprefix(layout.DAMAGED_UPLOADS) for found in self.store.list_objects(layout.DAMAGED_UPLOADS)
        }
        done = [entry for entry in listed if entry.kind != "file"]
        waiting = [entry for entry in listed if entry.kind == "file"]
        total, settled = len(waiting), 0
        with ThreadPoolExecutor(_READERS, "reading files") as readers:
            for _ in range(_READINGS):
                changed: list[FileEntry] = []
                for start in range(0, len(waiting), _BATCH):
                    stored, again = self._store_batch(readers, waiting[start : start + _BATCH])
                    done += stored
                    changed += again
                    settled += len(stored)
                    self.progress(Step("storing uploaded files", settled, total, "files"))
                waiting = changed
        return done + [_left_out(entry.location, "changed each time that it was read") for entry in waiting]

    def _store_batch(
        self, readers: ThreadPoolExecutor, batch: Sequence[FileEntry]
    ) -> tuple[list[FileEntry], list[FileEntry]]:
        """What is stored or left out for good, and what has to be read again."""
        hashed = list(readers.map(self._hash, batch))
        missing: dict[str, list[FileEntry]] = {}
        for entry in hashed:
            if entry.kind == "file" and entry.sha256 and not self._has(entry.key):
                missing.setdefault(entry.key, []).append(entry)
        unsent = {key for key, came in zip(missing, readers.map(self._send, missing.values()), strict=True) if not came}
        stored = [self._located(entry) for entry in hashed if _is_settled(entry) and entry.key not in unsent]
        again = [entry for entry in hashed if not _is_settled(entry) or entry.key in unsent]
        return stored, again

    def _hash(self, entry: FileEntry) -> FileEntry:
        """The entry with its content's hash; without one where it changed meanwhile."""
        try:
            with self._opened(entry) as file:
                before = os.fstat(file.fileno())
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
        except FileChanged:
            return replace(entry, sha256="")
        except OSError as error:
            return _left_out(entry.location, _why(error))
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return replace(entry, sha256="")
        return replace(
            entry,
            mode=stat.S_IMODE(after.st_mode),
            modified_at_ns=after.st_mtime_ns,
            size_bytes=after.st_size,
            sha256=sha256,
            key=layout.content_folder(sha256) + self._name(sha256),
        )

    def _send(self, entries: Sequence[FileEntry]) -> bool:
        """Send one content out of the first file that still holds it; whether there was one."""
        for entry in entries:
            try:
                with self._opened(entry) as file:
                    source = _Expected(file, entry.sha256)
                    folder = layout.content_folder(entry.sha256)
                    part = send(
                        self.store, self.uploads, folder, entry.sha256, source, level=self.level, taken=_uncounted
                    )
            except (FileChanged, OSError):
                continue
            self.known[entry.key] = part.size_bytes
            self.sent.add(entry.key)
            # Its mark stays until a proof has read what was sent: that may be damaged again, and this run may die.
            self.damaged.discard(_short(entry.key))
            self.progress(Step("sending uploaded files", len(self.sent), 0, "files"))
            return True
        return False

    def _has(self, key: str) -> bool:
        """Whether the store holds a content, as far as is known; one that was found damaged does not count."""
        if self.anew:
            return key in self.sent
        return key in self.known and _short(key) not in self.damaged

    def _located(self, entry: FileEntry) -> FileEntry:
        if entry.kind != "file":
            return entry
        return replace(entry, stored_bytes=self.known[entry.key], sent=entry.key in self.sent)

    def _name(self, sha256: str) -> str:
        return stored_name(sha256, compressed=True, sealed=bool(self.store.seal.recipients))

    @contextmanager
    def _opened(self, entry: FileEntry) -> Iterator[BufferedReader]:
        with _opened_below(self.root, entry.location, _FILE_FLAGS) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileChanged
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file


class _Expected:
    """A file's content that must be what it was when it was hashed, else it never comes to its end."""

    def __init__(self, file: BufferedReader, sha256: str) -> None:
        self._file, self._sha256 = file, sha256
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        if not chunk and self._digest.hexdigest() != self._sha256:
            raise FileChanged
        return chunk


def _is_settled(entry: FileEntry) -> bool:
    return entry.kind != "file" or bool(entry.sha256)


def _left_out(location: bytes, reason: str) -> FileEntry:
    return FileEntry("left out", *name_path(location), reason=reason)


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished while the folder was read"
    return f"cannot be read: {error.strerror}"


def _short(key: str) -> str:
    return key.rpartition("/")[2]


@contextmanager
def _opened_folder(path: bytes) -> Iterator[int]:
    """The configured folder itself may be a link; nothing below it is followed."""
    descriptor = os.open(path, _FOLDER_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_below(root: int, location: bytes, flags: int) -> Iterator[int]:
    """A descriptor of what lies below a folder, reached step by step, so that no link on the way is followed."""
    descriptor = os.open(b".", _FOLDER_FLAGS, dir_fd=root)
    try:
        *folders, last = location.split(b"/") if location else [b"."]
        for name in folders:
            above, descriptor = descriptor, os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(above)
        above, descriptor = descriptor, os.open(last, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def _summarize(entries: Sequence[FileEntry], began_at: datetime, seconds: float) -> UploadedFiles:
    files = [entry for entry in entries if entry.kind == "file"]
    contents = {entry.key: entry for entry in files}
    sent = [entry for entry in contents.values() if entry.sent]
    left_out = [entry for entry in entries if entry.kind == "left out"]
    return UploadedFiles(
        began_at=began_at,
        finished_at=datetime.now(UTC),
        files=len(files),
        folders=_count(entries, "folder"),
        links=_count(entries, "link"),
        size_bytes=sum(entry.size_bytes for entry in files),
        contents=len(contents),
        stored_bytes=sum(entry.stored_bytes for entry in contents.values()),
        sent_contents=len(sent),
        sent_bytes=sum(entry.stored_bytes for entry in sent),
        left_out=len(left_out),
        named_left_out=tuple(f"{entry.shown} {entry.reason}" for entry in left_out[:_NAMED]),
        seconds=seconds,
    )


def _count(entries: Iterable[FileEntry], kind: str) -> int:
    return sum(1 for entry in entries if entry.kind == kind)


def _uncounted(size_bytes: int) -> None:
    """Shown by the number of files instead."""
