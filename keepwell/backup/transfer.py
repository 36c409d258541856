"""Streams on their way: compressed and sealed going out; opened, decompressed and measured coming back.

Both ways are pulled through at once, so that a stream of any size needs little memory and no disk.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import zstandard

from keepwell import sealing
from keepwell.backup.manifest import Part
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres.archive import StreamCheck
from keepwell.sealing import Readable, Seal, SealBroken, SealForOthers

_BITE_BYTES = 8 * 1024
_READ_BYTES = 1024 * 1024
_COMPRESSED, _SEALED = ".zst", ".age"


class Taken(Protocol):
    """Told of bytes as they pass; may hold them back for a while, or raise."""

    def __call__(self, size_bytes: int, /) -> None:
        """So many more have passed."""


@dataclass
class Measured:
    """What passed through one side of a transfer, counted and hashed."""

    size_bytes: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def sha256(self) -> str:
        """Of everything so far."""
        return self._digest.hexdigest()


def send(
    store: Store,
    uploads: Uploads,
    folder: str,
    name: str,
    source: Readable,
    *,
    level: int | None,
    check: StreamCheck | None = None,
    taken: Taken,
    sealed: bool = True,
) -> Part:
    """Store one stream, compressed and sealed on its way; there is an object only if it came to its end.

    Args:
        store: Where to; its seal says for whom.
        uploads: Whose threads send.
        folder: Of the set, ending with a slash.
        name: Of the part, without the suffixes of compression and sealing.
        source: The stream.
        level: zstd level; None stores it uncompressed.
        check: Follows the stream's rows, where it has some.
        taken: Told of the stream's bytes.
        sealed: False stores it so that it can be read without a key, though the store seals.

    Returns:
        What was stored, measured while it was sent.
    """
    content = _Content(source, check, taken)
    compressed = content if level is None else _compress(content, level)
    recipients = store.seal.recipients if sealed else ()
    full_name = stored_name(name, compressed=level is not None, sealed=bool(recipients))
    writer = store.open_writer(folder + full_name, uploads)
    stored = _MeasuredWriter(writer.write)
    try:
        if recipients:
            sealing.encrypt(compressed, stored, recipients)
        else:
            while chunk := compressed.read(_READ_BYTES):
                stored.write(chunk)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    return Part(
        name=full_name,
        size_bytes=stored.measured.size_bytes,
        sha256=stored.measured.sha256,
        compression=None if level is None else "zstd",
        encryption="age" if recipients else None,
        content_size_bytes=content.measured.size_bytes,
        content_sha256=content.measured.sha256,
    )


def stored_name(name: str, *, compressed: bool, sealed: bool) -> str:
    """A name with the suffixes that stock tools take off again."""
    return name + (_COMPRESSED if compressed else "") + (_SEALED if sealed else "")


@dataclass
class Received:
    """What really came back of one part.

    Attributes:
        stored: The object as the store keeps it.
        content: What it holds once opened and decompressed.
        fault: Why it could not be opened or decompressed; empty when it could.
        for_others: Whether it could not be opened because it is sealed for other keys.
    """

    stored: Measured = field(default_factory=Measured)
    content: Measured = field(default_factory=Measured)
    fault: str = ""
    for_others: bool = False


class Source(Protocol):
    """Where parts are read from."""

    seal: Seal

    def open_reader(self, relative: str, /) -> AbstractContextManager[Readable]:
        """Read one object of any size as it comes."""


def receive(store: Source, folder: str, part: Part, target: Callable[[bytes], object]) -> Received:
    """Read one part back, open and decompress it, and hand out its content as it comes.

    Whatever is wrong with it is told, not raised; then the rest is still read, so that the object as it is stored is
    measured whole.

    Args:
        store: Where from; its seal opens it.
        folder: Of the set, ending with a slash.
        part: What is expected; only its name, compression and encryption are believed.
        target: Gets the content; may have got some of it when the end shows that it was not whole.

    Raises:
        KeepwellError: The store cannot be read.
        BaseException: Whatever the target raised.
    """
    received = Received()
    with store.open_reader(folder + part.name) as body:
        stored = _MeasuredReader(body, received.stored)
        try:
            _open(stored, part, _deliver(part, received.content, target), store.seal)
        except SealForOthers as error:
            received.fault, received.for_others = error.message.removeprefix("It ").rstrip("."), True
        except SealBroken as error:
            received.fault = error.message.removeprefix("It ").rstrip(".")
        except zstandard.ZstdError as error:
            received.fault = f"cannot be decompressed: {error}"
        while stored.read(_READ_BYTES):
            pass
    return received


def _open(stored: Readable, part: Part, delivered: "_Inflater | _Plain", seal: Seal) -> None:
    if part.encryption == "age":
        sealing.decrypt(stored, delivered, seal.identities)
    else:
        while chunk := stored.read(_READ_BYTES):
            delivered.write(chunk)
    delivered.finish()


def _deliver(part: Part, content: Measured, target: Callable[[bytes], object]) -> "_Inflater | _Plain":
    def deliver(chunk: bytes) -> None:
        content.update(chunk)
        target(chunk)

    return _Inflater(deliver) if part.compression == "zstd" else _Plain(deliver)


def _compress(content: Readable, level: int) -> Readable:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    return compressor.stream_reader(content, read_size=_READ_BYTES)  # type: ignore[arg-type]


class _Content:
    """A stream's bytes on their way out of the source."""

    def __init__(self, source: Readable, check: StreamCheck | None, taken: Taken) -> None:
        self._source, self._check, self._taken = source, check, taken
        self.measured = Measured()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(size)
        self.measured.update(chunk)
        if self._check is not None:
            self._check.update(chunk)
        self._taken(len(chunk))
        return chunk


class _MeasuredReader:
    def __init__(self, source: Readable, measured: Measured) -> None:
        self._source, self._measured = source, measured

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(size)
        self._measured.update(chunk)
        return chunk


class _MeasuredWriter:
    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self.measured = Measured()

    def write(self, chunk: bytes, /) -> int:
        self.measured.update(chunk)
        return self._write(chunk)


class _Plain:
    """Content that was not compressed."""

    def __init__(self, deliver: Callable[[bytes], object]) -> None:
        self._deliver = deliver

    def write(self, chunk: bytes, /) -> int:
        self._deliver(chunk)
        return len(chunk)

    def finish(self) -> None:
        """Any end is a good one."""


class _Inflater:
    """Decompresses in small bites: one of repetitive rows may grow ten-thousandfold, and memory must not."""

    def __init__(self, deliver: Callable[[bytes], object]) -> None:
        self._deliver = deliver
        self._inflate = zstandard.ZstdDecompressor().decompressobj()

    def write(self, chunk: bytes, /) -> int:
        for start in range(0, len(chunk), _BITE_BYTES):
            if self._inflate.eof:
                # Stock zstd would go on with what follows, and so restore something else than is compared here.
                message = "more bytes follow the zstd stream"
                raise zstandard.ZstdError(message)
            self._deliver(self._inflate.decompress(chunk[start : start + _BITE_BYTES]))
        return len(chunk)

    def finish(self) -> None:
        """Require that the stream came to its end.

        Raises:
            zstandard.ZstdError: It did not, or more follows.
        """
        if not self._inflate.eof or self._inflate.unused_data:
            message = "more bytes follow the zstd stream" if self._inflate.eof else "the zstd stream ends early"
            raise zstandard.ZstdError(message)
