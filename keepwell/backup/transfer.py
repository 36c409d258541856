"""Bytes on their way: compressed and hashed going out, verified and decompressed coming back."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from keepwell.backup.manifest import Part
from keepwell.objectstore.store import Store

_BITE_BYTES = 8 * 1024
_SUFFIX = ".zst"


class _Measured:
    """A readable that counts and hashes what is read through it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._inner.read(size)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        return chunk

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def upload(
    store: Store, folder: str, name: str, path: Path, *, level: int | None, on_bytes: Callable[[int], None]
) -> Part:
    """Store one file, compressed on its way.

    Args:
        store: Where to.
        folder: Of the set, ending with a slash.
        name: Of the part, without compression's suffix.
        path: The file.
        level: zstd level; None stores it as it is.
        on_bytes: Told the size of the file once it is stored.

    Returns:
        What was stored, measured while it was sent.
    """
    with path.open("rb") as file:
        content = _Measured(file)
        if level is None:
            sent, suffix = content, ""
        else:
            # The content size in the frame lets stock tools show progress and check the length.
            compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
            reader = compressor.stream_reader(content, size=path.stat().st_size)  # type: ignore[arg-type]
            sent, suffix = _Measured(reader), _SUFFIX
        store.put_file(f"{folder}{name}{suffix}", sent, most_bytes=path.stat().st_size)  # type: ignore[arg-type]
    on_bytes(content.size_bytes)
    return Part(
        name=f"{name}{suffix}",
        size_bytes=sent.size_bytes,
        sha256=sent.sha256,
        compression=None if level is None else "zstd",
        content_size_bytes=content.size_bytes,
        content_sha256=content.sha256,
    )


@dataclass
class Received:
    """What was really read back of one part."""

    size_bytes: int = 0
    sha256: str = ""
    content_size_bytes: int = 0
    content_sha256: str = ""


def download(store: Store, folder: str, part: Part, target: IO[bytes], received: Received) -> Iterator[bytes]:
    """Read one part back, decompress it into a file, and hand out its content as it comes.

    Args:
        store: Where from.
        folder: Of the set, ending with a slash.
        part: What is expected; only its name and compression are believed.
        target: Gets the content.
        received: Filled in once the last byte was read.

    Raises:
        zstandard.ZstdError: What is stored is not a zstd stream, or is cut.
    """
    stored, content = hashlib.sha256(), hashlib.sha256()
    inflate = zstandard.ZstdDecompressor().decompressobj() if part.compression == "zstd" else None
    for chunk in store.stream(f"{folder}{part.name}"):
        stored.update(chunk)
        received.size_bytes += len(chunk)
        for plain in _inflated(inflate, chunk) if inflate else (chunk,):
            content.update(plain)
            received.content_size_bytes += len(plain)
            target.write(plain)
            yield plain
    if inflate is not None and not inflate.eof:
        message = "the zstd stream ends early"
        raise zstandard.ZstdError(message)
    if inflate is not None and inflate.unused_data:
        # Stock zstd would go on with what follows, and so restore something else than was compared here.
        message = "more bytes follow the zstd stream"
        raise zstandard.ZstdError(message)
    received.sha256, received.content_sha256 = stored.hexdigest(), content.hexdigest()


def _inflated(inflate: "zstandard.ZstdDecompressionObj", chunk: bytes) -> Iterator[bytes]:
    """Decompress in small bites: one of repetitive rows may grow ten-thousandfold, and memory must not."""
    for start in range(0, len(chunk), _BITE_BYTES):
        if inflate.eof:
            message = "more bytes follow the zstd stream"
            raise zstandard.ZstdError(message)
        yield inflate.decompress(chunk[start : start + _BITE_BYTES])


def content_name(part: Part) -> str:
    """The file name of a part's content, relative to the set."""
    return part.name.removesuffix(_SUFFIX) if part.compression == "zstd" else part.name
