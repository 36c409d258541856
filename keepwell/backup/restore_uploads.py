"""Putting a set's uploaded files into a folder of their own: nothing that exists is touched.

Each file is read from the store under a temporary name, compared with the hash that its set says, and only then gets
its own name. Nothing needs a database: the bucket, the platform file and the keys are enough.
"""

import base64
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keepwell.backup.catalogue import read_manifest
from keepwell.backup.manifest import UploadedFiles
from keepwell.backup.spool import require_space
from keepwell.backup.uploads_index import FileEntry, leads_outside, read_index
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.progress import Progress, Step
from keepwell.verdict import Finding, Verdict

_READERS = 4
_PLAIN_MODE = 0o777
# A folder may hand its group on to what is made in it.
_FOLDER_MODE = 0o2777


@dataclass(frozen=True)
class RestoredUploads:
    """What was put where.

    Attributes:
        backup_id: Of the set.
        folder: That holds it now.
        files: How many, each compared with its hash.
        size_bytes: Of all of them.
        seconds: In all.
        findings: What is not as it was in the source; nothing in it is wrong.
    """

    backup_id: str
    folder: Path
    files: int
    size_bytes: int
    seconds: float
    findings: tuple[Finding, ...]


def restore_uploads(store: Store, backup_id: str, into: Path, progress: Progress) -> RestoredUploads:
    """Put the uploaded files of a set into a new or empty folder, with their modes and times.

    Owners are not kept: everything belongs to whoever restores. Bits that let a file run as its owner are not either.

    Args:
        store: The platform's folder in the bucket.
        backup_id: Which set.
        into: New or empty folder; its parent exists.
        progress: Told how far it is.

    Raises:
        PreconditionFailed: The set holds no uploaded files, the folder is in use, or space is short; or somebody else
            wrote into it meanwhile.
        VerificationFailed: The set or one of its contents is damaged; the folder is not complete.
    """
    started = time.monotonic()
    plan_uploads(store, backup_id, into)
    entries = read_index(store, read_manifest(store, backup_id))
    into.mkdir(mode=0o700, exist_ok=True)
    files = [entry for entry in entries if entry.kind == "file"]
    try:
        _make_folders(into, entries)
        _restore_files(store, files, into, progress)
        findings = list(_restore_links(into, entries))
        _finish_folders(into, entries)
    except OSError as error:
        raise KeepwellError(
            f"{into} cannot be written: {error.strerror}.", hint="It is not complete: remove it, then try again."
        ) from error
    os.sync()
    left_out = [entry for entry in entries if entry.kind == "left out"]
    findings += [_warn(entry, f"{entry.shown} is not in the set: it {entry.reason}.") for entry in left_out]
    return RestoredUploads(
        backup_id=backup_id,
        folder=into,
        files=len(files),
        size_bytes=sum(entry.size_bytes for entry in files),
        seconds=time.monotonic() - started,
        findings=tuple(findings),
    )


def plan_uploads(store: Store, backup_id: str, into: Path) -> UploadedFiles:
    """What would be put into a folder, and whether it can be; nothing is changed.

    Raises:
        PreconditionFailed: The set holds no uploaded files, the folder is in use, or space is short.
    """
    manifest = read_manifest(store, backup_id)
    if manifest.uploads is None:
        raise PreconditionFailed(
            f"{backup_id} holds no uploaded files: no uploads folder was configured.", hint="Take another set."
        )
    _require_empty(into)
    require_space(into.parent, manifest.uploads.size_bytes, "the restored files")
    return manifest.uploads


def _require_empty(into: Path) -> None:
    if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
        raise PreconditionFailed(f"{into} exists and is not an empty folder.", hint="Name a new folder.")
    if not into.parent.is_dir():
        raise PreconditionFailed(f"{into.parent} is no folder.", hint="Make it first.")


def _make_folders(into: Path, entries: Sequence[FileEntry]) -> None:
    """Folders as we need them for now; their own modes and times come last."""
    for entry in entries:
        folder = entry.location if entry.kind == "folder" else entry.location.rpartition(b"/")[0]
        if folder and entry.kind != "left out":
            _path(into, folder).mkdir(mode=0o700, parents=True, exist_ok=True)


def _restore_files(store: Store, files: Sequence[FileEntry], into: Path, progress: Progress) -> None:
    with _workshop(into) as temporary, ThreadPoolExecutor(_READERS, "restoring files") as readers:
        waiting = [
            readers.submit(_restore_file, store, entry, temporary / str(number), _path(into, entry.location))
            for number, entry in enumerate(files)
        ]
        try:
            for done, one in enumerate(waiting, start=1):
                one.result()
                progress(Step("restoring files", done, len(files), "files"))
        except BaseException:
            readers.shutdown(wait=True, cancel_futures=True)
            raise


def _restore_file(store: Store, entry: FileEntry, temporary: Path, place: Path) -> None:
    with temporary.open("xb") as target:
        fault = entry.read_content(store, target.write)
    if fault:
        raise VerificationFailed(
            f"The content of {entry.shown} {fault} ({entry.key}).",
            hint="The folder is not complete. Take the file from another set, or restore another set whole.",
        )
    temporary.chmod(entry.mode & _PLAIN_MODE)
    os.utime(temporary, ns=(entry.modified_at_ns, entry.modified_at_ns))
    try:
        os.link(temporary, place)  # a rename would replace what somebody wrote there meanwhile
    except FileExistsError:
        raise PreconditionFailed(
            f"Somebody else wrote {entry.shown} into the folder meanwhile; it was left as it is.",
            hint="The folder is not complete. Restore into one that nobody uses.",
        ) from None
    temporary.unlink()


def _restore_links(into: Path, entries: Sequence[FileEntry]) -> Iterator[Finding]:
    """After all files, so that nothing is ever written through one."""
    for entry in entries:
        if entry.kind != "link":
            continue
        target = base64.b64decode(entry.target)
        if leads_outside(entry.location, target):
            yield _warn(entry, f"{entry.shown} is a link that leads out of the folder, and was not made.")
            continue
        place = _path(into, entry.location)
        place.symlink_to(os.fsdecode(target))
        os.utime(place, ns=(entry.modified_at_ns, entry.modified_at_ns), follow_symlinks=False)


def _finish_folders(into: Path, entries: Sequence[FileEntry]) -> None:
    """The deepest first, since a folder's time changes with what is made in it."""
    folders = [entry for entry in entries if entry.kind == "folder"]
    for entry in sorted(folders, key=lambda entry: -entry.location.count(b"/")):
        place = _path(into, entry.location)
        os.utime(place, ns=(entry.modified_at_ns, entry.modified_at_ns))
        place.chmod(entry.mode & _FOLDER_MODE)


@contextmanager
def _workshop(into: Path) -> Iterator[Path]:
    """A folder for files that are not whole yet, on the same disk as their places."""
    folder = into / f".keepwell-restoring-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _path(into: Path, location: bytes) -> Path:
    return into / os.fsdecode(location)


def _warn(entry: FileEntry, message: str) -> Finding:
    return Finding(
        name=entry.shown, verdict=Verdict.WARN, message=message, hint="Look whether the application needs it."
    )
