"""What a file is, by its content and never by its name; and its content as a stream, whatever compressed it."""

import bz2
import lzma
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import zstandard

from keepwell.dumps.content import Fault
from keepwell.dumps.contents import MAGIC
from keepwell.errors import PreconditionFailed
from keepwell.verdict import Finding, Verdict

CONTENTS_FILE = "toc.dat"
# What the libraries raise for damaged data.
UNDECOMPRESSIBLE = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, zstandard.ZstdError)
CHANGED_HINT = "A byte was changed on the disk or on the way: compare it with another copy."
_HEAD_BYTES = 4096
_READ_BYTES = 128 * 1024
_ZSTD_BITE_BYTES = 1024
# The library finds out which of the two it is.
_GZIP_OR_ZLIB = 47
_PIECE_BYTES = 1024 * 1024
_BITE_BYTES = 64
_XZ_MEMORY_BYTES = 128 * 1024 * 1024
_TAR_MAGIC = slice(257, 262)
_SHOWN_FILES = 3


class Format(StrEnum):
    """pg_dump's four formats."""

    PLAIN = "plain SQL"
    CUSTOM = "custom format"
    DIRECTORY = "directory format"
    TAR = "tar format"


class Wrapping(StrEnum):
    """What the whole file was compressed with."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


_MAGIC = {
    Wrapping.GZIP: b"\x1f\x8b",
    Wrapping.ZSTD: b"\x28\xb5\x2f\xfd",
    Wrapping.XZ: b"\xfd7zXZ\x00",
    Wrapping.BZIP2: b"BZh",
}
_DECRYPT = "Decrypt it first, and prove the result."
_UNPACK = "Unpack it first, and prove what is in it."
_OTHER = "This proves dumps of PostgreSQL."
_UTF16 = "PowerShell's “>” makes that of pg_dump's output, and psql cannot read it: use pg_dump -f FILE."
# What other files begin with: what each is, whether a dump may hide in it, and what to do.
_STRANGERS: tuple[tuple[bytes, str, Verdict, str], ...] = (
    (b"age-encryption.org/", "encrypted with age", Verdict.UNKNOWN, _DECRYPT),
    (b"-----BEGIN AGE ENCRYPTED", "encrypted with age", Verdict.UNKNOWN, _DECRYPT),
    (b"-----BEGIN PGP MESSAGE", "encrypted with PGP", Verdict.UNKNOWN, _DECRYPT),
    (b"Salted__", "encrypted with openssl", Verdict.UNKNOWN, _DECRYPT),
    (b"\x04\x22\x4d\x18", "compressed with lz4", Verdict.UNKNOWN, _UNPACK),
    (b"PK\x03\x04", "a zip archive", Verdict.UNKNOWN, _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", Verdict.UNKNOWN, _UNPACK),
    (b"PGCOPY\n\xff\r\n\0", "the rows of one table in COPY's binary format", Verdict.ALERT, _OTHER),
    (b"-- MySQL dump", "a dump of MySQL", Verdict.ALERT, _OTHER),
    (b"-- MariaDB dump", "a dump of MariaDB", Verdict.ALERT, _OTHER),
    (b"/*M!999999", "a dump of MariaDB", Verdict.ALERT, _OTHER),
    (b"SQLite format 3\0", "a database of SQLite", Verdict.ALERT, _OTHER),
    (b"\xff\xfe", "UTF-16 text", Verdict.ALERT, _UTF16),
    (b"\xfe\xff", "UTF-16 text", Verdict.ALERT, _UTF16),
)


@dataclass(frozen=True)
class DumpFile:
    """A file or folder that may be a dump.

    Attributes:
        path: Where it lies.
        format: Of the dump in it.
        wrapping: What the whole was compressed with.
        size_bytes: As it lies there.
        modified_at: When it was last written.
    """

    path: Path
    format: Format
    wrapping: Wrapping
    size_bytes: int
    modified_at: datetime


def _gunzipped(library: Any, data: bytes) -> Iterator[bytes]:
    piece = library.decompress(data, _PIECE_BYTES)
    yield piece
    while not library.eof and (library.unconsumed_tail or len(piece) == _PIECE_BYTES):
        piece = library.decompress(library.unconsumed_tail, _PIECE_BYTES)
        yield piece


class Frame:
    """One frame of a compressed stream, whichever library unpacks it."""

    def __init__(self, wrapping: Wrapping) -> None:
        self._wrapping = wrapping
        self._behind = b""
        self._library: Any
        match wrapping:
            case Wrapping.GZIP:
                self._library = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
            case Wrapping.XZ:
                self._library = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)
            case Wrapping.BZIP2:
                self._library = bz2.BZ2Decompressor()
            case _:
                self._library = zstandard.ZstdDecompressor().decompressobj()

    @property
    def ended(self) -> bool:
        """Whether its last byte was met."""
        return bool(self._library.eof)

    @property
    def behind(self) -> bytes:
        """What was given and lies behind its end."""
        return bytes(self._library.unused_data) + self._behind if self.ended else b""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What a piece of the file unpacks to, a megabyte at most at a time.

        Raises:
            UNDECOMPRESSIBLE: The data are damaged.
        """
        library = self._library
        if self._wrapping is Wrapping.ZSTD:
            yield from self._unpack_zstd(data)
        elif self._wrapping is Wrapping.GZIP:
            yield from self._gunzip(data)
        else:
            yield library.decompress(data, _PIECE_BYTES)
            while not library.needs_input and not library.eof:
                yield library.decompress(b"", _PIECE_BYTES)

    def _unpack_zstd(self, data: bytes) -> Iterator[bytes]:
        """Its library gives all that it is given at once, and a few bytes may stand for very many."""
        for start in range(0, len(data), _ZSTD_BITE_BYTES):
            stop = start + _ZSTD_BITE_BYTES
            unpacked = self._library.decompress(data[start:stop])
            for place in range(0, len(unpacked), _PIECE_BYTES):
                yield unpacked[place : place + _PIECE_BYTES]
            if self.ended:
                self._behind = data[stop:]
                return

    def _gunzip(self, data: bytes) -> Iterator[bytes]:
        """An error loses what its call had unpacked so far, so a failing piece is taken again in small bites."""
        before = self._library.copy()
        given = 0
        try:
            for piece in _gunzipped(self._library, data):
                given += len(piece)
                yield piece
        except zlib.error:
            for start in range(0, len(data), _BITE_BYTES):
                for piece in _gunzipped(before, data[start : start + _BITE_BYTES]):
                    yield piece[given:]
                    given = max(0, given - len(piece))
            raise


@dataclass
class ContentStream:
    """A file's content, decompressed as it is read, in constant memory; what is wrong with it is kept, not raised.

    Attributes:
        path: The file.
        wrapping: What it was compressed with.
        on_read: Told how many bytes of the file were read, often.
        fault: Why it could not be read to its end; None as long as it could.
        size_bytes: Of the content that was given out.
    """

    path: Path
    wrapping: Wrapping
    on_read: Callable[[int], None] = lambda _: None
    fault: Fault | None = None
    size_bytes: int = 0
    _pieces: Generator[bytes] | None = field(default=None, repr=False)
    _piece: bytes = field(default=b"", repr=False)
    _taken: int = field(default=0, repr=False)

    def __iter__(self) -> Iterator[bytes]:
        """What was not given out yet, in pieces of about a megabyte."""
        while piece := self._rest() or self._next():
            yield piece

    def read(self, size: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""
        stop = self._taken + size
        if stop <= len(self._piece):
            found = self._piece[self._taken : stop]
            self._taken = stop
            return found
        parts = [self._rest()]
        wanted = size - len(parts[0])
        while wanted > 0 and (piece := self._next()):
            parts.append(piece[:wanted])
            if len(piece) > wanted:
                self._piece, self._taken = piece, wanted
            wanted -= len(parts[-1])
        return b"".join(parts)

    def _rest(self) -> bytes:
        rest, self._piece, self._taken = self._piece[self._taken :], b"", 0
        return rest

    def _next(self) -> bytes:
        if self._pieces is None:
            self._pieces = self._content()
        return next(self._pieces, b"")

    def close(self) -> None:
        """Let go of the file, also before its end."""
        if self._pieces is not None:
            self._pieces.close()

    def read_exactly(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: There are not so many.
        """
        found = self.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _content(self) -> Generator[bytes]:
        try:
            with self.path.open("rb") as file:
                raw = self._raw(file)
                for piece in raw if self.wrapping is Wrapping.NONE else self._decompressed(raw):
                    if piece:
                        self.size_bytes += len(piece)
                        yield piece
        except OSError as error:
            self.fault = Fault(
                "file", f"{self.path.name} cannot be read to its end: {error.strerror}.", "Look at the disk."
            )

    def _raw(self, file: IO[bytes]) -> Iterator[bytes]:
        read_bytes = 0
        while piece := file.read(_READ_BYTES):
            read_bytes += len(piece)
            self.on_read(read_bytes)
            yield piece

    def _decompressed(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """The content of one frame after another: compressors append them, and `cat a.gz b.gz` is a gzip file too."""
        name, magic = self.wrapping.value, _MAGIC[self.wrapping]
        frame: Frame | None = None
        begun = 0
        for data in raw:
            waiting = data
            while waiting:
                if frame is None:
                    waiting = waiting.lstrip(b"\0") if begun else waiting  # tapes and blocks are padded with zeros
                    if not waiting:
                        break
                    if begun and not waiting.startswith(magic[: len(waiting)]):
                        self.fault = Fault("file", f"Something else follows the {name} data.", "It was appended to.")
                        return
                    frame, begun = Frame(self.wrapping), begun + 1
                try:
                    yield from frame.unpack(waiting)
                except UNDECOMPRESSIBLE as error:
                    self.fault = _undecompressible(name, error)
                    return
                waiting = frame.behind
                frame = None if frame.ended else frame
        if frame is not None:
            self.fault = Fault(
                "file",
                f"The {name} file was cut: it ends within its data.",
                "The disk was full, or the copy or the pipe was ended.",
            )


def has_checksum(dump: DumpFile) -> bool:
    """Whether the compressor of a whole file kept a checksum of its content; zstd may leave it out."""
    if dump.wrapping is not Wrapping.ZSTD:
        return dump.wrapping is not Wrapping.NONE
    with dump.path.open("rb") as file:
        return bool(zstandard.get_frame_parameters(file.read(_HEAD_BYTES)).has_checksum)


def open_tar(stream: ContentStream) -> tarfile.TarFile:
    """A tar archive to be read from front to back, once."""
    return tarfile.open(fileobj=stream, mode="r|")  # type: ignore[call-overload, no-any-return]


def recognize(path: Path) -> DumpFile | Finding:
    """What a file or folder is.

    Returns:
        The dump's format, or a finding that says what it is instead.

    Raises:
        PreconditionFailed: There is no such file, or it cannot be opened.
    """
    try:
        if path.is_dir():
            return _recognize_folder(path)
        if not path.exists():
            raise PreconditionFailed(
                f"There is no file {path}.", hint="Name a dump: a file, or a folder of pg_dump -Fd."
            )
        if not path.is_file():
            raise PreconditionFailed(
                f"{path} is no regular file.", hint="A dump is read twice: save the stream to a file first."
            )
        return _recognize_file(path)
    except OSError as error:
        raise PreconditionFailed(
            f"{path} cannot be opened: {error.strerror}.", hint="Run this as a user who may read it."
        ) from error


def find_wrapping(head: bytes) -> Wrapping:
    """What a stream that begins like this was compressed with."""
    return next((wrapping for wrapping, magic in _MAGIC.items() if head.startswith(magic)), Wrapping.NONE)


def _recognize_folder(folder: Path) -> DumpFile | Finding:
    contents = folder / CONTENTS_FILE
    if contents.is_file():
        files = [file for file in folder.iterdir() if file.is_file()]
        size_bytes = sum(file.stat().st_size for file in files)
        return DumpFile(folder, Format.DIRECTORY, Wrapping.NONE, size_bytes, _modified_at(contents))
    if (folder / "PG_VERSION").exists():
        return _stranger(
            folder, "a data folder of PostgreSQL", Verdict.ALERT, "It is no dump: start a server on a copy of it."
        )
    names = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: -file.stat().st_mtime)
    if any(file.name.endswith((".dat", ".dat.gz", ".dat.zst", ".dat.lz4")) for file in names):
        return _stranger(
            folder,
            f"a directory dump without its {CONTENTS_FILE}",
            Verdict.ALERT,
            "Without its table of contents pg_restore can do nothing with it.",
        )
    listed = ", ".join(file.name for file in names[:_SHOWN_FILES])
    hint = f"Name one of its files; the newest are {listed}." if names else "It is empty."
    return _stranger(folder, f"a folder without a {CONTENTS_FILE}", Verdict.ALERT, hint)


def _recognize_file(path: Path) -> DumpFile | Finding:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    size_bytes, modified_at = path.stat().st_size, _modified_at(path)
    if not head:
        return Finding(
            name="file",
            verdict=Verdict.ALERT,
            message=f"{path.name} is empty: 0 bytes.",
            hint="Whatever wrote it failed before its first byte. Do not rely on it.",
        )
    wrapping = find_wrapping(head)
    with closing(ContentStream(path, wrapping)) as stream:
        inner = stream.read(_HEAD_BYTES)
    if not inner and stream.fault is None:
        return Finding(
            name="file",
            verdict=Verdict.ALERT,
            message=f"{path.name} is an empty {wrapping} archive: {size_bytes} bytes that unpack to nothing.",
            hint="pg_dump failed, and the compressor packed nothing and exited with 0: the database's name may be "
            "wrong. Use “set -o pipefail”, and look at pg_dump's own message.",
        )
    if inner and find_wrapping(inner) is not Wrapping.NONE:
        return _stranger(path, "compressed twice", Verdict.UNKNOWN, "Decompress it once, and prove the result.")
    stranger = next((known for known in _STRANGERS if inner.startswith(known[0])), None)
    if stranger is not None:
        return _stranger(path, *stranger[1:])
    if inner.startswith(MAGIC):
        return DumpFile(path, Format.CUSTOM, wrapping, size_bytes, modified_at)
    form = Format.TAR if inner[_TAR_MAGIC] == b"ustar" else Format.PLAIN
    return DumpFile(path, form, wrapping, size_bytes, modified_at)


def _stranger(path: Path, what: str, verdict: Verdict, hint: str) -> Finding:
    return Finding(name="file", verdict=verdict, message=f"{path.name} is {what}.", hint=hint)


def _modified_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def describe_undecompressible(error: Exception) -> str:
    """A library's words for data that it cannot unpack, without its own name."""
    return str(error).removeprefix("Error -3 while decompressing data: ").removeprefix("zstd decompressor error: ")


def _undecompressible(name: str, error: Exception) -> Fault:
    said = describe_undecompressible(error)
    wrong_sum = "check" in said.lower() or "crc" in said.lower()
    what = "does not match its own checksum" if wrong_sum else "cannot be decompressed"
    return Fault(
        "file",
        f"The {name} data {what}: {said}.",
        CHANGED_HINT,
    )
