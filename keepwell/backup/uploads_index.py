"""The index of a set's uploaded files: where each lay, what it was, and which object holds its content.

Contents lie outside the set's folder, each once for all sets, so that a night costs only what changed. An index names
every content that its set needs, which is what may not be removed while the set is there.
"""

import base64
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from keepwell.backup import layout
from keepwell.backup.lines import LineSink
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.transfer import Source, receive
from keepwell.errors import VerificationFailed
from keepwell.objectstore.store import ChecksumMismatch, ObjectMissing, Store
from keepwell.sealing import SealForOthers

_UNKNOWN = "0" * 64
_KEYS_HINT = "sealing.identities_file must hold the key that it was sealed for; old ones belong there too."
_DAMAGED_HINT = "Do not restore from this set: take another, and find out who or what changed it."


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of the uploads folder.

    Attributes:
        kind: What it was; `left out` where it could not be included, for the `reason`.
        path: Below the uploads folder, parts joined by slashes; as text for people where it is not UTF-8.
        raw_path: The path's bytes as base64, where they are not UTF-8.
        mode: Permission bits.
        modified_at_ns: Unix time.
        size_bytes: Of a file.
        sha256: Of a file's content.
        key: Object that holds a file's content, in the platform's folder of the bucket.
        stored_bytes: Of that object, as the store listed it.
        sent: Whether the store had no such content before this set.
        target: Of a link, as base64.
        reason: Why it was left out.
    """

    kind: Literal["file", "folder", "link", "left out"]
    path: str
    raw_path: str | None = None
    mode: int = 0
    modified_at_ns: int = 0
    size_bytes: int = 0
    sha256: str = ""
    key: str = ""
    stored_bytes: int = 0
    sent: bool = False
    target: str = ""
    reason: str = ""

    @property
    def shown(self) -> str:
        """The path for messages: on one line, and without what a terminal would obey."""
        return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in self.path)

    @property
    def location(self) -> bytes:
        """The path's bytes."""
        return self.path.encode() if self.raw_path is None else base64.b64decode(self.raw_path)

    def to_line(self) -> bytes:
        """As it is stored, without the line's end; what says nothing is left out."""
        return _ENTRY.dump_json(self, exclude_defaults=True)

    def read_content(self, store: Source, target: Callable[[bytes], object]) -> str:
        """Read a file's content back from the store.

        Args:
            store: The platform's objects; its seal opens it.
            target: Gets the content as it comes; whether it was the right one shows at the end.

        Returns:
            What is wrong with it, for a sentence that begins with its name; empty when it is what was hashed.

        Raises:
            SealForOthers: It is sealed for other keys than ours.
            KeepwellError: The store cannot be read.
        """
        folder, _, name = self.key.rpartition("/")
        expected = Part(
            name=name,
            size_bytes=self.stored_bytes,
            sha256=_UNKNOWN,  # another set may have sent it, so only its content is known
            compression="zstd",
            encryption="age" if name.endswith(".age") else None,
            content_size_bytes=self.size_bytes,
            content_sha256=self.sha256,
        )
        try:
            received = receive(store, f"{folder}/", expected, target)
        except ObjectMissing:
            return "is missing from the store"
        except ChecksumMismatch:
            return "does not fit the store's own checksum"
        if received.for_others:
            raise SealForOthers(f"{self.key} {received.fault}.", hint=_KEYS_HINT)
        if received.fault:
            return received.fault
        return "" if received.content.sha256 == self.sha256 else "reads back with another content than it had"


_ENTRY = TypeAdapter(FileEntry)


@dataclass(frozen=True, slots=True)
class Content:
    """One content that a set needs.

    Attributes:
        first: The first entry that holds it.
        files: How many hold it.
    """

    first: FileEntry
    files: int

    @property
    def told(self) -> str:
        """For people: the path, and what else hangs on it."""
        more = f" (and {self.files - 1} more of the same content)" if self.files > 1 else ""
        return f"The uploaded file {self.first.shown}{more}"


def list_contents(index: Iterable[FileEntry]) -> list[Content]:
    """Each content of an index once, in the order of their first paths."""
    found: dict[str, list[FileEntry]] = {}
    for entry in index:
        if entry.kind == "file":
            found.setdefault(entry.key, []).append(entry)
    return [Content(under[0], len(under)) for under in found.values()]


def name_path(location: bytes) -> tuple[str, str | None]:
    """A path as an entry holds it: text for people, and its bytes where they are not UTF-8."""
    try:
        return location.decode(), None
    except UnicodeDecodeError:
        return location.decode(errors="backslashreplace"), base64.b64encode(location).decode()


def parse_entry(line: bytes) -> FileEntry:
    """One line of an index.

    Raises:
        ValueError: It is none, or its path leads out of the folder.
    """
    try:
        entry = _ENTRY.validate_json(line)
    except ValidationError as error:
        message = f"it is no entry: {error.errors(include_input=False, include_url=False)[0]['msg']}"
        raise ValueError(message) from None
    if not _stays_inside(entry.location):
        message = f"the path {entry.path!r} leads out of the folder"
        raise ValueError(message)
    if entry.kind == "file" and not entry.key.startswith(layout.content_folder(entry.sha256) + entry.sha256):
        message = f"{entry.path!r} is said to lie in {entry.key!r}"
        raise ValueError(message)
    return entry


def find_index(manifest: Manifest) -> Part | None:
    """The part that is a set's index; None where the set holds no uploaded files."""
    return next((part for part in manifest.parts if part.content_name == layout.UPLOADS_INDEX), None)


class IndexSink:
    """Takes an index as it comes back from the store.

    Args:
        keep: Gets each entry; by default they are kept here.

    Attributes:
        entries: What was kept here so far, up to the first line that is none.
    """

    def __init__(self, keep: Callable[[FileEntry], object] | None = None) -> None:
        self.entries: list[FileEntry] = []
        self._keep = keep or self.entries.append
        self._fault = ""
        self._lines = LineSink(self._take)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if not self._fault:
            self._lines.write(chunk)

    def finish(self) -> str:
        """What is wrong with the index; empty when nothing is."""
        return self._fault or ("" if self._lines.finish() else "ends in the middle of a line")

    def _take(self, line: bytes) -> None:
        try:
            self._keep(parse_entry(line))
        except ValueError as error:
            self._fault = self._fault or f"holds a line that is damaged: {error}"


def read_index(store: Store, manifest: Manifest) -> list[FileEntry]:
    """Read a set's index back and check it against the manifest.

    Returns:
        Its entries, sorted by path; empty where the set holds no uploaded files.

    Raises:
        VerificationFailed: It is not what was stored.
        KeepwellError: The store cannot be read.
    """
    sink = IndexSink()
    _read_index(store, manifest, sink)
    return sink.entries


def read_upload_objects(store: Store, manifest: Manifest) -> frozenset[str]:
    """Keys of every content that a set needs, in the platform's folder of the bucket: what keeps an object alive.

    As `read_index`, without keeping the index in memory.

    Raises:
        VerificationFailed: The index is not what was stored.
        KeepwellError: The store cannot be read.
    """
    keys: set[str] = set()

    def keep(entry: FileEntry) -> None:
        if entry.kind == "file":
            keys.add(entry.key)

    _read_index(store, manifest, IndexSink(keep))
    return frozenset(keys)


def _read_index(store: Store, manifest: Manifest, sink: IndexSink) -> None:
    part = find_index(manifest)
    if part is None:
        return
    received = receive(store, layout.set_folder(manifest.backup_id), part, sink.write)
    fault = received.fault or sink.finish()
    if not fault and received.content.sha256 != part.content_sha256:
        fault = "is not what was stored"
    if fault:
        raise VerificationFailed(f"{part.name} {fault}.", hint=_DAMAGED_HINT)


def _stays_inside(location: bytes) -> bool:
    """Whether a path is a plain one, below the folder that it is put into."""
    names = location.split(b"/")
    return b"\0" not in location and all(name not in (b"", b".", b"..") for name in names)


def leads_outside(location: bytes, target: bytes) -> bool:
    """Whether a link, followed by its words alone, would point out of the folder that it lies in."""
    if target.startswith(b"/"):
        return True
    joined = os.path.normpath(b"/".join([*location.split(b"/")[:-1], target]))
    return joined == b".." or joined.startswith(b"../")
