"""One platform's objects as files in a folder: another disk, or a mounted NAS.

Whatever is done begins at the folder itself, which must hold our mark: below the mount point of a file system that
vanished lies a folder too, and nothing may be written into that one. From there on names are reached step by step by
descriptors, so no link leads out of the folder, and a writer stays on the file system that it began on.

An object is a file that was renamed into its place once file and folder were on the disk. Until then it bears a name
that nobody lists.
"""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keepwell.errors import (
    AccessDenied,
    ConfigurationError,
    KeepwellError,
    PreconditionFailed,
    ServiceUnavailable,
)
from keepwell.objectstore.store import ObjectMissing, Store, StoredObject
from keepwell.objectstore.uploads import Uploads
from keepwell.sealing import NO_SEAL, Seal, load_seal
from keepwell.settings import Platform, SecondFolderSettings

MARK = "keepwell-destination.json"
# Files that are not objects yet; no key may begin with it in any of its parts.
UNFINISHED_PREFIX = ".keepwell-unfinished-"
_CHUNK_BYTES = 1024 * 1024
# A folder that was emptied is removed, perhaps just when somebody wants to write into it.
_ATTEMPTS = 5
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PREPARE = "keepwell backup prepare-second"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FOLDER = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True)
class Prepared:
    """A folder that may be written to from now on.

    Attributes:
        directory: The folder.
        mount_point: Where the file system that it lies on is mounted.
        is_new: Whether the mark was written now.
    """

    directory: Path
    mount_point: Path
    is_new: bool


class FolderStore(Store):
    """The objects of one platform below a folder.

    Args:
        directory: The folder, absolute; must hold our mark.
        name: Of the platform: its own folder in there.
        seal: Who can open what is stored here, and whose documents count.
    """

    is_local = True

    def __init__(self, directory: Path, name: str, seal: Seal = NO_SEAL) -> None:
        self.directory = directory
        self.seal = seal
        # From a disk that is mounted to be read only, sets are listed and restored all the same.
        self.may_write = os.access(directory, os.W_OK)
        self._name = name

    @property
    def place(self) -> str:
        """The platform's folder."""
        return str(self.directory / self._name)

    def put_bytes(self, relative: str, content: bytes) -> None:
        """Write one small object whole."""
        writer = self._begin(relative)
        try:
            writer.write(content)
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    def open_writer(self, relative: str, uploads: Uploads) -> "FileWriter":
        """Write one object as it comes, however large it gets; takes no thread of `uploads`."""
        del uploads
        return self._begin(relative)

    @contextmanager
    def open_reader(self, relative: str) -> Iterator["FileReader"]:
        """Read one object of any size as it comes."""
        with self._opened_file(relative) as descriptor:
            yield FileReader(descriptor, f"reading {relative}")

    def get_bytes(self, relative: str) -> bytes:
        """One small object whole."""
        with self.open_reader(relative) as reader:
            return b"".join(iter(lambda: reader.read(_CHUNK_BYTES), b""))

    def copy(self, source: str, target: str) -> None:
        """Copy one object inside the folder."""
        with self.open_reader(source) as reader:
            writer = self._begin(target)
            try:
                while chunk := reader.read(_CHUNK_BYTES):
                    writer.write(chunk)
                writer.finish()
            except BaseException:
                writer.abort()
                raise

    def find(self, relative: str) -> StoredObject | None:
        """What the folder says of one object; None when there is none."""
        *folders, name = _split(relative)
        with translated(f"looking at {relative}"), self._root() as root:
            try:
                with _below(root, folders) as folder:
                    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return None if stat.S_ISDIR(facts.st_mode) else _describe(relative, facts)

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        """Every object below a folder, in the order of their keys; a link is listed, and never followed."""
        with translated(f"listing {folder}"), self._root() as root:
            for place, name, facts in _walk(root, _split_folder(folder)):
                if not name.startswith(UNFINISHED_PREFIX):
                    yield _describe("/".join([*place, name]), facts)

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder that hold an object, sorted."""
        with translated(f"listing {folder}"), self._root() as root:
            above = _split_folder(folder)
            named = [name for name, facts in _list(root, above) if stat.S_ISDIR(facts.st_mode)]
            return [name for name in named if _holds_object(root, [*above, name])]

    def delete(self, relatives: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm, and folders that hold nothing any more go too.

        Raises:
            KeepwellError: At least one is still there.
        """
        refused: KeepwellError | None = None
        with translated("deleting objects"), self._root() as root:
            for folders, names in _grouped(map(_split, relatives)):
                try:
                    with translated(f"deleting {'/'.join([*folders, names[0]])}"):
                        _unlink(root, folders, names)
                except KeepwellError as error:
                    refused = refused or error
        if refused is not None:
            raise refused

    def read_clock(self) -> datetime:
        """What time it is by the file system, whose server may have a clock of its own; by this machine without one."""
        if not self.may_write:
            return datetime.now(UTC)
        name = f"{UNFINISHED_PREFIX}{secrets.token_hex(8)}"
        with translated("asking for the folder's time"), self._root() as root:
            with _opened(os.open(name, _NEW_FILE_FLAGS, 0o600, dir_fd=root)) as file:
                facts = os.fstat(file)
            os.unlink(name, dir_fd=root)
        return datetime.fromtimestamp(facts.st_mtime, UTC)

    def keeps_versions(self) -> bool:
        """A file that was removed is gone."""
        return False

    def abort_uploads(self, folder: str) -> int:
        """Remove files below a folder that were begun and never became an object; nobody may be writing there."""
        count = 0
        with translated(f"looking for unfinished files below {folder}"), self._root() as root:
            for place, name, _ in list(_walk(root, _split_folder(folder))):
                if name.startswith(UNFINISHED_PREFIX):
                    _unlink(root, place, [name])
                    count += 1
        return count

    def free_bytes(self) -> int:
        """How much may still be written.

        Raises:
            KeepwellError: The folder is not there, or bears no mark.
        """
        with translated("asking for free space"), self._root() as root:
            found = os.fstatvfs(root)
        return found.f_bavail * found.f_frsize

    def _begin(self, relative: str) -> "FileWriter":
        *folders, name = _split(relative)
        with translated(f"writing {relative}"), self._root() as root:
            for attempt in range(_ATTEMPTS):
                try:
                    return FileWriter(root, folders, name, f"writing {relative}")
                except FileNotFoundError:
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError  # the last attempt returned or raised

    @contextmanager
    def _opened_file(self, relative: str) -> Iterator[int]:
        *folders, name = _split(relative)
        with ExitStack() as stack:
            with translated(f"reading {relative}"), self._root() as root:
                try:
                    with _below(root, folders) as folder:
                        descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
                except FileNotFoundError:
                    raise ObjectMissing(
                        f"The folder has no such object (reading {relative}).",
                        hint="List what there is: keepwell backup list.",
                    ) from None
                stack.callback(os.close, descriptor)
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _no_file(f"reading {relative}")
            yield descriptor

    @contextmanager
    def _root(self) -> Iterator[int]:
        """A descriptor of the platform's folder, made where it is missing; nothing is done without our mark.

        Raises:
            ServiceUnavailable: The folder is not there, or is not the one that was prepared.
        """
        with _opened_marked(self.directory) as outer, _below(outer, [self._name], create=True) as root:
            yield root


class FileWriter:
    """One object on its way into its folder; it is there once `finish` returned, and not before."""

    def __init__(self, root: int, folders: list[str], name: str, what: str) -> None:
        self._name, self._what = name, what
        self._temporary = f"{UNFINISHED_PREFIX}{secrets.token_hex(8)}"
        with ExitStack() as stack:
            self._folder = stack.enter_context(_below(root, folders, create=True))
            self._file = os.fdopen(os.open(self._temporary, _NEW_FILE_FLAGS, 0o600, dir_fd=self._folder), "wb")
            self._open = stack.pop_all()

    def write(self, chunk: bytes) -> int:
        """Take the next bytes."""
        with translated(self._what):
            return self._file.write(chunk)

    def finish(self) -> None:
        """Bring it to the disk, and only then into its place; its name is on the disk as well when this returns."""
        with translated(self._what):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            _sync_folder(self._folder)
        self._open.close()

    def abort(self) -> None:
        """Give up; what cannot be removed is swept by the next run."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._folder)
        self._open.close()


class FileReader:
    """One object's bytes as they come."""

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor, self._what = descriptor, what

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most so many; none at the end."""
        with translated(self._what):
            return os.read(self._descriptor, _CHUNK_BYTES if size < 0 else size)


def open_folder(platform: Platform, folder: SecondFolderSettings) -> FolderStore:
    """The platform's folder below a marked one; nothing is asked of the file system yet."""
    return FolderStore(folder.directory, platform.name, load_seal(platform.sealing))


def prepare_folder(directory: Path) -> Prepared:
    """Mark a folder as a destination; done once, while its file system is mounted. Changes nothing else in it.

    Args:
        directory: Must exist: one that is missing may be a mount point's.

    Raises:
        PreconditionFailed: There is no such folder.
        AccessDenied: It may not be written.
    """
    if not directory.is_dir():
        raise PreconditionFailed(
            f"There is no folder {directory}.", hint="Mount the disk, and make the folder on it, then try again."
        )
    with translated(f"marking {directory}"), _opened(os.open(directory, _FOLDER_FLAGS)) as folder:
        is_new = not _is_marked(folder)
        if is_new:
            said = {
                "format_version": 1,
                "what": "Keepwell keeps copies of backup sets here; without this file it writes nothing.",
                "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            writer = FileWriter(folder, [], MARK, f"marking {directory}")
            writer.write(json.dumps(said, indent=2).encode() + b"\n")
            writer.finish()
    return Prepared(directory, find_mount_point(directory), is_new)


def find_mount_point(directory: Path) -> Path:
    """Where the file system is mounted that a folder lies on."""
    place = directory.resolve()
    while not place.is_mount():
        place = place.parent
    return place


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the system's errors into ours.

    Args:
        what: What was being done, for the message.
    """
    try:
        yield
    except OSError as error:
        raise _translate(error, what) from error


def _translate(error: OSError, what: str) -> KeepwellError:
    if error.errno in _FULL:
        return KeepwellError(
            f"The disk is full ({what}).", hint="Make room there, or keep fewer sets: see [retention]."
        )
    if error.errno in _REFUSED:
        return AccessDenied(
            f"The folder refused {what}: {error.strerror}.", hint="May this user write there, and is it read-only?"
        )
    if error.errno in _NO_FOLDER:
        return _no_file(what)
    return ServiceUnavailable(
        f"The folder failed while {what}: {error.strerror}.", hint="Is the disk or the network share still there?"
    )


def _no_file(what: str) -> KeepwellError:
    return KeepwellError(
        f"A link, or what is no file of ours, stands in the way ({what}).",
        hint="Nothing is followed out of the folder. Find out who else writes there.",
    )


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_marked(directory: Path) -> Iterator[int]:
    """The configured folder, which may itself be reached through links, so long as it bears our mark."""
    try:
        descriptor = os.open(directory, _FOLDER_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise ServiceUnavailable(
            f"There is no folder {directory}.", hint=f"Mount its disk. For a new folder, once: {_PREPARE}"
        ) from None
    with _opened(descriptor) as folder:
        if not _is_marked(folder):
            raise ServiceUnavailable(
                f"{directory} holds no {MARK}: its disk is not mounted, or it was never prepared.",
                hint=f"Mount it. For a new folder, once, while its disk is mounted: {_PREPARE}",
            )
        yield folder


def _is_marked(folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(MARK, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _below(root: int, folders: Iterable[str], *, create: bool = False) -> Iterator[int]:
    """A descriptor of a folder below another, reached step by step, so that no link on the way is followed.

    Raises:
        FileNotFoundError: There is none.
        OSError: A link or a file stands in the way.
    """
    descriptor = os.open(".", _FOLDER_FLAGS, dir_fd=root)
    try:
        for name in folders:
            if create:
                _make_folder(descriptor, name)
            above, descriptor = descriptor, os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def _make_folder(above: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return
    _sync_folder(above)


def _sync_folder(folder: int) -> None:
    """Bring a folder's names to the disk; some network shares do so by themselves, and do not know the call."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _list(root: int, folders: list[str]) -> list[tuple[str, os.stat_result]]:
    """What lies in a folder, in the order of the keys below; nothing where there is none."""
    found = []
    try:
        with _below(root, folders) as folder:
            with os.scandir(folder) as listing:
                names = [entry.name for entry in listing]
            for name in names:
                with suppress(FileNotFoundError):  # removed meanwhile
                    found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
    except FileNotFoundError:
        return []
    # A slash sorts where it stands in the whole key: after a dot, before a digit.
    return sorted(found, key=lambda one: os.fsencode(one[0]) + (b"/" if stat.S_ISDIR(one[1].st_mode) else b""))


def _walk(root: int, folders: list[str]) -> Iterator[tuple[list[str], str, os.stat_result]]:
    """Everything below a folder that is no folder: where, its name, and what the system says of it."""
    for name, facts in _list(root, folders):
        if stat.S_ISDIR(facts.st_mode):
            yield from _walk(root, [*folders, name])
        else:
            yield folders, name, facts


def _holds_object(root: int, folders: list[str]) -> bool:
    return any(not name.startswith(UNFINISHED_PREFIX) for _, name, _ in _walk(root, folders))


def _unlink(root: int, folders: list[str], names: Iterable[str]) -> None:
    """Remove files of one folder, for good: after a loss of power none of them is back."""
    try:
        with _below(root, folders) as folder:
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            _sync_folder(folder)
    except FileNotFoundError:
        return
    _remove_empty(root, folders)


def _remove_empty(root: int, folders: list[str]) -> None:
    """Remove folders that hold nothing any more, from the innermost outwards; one that does stays."""
    while folders:
        *folders, name = folders
        try:
            with _below(root, folders) as above:
                os.rmdir(name, dir_fd=above)
        except OSError:
            return


def _grouped(keys: Iterable[list[str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Names by their folder, in the order given: a folder that comes again later is a group of its own."""
    place: list[str] = []
    names: list[str] = []
    for *folders, name in keys:
        if names and folders != place:
            yield place, names
            names = []
        place = folders
        names.append(name)
    if names:
        yield place, names


def _split(relative: str) -> list[str]:
    """The parts of a key.

    Raises:
        ConfigurationError: It would lead out of the folder, or is no key.
    """
    parts = relative.split("/")
    if any(part in ("", ".", "..") or "\0" in part or part.startswith(UNFINISHED_PREFIX) for part in parts):
        raise ConfigurationError(f"{relative!r} is no name of an object.", hint="Who asked for it?")
    return parts


def _split_folder(folder: str) -> list[str]:
    return _split(folder.removesuffix("/")) if folder else []


def _describe(key: str, facts: os.stat_result) -> StoredObject:
    return StoredObject(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))
