"""The one place that starts programs: argv only, no shell, a clean environment, never an orphan.

A worker may be ended by SIGKILL at any moment, with no `finally` and no hook. So a child dies with its parent
(PR_SET_PDEATHSIG, through util-linux's `setpriv`), inherits no pipe that would keep a dead run looking alive, and
gets no environment but what it is given.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO

from keepwell.errors import CommandFailed, ConfigurationError, ServiceUnavailable
from keepwell.giving_way import let_session_stand_back

_STDERR_TAIL_BYTES = 4_000
# What programs need to run at all; everything else of our environment (keys, passwords) stays with us.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "TZDIR")
# For a program with workers of its own, such as pg_dump with jobs: the kernel's signal at our death reaches it and not
# them, and this one it hands on. A worker that nobody tells may wait for ever for the other end of a FIFO, its session
# and its locks with it.
TELLS_ITS_WORKERS = signal.SIGTERM


@dataclass(frozen=True)
class Command:
    """A program call as a value: built by pure functions, executed here.

    Attributes:
        argv: Program and arguments; never holds a secret.
        environment: Variables beyond the inherited minimum; may hold secrets, so it never shows in `repr`.
        prefix: Programs that run it as another user or without a network; nothing by default.
        nice: How far it stands back for others, 0 to 19; with more than 0 it is a session of its own.
        name: What to call it where the first of `argv` only runs it elsewhere.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: tuple[str, ...] = ()
    nice: int = 0
    name: str = ""

    def standing_back(self, nice: int) -> "Command":
        """The same call, less greedy for the processor."""
        return replace(self, nice=nice)

    def __str__(self) -> str:
        return " ".join(self.argv)


def run(
    command: Command, *, timeout_seconds: float | None = None, stdin: IO[bytes] | None = None, cwd: Path | None = None
) -> bytes:
    """Run a program to its end and return its standard output.

    Args:
        command: What to run.
        timeout_seconds: It is ended after this time; None waits for ever.
        stdin: A real file to read from; nothing by default.
        cwd: Folder to run in.

    Returns:
        Standard output, whole: only for programs that print little.

    Raises:
        CommandFailed: Non-zero exit code or ended by a signal.
        ConfigurationError: The program does not exist.
        ServiceUnavailable: It did not end in time.
    """
    process = start(command, stdin=stdin, stdout=subprocess.PIPE, cwd=cwd)
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired as error:
        message = f"{command.argv[0]} did not end within {timeout_seconds:.0f} s and was stopped."
        raise ServiceUnavailable(message, hint="Look for locks or a slow disk, then run it again.") from error
    finally:
        stop(process)
    if process.returncode != 0:
        raise CommandFailed(describe_failure(command, process.returncode, errors), exit_code=process.returncode)
    return bytes(output)


def start(
    command: Command,
    *,
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int = subprocess.PIPE,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program that dies with the thread that started it; end it with `stop`.

    Args:
        command: What to run.
        stdin: Nothing by default.
        stdout: Discarded by default.
        stderr: A pipe by default.
        cwd: Folder to run in.
        death_signal: What the kernel sends it when we die (Linux with util-linux; elsewhere nothing).

    Raises:
        ConfigurationError: The program does not exist.
    """
    if shutil.which(command.argv[0]) is None:
        raise ConfigurationError(
            f"The program {command.argv[0]} was not found.", hint="Install it, or set its folder in the platform file."
        )
    process = subprocess.Popen(
        # A change of user clears the signal that the kernel sends at our death, so it is asked for behind that.
        (*command.prefix, *_die_with_parent(death_signal), *_nice(command.nice), *command.argv),
        env=clean_environment() | dict(command.environment),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=stderr,
        cwd=cwd,
        start_new_session=command.nice > 0,
    )
    if command.nice:
        let_session_stand_back(process.pid, command.nice)
    return process


def stop(
    process: subprocess.Popen[bytes], *, polite: signal.Signals = signal.SIGTERM, grace_seconds: float = 5
) -> None:
    """End a program: politely, then by force; harmless when it has ended already."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.send_signal(polite)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def end_orphans(folder: Path) -> None:
    """End programs of ours that a dead run left at work in its folder, by the calls that name it.

    Args:
        folder: Of one run, with a name that nothing else has.
    """
    named = os.fsencode(folder)
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or there is no such list on this system
            ours = entry.stat().st_uid == os.geteuid() and int(entry.name) != os.getpid()
            if ours and named in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


class StderrTail:
    """Drains a program's standard error in a thread and keeps its end, so that a full pipe never blocks it.

    The stream is its own from then on: what a killed program leaves behind may hold the other end open for a while,
    and nobody is to wait for that.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None  # noqa: S101 - a program whose standard error goes elsewhere has no tail
        stream, process.stderr = process.stderr, None
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, args=(stream,), daemon=True)
        self._thread.start()

    def _drain(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._kept += line
                del self._kept[:-_STDERR_TAIL_BYTES]

    def read(self) -> bytes:
        """The end of standard error, once the program has closed it."""
        self._thread.join(timeout=5)
        return bytes(self._kept)


def describe_failure(command: Command, exit_code: int, stderr: bytes) -> str:
    """A failed program in one text: its name, how it ended, and the end of what it said."""
    ended = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    said = stderr[-_STDERR_TAIL_BYTES:].decode(errors="replace").strip()
    return f"{command.name or Path(command.argv[0]).name} {ended}: {said or 'it said nothing'}"


def clean_environment() -> dict[str, str]:
    """Of our own environment what any program needs, and no more: it may hold keys and passwords."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_MESSAGES": "C"}


def succeeds(argv: Sequence[str], *, timeout_seconds: float | None = None) -> bool:
    """Whether a trial of what this machine can do ends with exit code 0; with no more of our environment than programs.

    Args:
        argv: The program, which exists, and its arguments.
        timeout_seconds: It is ended after this time.

    Raises:
        subprocess.TimeoutExpired: It was.
    """
    ended = subprocess.run(
        argv, cwd="/", capture_output=True, check=False, timeout=timeout_seconds, env=clean_environment()
    )
    return ended.returncode == 0


@cache
def _setpriv() -> str | None:
    """util-linux's setpriv, where it knows --pdeathsig (busybox's does not)."""
    found = shutil.which("setpriv")
    if found is None:
        return None
    return found if succeeds((found, "--pdeathsig", "KILL", "true")) else None


def _nice(level: int) -> tuple[str, ...]:
    return ("nice", "-n", str(level)) if level and shutil.which("nice") else ()


def _die_with_parent(death_signal: signal.Signals) -> tuple[str, ...]:
    found = _setpriv()
    if found is None:
        return ()
    # A parent killed before the signal was asked for sends none: so look, once it was, whether it is still there.
    still_there = ("sh", "-c", 'test "$PPID" = "$1" && shift && exec "$@"', "sh", str(os.getpid()))
    name = death_signal.name.removeprefix("SIG")
    return (*_heeding(name), found, "--pdeathsig", name, *still_there)


@cache
def _heeding(signal_name: str) -> tuple[str, ...]:
    """Has a program heed a signal, where there is an `env` that can (busybox's cannot).

    A script's background ignores some signals, and whatever is started there would ignore them too.
    """
    call = ("env", f"--default-signal={signal_name}")
    return call if shutil.which("env") is not None and succeeds((*call, "true")) else ()
