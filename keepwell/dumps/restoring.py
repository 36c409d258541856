r"""Restores a dump into a scratch server with PostgreSQL's own programs, counting every error instead of the first.

psql is shown a plain dump the way an operator would show it, so that what comes back here is what would come back
there. But a dump is somebody else's text, and psql obeys its own commands wherever they stand: so a dump that holds any
is refused before, psql is told to obey none (`\restrict`), and it runs as confined as the server.
"""

import os
import re
import secrets
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keepwell import command
from keepwell.command import Command
from keepwell.dumps.content import Content
from keepwell.dumps.opening import ContentStream, DumpFile, Format, Wrapping
from keepwell.dumps.script import Edit, Part, Script
from keepwell.dumps.statements import Made, read_statement
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import connect_to, translated
from keepwell.postgres.isolation import isolate
from keepwell.postgres.server import confine
from keepwell.progress import Progress, Step

STAGE = "restoring"
DATABASE = "restored"
_MAINTENANCE = "postgres"
_MOST_ERRORS = 200
_NAMED_ERRORS = 10
_LONGEST_ERROR = 500
# The minor version of each major since which psql knows \restrict.
_RESTRICTS_SINCE = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
_PSQL_SAYS = re.compile(
    r"psql(?::<stdin>:(?P<line>\d+))?: (?:ERROR|FATAL|PANIC|error): +(?:(?P<state>[0-9A-Z]{5}): )?(?P<message>.*)"
)
_RESTORE_SAYS = re.compile(
    r"pg_restore(?:: \[[^\]]*\])?: (?P<severity>error|fatal|from TOC entry)(?:: | )(?P<message>.*)"
)
_TOC_ENTRY = re.compile(r"\d+; \d+ \d+ (?P<what>.*?)(?: \S+)?\Z")
# Every new database has these, and older dumps create them all the same.
_THERE_ALREADY = re.compile(
    r'schema "public" already exists|extension "plpgsql" already exists|language "plpgsql" already exists'
)
# Of a table or view, a schema, a type or role or large object, a function, a column, a database.
_UNDEFINED_STATES = frozenset({"42P01", "3F000", "42704", "42883", "42703", "3D000"})
_LOCALE_WORDS = re.compile(
    r"\s+(?:LOCALE_PROVIDER|LOCALE|LC_COLLATE|LC_CTYPE|ICU_LOCALE|ICU_RULES|BUILTIN_LOCALE|COLLATION_VERSION)\s*=?\s*(?:'(?:[^']|'')*'|\w+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RestoreError:
    """One error that PostgreSQL's programs reported.

    Attributes:
        place: Where in the dump: a line, or an entry of its contents; empty when not said.
        message: In PostgreSQL's words, without details, which may quote rows.
    """

    place: str
    message: str


@dataclass(frozen=True)
class Restored:
    """What became of a restore.

    Attributes:
        databases: Names on the scratch server that the dump went to.
        errors: The first few.
        error_count: All that count.
        harmless_count: Those that every restore of such a dump meets: what is dropped and was never there.
        stopped: Whether there were so many that it was ended early.
        seconds: How long it took.
        sorted_otherwise: Databases whose collation this machine lacks.
        left_out: What could not be set up before, such as a role with an impossible name.
    """

    databases: tuple[str, ...]
    errors: tuple[RestoreError, ...]
    error_count: int
    harmless_count: int
    stopped: bool
    seconds: float
    sorted_otherwise: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scratch:
    """A scratch server to restore into.

    Attributes:
        binaries: Its version, whose programs speak to it.
        conninfo: Of its superuser.
        folder: Its own.
        jobs: Parallel connections.
    """

    binaries: Binaries
    conninfo: str
    folder: Path
    jobs: int

    def on(self, database: str) -> str:
        """Connection string of one of its databases, fit for argv."""
        return make_conninfo(self.conninfo, dbname=database)

    @property
    def is_confined(self) -> bool:
        """Whether the server and its clients see nothing of this machine but what is theirs."""
        return isolate(self.binaries, self.folder).is_confined

    def may_read(self, path: Path) -> bool:
        """Whether what is confined can open a file or folder of the dump by its name."""
        return may_be_read_confined(self.binaries, self.folder, path)

    def confined(self, argv: Sequence[str], *readable: Path) -> Command:
        """A call that reads the dump, kept as far from this machine as the server."""
        sockets = Path(str(conninfo_to_dict(self.conninfo)["host"]))
        return confined(self.binaries, self.folder, sockets, argv, *readable)


def confined(binaries: Binaries, folder: Path, sockets: Path, argv: Sequence[str], *readable: Path) -> Command:
    """A program's call, kept as far from this machine as a throwaway server.

    Args:
        binaries: Whose program.
        folder: The scratch folder.
        sockets: Where the server's socket lies.
        argv: The call.
        readable: What it may read besides.
    """
    if isolate(binaries, folder).is_confined:
        return Command((*confine(binaries, folder, sockets, *readable).prefix(), *argv))
    return Command(tuple(argv), {}, isolate(binaries, folder).prefix)


def may_be_read_confined(binaries: Binaries, folder: Path, path: Path) -> bool:
    """Whether what is confined can open a file, or a folder's files: it has none of root's privileges."""
    if os.geteuid() != 0:
        return True
    if not isolate(binaries, folder).is_confined:
        return False
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    return all(_open_to_all_or_root(file.stat()) for file in files)


def _open_to_all_or_root(status: os.stat_result) -> bool:
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
    return status.st_uid == 0 or status.st_mode & needed == needed


def restore(dump: DumpFile, content: Content, script: Script | None, scratch: Scratch, progress: Progress) -> Restored:
    """Restore a dump.

    Args:
        dump: Which.
        content: What it says it holds.
        script: How psql is to be shown it, for a plain dump.
        scratch: Where to.
        progress: Told how far it is, in bytes of the file.

    Raises:
        KeepwellError: The scratch server failed; what is wrong with the dump is said, not raised.
    """
    left_out = tuple(_set_up(content, scratch))
    if script is None:
        return _restore_archive(dump, scratch, left_out, progress)
    return _Feeding(dump, script, scratch, left_out, progress).run()


def shown_to_psql(script: Script, pieces: Iterable[bytes]) -> Iterator[bytes | Part | Edit]:
    """A plain dump as psql is shown it, in order: a part that begins, bytes, or an edit with something to create first.

    Args:
        script: As the dump was read before.
        pieces: The same dump again, in any pieces.
    """
    turns: list[Part | Edit] = sorted(
        (*script.parts, *script.edits), key=lambda turn: (turn.start, isinstance(turn, Edit))
    )
    begun = 0
    offset = 0
    hidden_until = 0
    for piece in pieces:
        end = offset + len(piece)
        position = max(offset, min(hidden_until, end))
        while begun < len(turns) and turns[begun].start < end:
            turn = turns[begun]
            if turn.start > position:
                yield piece[position - offset : turn.start - offset]
            begun += 1
            if isinstance(turn, Part):
                position = max(position, turn.start)
                yield turn
                continue
            if turn.create:
                yield turn
            if turn.replacement:
                yield turn.replacement
            hidden_until = turn.end
            position = max(position, min(turn.end, end))
        if position < end:
            yield piece[position - offset :]
        offset = end


def scratch_names(script: Script | None) -> dict[str, str]:
    """Databases as a dump names them, to their names on the scratch server; what it does not name is empty."""
    named = {part.database for part in script.parts if part.database} if script else set()
    # What stands before the first database is meant for the server.
    return {name: name for name in named} | {"": _MAINTENANCE if named else DATABASE}


def _set_up(content: Content, scratch: Scratch) -> Iterator[str]:
    """Create what a dump needs and does not bring: the database, placeholders of roles and of tablespaces."""
    with connect_to(scratch.conninfo) as connection:
        encoding = "SQL_ASCII" if content.encoding == "SQL_ASCII" else "UTF8"
        locale = "C" if encoding == "SQL_ASCII" else "C.UTF-8"
        statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE {}"
        with translated("creating a database on the scratch server"):
            connection.execute(
                sql.SQL(statement).format(sql.Identifier(DATABASE), sql.Literal(encoding), sql.Literal(locale))
            )
        # Superusers, so that whatever they own may do here what it could do there: only the dump is on trial.
        for role in sorted(content.roles_needed - content.roles_made):
            try:
                with translated(f"creating the role {role}"):
                    connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN SUPERUSER").format(sql.Identifier(role)))
            except KeepwellError:
                yield f"role {role}"
        for tablespace in sorted(content.tablespaces):
            if not _make_tablespace(connection, tablespace):
                yield f"tablespace {tablespace}"


def _make_tablespace(connection: psycopg.Connection, name: str) -> bool:
    """A tablespace inside the scratch server's own folder; whether it could be made."""
    try:
        with translated(f"creating the tablespace {name}"):
            connection.execute("SET allow_in_place_tablespaces = on")
            connection.execute(sql.SQL("CREATE TABLESPACE {} LOCATION ''").format(sql.Identifier(name)))
    except KeepwellError:
        return False
    return True


class ToolErrors:
    """Reads a program's standard error in a thread: keeps the first errors, counts all, ends it at too many."""

    def __init__(self, process: subprocess.Popen[bytes], read_line: Callable[[str], RestoreError | None]) -> None:
        self.named: list[RestoreError] = []
        self.count = 0
        self.stopped = False
        self._process = process
        self._read_line = read_line
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it was started with a pipe
        with suppress(ValueError):  # closed under us: the program is being stopped
            for line in self._process.stderr:
                error = self._read_line(line[: 4 * _LONGEST_ERROR].decode(errors="replace").rstrip())
                if error is None or self.stopped:
                    continue
                self.count += 1
                if len(self.named) < _NAMED_ERRORS:
                    self.named.append(error)
                if self.count >= _MOST_ERRORS:
                    self.stopped = True
                    self._process.kill()

    def wait(self) -> None:
        """Until the program has said all it had to say."""
        self._thread.join()


@dataclass
class _Feeding:
    """One plain dump on its way through psql, one psql for each database."""

    dump: DumpFile
    script: Script
    scratch: Scratch
    left_out: tuple[str, ...]
    progress: Progress
    errors: list[RestoreError] = field(default_factory=list)
    error_count: int = 0
    harmless_count: int = 0
    stopped: bool = False
    databases: list[str] = field(default_factory=list)
    sorted_otherwise: list[str] = field(default_factory=list)
    _database: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _reading: ToolErrors | None = None

    def run(self) -> Restored:
        def tell(done_bytes: int) -> None:
            self.progress(Step(STAGE, done_bytes, self.dump.size_bytes, "bytes"))

        started = time.monotonic()
        stream = ContentStream(self.dump.path, self.dump.wrapping, tell)
        try:
            for turn in shown_to_psql(self.script, stream):
                if isinstance(turn, Part):
                    self._finish()
                    self._begin(turn.database, turn.line)
                elif isinstance(turn, Edit):
                    # In the dump's order: what psql was shown before must be done before.
                    self._finish()
                    self._create(turn.create)
                    self._begin(self._database, turn.line)
                else:
                    self._show(turn)
                if self.stopped or (self._reading is not None and self._reading.stopped):
                    break
            self._finish()
            if not self.stopped and stream.size_bytes != self.script.size_bytes:
                raise PreconditionFailed(
                    f"{self.dump.path.name} changed while it was being proven.",
                    hint="Something still writes it: prove it when it is done.",
                )
        finally:
            stream.close()
            if self._process is not None:
                command.stop(self._process, grace_seconds=0)
        return Restored(
            databases=tuple(dict.fromkeys(self.databases)),
            errors=tuple(self.errors[:_NAMED_ERRORS]),
            error_count=self.error_count,
            harmless_count=self.harmless_count,
            stopped=self.stopped,
            seconds=time.monotonic() - started,
            sorted_otherwise=tuple(self.sorted_otherwise),
            left_out=self.left_out,
        )

    def _begin(self, name: str, line: int) -> None:
        self._database = name
        database = scratch_names(self.script)[name]
        self.databases.append(database)
        binaries = self.scratch.binaries
        argv = [
            binaries.program("psql"),
            "--dbname",
            self.scratch.on(database),
            "--no-psqlrc",
            "--quiet",
            "--no-password",
        ]
        argv += ["--set=VERBOSITY=verbose", "--set=SHOW_CONTEXT=never", "--file=-"]
        self._process = command.start(self.scratch.confined(argv), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        first_line = line
        if knows_restrict(binaries):
            first_line -= 1
            self._show(f"\\restrict {secrets.token_hex(16)}\n".encode())
        drops = self.script.drops

        def read_line(said: str) -> RestoreError | None:
            found = _PSQL_SAYS.match(said)
            if found is None:
                return None
            at = int(found["line"]) + first_line - 1 if found["line"] else None
            message = found["message"][:_LONGEST_ERROR]
            dropped = at is not None and any(at in lines for lines in drops)
            if _THERE_ALREADY.search(message) or (dropped and found["state"] in _UNDEFINED_STATES):
                self.harmless_count += 1
                return None
            return RestoreError("" if at is None else f"line {at:,}", message)

        self._reading = ToolErrors(self._process, read_line)

    def _show(self, text: bytes) -> None:
        assert self._process is not None  # noqa: S101 - every dump begins with a part
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        with suppress(BrokenPipeError):  # it ended; what it said of that is being read
            self._process.stdin.write(text)

    def _finish(self) -> None:
        process, reading = self._process, self._reading
        if process is None or reading is None:
            return
        assert process.stdin is not None  # noqa: S101 - it was started with a pipe
        with suppress(BrokenPipeError):
            process.stdin.close()
        exit_code = process.wait()
        reading.wait()
        command.stop(process)
        self.errors += reading.named
        self.error_count += reading.count
        self.stopped = self.stopped or reading.stopped
        if exit_code != 0 and not reading.count:
            self.errors.append(RestoreError("", f"psql ended with exit code {exit_code} and did not say why"))
            self.error_count += 1
        self._process = self._reading = None

    def _create(self, statement: str) -> None:
        """Carry out what psql is not shown: new databases and tablespaces, as far as this machine can have them."""
        made = read_statement(statement)
        assert isinstance(made, Made)  # noqa: S101 - the reader marked nothing else
        try:
            with connect_to(self.scratch.conninfo) as connection:
                if made.kind == "tablespace":
                    _make_tablespace(connection, made.name.name)
                elif not _create_database(connection, statement):
                    self.sorted_otherwise.append(made.name.name)
        except KeepwellError as error:
            self.errors.append(RestoreError("", error.message[:_LONGEST_ERROR]))
            self.error_count += 1


def _create_database(connection: psycopg.Connection, statement: str) -> bool:
    """Create a database as its dump wants it; whether this machine has the collation that it names.

    Raises:
        KeepwellError: It cannot be created in any other way either.
    """
    try:
        with translated("creating a database of the dump"):
            connection.execute(statement.encode())
    except KeepwellError as error:
        plain = _LOCALE_WORDS.sub("", statement)
        if plain == statement or isinstance(error.__cause__, psycopg.errors.DuplicateDatabase):
            raise
        encoding = "C.UTF-8" if "UTF8" in statement.upper() else "C"
        with translated("creating a database of the dump"):
            connection.execute(f"{plain} LOCALE = '{encoding}'".encode())
        return False
    return True


def _restore_archive(dump: DumpFile, scratch: Scratch, left_out: tuple[str, ...], progress: Progress) -> Restored:
    argv = [scratch.binaries.program("pg_restore"), "--dbname", scratch.on(DATABASE), "--no-password"]
    # A subscription of the copy would start to pull from wherever the source's pulls; tablespaces are the machine's.
    argv += ["--no-tablespaces", "--no-subscriptions"]
    progress(Step(STAGE))
    started = time.monotonic()
    with ExitStack() as stack:
        if dump.wrapping is not Wrapping.NONE:
            call = scratch.confined(argv)
            process = command.start(call, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        elif scratch.may_read(dump.path):
            path = dump.path.resolve()
            jobs = [] if dump.format is Format.TAR else [f"--jobs={scratch.jobs}"]
            process = command.start(scratch.confined([*argv, *jobs, str(path)], path), stderr=subprocess.PIPE)
        else:
            file = stack.enter_context(dump.path.open("rb"))
            process = command.start(scratch.confined(argv), stdin=file, stderr=subprocess.PIPE)
        stack.callback(command.stop, process, grace_seconds=0)
        reading = ToolErrors(process, read_restore_error())
        if process.stdin is not None:
            pour(dump, process.stdin, progress)
        exit_code = process.wait()
        reading.wait()
    errors, count = reading.named, reading.count
    if exit_code != 0 and not count and not reading.stopped:
        errors, count = [RestoreError("", f"pg_restore ended with exit code {exit_code} and did not say why")], 1
    return Restored(
        databases=(DATABASE,),
        errors=tuple(errors),
        error_count=count,
        harmless_count=0,
        stopped=reading.stopped,
        seconds=time.monotonic() - started,
        left_out=left_out,
    )


def read_restore_error() -> Callable[[str], RestoreError | None]:
    """What makes an error out of one line of pg_restore's after another; it names the entry before the error."""
    place = ""

    def read_line(said: str) -> RestoreError | None:
        nonlocal place
        found = _RESTORE_SAYS.match(said)
        if found is None:
            return None
        if found["severity"] == "from TOC entry":
            entry = _TOC_ENTRY.match(found["message"])
            place = entry["what"] if entry else ""
            return None
        message = found["message"][:_LONGEST_ERROR]
        return None if _THERE_ALREADY.search(message) else RestoreError(place, message)

    return read_line


def pour(dump: DumpFile, target: IO[bytes], progress: Progress) -> None:
    """Decompress an archive into a program's standard input."""

    def tell(done_bytes: int) -> None:
        progress(Step(STAGE, done_bytes, dump.size_bytes, "bytes"))

    with closing(ContentStream(dump.path, dump.wrapping, tell)) as stream:
        with suppress(BrokenPipeError):  # it ended early; what it said of that is being read
            for piece in stream:
                target.write(piece)
        with suppress(BrokenPipeError):
            target.close()


def knows_restrict(binaries: Binaries) -> bool:
    """Whether this psql can be told to obey no commands that stand in what it is shown."""
    minor = binaries.version[1] if len(binaries.version) > 1 else 0
    since = _RESTRICTS_SINCE.get(binaries.major)
    return binaries.major > max(_RESTRICTS_SINCE) or (since is not None and minor >= since)
