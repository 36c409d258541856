"""Streams through FIFOs, with small programs in the place of pg_dump and pg_restore."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keepwell.command import Command
from keepwell.errors import Abandoned, CommandFailed, KeepwellError, LockTimeout, VerificationFailed
from keepwell.postgres import fifos
from keepwell.postgres.fifos import (
    FifoReader,
    FifosUnavailable,
    FifoWriter,
    dump_through_fifos,
    require_fifo_reader,
    require_fifos,
    restore_through_fifos,
    take_through_fifo,
)

pytestmark = pytest.mark.timeout(300)
# As pg_dump does it: the folder first, then, a moment later, its files.
BEGIN = 'mkdir "$1"; sleep 0.2; cd "$1"; '


def fake(script: str, folder: Path) -> Command:
    return Command(("sh", "-c", script, "sh", str(folder)))


def quiet() -> None:
    """Look at nothing."""


class Taker:
    """Reads streams to their end and keeps them."""

    def __init__(self) -> None:
        self.streams: dict[str, bytes] = {}

    def __call__(self, name: str, source: FifoReader) -> None:
        chunks = []
        while chunk := source.read(1000):
            chunks.append(chunk)
        self.streams[name] = b"".join(chunks)


def run_dump(
    folder: Path, script: str, names: list[str], take: Callable[[str, FifoReader], None] | None = None
) -> list[Path]:
    return dump_through_fifos(fake(BEGIN + script, folder), folder, names, take or Taker(), workers=2, watch=quiet)


def test_streams_are_taken_and_what_nobody_foresaw_is_returned(tmp_path: Path) -> None:
    taker = Taker()
    script = "(seq 1 100000 > 1.dat) & (printf two > 2.dat) & wait; printf contents > toc.dat; printf more > 9.dat"
    left = run_dump(tmp_path / "out", script, ["1.dat", "2.dat", "3.dat"], taker)
    assert taker.streams["1.dat"].splitlines()[-1] == b"100000"
    assert taker.streams["2.dat"] == b"two"
    assert "3.dat" not in taker.streams
    assert [path.name for path in left] == ["9.dat", "toc.dat"]


def test_more_streams_than_takers_end_before_they_are_looked_at(tmp_path: Path) -> None:
    taker = Taker()
    names = [f"{number}.dat" for number in range(1500)]
    run_dump(tmp_path / "out", "i=0; while [ $i -lt 1500 ]; do echo $i > $i.dat; i=$((i+1)); done", names, taker)
    assert taker.streams == {f"{number}.dat": b"%d\n" % number for number in range(1500)}


def test_what_somebody_else_writes_is_taken_to_its_end(tmp_path: Path) -> None:
    taken: list[bytes] = []
    lines = b"".join(b"%d\n" % number for number in range(300_000))

    def write() -> None:
        time.sleep(0.2)  # nobody has opened it yet, and that is no end
        (tmp_path / "stream").write_bytes(lines)

    take_through_fifo(tmp_path / "stream", write, taken.append)
    assert b"".join(taken) == lines
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_is_heard_and_one_that_nobody_takes_from_any_more_is_not_waited_for(tmp_path: Path) -> None:
    def fail() -> None:
        raise LockTimeout("no lock", hint="")

    def refuse(chunk: bytes) -> None:
        if chunk:
            raise VerificationFailed("no", hint="")

    with pytest.raises(LockTimeout):
        take_through_fifo(tmp_path / "stream", fail, lambda _: None)
    with pytest.raises(VerificationFailed):
        take_through_fifo(tmp_path / "stream", lambda: (tmp_path / "stream").write_bytes(bytes(10_000_000)), refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("regular", [True, False])
def test_what_others_put_in_the_place_of_a_fifo_is_neither_read_nor_opened_up(
    regular: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ours"
    ours.write_text("secret")
    ours.chmod(0o600)
    put = ours.rename if regular else lambda file: file.symlink_to(ours)
    monkeypatch.setattr(fifos.os, "mkfifo", lambda file, mode: put(file))
    with pytest.raises(FifosUnavailable):
        take_through_fifo(tmp_path / "stream", lambda: None, lambda _: pytest.fail("it was read"))
    assert regular or ours.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "stream").exists()


def test_a_program_that_fails_is_heard_and_no_stream_waits_for_ever(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="sh ended with exit code 3: no such table"):
        run_dump(tmp_path / "out", "printf begun > 1.dat; echo no such table >&2; exit 3", ["1.dat", "2.dat"])


def test_the_words_of_a_lock_that_was_not_to_be_had_are_known(tmp_path: Path) -> None:
    with pytest.raises(LockTimeout):
        run_dump(tmp_path / "out", "echo 'canceling statement due to statement timeout' >&2; exit 1", [])


def test_a_program_that_dies_before_its_folder_is_heard(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="exit code 2"):
        dump_through_fifos(
            fake("exit 2", tmp_path / "out"), tmp_path / "out", ["1.dat"], Taker(), workers=1, watch=quiet
        )


def test_a_stream_that_cannot_be_taken_ends_the_program_at_once(tmp_path: Path) -> None:
    def take(name: str, source: FifoReader) -> None:
        if name == "1.dat":
            raise VerificationFailed("the store is full")
        Taker()(name, source)

    began = time.monotonic()
    with pytest.raises(VerificationFailed, match="the store is full"):
        run_dump(tmp_path / "out", "(yes > 2.dat) & echo x > 1.dat; sleep 60", ["1.dat", "2.dat"], take)
    assert time.monotonic() - began < 20


def test_what_a_stream_tells_counts_more_than_what_follows_from_it(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def take(name: str, source: FifoReader) -> None:
        both.wait(10)
        if name == "1.dat":
            raise Abandoned("let go")
        time.sleep(0.1)
        raise VerificationFailed("the cause")

    with pytest.raises(KeepwellError) as raised:
        run_dump(tmp_path / "out", "(echo x > 1.dat) & echo x > 2.dat; sleep 60", ["1.dat", "2.dat"], take)
    assert isinstance(raised.value, Abandoned | VerificationFailed)


def test_a_watch_that_says_no_ends_the_program(tmp_path: Path) -> None:
    def refuse() -> None:
        raise LockTimeout("somebody waits")

    with pytest.raises(LockTimeout, match="somebody waits"):
        dump_through_fifos(
            fake(BEGIN + "sleep 60", tmp_path / "out"), tmp_path / "out", ["1.dat"], Taker(), workers=1, watch=refuse
        )


def feed(content: bytes) -> Callable[[FifoWriter], None]:
    return lambda writer: writer.write(content)


def test_streams_are_fed_to_whoever_opens_them_in_any_order(tmp_path: Path) -> None:
    big = b"row\n" * 500_000
    feeds = {f"{number}.dat": feed(b"%d" % number) for number in range(200)} | {"big.dat": feed(big)}
    script = 'cd "$1"; cat big.dat | wc -c > size; i=199; while [ $i -ge 1 ]; do cat $i.dat >> all; i=$((i-1)); done'
    unasked = restore_through_fifos(fake(script, tmp_path), tmp_path, feeds, workers=2, watch=quiet)
    assert unasked == {"0.dat"}
    assert int((tmp_path / "size").read_text()) == len(big)
    assert (tmp_path / "all").read_bytes() == b"".join(b"%d" % number for number in range(199, 0, -1))


def test_a_stream_that_breaks_off_never_looks_like_one_that_ended(tmp_path: Path) -> None:
    def broken(writer: FifoWriter) -> None:
        writer.write(b"half of the rows\n")
        raise VerificationFailed("it is cut")

    script = 'cd "$1"; cat 1.dat > got; echo whole > done; sleep 60'
    with pytest.raises(VerificationFailed, match="it is cut"):
        restore_through_fifos(fake(script, tmp_path), tmp_path, {"1.dat": broken}, workers=1, watch=quiet)
    assert not (tmp_path / "done").exists()


def test_a_restore_that_fails_is_heard(tmp_path: Path) -> None:
    script = 'cd "$1"; head -c 10 1.dat > /dev/null; echo could not restore >&2; exit 1'

    def stubborn(writer: FifoWriter) -> None:
        try:
            writer.write(b"x" * 3_000_000)
        except BrokenPipeError:
            return

    with pytest.raises(CommandFailed, match="could not restore"):
        restore_through_fifos(fake(script, tmp_path), tmp_path, {"1.dat": stubborn}, workers=1, watch=quiet)


def test_too_many_streams_are_refused_before_any_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifos.resource, "getrlimit", lambda kind: (1024, 4096))
    require_fifos(tmp_path, 100)
    with pytest.raises(FifosUnavailable, match="5000 streams need more open files"):
        require_fifos(tmp_path, 5000)


def test_a_file_system_without_fifos_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)
    with pytest.raises(FifosUnavailable, match="cannot hold FIFOs"):
        require_fifos(tmp_path, 1)


@pytest.mark.parametrize("when", ["before it opens it", "once it has opened it"])
def test_a_program_that_reads_regular_files_alone_is_told_by_its_words(tmp_path: Path, when: str) -> None:
    opened = 'cat "$1"/1.dat; ' if when == "once it has opened it" else ""
    refusing = f"""{opened}test -f "$1"/1.dat || {{ echo "error: \\"1.dat\\" is not a regular file" >&2; exit 1; }}"""
    with pytest.raises(FifosUnavailable, match="reads regular files alone"):
        require_fifo_reader(fake(refusing, tmp_path), tmp_path, "1.dat")


@pytest.mark.parametrize("script", ['cat "$1"/1.dat', "echo something else is wrong >&2; exit 1"])
def test_a_program_that_reads_a_fifo_or_fails_otherwise_is_let_pass(tmp_path: Path, script: str) -> None:
    require_fifo_reader(fake(script, tmp_path), tmp_path, "1.dat")
