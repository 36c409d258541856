"""Some tables of a set in a new schema beside the live ones, in the live database; nothing that exists is touched.

What the set defines is restored without rows into a throwaway database, where the tables move into a schema of their
own with whatever they need. That schema is made in the live database under a temporary name, filled from the store with
the rows that are wanted and no others, compared, and only then given the name that was asked for.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import psycopg
from psycopg import sql

from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.database import Database, Table
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.read_back import PartDamaged, SetReader
from keepwell.backup.rehearsal import Target
from keepwell.backup.restore import (
    choose_database,
    drop_temporary,
    require_fine,
    require_restorable,
    require_target,
    restored_target,
    sweep_restores,
    temporary_prefix,
)
from keepwell.backup.restored_schemas import MARK, sweep_schemas
from keepwell.backup.schema import differing_objects, read_schema_file
from keepwell.backup.source_image import moved_to
from keepwell.backup.space import estimate_scratch_bytes, estimate_working_bytes
from keepwell.backup.spool import open_spool, require_space, spool_place, sweep_spools
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.postgres import archive, facts
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import client_encoding, connect, translated
from keepwell.postgres.facts import SchemaLine
from keepwell.postgres.gathering import Gathered, gather
from keepwell.progress import Progress, Step
from keepwell.quantities import describe_bytes
from keepwell.restore.copying_back import render_copy_back
from keepwell.restore.parts_choice import TablesWanted, choose_tables, tell_left_behind
from keepwell.restore.server import read_free_bytes
from keepwell.settings import DatabaseSettings, Platform
from keepwell.verdict import Finding, Verdict

# What is not brought along, because it would act by itself or speaks of other tables.
_LEFT_BEHIND = ("event trigger", "publication", "published table", "default grant", "trigger", "policy")


@dataclass(frozen=True)
class TablesPlan:
    """What would be restored from what to where.

    Attributes:
        backup_id: Of the set.
        snapshot_at: The moment that the tables come back as of.
        source: Which of the set's databases.
        live: The database that gets the new schema.
        into_schema: Its name.
        tables: What it will hold, partitions and children too.
        left_behind: What of whole schemas is not restored, in words.
        rows: Of all tables.
        size_bytes: Of all tables in the source, with their indexes.
        content_bytes: Of their rows on the way, decompressed.
        findings: What cannot be told beforehand.
    """

    backup_id: str
    snapshot_at: datetime
    source: str
    live: str
    into_schema: str
    tables: tuple[Table, ...]
    left_behind: tuple[str, ...]
    rows: int
    size_bytes: int
    content_bytes: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class RestoredTable:
    """One table that was restored.

    Attributes:
        table: Schema and name in the source.
        rows: How many, each compared; None for a partitioned table, which has none of its own.
        copy_back: SQL that would bring the rows back that the live table lacks; empty where it has no primary key, or
            is not there.
    """

    table: str
    rows: int | None
    copy_back: str


@dataclass(frozen=True)
class RestoredTables:
    """What was restored where.

    Attributes:
        backup_id: Of the set.
        live: The database that has the new schema.
        schema: Its name.
        tables: What it holds.
        rows: In all of them.
        left_out: What was cut off, in words.
        seconds: In all.
        findings: What is worth knowing; nothing in it is wrong.
    """

    backup_id: str
    live: str
    schema: str
    tables: tuple[RestoredTable, ...]
    rows: int
    left_out: tuple[str, ...]
    seconds: float
    findings: tuple[Finding, ...]


def plan_tables(
    platform: Platform, store: Store, backup_id: str, wanted: TablesWanted, *, allow_unproven: bool = False
) -> TablesPlan:
    """Look what would be restored, and whether it can be; nothing is changed anywhere.

    Args:
        platform: Whose set, and whose server.
        store: Its folder in the bucket.
        backup_id: Which set.
        wanted: Which tables, and the new schema.
        allow_unproven: Take even a set that was never proven.

    Raises:
        PreconditionFailed: The set, a table or the schema's name is not fit for it; the server cannot take it.
        VerificationFailed: The set's schema is damaged.
    """
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    database = choose_database(manifest, wanted.database)
    live = platform.database.name if database.is_main else database.name
    with open_spool(platform) as folder:
        parts = [part for part in manifest.parts if part.content_name == database.schema_file]
        reader = SetReader(store, manifest, folder, _silent, parts=parts)
        require_fine(read_back.check_readable(manifest, reader.fetch_files()))
        lines = read_schema_file(folder / database.schema_file) if parts else []
    tables = choose_tables(database, wanted, lines)
    size_bytes = sum(table.size_bytes for table in tables)
    findings = _require_free(platform, live, wanted.into_schema, size_bytes)
    streams = _streams_of(manifest, tables)
    return TablesPlan(
        backup_id=backup_id,
        snapshot_at=database.snapshot_at,
        source=database.name,
        live=live,
        into_schema=wanted.into_schema,
        tables=tables,
        left_behind=tuple(tell_left_behind(database, wanted.schemas)),
        rows=sum(table.rows or 0 for table in tables),
        size_bytes=size_bytes,
        content_bytes=sum(part.content_size_bytes for part in streams),
        findings=findings,
    )


def restore_tables(
    platform: Platform,
    store: Store,
    backup_id: str,
    wanted: TablesWanted,
    progress: Progress,
    *,
    allow_unproven: bool = False,
) -> RestoredTables:
    """Restore tables into a new schema of the live database; the caller holds the platform for a restore.

    Args:
        platform: Whose set, and whose server.
        store: Its folder in the bucket.
        backup_id: Which set.
        wanted: Which tables, and the new schema; there must be none of that name.
        progress: Told how far it is.
        allow_unproven: Take even a set that was never proven; it is compared all the same.

    Raises:
        PreconditionFailed: As `plan_tables`; or the tables need something that was not chosen.
        VerificationFailed: The set is damaged, or what was restored is not equal to its source; there is no new schema.
    """
    began = time.monotonic()
    sweep_spools(platform)
    plan = plan_tables(platform, store, backup_id, wanted, allow_unproven=allow_unproven)
    sweep_restores(platform)
    sweep_schemas(platform, temporary_prefix(platform))
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    database = choose_database(manifest, wanted.database)
    temporary = f"{temporary_prefix(platform)}{secrets.token_hex(6)}"
    binaries, server_major = require_target(platform, manifest, database, temporary)
    require_space(spool_place(platform), estimate_working_bytes(1), "the run")
    with open_spool(platform) as folder:
        binaries = moved_to(binaries, folder)
        work = _Work(platform, manifest, database, plan, binaries, server_major, folder, temporary)
        reader = SetReader(store, manifest, folder, progress, parts=work.parts, nice=platform.backup.nice)
        _check_before(store, work, reader)
        progress(Step("restoring definitions"))
        with _throwaway(work) as definitions:
            gathered, expected = _gather(work, definitions)
            _require_extensions(platform, plan.live, gathered)
            try:
                _make_schema(work, definitions, expected, reader, progress)
                progress(Step("naming the schema"))
                copy_back = _publish(work)
            except BaseException:
                with suppress(KeepwellError):  # the next one sweeps it; what went wrong matters more now
                    sweep_schemas(platform, temporary)
                raise
    return RestoredTables(
        backup_id=backup_id,
        live=plan.live,
        schema=plan.into_schema,
        tables=tuple(
            RestoredTable(table.qualified, table.rows, copy_back.get(table.qualified, "")) for table in plan.tables
        ),
        rows=plan.rows,
        left_out=(*gathered.left_out, *plan.left_behind),
        seconds=time.monotonic() - began,
        findings=tuple(_tell(database, plan, gathered)),
    )


@dataclass(frozen=True)
class _Work:
    """One restore of tables, on its way.

    Attributes:
        temporary: Name of the throwaway database, and of the schema until it gets its own.
    """

    platform: Platform
    manifest: Manifest
    database: Database
    plan: TablesPlan
    binaries: Binaries
    server_major: int
    folder: Path
    temporary: str

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is read of the set."""
        files = (self.database.folder + archive.CONTENTS_FILE, self.database.schema_file)
        named = [part for part in self.manifest.parts if part.content_name in files]
        return (*named, *_streams_of(self.manifest, self.plan.tables))

    @property
    def moved(self) -> tuple[Table, ...]:
        """The tables as they lie in the schema while it has its temporary name."""
        return tuple(table.model_copy(update={"table_schema": self.temporary}) for table in self.plan.tables)

    @property
    def restorer(self) -> DatabaseSettings:
        """Who restores."""
        return self.platform.database.for_restoring

    def target(self, name: str) -> Target:
        """A database of the server, to restore into."""
        return restored_target(self.platform, name, self.server_major)


def _streams_of(manifest: Manifest, tables: Sequence[Table]) -> list[Part]:
    names = {table.part for table in tables}
    return [part for part in manifest.parts if part.name in names]


def _require_free(platform: Platform, live: str, schema: str, size_bytes: int) -> tuple[Finding, ...]:
    """Look whether the live database can get the new schema, whose tables took so much in the source.

    Returns:
        That nobody can tell whether there is room, where that is so.
    """
    needed_bytes = estimate_scratch_bytes(size_bytes)
    with connect(platform.database.for_restoring, dbname=live) as connection, translated("looking for the schema"):
        taken, may = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s),"
            " pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')",
            (schema,),
        ).fetchone() or (False, False)
        free_bytes = read_free_bytes(connection, platform.database.for_restoring)
    if taken:
        raise PreconditionFailed(
            f"The schema {schema} exists already in {live}.",
            hint="Choose a name that is free; one of ours goes by `keepwell restore tables --undo`.",
        )
    if not may:
        raise PreconditionFailed(
            f"The role {platform.database.for_restoring.user} may not create a schema in {live}.",
            hint="Set database.restoring_user to a role that may, such as its owner, or to a superuser.",
        )
    if free_bytes is None:
        told = describe_bytes(needed_bytes)
        message = f"The tables may take {told}; what is free on the live server's disk cannot be seen from here."
        hint = "Look there before you go on: a full disk stops the live database."
        return (Finding(name="space", verdict=Verdict.UNKNOWN, message=message, hint=hint),)
    if free_bytes < needed_bytes:
        raise PreconditionFailed(
            f"The tables may take {describe_bytes(needed_bytes)}, and {describe_bytes(free_bytes)} are free on the "
            "disk of the live server.",
            hint="Choose fewer, or restore onto another server: `keepwell restore elsewhere`.",
        )
    return ()


def _check_before(store: Store, work: _Work, reader: SetReader) -> None:
    """Check all that can be checked before anything is created: everything but the rows themselves."""
    manifest, database = work.manifest, work.database
    stored = list(store.list_objects(layout.set_folder(manifest.backup_id)))
    require_fine(read_back.check_uploaded(manifest, stored, work.parts))
    require_fine(read_back.check_readable(manifest, reader.fetch_files()))
    entries = read_back.list_entries(database, work.binaries, work.folder)
    if isinstance(entries, Finding):
        raise VerificationFailed(entries.message, hint=entries.hint)
    schema = reader.find_content(database.schema_file)
    require_fine(read_back.check_contents(database, manifest.parts, entries, schema))


@contextmanager
def _throwaway(work: _Work) -> Iterator[Target]:
    """An empty database of the live server like the source's, gone afterwards."""
    try:
        with connect(work.restorer, dbname=work.restorer.maintenance_name) as connection:
            list(rehearsal.create_like(connection, work.temporary, work.database.source))
        yield work.target(work.temporary)
    finally:
        with suppress(KeepwellError):
            drop_temporary(work.platform, work.temporary)


def _gather(work: _Work, definitions: Target) -> tuple[Gathered, list[SchemaLine]]:
    """Restore what the set defines, compare it, and bring the tables together.

    Returns:
        What came of it, and the new schema as it must be made in the live database.
    """
    contents = work.folder / work.database.folder
    expected = read_schema_file(work.folder / work.database.schema_file)
    rehearsal.make_bare(expected, definitions)
    listing = work.folder / "definitions.list"
    listing.write_text(archive.render_definitions(archive.list_contents(work.binaries, contents)))
    archive.run_tool(
        archive.build_definitions_command(
            work.binaries, contents, listing, definitions.conninfo, definitions.environment, jobs=definitions.jobs
        )
    )
    with definitions.connect() as connection:
        same_major = work.server_major == work.database.source.server_major
        _require_defined(expected, facts.read_schema(connection), same_major=same_major)
        places = [(table.table_schema, table.name) for table in work.plan.tables]
        gathered = gather(connection, places, work.temporary, _schema_owner(work))
        return gathered, _lines_of(connection, work.temporary)


def _schema_owner(work: _Work) -> str:
    """The live database's owner, so that whoever administers it may look into the schema, and drop it."""
    with connect(work.restorer, dbname=work.plan.live) as connection:
        return facts.read_database(connection).owner


def _require_defined(expected: Sequence[SchemaLine], found: Sequence[SchemaLine], *, same_major: bool) -> None:
    wanted = [line for line in expected if line.kind not in _LEFT_BEHIND]
    there = [line for line in found if line.kind not in _LEFT_BEHIND]
    differences = differing_objects(wanted, there, same_major=same_major)
    if differences:
        raise VerificationFailed(
            f"What the set defines was not restored as it was: {differences[0]}.",
            hint="Take another set, or look on the whole of this one with `keepwell backup verify`.",
        )


def _require_extensions(platform: Platform, live: str, gathered: Gathered) -> None:
    """Look whether the live database has what stays outside of the schema."""
    with connect(platform.database.for_restoring, dbname=live) as connection, translated("reading extensions"):
        there: dict[str, str] = dict(
            connection.execute(
                "SELECT extname::text, nspname::text FROM pg_catalog.pg_extension e"
                " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
            ).fetchall()
        )
    for name, schema in gathered.extensions.items():
        if there.get(name) != schema:
            raise PreconditionFailed(
                f"The tables use the extension {name} in the schema {schema}, which {live} does not have.",
                hint="Create it there, or restore the whole database beside the live one.",
            )


def _make_schema(
    work: _Work, definitions: Target, expected: Sequence[SchemaLine], reader: SetReader, progress: Progress
) -> None:
    """Make the schema in the live database under its temporary name, fill it, and compare it."""
    live, file = work.target(work.plan.live), work.folder / "schema.dump"
    dump = archive.build_schema_dump_command(
        work.binaries, definitions.conninfo, definitions.environment, work.temporary, file
    )
    archive.run_tool(dump)
    _require_only_own(archive.list_contents(work.binaries, file), work.temporary)
    _restore_sections(work, file, live, "pre-data", "data")
    progress(Step("filling tables"))
    _fill(work, live, reader)
    require_fine(read_back.check_readable(work.manifest, reader.parts))
    require_fine(read_back.check_streams(work.database, reader.find))
    progress(Step("building indexes"))
    _restore_sections(work, file, live, "post-data")
    require_fine(rehearsal.check_tables(work.moved, reader, live, progress))
    with live.connect() as connection, definitions.connect() as throwaway:
        differences = differing_objects(expected, _lines_of(connection, work.temporary), same_major=True)
        if differences:
            raise VerificationFailed(f"The new schema is not as the set defines it: {differences[0]}.", hint=_REPORT)
        if _sequences_of(connection, work.temporary) != _sequences_of(throwaway, work.temporary):
            raise VerificationFailed("A sequence of the new schema stands elsewhere than in the set.", hint=_REPORT)


def _restore_sections(work: _Work, file: Path, live: Target, *sections: str) -> None:
    archive.run_tool(archive.build_sections_command(work.binaries, file, live.conninfo, live.environment, sections))


def _require_only_own(listing: Sequence[str], schema: str) -> None:
    """The gate before the live database: every entry lies in the new schema, whose name nothing else bears."""
    strange = [line for line in listing if line and not line.startswith(";") and f" {schema} " not in f"{line} "]
    if strange:
        raise VerificationFailed(
            f"What would be made beside the live tables is not all in the new schema: {strange[0]}.", hint=_REPORT
        )


def _fill(work: _Work, live: Target, reader: SetReader) -> None:
    """Stream every table's rows from the store, several at a time."""
    waiting: SimpleQueue[Table] = SimpleQueue()
    for table in sorted(work.moved, key=lambda table: -table.size_bytes):
        if table.part is not None:
            waiting.put(table)
    encoding = client_encoding(work.database.source.encoding)

    def work_off() -> None:
        with live.connect() as connection:
            with translated("agreeing on an encoding"):
                connection.execute("SELECT pg_catalog.set_config('client_encoding', %s, false)", (encoding,))
            while True:
                try:
                    table = waiting.get_nowait()
                except Empty:
                    return
                _copy(connection, work, table, reader)

    with ThreadPoolExecutor(live.jobs, "filling") as workers:
        results = [workers.submit(work_off) for _ in range(live.jobs)]
        try:
            for result in results:
                result.result()
        except BaseException:
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            raise


def _copy(connection: psycopg.Connection, work: _Work, table: Table, reader: SetReader) -> None:
    """One table's rows, as pg_dump wrote them; what is not what was stored is not committed."""
    part = next(part for part in work.manifest.parts if part.name == table.part)
    columns = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, table.columns)))
    statement = sql.SQL("COPY {}{} FROM STDIN").format(
        sql.Identifier(table.table_schema, table.name), columns if table.columns else sql.SQL("")
    )
    with (
        translated(f"filling {table.name}"),
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        read = reader.feed(part.content_name, copy.write)
        if read is None or not read.sound:
            raise PartDamaged(
                f"{part.name} (rows of {table.name}) is not what was stored.",
                hint="Do not restore from this set: take another, and find out who or what changed it.",
            )


def _lines_of(connection: psycopg.Connection, schema: str) -> list[SchemaLine]:
    """The schema's own lines; its name is like no other, so whatever lies in it is told by it."""
    return [line for line in facts.read_schema(connection) if schema in line.identity]


def _sequences_of(connection: psycopg.Connection, schema: str) -> list[tuple[str, int | None]]:
    return [(one.name, one.last_value) for one in facts.read_sequences(connection) if one.schema == schema]


def _publish(work: _Work) -> dict[str, str]:
    """Give the schema its name, marked as ours; and write down how rows would go back from it.

    Returns:
        Table to SQL.
    """
    plan = work.plan
    # All of them, so that whoever drops the schema is told what else lies in it by then.
    shown = ", ".join(table.qualified for table in plan.tables)
    schema = sql.Identifier(plan.into_schema)
    with work.target(plan.live).connect() as connection:
        try:
            with translated(f"naming the new schema {plan.into_schema}"), connection.transaction():
                connection.execute(
                    sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(work.temporary), schema)
                )
                comment = f"{MARK}{plan.backup_id}: {shown}"
                connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(comment)))
        except KeepwellError as error:
            if isinstance(error.__cause__, psycopg.errors.DuplicateSchema):
                raise PreconditionFailed(
                    f"Somebody made a schema {plan.into_schema} meanwhile.", hint="Choose a name that is free."
                ) from error
            raise
        return {
            table.qualified: render_copy_back(connection, table.table_schema, table.name, plan.into_schema)
            for table in plan.tables
            if table.kind == "table"
        }


def _tell(database: Database, plan: TablesPlan, gathered: Gathered) -> Iterator[Finding]:
    """What is worth knowing of tables that were restored."""
    if gathered.came_along:
        yield Finding(
            name="functions",
            verdict=Verdict.WARN,
            message=f"The tables need functions, which came along: {', '.join(gathered.came_along)}.",
            hint="Their bodies name other objects as before, and so those of the live schema.",
        )
    for table in plan.tables:
        if table.unproven:
            yield Finding(
                name=table.qualified,
                verdict=Verdict.WARN,
                message=f"{table.qualified} is not proven: {table.unproven}.",
            )
    if database.large_objects.count:
        yield Finding(
            name="large objects",
            verdict=Verdict.WARN,
            message="Large objects are not restored with tables; a column that names some leads to the live ones.",
            hint="Restore the whole database beside the live one where they are needed.",
        )


def _silent(step: Step) -> None:
    """A plan shows no steps."""


_REPORT = "The live tables are as they were. Report it, and restore the whole database beside the live one instead."
