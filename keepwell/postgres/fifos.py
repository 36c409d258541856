"""Directory-format dumps through FIFOs: pg_dump writes and pg_restore reads in parallel, and no row touches a disk.

pg_dump refuses a folder that is not empty. So its FIFOs are prepared beside it, with their readers open, and the
moment its own, empty folder appears, the prepared one is renamed over it, which is atomic.
"""

import fcntl
import os
import resource
import select
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

from keepwell import command
from keepwell.command import Command, StderrTail
from keepwell.errors import Abandoned, CommandFailed, KeepwellError
from keepwell.postgres.archive import translate_failure

_POLL_SECONDS = 0.05
_APPEAR_SECONDS = 0.001
# Between two looks whether pg_restore wants another stream: longer while it works on those that it has.
_OFFER_SECONDS, _LONGEST_OFFER_SECONDS = 0.002, 0.008
# pg_restore opens its files more or less one after the other, so most looks need not ask for every one.
_LIKELY = 32
_FULL_LOOK_EVERY = 8
# For everything else that this process holds open.
_RESERVED_DESCRIPTORS = 256
_REFUSED_WORDS = "is not a regular file"
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
# A server writes rows a few kilobytes at a time: it is left alone for so long, and the pipe holds more than comes then.
_GATHER_SECONDS = 0.001
_GATHERED_BYTES = _PIPE_BYTES // 8


class FifosUnavailable(KeepwellError):
    """This machine cannot stream through FIFOs; a disk can do the same."""


def require_fifos(folder: Path, count: int) -> None:
    """Look whether so many FIFOs can be open at once in a folder, and make room for their descriptors.

    Raises:
        FifosUnavailable: The file system knows none, or the process may not hold so many files open.
    """
    trial = folder / "trial.fifo"
    try:
        os.mkfifo(trial, 0o600)
        trial.unlink()
    except (OSError, AttributeError) as error:
        raise FifosUnavailable(f"{folder} cannot hold FIFOs: {error}.") from error
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _RESERVED_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise FifosUnavailable(f"{count} streams need more open files than this process may have ({hard}).")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_fifo_reader(call: Command, folder: Path, name: str) -> None:
    """Look whether pg_restore reads a FIFO: since 15.20, some read regular files alone.

    Args:
        call: Reads one stream of the archive in `folder` to nowhere.
        folder: A copy of the archive with nothing but its table of contents.
        name: Of that stream.

    Raises:
        FifosUnavailable: It refused. Whatever else is wrong the restore itself will tell.
    """
    try:
        restore_through_fifos(call, folder, {name: _nothing}, workers=1, watch=_look_away)
    except CommandFailed as error:
        if _REFUSED_WORDS in error.message:
            raise FifosUnavailable("This pg_restore reads regular files alone.") from None


def dump_through_fifos(
    call: Command,
    folder: Path,
    names: Sequence[str],
    take: Callable[[str, "FifoReader"], None],
    *,
    workers: int,
    watch: Callable[[], None],
) -> list[Path]:
    """Run pg_dump and hand each of its streams to a thread as it begins.

    Args:
        call: Writes a directory-format archive into `folder`.
        folder: Does not exist yet; its parent does.
        names: Files that pg_dump will write rows to; `require_fifos` allowed so many.
        take: Reads one stream to its end, given its name.
        workers: How many streams are read at once.
        watch: Called several times a second; raises to end the dump.

    Returns:
        Regular files that pg_dump wrote: its table of contents, and streams that nobody foresaw.

    Raises:
        KeepwellError: pg_dump failed, a stream could not be taken, or the watch said no; everything was ended.
    """
    prepared = folder.with_name(f"{folder.name}.fifos")
    aborted = Event()
    with ExitStack() as stack, select.epoll() as ready:
        waiting = stack.enter_context(_open_readers(prepared, names))
        for descriptor in waiting:
            ready.register(descriptor, select.EPOLLIN | select.EPOLLHUP)
        process, said = _start(call, stack)
        _rename_once_it_appears(process, prepared, folder)
        takers = stack.enter_context(_threads(process, workers, aborted))
        taken: list[Future[None]] = []
        while True:
            ended = process.poll() is not None
            begun = ready.poll(0 if ended else _POLL_SECONDS)
            for descriptor, _ in begun:
                ready.unregister(descriptor)
                taken.append(takers.submit(take, waiting[descriptor], FifoReader(descriptor, aborted)))
            _raise_failed(taken)
            watch()
            if ended and not begun:
                break
        if process.returncode != 0:
            raise translate_failure(call, process.returncode, said.read())
        _wait_for(taken, watch)
    return sorted(path for path in folder.iterdir() if stat.S_ISREG(path.lstat().st_mode))


def restore_through_fifos(
    call: Command,
    folder: Path,
    feeds: Mapping[str, Callable[["FifoWriter"], None]],
    *,
    workers: int,
    watch: Callable[[], None],
) -> set[str]:
    """Run pg_restore and feed each stream that it opens.

    Args:
        call: Reads the directory-format archive in `folder`.
        folder: Holds its table of contents; the FIFOs are made here.
        feeds: By file name, what writes that stream.
        workers: How many streams are fed at once; at least as many as pg_restore opens.
        watch: Called several times a second; raises to end the restore.

    Returns:
        Names that pg_restore never asked for.

    Raises:
        KeepwellError: pg_restore failed, a stream could not be fed, or the watch said no; everything was ended.
    """
    for name in feeds:
        os.mkfifo(folder / name, 0o600)
    pending = sorted(feeds, key=_by_number)
    aborted = Event()
    with ExitStack() as stack:
        process, said = _start(call, stack)
        opened = stack.enter_context(_descriptors())
        feeders = stack.enter_context(_threads(process, workers, aborted))
        fed: list[Future[None]] = []
        looks = place = 0
        pause_seconds = _OFFER_SECONDS
        while process.poll() is None:
            looks += 1
            everywhere = looks % max(_FULL_LOOK_EVERY, len(pending) // _LIKELY) == 0
            likely = pending if everywhere else pending[max(place - _LIKELY, 0) : place + _LIKELY]
            offered = _offer(folder, likely)
            for name, descriptor in offered:
                place = pending.index(name)
                del pending[place]
                opened.append(descriptor)
                fed.append(feeders.submit(_feed, feeds[name], FifoWriter(descriptor, aborted), opened))
            _raise_failed(fed)
            watch()
            pause_seconds = _OFFER_SECONDS if offered else min(pause_seconds * 1.5, _LONGEST_OFFER_SECONDS)
            time.sleep(pause_seconds)
        _raise_failed(fed)
        if process.returncode != 0:
            raise translate_failure(call, process.returncode, said.read())
        _wait_for(fed, watch)
    return set(pending)


def take_through_fifo(file: Path, write: Callable[[], object], take: Callable[[bytes], object]) -> None:
    """Have somebody else write into a FIFO, and take what comes as it comes.

    Args:
        file: New, and gone afterwards; whoever gets into its folder may write to it, and is not trusted otherwise.
        write: Has it written, in a thread of its own; returns once the writer has closed its end.
        take: Gets the bytes, in this thread.

    Raises:
        FifosUnavailable: The file system knows no FIFOs.
        BaseException: Whatever `write` or `take` raised.
    """
    try:
        descriptor = _make_for_others(file)
        with ThreadPoolExecutor(1, "writing") as threads:
            try:
                written = threads.submit(write)
                _take_until(written, descriptor, take)
            finally:
                os.close(descriptor)  # who still writes would wait for us for ever, and we for them
            written.result()
    finally:
        file.unlink(missing_ok=True)


def _make_for_others(file: Path) -> int:
    """A FIFO that others may write to, opened for reading: this one, and nothing that they put in its place since."""
    try:
        os.mkfifo(file, 0o600)
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, AttributeError) as error:
        raise FifosUnavailable(f"{file.parent} cannot hold FIFOs: {error}.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise FifosUnavailable(f"{file} was replaced.")
    os.fchmod(descriptor, 0o622)
    return descriptor


def _take_until(written: Future[object], descriptor: int, take: Callable[[bytes], object]) -> None:
    """Take bytes until the writer is done and none are left; a FIFO that nobody has opened yet looks like an end."""
    gathers = _widen(descriptor)
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while True:
        done = written.done()  # asked first, so that all that was written by then is taken below
        ready.poll(0 if done else _POLL_SECONDS * 1000)
        try:
            chunk = os.read(descriptor, _PIPE_BYTES)
        except BlockingIOError:
            chunk = b""
        take(chunk)
        if done and not chunk:
            return
        if not done and (not chunk or (gathers and len(chunk) < _GATHERED_BYTES)):
            wait([written], _GATHER_SECONDS)


def _widen(descriptor: int) -> bool:
    """Let a pipe hold as much as we move at once; False where an ordinary user has too many such pipes already."""
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return False
    return True


class _Fifo:
    """One end of a FIFO, never waited for longer than the run goes on.

    Programs that a killed one leaves behind may hold its other end open for as long as they like.
    """

    def __init__(self, descriptor: int, aborted: Event, wanted: int) -> None:
        self.descriptor = descriptor
        self._aborted = aborted
        self._ready = select.poll()
        self._ready.register(descriptor, wanted)
        _widen(descriptor)

    def _require_wanted(self) -> None:
        if self._aborted.is_set():
            raise Abandoned("The stream was abandoned.", hint="Look at what ended the run.")

    def _wait(self) -> None:
        self._ready.poll(_POLL_SECONDS * 1000)


class FifoReader(_Fifo):
    """The end that is read."""

    def __init__(self, descriptor: int, aborted: Event) -> None:
        super().__init__(descriptor, aborted, select.POLLIN)

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most so many; none once the program has closed its end.

        Raises:
            Abandoned: Something else ended the run.
        """
        while True:
            self._require_wanted()
            try:
                return os.read(self.descriptor, size if size > 0 else _PIPE_BYTES)
            except BlockingIOError:
                self._wait()


class FifoWriter(_Fifo):
    """The end that is written."""

    def __init__(self, descriptor: int, aborted: Event) -> None:
        super().__init__(descriptor, aborted, select.POLLOUT)

    def write(self, content: bytes) -> None:
        """Write everything.

        Raises:
            BrokenPipeError: The program has closed its end.
            Abandoned: Something else ended the run.
        """
        rest = memoryview(content)
        while rest:
            self._require_wanted()
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:
                self._wait()


def _start(call: Command, stack: ExitStack) -> tuple[subprocess.Popen[bytes], StderrTail]:
    process = command.start(call, death_signal=command.TELLS_ITS_WORKERS)
    stack.callback(command.stop, process)
    return process, StderrTail(process)


@contextmanager
def _open_readers(folder: Path, names: Iterable[str]) -> Iterator[dict[int, str]]:
    """A folder of FIFOs, by the descriptor of each one's reader."""
    folder.mkdir(mode=0o700)
    readers: dict[int, str] = {}
    try:
        for name in names:
            os.mkfifo(folder / name, 0o600)
            readers[os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)] = name
        yield readers
    finally:
        for descriptor in readers:
            os.close(descriptor)


@contextmanager
def _descriptors() -> Iterator[list[int]]:
    opened: list[int] = []
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextmanager
def _threads(process: subprocess.Popen[bytes], workers: int, aborted: Event) -> Iterator[ThreadPoolExecutor]:
    """Threads for streams; when the block fails, the program and all of them are ended."""
    with ThreadPoolExecutor(workers, "stream") as threads:
        try:
            yield threads
        except BaseException:
            command.stop(process)
            aborted.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _rename_once_it_appears(process: subprocess.Popen[bytes], prepared: Path, folder: Path) -> None:
    while not folder.exists():
        if process.poll() is not None:
            return
        time.sleep(_APPEAR_SECONDS)
    prepared.rename(folder)


def _nothing(writer: "FifoWriter") -> None:
    """A stream without a byte."""


def _look_away() -> None:
    """A trial lasts no time."""


def _by_number(name: str) -> tuple[int, str]:
    """The order of the archive's own numbering."""
    digits = "".join(sign for sign in name if sign.isdigit())
    return int(digits or 0), name


def _offer(folder: Path, names: Iterable[str]) -> list[tuple[str, int]]:
    """Those FIFOs that somebody wants to read, opened for writing."""
    wanted = []
    for name in names:
        with suppress(OSError):  # ENXIO: nobody reads it yet
            wanted.append((name, os.open(folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)))
    return wanted


def _feed(feed: Callable[[FifoWriter], None], writer: FifoWriter, opened: list[int]) -> None:
    """Feed one stream. Only a whole one is closed here: the end of a cut one would look like the end of its rows."""
    feed(writer)
    opened.remove(writer.descriptor)
    os.close(writer.descriptor)


def _wait_for(streams: list[Future[None]], watch: Callable[[], None]) -> None:
    """Wait for what is still on its way; a program that ended has closed its side."""
    while True:
        done, rest = wait(streams, timeout=_POLL_SECONDS * 4, return_when=FIRST_EXCEPTION)
        _raise_failed(list(done))
        if not rest:
            return
        watch()


def _raise_failed(streams: list[Future[None]]) -> None:
    """Raise what ended a stream, and not what only followed from it."""
    errors = [error for stream in streams if stream.done() and (error := stream.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Abandoned)):
        raise error
