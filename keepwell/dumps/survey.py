"""Reads a dump from its first byte to its last, without any server: what it holds, and whether it is whole.

Rows are counted where they stand, independently of PostgreSQL, so that what a restore brings back can be compared with
what the dump holds: a dump that was cut passes through psql and pg_restore in silence.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from keepwell.dumps.content import Content, Fault, HeldRows
from keepwell.dumps.contents import (
    Compression,
    Contents,
    Entry,
    TooNewArchiveError,
    UnreadableArchiveError,
    read_blocks,
    read_contents,
)
from keepwell.dumps.opening import (
    CHANGED_HINT,
    CONTENTS_FILE,
    UNDECOMPRESSIBLE,
    ContentStream,
    DumpFile,
    Format,
    Frame,
    Wrapping,
    describe_undecompressible,
    find_wrapping,
    has_checksum,
    open_tar,
)
from keepwell.dumps.script import Script, ScriptReader
from keepwell.postgres.archive import StreamCheck
from keepwell.progress import Progress, Step

STAGE = "reading the dump"
UNCOUNTED = "rows that were not counted"
_NAMED_FAULTS = 10
_ARCHIVE = "archive"
_WITHOUT_CONTENTS = "its table of contents cannot be read"
_MAGIC_BYTES = 16
_MEMBER_READ_BYTES = 64 * 1024
_LIST_BYTES = 256 * 1024 * 1024
# pg_dump asks neither zstd nor lz4 for one.
_CHECKSUMMED = frozenset({Compression.GZIP})
_BLOBS_BY_NUMBER = (1, 16)
_DATA_FILE = re.compile(r"\d+\.dat(\.\w+)?|blob\w*\.(dat|toc)(\.\w+)?")
_SUFFIXES = ("", ".gz", ".zst", ".lz4")
_CUT_HINT = "The disk was full, or the copy or the pipe was ended. Whatever came after that is lost."


class FolderInTarError(Exception):
    """It is a tar of a folder that pg_dump wrote, which no tool can restore before it is unpacked."""


@dataclass(frozen=True)
class Survey:
    """What was found in a dump by reading it.

    Attributes:
        content: What it holds, and what is wrong with it as a dump.
        content_bytes: Its size, decompressed; for archives, of their rows.
        unreadable: What is wrong with it as a file, so that not even its bytes came out whole.
        checksummed: Whether its compression carries checksums, so that a changed byte would have been noticed.
        script: A plain dump, as psql is to be shown it; None for archives.
        obstacle: Why pg_restore cannot be asked to restore it; empty where it can.
    """

    content: Content
    content_bytes: int
    unreadable: tuple[Fault, ...]
    checksummed: bool
    script: Script | None = None
    obstacle: str = ""


def survey(dump: DumpFile, progress: Progress) -> Survey:
    """Read a dump to its end. What is wrong with it is said, not raised.

    Args:
        dump: As it was recognized.
        progress: Told how far it is, in bytes of the file.

    Raises:
        FolderInTarError: It must be unpacked first.
    """

    def tell(done_bytes: int) -> None:
        progress(Step(STAGE, done_bytes, dump.size_bytes, "bytes"))

    if dump.format is Format.DIRECTORY:
        return _survey_folder(dump, tell)
    with closing(ContentStream(dump.path, dump.wrapping, tell)) as stream:
        return (_survey_script if dump.format is Format.PLAIN else _survey_archive)(dump, stream)


def _survey_script(dump: DumpFile, stream: ContentStream) -> Survey:
    reader = ScriptReader()
    for piece in stream:
        reader.feed(piece)
    script = reader.close()
    unreadable = (stream.fault,) if stream.fault else ()
    return Survey(script.content, script.size_bytes, unreadable, has_checksum(dump), script)


def _survey_archive(dump: DumpFile, stream: ContentStream) -> Survey:
    found = _Findings()
    contents: Contents | None = None
    try:
        if dump.format is Format.CUSTOM:
            contents = read_contents(stream.read_exactly)
            found.contents = contents
            _follow_blocks(contents, stream, found)
        else:
            contents = _follow_members(stream, found)
    except UnreadableArchiveError as error:
        found.fault(_ARCHIVE, f"The archive is damaged: {error}.", _CUT_HINT)
    except TooNewArchiveError as error:
        found.unknowns.append(Fault(_ARCHIVE, f"The archive cannot be read here: {error}.", "Use a newer Keepwell."))
    for _ in stream:
        pass  # to the end, since that is where a compressor keeps its checksum
    unreadable = (*((stream.fault,) if stream.fault else ()), *found.unreadable[:_NAMED_FAULTS])
    content = (
        Content(faults=tuple(found.faults), unknowns=tuple(found.unknowns)) if contents is None else found.content()
    )
    inside = contents is not None and contents.compression in _CHECKSUMMED
    obstacle = "" if contents else _WITHOUT_CONTENTS
    if dump.format is Format.TAR and any(fault.name == _ARCHIVE for fault in found.faults):
        obstacle = obstacle or "pg_restore never ends on a tar archive that was cut"
    return Survey(content, found.row_bytes, unreadable, inside or has_checksum(dump), obstacle=obstacle)


def _follow_blocks(contents: Contents, stream: ContentStream, found: "_Findings") -> None:
    """Follow the blocks of a custom archive."""
    entries = {entry.number: entry for entry in contents.entries}
    expected = {entry.number for entry in contents.entries if entry.holds_rows}
    try:
        for number, pieces in read_blocks(stream.read_exactly, contents.integer_bytes):
            entry = entries.get(number)
            if entry is None:
                message = f"a block of rows names the entry {number}, which its contents do not have"
                raise UnreadableArchiveError(message)
            _follow_block(entry, pieces, contents.compression, found)
    except EOFError:
        raise UnreadableArchiveError("it ends between two blocks of rows") from None
    except UnreadableArchiveError:
        if not found.seen >= expected:
            raise
        # All rows are there; behind them pg_dump may have repeated its contents.


def _follow_block(entry: Entry, pieces: Iterator[bytes], compression: Compression, found: "_Findings") -> None:
    check = _Rows(entry)
    try:
        for piece in _inflated(pieces, compression):
            check.take(piece)
        found.take(check)
    except EOFError:
        found.take(check, cut="the archive was cut there")
        raise UnreadableArchiveError(f"it ends within the rows of {check.name}") from None
    except _UndecompressibleError as error:
        found.take(check, cut=str(error))
        found.unreadable.append(Fault(check.name, f"The rows of {check.name}: {error}.", CHANGED_HINT))
    except _UnknownCompressionError:
        found.uncounted(entry)
    for _ in pieces:
        pass  # the next block begins behind the rest of this one


def _follow_members(stream: ContentStream, found: "_Findings") -> Contents:
    """Follow the members of a tar archive, whose first is the table of contents."""
    large_objects = _LargeObjects()
    try:
        with open_tar(stream) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                if found.contents is None:
                    found.contents = _first_member(member.name, content.read)
                else:
                    _follow_member(member.name, content.read, found, large_objects)
    except (tarfile.TarError, EOFError) as error:
        if found.contents is None:
            raise UnreadableArchiveError("it ends within its table of contents") from error
        found.fault(_ARCHIVE, f"The archive is damaged: {error or 'it ends within a file'}.", _CUT_HINT)
    if found.contents is None:
        raise UnreadableArchiveError("it holds nothing")
    for name in large_objects.listed:
        if name not in large_objects.members:
            found.fault("large objects", f"A large object is missing: there is no file {name}.", _CUT_HINT)
    return found.contents


@dataclass
class _LargeObjects:
    """Files of large objects in a tar archive: those that are there, and those that its lists name."""

    members: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)


def _follow_member(name: str, read: Callable[[int], bytes], found: "_Findings", large_objects: _LargeObjects) -> None:
    assert found.contents is not None  # noqa: S101 - they came first
    entry = _files_of(found.contents).get(name)
    if entry is None:
        large_objects.members.add(name)
    elif entry.kind == "TABLE DATA":
        _check_member(entry, read, found)
    else:
        found.seen.add(entry.number)
        large_objects.listed += _listed_in(read(_LIST_BYTES).decode(errors="replace"))


def _first_member(name: str, read: Callable[[int], bytes]) -> Contents:
    if name == CONTENTS_FILE:
        return read_contents(_exactly(read))
    if Path(name).name == CONTENTS_FILE or _DATA_FILE.fullmatch(Path(name).name):
        raise FolderInTarError
    raise UnreadableArchiveError(f"it is a tar file, but of no dump: its first file is {name}")


@cache
def _files_of(contents: Contents) -> dict[str, Entry]:
    """By the name of its file in a tar archive: those entries whose rows must be there."""
    files = {entry.file_name: entry for entry in contents.entries if entry.holds_rows and entry.kind != "BLOBS"}
    blobs = [entry for entry in contents.entries if entry.holds_rows and entry.kind == "BLOBS"]
    numbered = contents.version >= _BLOBS_BY_NUMBER
    return files | {f"blobs_{entry.number}.toc" if numbered else "blobs.toc": entry for entry in blobs}


def _check_member(entry: Entry, read: Callable[[int], bytes], found: "_Findings") -> None:
    check = _Rows(entry)
    try:
        while piece := read(_MEMBER_READ_BYTES):
            check.take(piece)
    except (tarfile.TarError, EOFError):
        found.take(check, cut="the archive was cut there")
        raise
    found.take(check)


def _survey_folder(dump: DumpFile, tell: Callable[[int], None]) -> Survey:
    found = _Findings()
    contents: Contents | None = None
    try:
        with (dump.path / CONTENTS_FILE).open("rb") as file:
            contents = found.contents = read_contents(_exactly(file.read))
    except UnreadableArchiveError as error:
        found.fault(_ARCHIVE, f"{CONTENTS_FILE} is damaged: {error}.", _CUT_HINT)
    except TooNewArchiveError as error:
        found.unknowns.append(Fault(_ARCHIVE, f"The archive cannot be read here: {error}.", "Use a newer Keepwell."))
    done_bytes = 0
    unreadable: list[Fault] = []
    for entry in contents.entries if contents else ():
        if not entry.holds_rows:
            continue
        listed = [entry.file_name]
        if entry.kind == "BLOBS":
            listed += _listed_in(_text_of(dump.path / entry.file_name))
        for name in listed:
            file_path = _file_of(dump.path, name)
            if file_path is None:
                found.missing(entry, name)
                continue
            fault = _check_file(entry, file_path, found, rows=entry.kind == "TABLE DATA")
            unreadable += [fault] if fault else []
            done_bytes += file_path.stat().st_size
            tell(done_bytes)
    content = (
        Content(faults=tuple(found.faults), unknowns=tuple(found.unknowns)) if contents is None else found.content()
    )
    checksummed = contents is not None and contents.compression in _CHECKSUMMED
    obstacle = "" if contents else _WITHOUT_CONTENTS
    return Survey(content, found.row_bytes, tuple(unreadable[:_NAMED_FAULTS]), checksummed, obstacle=obstacle)


def _check_file(entry: Entry, path: Path, found: "_Findings", *, rows: bool) -> Fault | None:
    """Follow one file of a directory dump; what is wrong with it as a file."""
    with path.open("rb") as file:
        head = file.read(_MAGIC_BYTES)
    wrapping = find_wrapping(head) if path.suffix in (".gz", ".zst") else Wrapping.NONE
    if path.suffix == ".lz4":
        found.uncounted(entry)
        return None
    check, stream = _Rows(entry), ContentStream(path, wrapping)
    for piece in stream:
        check.take(piece)
    if not rows:
        found.row_bytes += stream.size_bytes
        found.seen.add(entry.number)
    elif stream.fault:
        found.take(check, cut=f"the file {path.name} cannot be read to its end", place=path.name)
    else:
        found.take(check, place=path.name)
    return (
        replace(stream.fault, name=path.name, message=f"{path.name}: {stream.fault.message}") if stream.fault else None
    )


def _file_of(folder: Path, name: str) -> Path | None:
    """A file of a directory dump, under the name that the contents give it or with the suffix of its compression."""
    if not name or Path(name).name != name:
        return None
    return next((folder / f"{name}{suffix}" for suffix in _SUFFIXES if (folder / f"{name}{suffix}").is_file()), None)


def _listed_in(large_objects: str) -> list[str]:
    """The files that a list of large objects names."""
    return [name for line in large_objects.splitlines() for _, _, name in [line.partition(" ")] if name]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it is found missing by its own name


@dataclass
class _Rows:
    """Follows the rows of one entry: COPY's text, or INSERTs."""

    entry: Entry
    stream: StreamCheck = field(default_factory=StreamCheck)
    script: ScriptReader = field(default_factory=ScriptReader)
    size_bytes: int = 0

    @property
    def name(self) -> str:
        relation = self.entry.relation
        return (
            f"{relation.schema}.{relation.name}"
            if relation.schema
            else self.entry.kind.lower().replace("blobs", "large objects")
        )

    def take(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.entry.copy is not None:
            self.stream.update(piece)
        elif self.entry.kind == "TABLE DATA":
            self.script.feed(piece)


@dataclass
class _Findings:
    """What was met in an archive so far."""

    contents: Contents | None = None
    held: dict[int, HeldRows] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    unreadable: list[Fault] = field(default_factory=list)
    unknowns: list[Fault] = field(default_factory=list)
    row_bytes: int = 0

    def fault(self, name: str, message: str, hint: str) -> None:
        self.faults.append(Fault(name, message, hint))

    def take(self, check: _Rows, *, cut: str = "", place: str = "") -> None:
        """An entry's rows were followed to their end, or to where they were cut."""
        entry = check.entry
        self.seen.add(entry.number)
        self.row_bytes += check.size_bytes
        if entry.kind != "TABLE DATA":
            if cut:
                self.fault(check.name, f"{check.name[0].upper()}{check.name[1:]} are damaged: {cut}.", _CUT_HINT)
            return
        rows, whole = _counted(check)
        if cut:
            self.fault(check.name, f"The rows of {check.name} end after {rows or 0:,} of them: {cut}.", _CUT_HINT)
        elif not whole:
            what = "are missing: nothing is there" if not check.size_bytes else f"were cut after {rows or 0:,} of them"
            self.fault(check.name, f"The rows of {check.name} {what}, without the line that ends them.", _CUT_HINT)
        place = place or f"entry {entry.number}"
        self.held[entry.number] = HeldRows(
            "", entry.relation.schema, entry.relation.name, rows, whole and not cut, place
        )

    def uncounted(self, entry: Entry) -> None:
        """An entry's rows are compressed in a way that is not read here."""
        self.seen.add(entry.number)
        if entry.kind == "TABLE DATA":
            self.held[entry.number] = HeldRows(
                "", entry.relation.schema, entry.relation.name, None, True, f"entry {entry.number}"
            )

    def missing(self, entry: Entry, name: str) -> None:
        """A file that the contents name is not there."""
        self.seen.add(entry.number)
        check = _Rows(entry)
        self.fault(check.name, f"The rows of {check.name} are missing: there is no file {name}.", _CUT_HINT)
        if entry.kind == "TABLE DATA":
            self.held[entry.number] = HeldRows("", entry.relation.schema, entry.relation.name, 0, False, name)

    def content(self) -> Content:
        """What the archive holds, when it was read to its end."""
        contents = self.contents
        assert contents is not None  # noqa: S101 - there is nothing to tell without
        lost = [entry for entry in contents.entries if entry.holds_rows and entry.number not in self.seen]
        faults = self.faults + list(_lost_faults(lost))
        uncounted = sum(held.rows is None and held.whole for held in self.held.values())
        unknowns = list(self.unknowns)
        if uncounted:
            unknowns.append(
                Fault(
                    UNCOUNTED,
                    f"The rows of {uncounted} tables are compressed with lz4, and could not be counted in the dump.",
                    "Whether each is whole is not known. Dump with --compress=zstd or gzip.",
                )
            )
        lost_rows = [
            HeldRows("", entry.relation.schema, entry.relation.name, 0, False, f"entry {entry.number}")
            for entry in lost
            if entry.kind == "TABLE DATA"
        ]
        return Content(
            origin=contents.origin,
            rows=tuple(self.held.values()) + tuple(lost_rows),
            tables=contents.tables,
            roles_needed=contents.roles,
            extensions=contents.extensions,
            tablespaces=contents.tablespaces,
            refreshed=contents.refreshed,
            encoding=contents.encoding,
            faults=tuple(faults),
            unknowns=tuple(unknowns),
        )


def _counted(check: _Rows) -> tuple[int | None, bool]:
    """How many rows were followed, and whether they end as they should."""
    if check.entry.copy is not None:
        return (check.stream.rows if check.entry.copy.one_line_each else None), check.stream.terminated
    script = check.script.close()
    ends = not script.content.faults
    known = all(held.rows is not None for held in script.content.rows)
    return (script.content.row_count if known else None), ends


def _lost_faults(lost: list[Entry]) -> Iterator[Fault]:
    if lost:
        names = [_Rows(entry).name for entry in lost]
        more = f" and {len(names) - _NAMED_FAULTS} more" if len(names) > _NAMED_FAULTS else ""
        named = f"{', '.join(names[:_NAMED_FAULTS])}{more}"
        yield Fault(_ARCHIVE, f"The contents name rows that the archive does not hold: of {named}.", _CUT_HINT)


class _UndecompressibleError(Exception):
    """The rows of one entry do not decompress; the text says why."""


class _UnknownCompressionError(Exception):
    """The rows are compressed in a way that is not read here."""


def _inflated(pieces: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """An entry's rows, decompressed."""
    if compression is Compression.NONE:
        yield from pieces
        return
    if compression is Compression.LZ4:
        raise _UnknownCompressionError
    frame = Frame(Wrapping.GZIP if compression is Compression.GZIP else Wrapping.ZSTD)
    for piece in pieces:
        try:
            yield from frame.unpack(piece)
        except UNDECOMPRESSIBLE as error:
            message = f"they cannot be decompressed ({describe_undecompressible(error)})"
            raise _UndecompressibleError(message) from error
    if not frame.ended:
        message = "their compressed data ends too early"
        raise _UndecompressibleError(message)


def _exactly(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def read_exactly(size: int) -> bytes:
        found = read(size)
        if len(found) < size:
            raise EOFError
        return found

    return read_exactly
