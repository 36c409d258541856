"""A PostgreSQL server of our own: for scratch restores, and for whoever else needs one that can be thrown away.

Who it runs as and what it can reach: `keepwell.postgres.isolation` and, for whoever runs code of others,
`keepwell.postgres.confinement`.
"""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from keepwell import command
from keepwell.command import Command
from keepwell.errors import ServiceUnavailable
from keepwell.giving_way import descendants_standing_back
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.confinement import Confinement
from keepwell.postgres.isolation import Isolation, isolate, unprivileged

_START_SECONDS = 60
_STOP_SECONDS = 10
_EVENT_TRIGGERS_SWITCH_MAJOR = 17
_LOG_FILE = "server.log"
# A socket's path may have 107 bytes, with the name that PostgreSQL appends.
_SOCKET_FOLDER_LIMIT = 80
_SHORT_FOLDER = Path("/tmp")  # noqa: S108 - a private folder is made in it
_SOCKET_PREFIX = "keepwell-socket-"
_DATA, _SOCKET = "data", "socket"


@dataclass(frozen=True)
class ServerOptions:
    """How a server of ours is set up.

    Attributes:
        superuser: Name of the bootstrap superuser.
        password: Its password; None lets anyone in who reaches the socket folder, which only we can.
        port: TCP port on loopback; 0 listens on no network at all, only on the socket.
        encoding: Of the template databases.
        locale: Of the template databases.
        parameters: For postgresql.conf.
    """

    superuser: str = "postgres"
    password: str | None = field(default=None, repr=False)
    port: int = 0
    encoding: str = "UTF8"
    locale: str = "C.UTF-8"
    parameters: Mapping[str, str] = field(default_factory=dict)


# Nothing of a scratch server must survive a crash, so nothing waits for the disk.
THROWAWAY_PARAMETERS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "maintenance_work_mem": "256MB",
    "shared_buffers": "256MB",
    "autovacuum": "off",
    "max_connections": "40",
    "max_locks_per_transaction": "512",
}


def create_cluster(
    binaries: Binaries, folder: Path, options: ServerOptions, isolation: Isolation | None = None
) -> None:
    """Make a data folder for `build_server_command`.

    Args:
        binaries: Whose initdb.
        folder: New folder; its parent exists.
        options: Superuser, password, encoding, locale and parameters.
        isolation: Who it is for; a server that we trust by default.

    Raises:
        KeepwellError: initdb failed; the message holds the end of what it said.
    """
    isolation = isolation or unprivileged()
    folder.mkdir(mode=0o700)
    isolation.hand_over(folder)
    argv = [binaries.program("initdb"), "-D", str(folder), "-U", options.superuser, "-E", options.encoding]
    argv += [f"--locale={options.locale}", "--no-sync", "--no-instructions"]
    with ExitStack() as stack:
        if options.password is None:
            argv += ["--auth=trust"]
        else:
            # Only where there is one: a killed run would leave the file behind.
            password_file = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="keepwell-password-"))
            password_file.write(options.password)
            password_file.flush()
            isolation.hand_over(Path(password_file.name))
            argv += ["--auth=scram-sha-256", f"--pwfile={password_file.name}"]
        call = binaries.call(argv, {"LC_ALL": "C"}, writable=[folder.parent], user=isolation.user_id)
        command.run(replace(call, prefix=isolation.prefix), timeout_seconds=120, cwd=folder.parent)
    with (folder / "postgresql.conf").open("a") as configuration:
        for name, value in options.parameters.items():
            configuration.write(f"{name} = '{value}'\n")


def build_server_command(
    binaries: Binaries,
    folder: Path,
    socket_folder: Path,
    options: ServerOptions,
    isolation: Isolation | None = None,
) -> Command:
    """The call that runs a cluster in the foreground, with an empty environment.

    Args:
        binaries: Whose server.
        folder: Its data.
        socket_folder: For its socket.
        options: As for `create_cluster`.
        isolation: As for `create_cluster`.
    """
    listen = "127.0.0.1" if options.port else ""
    argv = [binaries.program("postgres"), "-D", str(folder), "-k", str(socket_folder)]
    argv += ["-c", f"listen_addresses={listen}", "-c", f"port={options.port or 5432}"]
    argv += ["-c", "unix_socket_permissions=0700"]
    isolation = isolation or unprivileged()
    environment = {"LC_ALL": "C", "PGTZ": "UTC"}
    if isolation.is_confined:
        # Behind our death's signal and not before it: in there, processes are counted from one.
        view = confine(binaries, folder.parent, socket_folder)
        return Command((*view.prefix(death_signal="QUIT"), *argv), environment)
    call = binaries.call(argv, environment, writable=[folder.parent, socket_folder], user=isolation.user_id)
    return replace(call, prefix=isolation.prefix)


def wait_until_ready(conninfo: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a login works.

    Raises:
        ServiceUnavailable: The server ended, or does not answer in time; the message holds the end of its log.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(conninfo, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise ServiceUnavailable(
                f"A PostgreSQL server of our own did not start: {said.strip() or error}", hint="Read its log above."
            ) from error
        return


@contextmanager
def throwaway_server(
    binaries: Binaries,
    folder: Path,
    isolation: Isolation | None = None,
    *,
    locale: str = "C.UTF-8",
    encoding: str = "UTF8",
    nice: int = 0,
) -> Iterator[str]:
    """A server that nobody else can reach, gone with this block, or with this process at the latest.

    It is kept apart from us and has none of our environment, because restoring runs the source's own code.

    Args:
        binaries: Which PostgreSQL.
        folder: Existing, private folder for it; the caller removes it.
        isolation: From `isolate` for the same programs and folder, for whoever wants to tell it.
        locale: Of its databases.
        encoding: Of its databases.
        nice: How far it stands back for others, 0 to 19.

    Yields:
        A libpq connection string for its superuser, database `postgres`.
    """
    options = ServerOptions(
        superuser=f"keepwell_{secrets.token_hex(4)}",
        locale=locale,
        encoding=encoding,
        parameters=THROWAWAY_PARAMETERS,
    )
    isolation = isolation or isolate(binaries, folder)
    with ExitStack() as stack:
        data, socket_folder = folder / _DATA, _make_socket_folder(folder)
        stack.callback(shutil.rmtree, socket_folder, ignore_errors=True)
        isolation.hand_over(socket_folder)
        create_cluster(binaries, data, options, isolation)
        log = folder / _LOG_FILE
        with log.open("wb") as log_stream:
            fcntl.flock(log_stream, fcntl.LOCK_EX)  # handed on to every process of the server: see _wait_until_gone
            process = command.start(
                build_server_command(binaries, data, socket_folder, options, isolation).standing_back(nice),
                stdout=log_stream,
                stderr=log_stream,
                cwd=folder,
                death_signal=signal.SIGQUIT,
            )
        try:
            conninfo = make_conninfo("", host=str(socket_folder), port=5432, user=options.superuser, dbname="postgres")
            wait_until_ready(conninfo, process, log)
            with descendants_standing_back(process.pid, nice):
                yield conninfo
        finally:
            command.stop(process, polite=signal.SIGQUIT)
            _wait_until_gone(log)


def confine(binaries: Binaries, folder: Path, socket_folder: Path, *readable: Path) -> Confinement:
    """What a throwaway server may see, and whatever speaks to it on the dump's behalf.

    Args:
        binaries: Whose programs run.
        folder: The server's own, as given to `throwaway_server`.
        socket_folder: Where its socket lies.
        readable: What else may be read, such as an archive.
    """
    root = folder / "view"
    root.mkdir(exist_ok=True)
    own, sockets = folder.resolve(), socket_folder.resolve()
    writable = (own,) if sockets.is_relative_to(own) else (own, sockets)
    # The programs' libraries and extensions lie beside them: …/pgsql/bin, …/pgsql/lib, …/pgsql/share.
    return Confinement(own / root.name, writable, (binaries.folder.resolve().parent, *readable))


def _wait_until_gone(log: Path) -> None:
    """Wait for the last process that holds the server's log: the one that we started may end before the others."""
    deadline = time.monotonic() + _STOP_SECONDS
    with suppress(FileNotFoundError), log.open("rb") as stream:
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.02)


def database_on(server: str, name: str, *, major: int) -> str:
    """Connection string of one database of a scratch server, whose login triggers, if any, must not keep us out."""
    quiet = {"options": "-c event_triggers=off"} if major >= _EVENT_TRIGGERS_SWITCH_MAJOR else {}
    return make_conninfo(server, dbname=name, **quiet)


def _make_socket_folder(folder: Path) -> Path:
    """In the server's folder where its path is short enough; else elsewhere, with a link to it that a sweep follows."""
    inside = folder / _SOCKET
    if len(str(inside)) <= _SOCKET_FOLDER_LIMIT:
        inside.mkdir(mode=0o700)
        return inside
    elsewhere = _SHORT_FOLDER / f"{_SOCKET_PREFIX}{secrets.token_hex(8)}"
    inside.symlink_to(elsewhere)  # first, so that it is found however we end
    elsewhere.mkdir(mode=0o700)
    return elsewhere


def sweep_server(folder: Path) -> None:
    """End a throwaway server whose run died, and remove what it left outside its folder.

    Args:
        folder: That was given to `throwaway_server`; harmless when it never came to that.
    """
    end_orphan(folder / _DATA)
    try:
        elsewhere = (folder / _SOCKET).readlink()
    except OSError:
        return  # a folder inside, or none
    if elsewhere.parent == _SHORT_FOLDER and elsewhere.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(elsewhere, ignore_errors=True)


def end_orphan(data_folder: Path) -> None:
    """End the server of a run that died, found by its data folder; harmless when there is none.

    Its pid file is no help: a confined server counts its processes from one.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while (left := _processes_of(data_folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        time.sleep(0.05)


def _processes_of(data_folder: Path) -> list[int]:
    """The processes whose call names that folder: the server, and what it was started through."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _runs_from(pid, data_folder)]


def _runs_from(pid: int, data_folder: Path) -> bool:
    try:
        return os.fsencode(data_folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
