import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from real_servers import make_sealing

from keepwell.backup.manifest import Part
from keepwell.backup.transfer import Received, receive, send
from keepwell.postgres.archive import StreamCheck
from keepwell.sealing import NO_SEAL, Seal, load_seal

SEALS = {"sealed": load_seal(make_sealing()), "unsealed": NO_SEAL}
OTHERS = load_seal(make_sealing())


class MemoryStore:
    """Keeps objects and gives them back in chunks of any size."""

    def __init__(self, seal: Seal = NO_SEAL, chunk_bytes: int = 7) -> None:
        self.objects: dict[str, bytes] = {}
        self.seal = seal
        self.chunk_bytes = chunk_bytes
        self.aborted: list[str] = []

    def open_writer(self, relative: str, uploads: object) -> SimpleNamespace:
        del uploads
        written = io.BytesIO()

        def finish() -> None:
            self.objects[relative] = written.getvalue()

        return SimpleNamespace(write=written.write, finish=finish, abort=lambda: self.aborted.append(relative))

    @contextmanager
    def open_reader(self, relative: str) -> Iterator[SimpleNamespace]:
        body = io.BytesIO(self.objects[relative])
        yield SimpleNamespace(
            read=lambda size=-1: body.read(min(size, self.chunk_bytes) if size > 0 else self.chunk_bytes)
        )


def sent(store: MemoryStore, content: bytes, level: int | None, check: StreamCheck | None = None) -> Part:
    counted: list[int] = []
    part = send(
        store,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        "s/",
        "database/1.dat",
        io.BytesIO(content),
        level=level,
        check=check,
        taken=counted.append,
    )
    assert sum(counted) == len(content)
    return part


def came_back(store: MemoryStore, part: Part) -> tuple[bytes, Received]:
    target = io.BytesIO()
    received = receive(store, "s/", part, target.write)  # type: ignore[arg-type]
    return target.getvalue(), received


@given(
    content=st.binary(max_size=5000),
    level=st.sampled_from([None, 1, 3]),
    seal=st.sampled_from(sorted(SEALS)),
    chunk_bytes=st.integers(1, 500),
)
def test_what_was_sent_comes_back_and_is_measured_alike_on_both_ways(
    content: bytes, level: int | None, seal: str, chunk_bytes: int
) -> None:
    store = MemoryStore(SEALS[seal], chunk_bytes)
    check = StreamCheck()
    part = sent(store, content, level, check)
    stored = store.objects[f"s/{part.name}"]
    assert (part.size_bytes, part.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert part.content_sha256 == hashlib.sha256(content).hexdigest()
    came, received = came_back(store, part)
    assert (came, received.fault) == (content, "")
    assert (received.stored.size_bytes, received.stored.sha256) == (part.size_bytes, part.sha256)
    assert (received.content.size_bytes, received.content.sha256) == (len(content), part.content_sha256)


def test_rows_are_followed_on_their_way() -> None:
    check = StreamCheck()
    sent(MemoryStore(), b"a\nb\n\\.\n\n\n", 3, check)
    assert (check.rows, check.terminated) == (2, True)


def test_a_part_knows_the_name_of_its_content() -> None:
    names = {sent(MemoryStore(seal), b"", level).name for seal in SEALS.values() for level in (None, 3)}
    assert names == {"database/1.dat", "database/1.dat.zst", "database/1.dat.age", "database/1.dat.zst.age"}
    contents = {sent(MemoryStore(seal), b"", level).content_name for seal in SEALS.values() for level in (None, 3)}
    assert contents == {"database/1.dat"}


def test_a_source_that_fails_leaves_no_object_and_is_heard_in_its_own_words() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionError("the pipe broke")

    store = MemoryStore(SEALS["sealed"])
    with pytest.raises(ConnectionError, match="the pipe broke"):
        send(store, None, "s/", "x", Failing(), level=3, taken=lambda size: None)  # type: ignore[arg-type]
    assert (store.objects, store.aborted) == ({}, ["s/x.zst.age"])


@pytest.mark.parametrize("seal", sorted(SEALS))
@pytest.mark.parametrize("missing_bytes", [1, 4, 20])
def test_a_cut_stream_is_never_taken_for_a_whole_one(missing_bytes: int, seal: str) -> None:
    store = MemoryStore(SEALS[seal])
    part = sent(store, bytes(range(256)) * 20, 3)
    store.objects[f"s/{part.name}"] = store.objects[f"s/{part.name}"][:-missing_bytes]
    _, received = came_back(store, part)
    assert ("ends early" if seal == "unsealed" else "cannot be opened") in received.fault


@pytest.mark.parametrize("seal", sorted(SEALS))
@pytest.mark.parametrize("content", [b"", b"neither sealed nor compressed"])
def test_what_is_no_stream_is_not_taken_for_an_empty_one(content: bytes, seal: str) -> None:
    store = MemoryStore(SEALS[seal])
    part = sent(store, b"row\n", 3)
    store.objects[f"s/{part.name}"] = content
    came, received = came_back(store, part)
    assert came == b""
    assert received.fault
    assert not received.for_others


@pytest.mark.parametrize("chunk_bytes", [3, 10_000])
@pytest.mark.parametrize("extra", [b"x", zstandard.ZstdCompressor().compress(b"another")])
def test_bytes_behind_a_stream_are_damage(extra: bytes, chunk_bytes: int) -> None:
    store = MemoryStore(chunk_bytes=chunk_bytes)
    part = sent(store, b"row\n", 3)
    store.objects[f"s/{part.name}"] += extra
    assert "more bytes follow" in came_back(store, part)[1].fault


@pytest.mark.parametrize("identities", [OTHERS.identities, ()])
def test_what_is_sealed_for_others_is_measured_and_not_called_damaged(identities: tuple[object, ...]) -> None:
    store = MemoryStore(SEALS["sealed"])
    part = sent(store, b"row\n" * 1000, 3)
    store.seal = replace(store.seal, identities=identities)
    came, received = came_back(store, part)
    assert (came, received.for_others) == (b"", True)
    assert received.stored.sha256 == part.sha256


def test_a_target_that_fails_is_heard_in_its_own_words() -> None:
    store = MemoryStore(SEALS["sealed"])
    part = sent(store, b"row\n" * 1000, 3)

    def full(chunk: bytes) -> int:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        receive(store, "s/", part, full)  # type: ignore[arg-type]
