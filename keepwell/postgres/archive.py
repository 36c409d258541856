"""pg_dump's directory format: how to write it, list it, check its streams and restore it.

A restore that exits 0 proves little: a stream cut at a row boundary, or an empty one, passes in silence. So each
stream must end with COPY's terminator and hold as many lines as the table had rows.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keepwell import command
from keepwell.command import Command
from keepwell.errors import CommandFailed, KeepwellError, LockTimeout, ServiceUnavailable
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import DUMP_OPTIONS, conninfo, password_environment, translated
from keepwell.settings import DatabaseSettings

TERMINATOR = b"\\.\n"
# pg_dump ends a stream with the terminator and a few empty lines.
_TAIL_BYTES = 64
CONTENTS_FILE = "toc.dat"
_GLOBALS_END = b"-- PostgreSQL database cluster dump complete"
_AMCHECK_FOUND_DAMAGE = 2
_DAMAGE_BYTES = 2_000
_LOOK_SECONDS = 0.1
# PostgreSQL's programs begin each of their own lines with their name.
_SAYS = re.compile(r"^(pg_\w+|psql)[:.\w]* ")
_QUOTES = re.compile(r"\b(DETAIL|CONTEXT|STATEMENT|QUERY):|Command was:|detail:")
# A detail that quotes no rows: why pg_dump could not read on.
_SERVER_SAID = re.compile(r"^pg_dump: detail: Error message from server: (.*)$", re.MULTILINE)
_DATA_FILE = re.compile(r"^\d+\.dat$")
_GRANTOR = re.compile(rb'^(GRANT .*) GRANTED BY (?:"(?:[^"]|"")+"|[^\s";]+);$', re.MULTILINE)
_RESTRICT = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)
_RESTRICTION = rb"(?m)^\\(?:un)?restrict %s\n"
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_DATA_ENTRY = re.compile(r"^(?P<dump_id>\d+); \d+ (?P<table_oid>\d+) TABLE DATA ")
# Entries of an archive that carry rows, and those that would act by themselves or speak of other databases.
_NO_DEFINITION = re.compile(
    r"^\d+; \d+ \d+ (?:(?:COMMENT|ACL|SECURITY LABEL) \S+ )?(?:TABLE DATA|MATERIALIZED VIEW DATA|STATISTICS DATA|BLOB|"
    r"LARGE OBJECT|EVENT TRIGGER|TRIGGER|POLICY|DEFAULT ACL|PUBLICATION|SUBSCRIPTION)"
)
# pg_dump bounds its wait for a lock by a statement timeout, and knows no other.
_LOCK_WORDS = ("could not obtain lock", "lock timeout", "due to statement timeout", "deadlock detected")
_SERVER_GONE_WORDS = (
    "server closed the connection",
    "terminating connection",
    "could not connect",
    "Connection refused",
    "connection to server",
    "the database system is",
    "conflict with recovery",
)
# The dump may be fine and this machine lack something that it needs: then nothing is known.
_MACHINE_LACKS = (
    "is not available",
    "could not open extension control file",
    "could not access file",
    "ICU is not supported",
    "No space left on device",
    "could not create locale",
    "must be loaded via",
    "it could not be run in a container",
)
# A failed login also begins with the words of a lost connection, and no retry would help it.
_REFUSED_WORDS = ("does not exist", "authentication failed", "permission denied")


@dataclass(frozen=True)
class DataEntry:
    """One entry of an archive's contents that carries rows: the table's oid at the source, and its file."""

    table_oid: int
    file_name: str


def build_dump_command(
    binaries: Binaries,
    database: DatabaseSettings,
    folder: Path,
    *,
    snapshot_id: str,
    encoding: str,
    jobs: int,
    lock_wait_seconds: int,
) -> Command:
    """Dump the database as a shared snapshot shows it, uncompressed, into a new folder.

    Compression is ours, so that each stream can be counted and hashed on its way.
    """
    # Never `--sync`: there is nothing on a disk of ours that should survive us.
    argv = ["--format=directory", f"--file={folder}", f"--jobs={jobs}", "--no-sync"]
    return _dump_command(
        binaries,
        database,
        argv,
        snapshot_id=snapshot_id,
        encoding=encoding,
        lock_wait_seconds=lock_wait_seconds,
        writable=[folder.parent],
    )


def build_contents_command(
    binaries: Binaries, database: DatabaseSettings, *, snapshot_id: str, encoding: str, lock_wait_seconds: int
) -> Command:
    """Begin a dump whose table of contents comes first, for whoever wants to know only that."""
    return _dump_command(
        binaries,
        database,
        ["--format=custom"],
        snapshot_id=snapshot_id,
        encoding=encoding,
        lock_wait_seconds=lock_wait_seconds,
    )


def _dump_command(
    binaries: Binaries,
    database: DatabaseSettings,
    form: Sequence[str],
    *,
    snapshot_id: str,
    encoding: str,
    lock_wait_seconds: int,
    writable: Sequence[Path] = (),
) -> Command:
    target = conninfo(database, application_name="keepwell pg_dump")
    argv = [binaries.program("pg_dump"), "--dbname", target, *form]
    argv += ["--compress=0", f"--snapshot={snapshot_id}", f"--lock-wait-timeout={lock_wait_seconds * 1000}"]
    argv += ["--no-password", f"--encoding={encoding}"]
    environment = password_environment(database) | {"PGOPTIONS": DUMP_OPTIONS}
    # Where the role may not read past row security, fail instead of dumping only the rows it may see: the default.
    return binaries.call(
        argv, environment, writable=writable, readable=_to_log_in(target), has_network=_over_a_network(target)
    )


def build_globals_command(binaries: Binaries, database: DatabaseSettings, file: Path, *, passwords: bool) -> Command:
    """Dump roles and their memberships, with their password hashes where we may read them."""
    target = conninfo(database, application_name="keepwell pg_dumpall")
    argv = [binaries.program("pg_dumpall"), "--dbname", target]
    argv += ["--globals-only", "--no-tablespaces", f"--file={file}", "--no-password"]
    # Given as a connection string, because a name that holds an equals sign would be taken for one.
    argv += [f"--database={make_conninfo('', dbname=database.name)}"]
    argv += [] if passwords else ["--no-role-passwords"]
    return binaries.call(
        argv,
        password_environment(database) | {"PGOPTIONS": DUMP_OPTIONS},
        writable=[file.parent],
        readable=_to_log_in(target),
        has_network=_over_a_network(target),
    )


def build_restore_command(
    binaries: Binaries, folder: Path, target: str, environment: dict[str, str], *, jobs: int
) -> Command:
    """Restore an archive folder into an existing, empty database; the first error ends it."""
    argv = [binaries.program("pg_restore"), "--dbname", target, f"--jobs={jobs}", "--exit-on-error"]
    # A subscription of the copy would start to pull from wherever the source's pulls.
    argv += ["--no-tablespaces", "--no-subscriptions", "--no-password", str(folder)]
    return binaries.call(
        argv,
        environment | {"PGOPTIONS": DUMP_OPTIONS},
        readable=[folder, *_to_log_in(target)],
        has_network=_over_a_network(target),
    )


def build_definitions_command(
    binaries: Binaries, folder: Path, listing: Path, target: str, environment: dict[str, str], *, jobs: int
) -> Command:
    """Restore what an archive folder defines, without a row, into an existing, empty database.

    Args:
        binaries: Whose pg_restore.
        folder: Holds the archive's table of contents; its streams are not needed.
        listing: What of it is restored, as `render_definitions` renders it.
        target: Connection string of the database.
        environment: For its password.
        jobs: Parallel connections.
    """
    argv = [binaries.program("pg_restore"), "--dbname", target, f"--jobs={jobs}", "--exit-on-error"]
    argv += ["--no-tablespaces", "--no-password", f"--use-list={listing}", str(folder)]
    return binaries.call(
        argv,
        environment | {"PGOPTIONS": DUMP_OPTIONS},
        readable=[folder, listing, *_to_log_in(target)],
        has_network=_over_a_network(target),
    )


def render_definitions(listing: Iterable[str]) -> str:
    """A list for pg_restore of all that an archive defines: no rows, and nothing that would act by itself.

    Triggers, policies and publications make no table what it is; sequences are set to where they were.

    Args:
        listing: Lines of `pg_restore --list`.
    """
    kept = [line for line in listing if line and not line.startswith(";") and not _NO_DEFINITION.match(line)]
    return "".join(f"{line}\n" for line in kept)


def list_contents(binaries: Binaries, archive: Path) -> list[str]:
    """The lines of an archive's table of contents, of a folder or a file.

    Raises:
        CommandFailed: They cannot be parsed.
    """
    call = binaries.call([binaries.program("pg_restore"), "--list", str(archive)], {}, readable=[archive])
    return command.run(call, timeout_seconds=600).decode(errors="replace").splitlines()


def build_schema_dump_command(
    binaries: Binaries, source: str, environment: dict[str, str], schema: str, file: Path
) -> Command:
    """Dump one schema of a database of ours into a file in custom format.

    Args:
        binaries: Whose pg_dump.
        source: Connection string of the database.
        environment: For its password.
        schema: A plain name of ours, which needs no quoting in a pattern.
        file: New.
    """
    argv = [binaries.program("pg_dump"), "--dbname", source, "--format=custom", f"--schema={schema}"]
    argv += [f"--file={file}", "--no-publications", "--no-subscriptions", "--no-password"]
    return binaries.call(
        argv,
        environment | {"PGOPTIONS": DUMP_OPTIONS},
        writable=[file.parent],
        readable=_to_log_in(source),
        has_network=_over_a_network(source),
    )


def build_sections_command(
    binaries: Binaries, file: Path, target: str, environment: dict[str, str], sections: Sequence[str]
) -> Command:
    """Restore some sections of a custom-format file into a database: all of them, or nothing.

    Args:
        binaries: Whose pg_restore.
        file: The archive.
        target: Connection string of the database.
        environment: For its password.
        sections: Of `pre-data`, `data`, `post-data`.
    """
    argv = [binaries.program("pg_restore"), "--dbname", target, "--single-transaction", "--exit-on-error"]
    argv += [*(f"--section={section}" for section in sections), "--no-tablespaces", "--no-password", str(file)]
    return binaries.call(
        argv,
        environment | {"PGOPTIONS": DUMP_OPTIONS},
        readable=[file, *_to_log_in(target)],
        has_network=_over_a_network(target),
    )


def build_trial_command(binaries: Binaries, folder: Path, entry: DataEntry) -> Command:
    """Read one stream of an archive folder to nowhere.

    Args:
        binaries: Whose pg_restore.
        folder: Holds the archive's table of contents and that stream; a file beside them says which entry is meant.
        entry: Which one.
    """
    listing = folder / "trial.list"
    listing.write_text(f"{entry.file_name.removesuffix('.dat')};\n")
    argv = [binaries.program("pg_restore"), "--data-only", f"--use-list={listing}", "--file=/dev/null", str(folder)]
    return binaries.call(argv, {}, readable=[folder])


def ends_as_globals(globals_sql: bytes) -> bool:
    r"""Whether a globals file ends as pg_dumpall ends one; it is the only sign that nothing behind it is missing.

    Newer minor versions write an `\unrestrict` line, before or after it.
    """
    lines = [line.strip() for line in globals_sql.splitlines()]
    telling = [line for line in lines if line not in (b"", b"--") and not line.startswith(b"\\unrestrict ")]
    return bool(telling) and telling[-1] == _GLOBALS_END


def without_grantors(globals_sql: bytes) -> bytes:
    """A globals file whose memberships do not say who granted them.

    Since version 16 a grantor other than the server's first superuser needs the ADMIN option; the source's first
    superuser is only one of several on a scratch server, so the file as it stands would be refused.
    """
    return _GRANTOR.sub(rb"\1;", globals_sql)


def without_restriction(globals_sql: bytes) -> bytes:
    r"""A globals file without the pair of lines that newer minor versions write for psql: `\restrict`, `\unrestrict`.

    They guard a psql against commands of its own further down; other clients, and older ones, do not know them.
    """
    key = _RESTRICT.search(globals_sql)
    return globals_sql if key is None else re.sub(_RESTRICTION % re.escape(key[1]), b"", globals_sql)


def create_roles(connection: psycopg.Connection, globals_sql: bytes) -> None:
    r"""Run a globals file on a scratch server: all of it, or nothing.

    Not by psql, which runs as we do and would obey a `\!` that somebody put into the file.

    Raises:
        KeepwellError: The server refused it.
    """
    statements = without_restriction(without_grantors(globals_sql))
    encoding = _ENCODING.search(statements)
    with translated("creating the roles"):
        # The whole file reaches the server at once, before the file's own SET could tell its encoding.
        if encoding is not None and encoding[1] != b"SQL_ASCII":
            connection.execute("SELECT pg_catalog.set_config('client_encoding', %s, false)", (encoding[1].decode(),))
        connection.execute(statements)


def build_index_check_command(
    binaries: Binaries, target: str, *, jobs: int, environment: Mapping[str, str] | None = None
) -> Command:
    """Check every table and index of a database, and that each index knows every row.

    Args:
        binaries: Whose pg_amcheck.
        target: Connection string without a password.
        jobs: Parallel connections.
        environment: For the password, where its server asks for one.
    """
    argv = [binaries.program("pg_amcheck"), "--heapallindexed", f"--jobs={jobs}", "--no-password", target]
    return binaries.call(argv, environment or {}, readable=_to_log_in(target), has_network=_over_a_network(target))


def _to_log_in(target: str) -> list[Path]:
    """What a program must be able to read to use a connection string: a socket's folder, a certificate."""
    named = conninfo_to_dict(target)
    paths = [str(named.get(key) or "") for key in ("host", "sslrootcert")]
    return [Path(path) for path in paths if path.startswith("/")]


def _over_a_network(target: str) -> bool:
    """Whether a connection string leads to a server beyond a socket."""
    return not str(conninfo_to_dict(target).get("host") or "").startswith("/")


def run_index_check(call: Command) -> str:
    """Run pg_amcheck, which tells what it found on its standard output.

    Returns:
        The end of what it found; empty when everything is in order.

    Raises:
        CommandFailed: It could not check.
    """
    process = command.start(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said, _ = process.communicate()
    finally:
        command.stop(process)
    if process.returncode not in (0, _AMCHECK_FOUND_DAMAGE):
        message = command.describe_failure(call, process.returncode, said)
        raise CommandFailed(message, exit_code=process.returncode)
    if process.returncode == 0:
        return ""
    return said[-_DAMAGE_BYTES:].decode(errors="replace").strip() or "it did not say what"


def run_tool(call: Command, *, timeout_seconds: float | None = None) -> bytes:
    """Run one of PostgreSQL's programs, telling passing troubles from lasting ones by its words.

    Raises:
        LockTimeout: A lock was not to be had.
        ServiceUnavailable: The server went away.
        CommandFailed: Anything else.
    """
    try:
        return command.run(call, timeout_seconds=timeout_seconds)
    except CommandFailed as failure:
        raise _translate(failure) from None


def run_watched(call: Command, watch: Callable[[], None]) -> None:
    """Run one of PostgreSQL's programs for its effect, as `run_tool` does, and look around meanwhile.

    Args:
        call: What to run.
        watch: Called several times a second; raises to end it.
    """
    process = command.start(call, death_signal=command.TELLS_ITS_WORKERS)
    said = command.StderrTail(process)
    try:
        while process.poll() is None:
            watch()
            time.sleep(_LOOK_SECONDS)
    finally:
        command.stop(process)
    if process.returncode != 0:
        raise translate_failure(call, process.returncode, said.read())


def translate_failure(call: Command, exit_code: int, stderr: bytes) -> KeepwellError:
    """The error of one of PostgreSQL's programs that ended badly; as `run_tool` raises them."""
    return _translate(CommandFailed(command.describe_failure(call, exit_code, stderr), exit_code=exit_code))


def _translate(failure: CommandFailed) -> KeepwellError:
    error = CommandFailed(without_rows(failure.message), exit_code=failure.exit_code)
    told = "\n".join([error.message, *_SERVER_SAID.findall(failure.message)])
    if any(words in told for words in _LOCK_WORDS):
        return LockTimeout(
            error.message, hint="A change of the schema is waiting or at work: try again when it is done."
        )
    refused = any(words in told for words in _REFUSED_WORDS)
    if not refused and any(words in told for words in _SERVER_GONE_WORDS):
        return ServiceUnavailable(error.message, hint="Check that the server is up.")
    return error


def machine_lacks(said: str) -> bool:
    """Whether a restore failed for want of something on this machine, which says nothing of what was restored."""
    return any(words in said for words in _MACHINE_LACKS)


def without_rows(said: str) -> str:
    """What a program said, without what may quote rows or passwords: details, contexts, statements.

    It ends up in proofs, artifacts and messages.
    """
    kept: list[str] = []
    quoting = False
    for line in said.splitlines():
        starts_anew = _SAYS.match(line) is not None
        quoting = (quoting and not starts_anew) or _QUOTES.search(line) is not None
        if not quoting:
            kept.append(line)
    return "\n".join(kept)


def list_data_entries(binaries: Binaries, folder: Path) -> list[DataEntry]:
    """Which tables an archive carries rows of, by its table of contents.

    Raises:
        CommandFailed: The contents cannot be parsed.
    """
    return list(parse_data_entries(list_contents(binaries, folder)))


def foresee_data_entries(binaries: Binaries, contents: Command) -> list[DataEntry]:
    """Which streams a dump of the same snapshot will write.

    pg_dump numbers its entries before it looks at the format, so the files of a directory bear the numbers that an
    archive in one piece begins with; of that, only the beginning is read.

    Args:
        binaries: Whose pg_restore lists.
        contents: From `build_contents_command`.

    Raises:
        KeepwellError: pg_dump failed before it came to the first row.
    """
    dump = command.start(contents, stdout=subprocess.PIPE)
    said = command.StderrTail(dump)
    try:
        call = binaries.call([binaries.program("pg_restore"), "--list"], {}, reads_input=True)
        listing = command.run(call, stdin=dump.stdout)
    except CommandFailed as failure:
        dump.wait()
        raise translate_failure(contents, dump.returncode, said.read()) if dump.returncode else failure from None
    finally:
        command.stop(dump)
    return list(parse_data_entries(listing.decode(errors="replace").splitlines()))


def parse_data_entries(lines: Iterable[str]) -> Iterator[DataEntry]:
    """The TABLE DATA entries of a `pg_restore --list`; they bear the table's oid, so no name is parsed."""
    for line in lines:
        entry = _DATA_ENTRY.match(line)
        if entry:
            yield DataEntry(int(entry["table_oid"]), f"{entry['dump_id']}.dat")


def is_table_data(file_name: str) -> bool:
    """Whether a file of an archive folder holds a table's COPY stream, and so a terminator."""
    return _DATA_FILE.match(file_name) is not None


def is_stream(file_name: str) -> bool:
    """Whether pg_restore reads a file of an archive folder once, from its beginning: rows or a large object."""
    return file_name != CONTENTS_FILE and file_name.endswith(".dat")


class StreamCheck:
    """Follows one COPY stream: counts its rows and sees whether it ends with the terminator."""

    def __init__(self) -> None:
        self._lines = 0
        self._tail = b"\n"  # as if a line had ended before the first

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self._lines += chunk.count(b"\n")
        self._tail = (self._tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    @property
    def terminated(self) -> bool:
        """Whether the terminator stands alone on the last line that is not empty."""
        return self._tail.endswith(b"\n") and self._tail.rstrip(b"\n").endswith(b"\n" + TERMINATOR.rstrip())

    @property
    def trailer(self) -> bytes:
        """The terminator with the empty lines behind it; empty when there is none."""
        return self._tail[self._tail.rindex(TERMINATOR) :] if self.terminated else b""

    @property
    def rows(self) -> int:
        """Lines before the terminator; each row is one line, since COPY escapes line breaks."""
        return self._lines - self.trailer.count(b"\n")
