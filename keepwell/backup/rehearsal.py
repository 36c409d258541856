"""The last four levels of a proof, on a scratch server: restored, equal, sound, serving.

A restore that exits 0 proves little, so what was restored is compared with the source as the dump's snapshot saw it:
row counts and content hashes (source against restored), and each COPY stream's SHA-256 (archive against restored).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import psycopg
from psycopg import sql
from pydantic import SecretStr

from keepwell.backup import layout
from keepwell.backup.database import Database, Source, Table
from keepwell.backup.database import Sequence as DocumentedSequence
from keepwell.backup.read_back import PartReadBack, SetReader
from keepwell.backup.schema import differing_objects, read_schema_file
from keepwell.errors import CommandFailed, KeepwellError, TransientError, VerificationFailed
from keepwell.postgres import archive, facts, soundness
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import connect_to, translate, translated
from keepwell.postgres.facts import SchemaLine
from keepwell.postgres.fingerprint import (
    LineHashes,
    digest_copy_stream,
    fingerprint_large_objects,
    fingerprint_table,
    read_copy_stream,
    sum_line_hashes,
)
from keepwell.progress import Progress, Step
from keepwell.settings import SmokeQuery
from keepwell.verdict import Finding, Verdict

_SMOKE_SECONDS = 60
_DISTRUST = "Do not rely on this set: make a new backup now."
COLLATION = "collation"
_PROVIDERS = {"i": ("icu", "ICU_LOCALE"), "b": ("builtin", "BUILTIN_LOCALE")}
_LOCALE_ERRORS = (
    psycopg.errors.WrongObjectType,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedObject,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.SyntaxError,
    psycopg.errors.InvalidObjectDefinition,
)


@dataclass(frozen=True)
class Target:
    """A restored database to look at.

    Attributes:
        conninfo: Of the database, without a password, fit for argv.
        server_major: Of its server.
        jobs: Parallel connections.
        password: Where its server asks for one.
        programs: Folder in which programs of a server of our own may leave what they found; None on one that is not.
    """

    conninfo: str
    server_major: int
    jobs: int
    password: SecretStr | None = None
    programs: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For client programs."""
        return {} if self.password is None else {"PGPASSWORD": self.password.get_secret_value()}

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        """Log in to the restored database."""
        return connect_to(self.conninfo, password=self.password, autocommit=autocommit)


def create_like(connection: psycopg.Connection, name: str, source: Source) -> Iterator[Finding]:
    """Create the database to restore into, as like the source's as this server allows.

    Args:
        connection: To another database of the server.
        name: Of the new database.
        source: The database that was dumped.

    Yields:
        A warning where the server lacks the source's collation.

    Raises:
        KeepwellError: It cannot be created at all.
    """
    fallback = "C.UTF-8" if source.encoding == "UTF8" else "C"
    choices = [_locale_of(source), _libc_locale(fallback, fallback), _libc_locale("C", "C")]
    for number, choice in enumerate(choices):
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} {}").format(
            sql.Identifier(name), sql.Literal(source.encoding), choice
        )
        try:
            with translated(f"creating the database {name}"):
                connection.execute(statement)
        except KeepwellError as error:
            if number + 1 < len(choices) and isinstance(error.__cause__, _LOCALE_ERRORS):
                continue
            raise
        if number:
            yield Finding(
                name=COLLATION,
                verdict=Verdict.WARN,
                message=f"The server lacks the source's collation {source.locale or source.collate}: "
                "the restored copy sorts by code point.",
                hint="Install that locale there to have text sorted as in the source.",
            )
        return


def _locale_of(source: Source) -> sql.Composed:
    libc = _libc_locale(source.collate, source.ctype)
    if source.locale is None or source.locale_provider not in _PROVIDERS:
        return libc
    provider, option = _PROVIDERS[source.locale_provider]
    return sql.SQL("LOCALE_PROVIDER {} {} {} {}").format(
        sql.SQL(provider), sql.SQL(option), sql.Literal(source.locale), libc
    )


def _libc_locale(collate: str, ctype: str) -> sql.Composed:
    return sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(collate), sql.Literal(ctype))


def check_restored(
    database: Database, binaries: Binaries, folder: Path, target: Target, reader: SetReader
) -> Iterator[Finding]:
    """Restore one database's archive and compare the schema, object by object.

    Args:
        database: Which one.
        binaries: Whose pg_restore.
        folder: Where the set's files were read back to.
        target: An empty database whose server knows the roles.
        reader: Feeds the set's streams.

    Raises:
        PartDamaged: A stream is not what was stored; nothing more is known of the restore.
        TransientError: The store or the server went away.
    """
    try:
        expected = read_schema_file(folder / database.schema_file)
    except VerificationFailed as error:
        yield _alert(database.schema_file, error.message)
        return
    make_bare(expected, target)
    call = archive.build_restore_command(
        binaries, folder / database.folder, target.conninfo, target.environment, jobs=target.jobs
    )
    try:
        reader.restore(database, binaries, call, jobs=target.jobs)
    except CommandFailed as error:
        yield restore_finding("database", error)
        return
    with target.connect() as connection:
        found = facts.read_schema(connection)
        extensions = dict(facts.read_extensions(connection))
    same_major = target.server_major == database.source.server_major
    for difference in differing_objects(expected, found, same_major=same_major):
        yield _alert("schema", f"The restored schema differs: {difference}.")
    for name, version in database.source.extensions.items():
        if extensions.get(name) != version:
            yield Finding(
                name=f"extension {name}",
                verdict=Verdict.OK if not same_major else Verdict.WARN,
                message=f"The source has version {version}, the scratch server {extensions.get(name)}.",
            )


def make_bare(expected: Sequence[SchemaLine], target: Target) -> None:
    """Take out of a new database what every new one has and the source has not; no dump says that.

    Args:
        expected: The source's schema.
        target: A new database.
    """
    if not any((line.kind, line.identity) == ("schema", "public") for line in expected):
        with target.connect() as connection, translated("dropping the schema public of a new database"):
            connection.execute("DROP SCHEMA public")
    if not any((line.kind, line.identity) == ("extension", "plpgsql") for line in expected):
        with target.connect() as connection, translated("dropping the extension plpgsql of a new database"):
            connection.execute("DROP EXTENSION plpgsql")


def restore_roles(spool: Path, target: Target) -> Iterator[Finding]:
    """Create the set's roles on a scratch server.

    Args:
        spool: Where the set was read back to.
        target: An empty database of the encoding of the source's main one, where they were dumped: names of roles are
            kept as bytes of the database in which they were created, and one of another encoding would not find them.

    Raises:
        TransientError: The scratch server went away.
    """
    stored = spool / layout.GLOBALS
    if not stored.exists():
        yield _alert(layout.GLOBALS, "The set holds no roles.")
        return
    try:
        with target.connect() as connection:
            archive.create_roles(connection, stored.read_bytes())
    except TransientError:
        raise
    except KeepwellError as error:
        yield restore_finding("roles", error)


def restore_finding(name: str, error: KeepwellError) -> Finding:
    """Why a restore failed: the set's fault, or this machine's."""
    if archive.machine_lacks(error.message):
        return _unknown(name, f"This machine cannot restore the set: {error.message}")
    return _alert(name, f"The restore failed: {error.message}")


def _unknown(name: str, message: str) -> Finding:
    hint = "Verify it where the source's extensions and locales are installed, with space enough."
    return Finding(name=name, verdict=Verdict.UNKNOWN, message=message, hint=hint)


def check_equal(database: Database, reader: SetReader, target: Target, progress: Progress) -> list[Finding]:
    """Compare every table of a database with the source, and with the archive.

    Returns:
        One finding for each table that differs, and for whatever cannot be compared.
    """
    differing = check_tables(database.dumped_tables, reader, target, progress)
    with target.connect() as connection:
        return differing + _compare_large_objects(connection, database) + _name_unproven(database)


def check_tables(tables: Iterable[Table], reader: SetReader, target: Target, progress: Progress) -> list[Finding]:
    """Compare tables with the source, and with the archive.

    Args:
        tables: Which ones, under the names that they have in the restored database; those without rows are passed over.
        reader: Read their streams.
        target: The restored database.
        progress: Told how far it is.

    Returns:
        One finding for each table that differs.
    """
    waiting: SimpleQueue[Table] = SimpleQueue()
    dumped = (table for table in tables if table.kind == "table" and table.rows is not None)
    compared = sorted(dumped, key=lambda table: -table.size_bytes)
    for table in compared:
        waiting.put(table)

    def work() -> list[Finding]:
        mine: list[Finding] = []
        with target.connect() as connection:
            while True:
                try:
                    table = waiting.get_nowait()
                except Empty:
                    return mine
                progress(Step("comparing", len(compared) - waiting.qsize(), len(compared), "tables"))
                mine += _compare_table(connection, table, reader, target)

    with ThreadPoolExecutor(target.jobs, "comparing") as workers:
        results = [workers.submit(work) for _ in range(target.jobs)]
        return [finding for result in results for finding in result.result()]


def _compare_table(connection: psycopg.Connection, table: Table, reader: SetReader, target: Target) -> list[Finding]:
    try:
        found = fingerprint_table(connection, table.table_schema, table.name, table.columns, table.condition)
        if found.rows != table.rows:
            return [
                _alert(table.qualified, f"{table.qualified}: {found.rows} rows restored, {table.rows} in the source.")
            ]
        if found.content_hash != table.content_hash:
            return [_alert(table.qualified, f"{table.qualified}: as many rows as the source, with other contents.")]
        read = reader.find(table.part)
        if read is not None and not _streams_equal(connection, table, read, reader, target):
            return [_alert(table.qualified, f"{table.qualified}: the restored rows are not those of the archive.")]
    except TransientError:
        raise  # the scratch server went away or is short of something: that says nothing of the set
    except KeepwellError as error:
        return [_alert(table.qualified, f"{table.qualified} cannot be compared: {error.message}")]
    return []


def _streams_equal(
    connection: psycopg.Connection, table: Table, read: PartReadBack, reader: SetReader, target: Target
) -> bool:
    """Whether the restored table gives the archive's COPY stream again: in the same order, or failing that, in any."""
    stream = (table.table_schema, table.name, table.columns, table.condition)
    sha256 = None
    if target.programs is not None:
        file = target.programs / f"copy-{table.oid}"
        sha256 = digest_copy_stream(connection, *stream, trailer=read.check.trailer, file=file)
    if sha256 is None:
        digest = hashlib.sha256()
        for line in read_copy_stream(connection, *stream):
            digest.update(line)
        digest.update(read.check.trailer)
        sha256 = digest.hexdigest()
    if sha256 == read.received.content.sha256:
        return True
    archived = LineHashes()
    reader.read_again(read.part, archived.update)
    expected = archived.total - sum_line_hashes(read.check.trailer.splitlines(keepends=True))
    return sum_line_hashes(read_copy_stream(connection, *stream)) == expected


def _compare_large_objects(connection: psycopg.Connection, database: Database) -> list[Finding]:
    expected = database.large_objects
    if expected.unproven is not None:
        return []
    found = fingerprint_large_objects(connection)
    if (found.rows, found.content_hash) == (expected.count, expected.content_hash):
        return []
    return [
        _alert("large objects", f"{found.rows} large objects restored, {expected.count} in the source, or changed.")
    ]


def _name_unproven(database: Database) -> list[Finding]:
    lasting = [
        Finding(name=table.qualified, verdict=Verdict.OK, message=f"Not compared: {table.unproven}.")
        for table in database.tables
        if table.unproven
    ]
    lasting += [
        Finding(
            name=what,
            verdict=Verdict.WARN,
            message=f"Not in the set: {what}; pg_dump leaves it out.",
            hint="Keep it by other means: a restore will not bring it back.",
        )
        for what in database.source.undumped
    ]
    if database.large_objects.unproven is None:
        return lasting
    reason = f"Not compared: {database.large_objects.unproven}"
    return [*lasting, Finding(name="large objects", verdict=Verdict.WARN, message=reason)]


def check_sound(database: Database, binaries: Binaries, target: Target) -> Iterator[Finding]:
    """Check indexes against rows, sequences against columns, and what a restore computes anew."""
    yield from soundness.check_indexes(
        binaries, target.conninfo, jobs=target.jobs, hint=_DISTRUST, password=target.password
    )
    with target.connect() as connection:
        restored = {(s.schema, s.name): s for s in facts.read_sequences(connection)}
        for sequence in database.sequences:
            found = restored.get((sequence.sequence_schema, sequence.name))
            try:
                yield from _check_sequence(connection, sequence, found)
            except TransientError:
                raise
            except KeepwellError as error:
                yield _alert(sequence.qualified, f"The column of {sequence.qualified} cannot be read: {error.message}")
        populated = {(t.schema, t.name): t.populated for t in facts.read_tables(connection)}
        yield from soundness.check_constraints(connection)
    for table in database.tables:
        if (
            table.kind == "materialized view"
            and table.populated
            and not populated.get((table.table_schema, table.name))
        ):
            yield _alert(table.qualified, f"The materialized view {table.qualified} came back empty.")
    for collation in database.source.stale_collations:
        yield Finding(
            name=collation,
            verdict=Verdict.WARN,
            message=f"The source's {collation} changed its version: its indexes may be out of order there.",
            hint="REINDEX on the source, then ALTER … REFRESH VERSION.",
        )


def _check_sequence(
    connection: psycopg.Connection, expected: DocumentedSequence, found: facts.SequenceFacts | None
) -> Iterator[Finding]:
    if found is None:
        yield _alert(expected.qualified, f"The sequence {expected.qualified} was not restored.")
        return
    if not expected.cycles and expected.last_value is not None:
        behind = (found.last_value or 0) - expected.last_value
        if found.last_value is None or behind * expected.increment < 0:
            yield _alert(expected.qualified, f"The sequence {expected.qualified} came back behind its source.")
    yield from soundness.check_owned_column(connection, found)


def check_serving(queries: Sequence[SmokeQuery], target: Target) -> Iterator[Finding]:
    """Ask the application's own questions, read-only and time-limited.

    Raises:
        TransientError: The scratch server went away or is short of something, which says nothing of the set.
    """
    with target.connect(autocommit=False) as connection:
        connection.read_only = True
        for query in queries:
            fault = _ask(connection, query)
            with translated("ending a smoke query"):
                connection.rollback()
            if fault:
                yield Finding(
                    name=query.name,
                    verdict=Verdict.ALERT,
                    message=f"The smoke query “{query.name}” {fault}.",
                    hint="Run it on the source: if it fails there too, mend it in the platform file.",
                )


def _ask(connection: psycopg.Connection, query: SmokeQuery) -> str:
    """What is wrong with a smoke query's answer; empty when nothing is."""
    try:
        connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(f"{_SMOKE_SECONDS}s")))
        # The application's own words: it names its tables without their schema, unlike our sessions.
        connection.execute("SET LOCAL search_path TO DEFAULT")
        row = connection.execute(sql.SQL(query.sql)).fetchone()
    except psycopg.Error as error:
        told = translate(error, f"the smoke query “{query.name}”")
        if isinstance(told, TransientError):
            raise told from error
        return f"failed: {str(error).splitlines()[0]}"
    value = row[0] if row else None
    if value is None or value is False:
        return f"answered {'nothing' if row is None else value}"
    if query.at_least is not None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return "did not answer with a number"
        if number < query.at_least:
            return f"answered {value}, less than {query.at_least:g}"
    return ""


def _alert(name: str, message: str) -> Finding:
    return Finding(name=name, verdict=Verdict.ALERT, message=message, hint=_DISTRUST)
