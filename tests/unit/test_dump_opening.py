"""A file's content as a stream, whatever compressed it, and what is wrong with it as a file."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from keepwell.dumps.opening import ContentStream, DumpFile, Wrapping, find_wrapping, has_checksum, recognize
from keepwell.errors import PreconditionFailed
from keepwell.verdict import Finding

CONTENT = b"".join(b"row %d of a table\n" % number for number in range(200_000))
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, 1),
    "zstd": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
    "xz": lambda content: lzma.compress(content, preset=0),
    "bzip2": bz2.compress,
}


def stream_of(path: Path, content: bytes) -> ContentStream:
    path.write_bytes(content)
    return ContentStream(path, find_wrapping(content))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_content_is_unpacked_whole_and_in_several_frames(name: str, path: Path) -> None:
    half = len(CONTENT) // 2
    compress = COMPRESSORS[name]
    stream = stream_of(path, compress(CONTENT[:half]) + compress(CONTENT[half:]))
    assert b"".join(stream) == CONTENT
    assert (stream.wrapping, stream.fault, stream.size_bytes) == (name, None, len(CONTENT))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_file_that_was_cut_gives_what_it_has_and_says_so(name: str, path: Path) -> None:
    compressed = COMPRESSORS[name](CONTENT)
    stream = stream_of(path, compressed[: len(compressed) * 2 // 3])
    got = b"".join(stream)
    assert CONTENT.startswith(got)
    assert stream.fault is not None
    assert "was cut" in stream.fault.message


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_changed_byte_is_noticed(name: str, path: Path) -> None:
    compressed = bytearray(COMPRESSORS[name](CONTENT))
    compressed[len(compressed) // 2] ^= 0x55
    stream = stream_of(path, bytes(compressed))
    list(stream)
    assert stream.fault is not None


def test_a_wrong_checksum_loses_no_content(path: Path) -> None:
    compressed = bytearray(gzip.compress(CONTENT))
    compressed[-6] ^= 1
    stream = stream_of(path, bytes(compressed))
    assert b"".join(stream) == CONTENT
    assert stream.fault is not None
    assert "does not match its own checksum" in stream.fault.message


@pytest.mark.parametrize(("tail", "fault"), [(b"\0" * 512, False), (b"junk", True), (b"\x1f", True)])
def test_padding_is_fine_and_anything_else_behind_the_end_is_not(tail: bytes, fault: bool, path: Path) -> None:
    stream = stream_of(path, gzip.compress(CONTENT) + tail)
    assert b"".join(stream) == CONTENT
    assert (stream.fault is not None) is fault


@pytest.mark.parametrize("size", [1, 10, 4096, 1_000_001])
def test_reading_by_size_and_then_the_rest_gives_everything_in_order(size: int, path: Path) -> None:
    stream = stream_of(path, gzip.compress(CONTENT))
    parts = [stream.read(size) for _ in range(5)]
    assert b"".join(parts) + b"".join(stream) == CONTENT
    assert [len(part) for part in parts] == [min(size, max(0, len(CONTENT) - i * size)) for i in range(5)]
    with pytest.raises(EOFError):
        stream.read_exactly(1)


def test_whether_zstd_kept_a_checksum_is_asked_for(path: Path) -> None:
    for wanted in (True, False):
        path.write_bytes(zstandard.ZstdCompressor(write_checksum=wanted).compress(b"CREATE TABLE t (a int);"))
        found = recognize(path)
        assert isinstance(found, DumpFile)
        assert (found.wrapping, has_checksum(found)) == (Wrapping.ZSTD, wanted)


def test_a_folder_is_told_apart_from_a_dump(tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        found = recognize(folder)
        assert isinstance(found, Finding)
        return f"{found.message} {found.hint}"

    assert "It is empty." in said(tmp_path)
    (tmp_path / "backup.sql.gz").touch()
    assert "newest are backup.sql.gz" in said(tmp_path)
    (tmp_path / "1.dat.gz").touch()
    assert "without its toc.dat" in said(tmp_path)
    (tmp_path / "PG_VERSION").touch()
    assert "data folder of PostgreSQL" in said(tmp_path)
    (tmp_path / "toc.dat").touch()
    assert isinstance(recognize(tmp_path), DumpFile)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="There is no file"):
        recognize(tmp_path / "absent")
    with pytest.raises(PreconditionFailed, match="no regular file"):
        recognize(Path("/dev/null"))
