import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.manifest import Part
from keepwell.backup.transfer import Received, content_name, download, upload


class MemoryStore:
    """Keeps objects and gives them back in chunks of any size."""

    def __init__(self, chunk_bytes: int = 7) -> None:
        self.objects: dict[str, bytes] = {}
        self.chunk_bytes = chunk_bytes

    def put_file(self, relative: str, file: IO[bytes], *, most_bytes: int) -> None:
        content = b""
        while chunk := file.read(11):
            content += chunk
        self.objects[relative] = content

    def stream(self, relative: str) -> Iterator[bytes]:
        content = self.objects[relative]
        for start in range(0, len(content), self.chunk_bytes):
            yield content[start : start + self.chunk_bytes]


def sent(store: MemoryStore, folder: Path, content: bytes, level: int | None) -> Part:
    path = folder / "1.dat"
    path.write_bytes(content)
    return upload(store, "s/", "database/1.dat", path, level=level, on_bytes=lambda size: None)  # type: ignore[arg-type]


def read(store: MemoryStore, part: Part) -> tuple[bytes, Received]:
    target, received = io.BytesIO(), Received()
    chunks = b"".join(download(store, "s/", part, target, received))  # type: ignore[arg-type]
    assert chunks == target.getvalue()
    return chunks, received


@given(content=st.binary(max_size=5000), level=st.sampled_from([None, 1, 3]), chunk_bytes=st.integers(1, 500))
def test_what_was_sent_comes_back_and_is_measured_alike_on_both_ways(
    content: bytes, level: int | None, chunk_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = MemoryStore(chunk_bytes)
    part = sent(store, tmp_path_factory.mktemp("spool"), content, level)
    stored = store.objects[f"s/{part.name}"]
    assert (part.size_bytes, part.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    came, received = read(store, part)
    assert came == content
    assert (received.size_bytes, received.sha256) == (part.size_bytes, part.sha256)
    assert (received.content_size_bytes, received.content_sha256) == (len(content), part.content_sha256)


def test_stock_zstd_can_tell_size_and_damage_of_a_stored_stream(tmp_path: Path) -> None:
    store = MemoryStore()
    part = sent(store, tmp_path, b"row\n" * 1000, 3)
    frame = zstandard.get_frame_parameters(store.objects[f"s/{part.name}"])
    assert (frame.content_size, frame.has_checksum) == (4000, True)


@pytest.mark.parametrize("missing_bytes", [1, 4, 20])
def test_a_cut_stream_is_never_taken_for_a_whole_one(missing_bytes: int, tmp_path: Path) -> None:
    store = MemoryStore()
    part = sent(store, tmp_path, bytes(range(256)) * 20, 3)
    store.objects[f"s/{part.name}"] = store.objects[f"s/{part.name}"][:-missing_bytes]
    with pytest.raises(zstandard.ZstdError, match="ends early"):
        read(store, part)


@pytest.mark.parametrize("content", [b"", b"not compressed at all"])
def test_what_is_no_stream_is_not_taken_for_an_empty_one(content: bytes, tmp_path: Path) -> None:
    store = MemoryStore()
    part = sent(store, tmp_path, b"row\n", 3)
    store.objects[f"s/{part.name}"] = content
    with pytest.raises(zstandard.ZstdError):
        read(store, part)


@pytest.mark.parametrize("chunk_bytes", [3, 10_000])
@pytest.mark.parametrize("extra", [b"x", zstandard.ZstdCompressor().compress(b"another")])
def test_bytes_behind_a_stream_are_damage(extra: bytes, chunk_bytes: int, tmp_path: Path) -> None:
    store = MemoryStore(chunk_bytes)
    part = sent(store, tmp_path, b"row\n", 3)
    store.objects[f"s/{part.name}"] += extra
    with pytest.raises(zstandard.ZstdError):
        read(store, part)


def test_a_part_knows_the_name_of_its_content(tmp_path: Path) -> None:
    store = MemoryStore()
    assert content_name(sent(store, tmp_path, b"", 3)) == "database/1.dat"
    assert content_name(sent(store, tmp_path, b"", None)) == "database/1.dat"
