"""Restore a backup set into a new database beside the live one: guide item BK-4, its first half.

Nothing that exists is touched: the set is read back and checked, restored under a temporary name, proven equal on
the very server it will serve from, and only then given the name that was asked for.
"""

import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.catalogue import read_entry
from keepwell.backup.database import Database, Source
from keepwell.backup.manifest import Manifest
from keepwell.backup.read_back import SetReader
from keepwell.backup.rehearsal import Target
from keepwell.backup.source_image import find_restorer, moved_to
from keepwell.backup.space import estimate_working_bytes
from keepwell.backup.spool import open_spool, require_space, spool_place, sweep_spools
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.postgres import facts
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.connection import connect, conninfo, translated
from keepwell.progress import Progress, Step
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

_NAME_BYTES = 63
# The first pg_restore that sets transaction_timeout, which older servers refuse.
_TRANSACTION_TIMEOUT_MAJOR = 17


@dataclass(frozen=True)
class Restored:
    """What was restored where.

    Attributes:
        backup_id: Of the set.
        source: Which of the set's databases.
        database: New database that holds it.
        server: Programs that restored it.
        tables: How many were compared with the source.
        rows: In all of them.
        seconds: From the first look at the set to the last smoke query.
        findings: What is worth knowing; nothing in it is wrong.
        smoke: What is wrong with the answers to the smoke queries; they do not judge the data, and undo nothing.
        phases: What took how many of the seconds.
    """

    backup_id: str
    source: str
    database: str
    server: str
    tables: int
    rows: int
    seconds: float
    findings: tuple[Finding, ...]
    smoke: tuple[Finding, ...]
    phases: Mapping[str, float]


class Stopwatch:
    """How long the phases of something take, one after the other."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, phase: str) -> None:
        """What went by since the last lap belongs to this phase."""
        now = time.monotonic()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._since
        self._since = now

    def restart(self) -> None:
        """What went by since the last lap belongs to nothing."""
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.phases.values())


def restore_into(
    platform: Platform,
    store: Store,
    backup_id: str,
    name: str,
    progress: Progress,
    *,
    source: str | None = None,
    allow_unproven: bool = False,
    on_proven: Callable[[int], None] | None = None,
) -> Restored:
    """Restore one database of a set into a new one of the platform's server; the caller holds it for a restore.

    Args:
        platform: Whose set, and whose server.
        store: Its folder in the bucket.
        backup_id: Which set.
        name: Of the new database; there must be none of that name.
        progress: Told how far it is.
        source: Which of the set's databases, by its name; the main one by default.
        allow_unproven: Restore even a set that was never proven; it is compared all the same.
        on_proven: Told the new database's number (oid), which stays with it, just before it gets its name.

    Raises:
        PreconditionFailed: The name is taken, roles are missing, the set is not proven or holds no such database, or
            space is short.
        VerificationFailed: The set is damaged, or what was restored is not equal to its source; the new database
            is gone again.
    """
    watch = Stopwatch()
    sweep_spools(platform)
    sweep_restores(platform)
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    database = choose_database(manifest, source)
    binaries, server_major = require_target(platform, manifest, database, name)
    require_space(spool_place(platform), estimate_working_bytes(1), "the run")
    watch.lap("find")
    with open_spool(platform) as folder:
        parts = manifest.parts_with(database)
        reader = SetReader(store, manifest, folder, progress, parts=parts, nice=platform.backup.nice)
        binaries = moved_to(binaries, folder)
        _check_before(store, manifest, database, reader, binaries=binaries, folder=folder)
        watch.lap("fetch")
        temporary = f"{temporary_prefix(platform)}{secrets.token_hex(6)}"
        target = restored_target(platform, temporary, server_major)
        try:
            findings = _create_like(platform, temporary, database.source)
            progress(Step("restoring"))
            findings += require_fine(rehearsal.check_restored(database, binaries, folder, target, reader))
            watch.lap("restore")
            _check_read(manifest, database, reader)
            findings += require_fine(rehearsal.check_equal(database, reader, target, progress))
            progress(Step("checking indexes and sequences"))
            findings += require_fine(_check_sound(database, binaries, target))
            watch.lap("prove")
            smoke = ask_smoke_queries(platform, database, target)
            watch.lap("smoke")
            if on_proven is not None:
                on_proven(_number(platform, temporary))
            _rename(platform, temporary, name)
        except BaseException:
            with suppress(KeepwellError):  # the next restore sweeps it; what went wrong matters more now
                drop_temporary(platform, temporary)
            raise
    return Restored(
        backup_id=backup_id,
        source=database.name,
        database=name,
        server=str(binaries),
        tables=len(database.dumped_tables),
        rows=database.rows,
        seconds=watch.seconds,
        findings=tuple(findings),
        smoke=tuple(smoke),
        phases=watch.phases,
    )


def sweep_restores(platform: Platform) -> list[str]:
    """Drop databases that dead restores left under their temporary names.

    The caller holds the platform for a restore or a backup, which neither overlap nor nest, so none is being restored.

    Returns:
        Their names.

    Raises:
        KeepwellError: The server cannot be asked.
    """
    with (
        # As the role that reads: a nightly backup need not know the password of the one that restores.
        connect(platform.database, dbname=platform.database.maintenance_name) as connection,
        translated("looking for what dead restores left"),
    ):
        rows = connection.execute(
            "SELECT datname::text FROM pg_catalog.pg_database WHERE starts_with(datname::text, %s)",
            (temporary_prefix(platform),),
        ).fetchall()
    dropped = []
    for (name,) in rows:
        # Somebody holds on to it, or this role may not; it is in nobody's way but the disk's.
        with suppress(KeepwellError):
            drop_temporary(platform, name)
            dropped.append(name)
    return dropped


def _connect(platform: Platform) -> psycopg.Connection:
    """To the maintenance database, as the role that restores."""
    return connect(platform.database.for_restoring, dbname=platform.database.maintenance_name)


def temporary_prefix(platform: Platform) -> str:
    """How names of databases and schemas begin that are being restored; one's own: platforms may share a server."""
    return f"keepwell_restoring_{zlib.crc32(platform.name.encode()):08x}_"


def require_restorable(platform: Platform, store: Store, backup_id: str, *, allow_unproven: bool) -> Manifest:
    """The manifest of a set that somebody wants restored.

    Raises:
        PreconditionFailed: It is no set, or not proven, and that was not expressly allowed.
    """
    entry = read_entry(store, backup_id)
    if entry.manifest is None:
        raise PreconditionFailed(entry.fault, hint="List what there is: keepwell backup list.")
    if not entry.is_proven(platform.backup.proven_level) and not allow_unproven:
        state = "known to be damaged" if entry.damaged else "not proven"
        raise PreconditionFailed(
            f"{backup_id} is {state} (level reached: {entry.level or 'none'}).",
            hint=f"Prove it first with `keepwell backup verify {backup_id}`, take another, or pass --unproven.",
        )
    return entry.manifest


def choose_database(manifest: Manifest, name: str | None) -> Database:
    """The database of a set that an operator means; None means the main one.

    Raises:
        PreconditionFailed: The set holds none of that name.
    """
    if name is None:
        return manifest.main
    found = next((database for database in manifest.databases if database.name == name), None)
    if found is None:
        held = ", ".join(database.name for database in manifest.databases)
        raise PreconditionFailed(
            f"{manifest.backup_id} holds no database {name}; it holds {held}.", hint="Name one of those."
        )
    return found


def require_target(platform: Platform, manifest: Manifest, database: Database, name: str) -> tuple[Binaries, int]:
    """Look whether the platform's server can take a database of a set under a new name; nothing is changed.

    Returns:
        Whose programs restore it, and the server's major version.

    Raises:
        PreconditionFailed: The name is taken or too long, the server is older, or roles are missing or out of reach.
        ConfigurationError: No client tools here fit.
        ServiceUnavailable: The server does not answer.
    """
    source, restorer = database.source, platform.database.for_restoring
    wanted_roles = tuple(dict.fromkeys((*source.roles, *(source.owners or ()), source.owner)))
    owners = (*(source.roles if source.owners is None else source.owners), source.owner)
    if not 0 < len(name.encode()) <= _NAME_BYTES:
        raise PreconditionFailed("The new database's name must have 1 to 63 bytes.", hint="Choose a shorter name.")
    with _connect(platform) as connection:
        server_major = connection.info.server_version // 10_000
        roles = set(facts.read_role_names(connection))
        out_of_reach = facts.read_roles_out_of_reach(connection, owners)
        with translated("looking for the database"):
            taken = connection.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", (name,)).fetchone()
    if taken is not None:
        raise PreconditionFailed(f"The database {name} exists already.", hint="Choose a name that is free.")
    if server_major < database.source.server_major:
        raise PreconditionFailed(
            f"The server is PostgreSQL {server_major}, the set comes from {database.source.server_major}.",
            hint="Restore onto a server of that version or newer.",
        )
    missing = [role for role in wanted_roles if role not in roles]
    if missing:
        raise PreconditionFailed(
            f"The server lacks roles that own or may use what will be restored: {', '.join(missing)}.",
            hint=f"`keepwell restore roles` creates them; {layout.GLOBALS} in the set holds their definitions.",
        )
    if out_of_reach:
        raise PreconditionFailed(
            f"The role {restorer.user} may not act as {', '.join(out_of_reach)} and restore what they own.",
            hint="Set database.restoring_user to a role that may (`keepwell roles --role restore` makes one), or to a"
            " superuser.",
        )
    installations = find_installations(platform.backup.tools_directory)
    archive_major = manifest.tools.archive_major
    binaries = find_restorer(platform, installations, target_major=server_major, archive_major=archive_major)
    if binaries.major >= _TRANSACTION_TIMEOUT_MAJOR > server_major:
        raise PreconditionFailed(
            f"pg_restore {binaries.major} speaks of settings that a server {server_major} does not know, and the set "
            f"was written by pg_dump {archive_major}.",
            hint=f"Restore onto PostgreSQL {binaries.major}; make sets with client tools of the server's own version.",
        )
    return binaries, server_major


def _check_before(
    store: Store, manifest: Manifest, database: Database, reader: SetReader, *, binaries: Binaries, folder: Path
) -> None:
    """Check all that can be checked before anything is created: everything but the rows themselves."""
    stored = list(store.list_objects(layout.set_folder(manifest.backup_id)))
    require_fine(read_back.check_uploaded(manifest, stored, manifest.parts_with(database)))
    files = reader.fetch_files()
    require_fine(read_back.check_readable(manifest, files))
    entries = read_back.list_entries(database, binaries, folder)
    if isinstance(entries, Finding):
        raise VerificationFailed(entries.message, hint=entries.hint)
    require_fine(read_back.check_globals(folder))
    schema = reader.find_content(database.schema_file)
    require_fine(read_back.check_contents(database, manifest.parts, entries, schema))


def _check_read(manifest: Manifest, database: Database, reader: SetReader) -> None:
    """Check the rows that were restored as they came, and whatever nobody asked for."""
    reader.drain()
    require_fine(read_back.check_readable(manifest, reader.parts))
    require_fine(read_back.check_streams(database, reader.find))


def _check_sound(database: Database, binaries: Binaries, target: Target) -> Iterator[Finding]:
    """Check indexes, sequences and constraints; a role that may not look at indexes says so, and goes on.

    What looks at indexes is an extension, which goes again unless the source has it too.
    """
    for finding in rehearsal.check_sound(database, binaries, target):
        unseen = finding.verdict is Verdict.UNKNOWN
        yield finding.model_copy(update={"verdict": Verdict.WARN}) if unseen else finding
    if "amcheck" in database.source.extensions:
        return
    with target.connect() as connection:
        if "amcheck" in dict(facts.read_extensions(connection)):
            with translated("removing the extension amcheck again"):
                connection.execute(
                    "SET session_replication_role = replica"
                )  # no event trigger of the source's stops it
                connection.execute("DROP EXTENSION amcheck")


def ask_smoke_queries(platform: Platform, database: Database, target: Target) -> list[Finding]:
    """What is wrong with the restored database's answers to the application's own questions; empty when nothing is.

    Raises:
        TransientError: The server went away.
    """
    live = platform.database.name if database.is_main else database.name
    asked = [query for query in platform.backup.smoke_queries if (query.database or platform.database.name) == live]
    return list(rehearsal.check_serving(asked, target))


def restored_target(platform: Platform, name: str, server_major: int) -> Target:
    """A restored database of the platform's own server, to look at."""
    settings = platform.database.for_restoring
    info = conninfo(settings, dbname=name, application_name="keepwell restore")
    return Target(info, server_major, platform.backup.jobs, settings.password)


def _number(platform: Platform, name: str) -> int:
    with _connect(platform) as connection, translated(f"looking for {name}"):
        row = connection.execute(
            "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = %s", (name,)
        ).fetchone()
    if row is None:
        raise KeepwellError(f"The restored database {name} is gone.", hint="Who drops databases on that server?")
    return int(row[0])


def _create_like(platform: Platform, name: str, source: Source) -> list[Finding]:
    """A new database like the source's, owned as it was; what is not carried over is said."""
    with _connect(platform) as connection:
        findings = list(rehearsal.create_like(connection, name, source))
        with translated(f"giving the new database to {source.owner}"):
            connection.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(source.owner))
            )
    if source.has_grants or source.settings:
        what = ", ".join((["its grants"] if source.has_grants else []) + list(source.settings))
        findings.append(
            Finding(
                name="database properties",
                verdict=Verdict.WARN,
                message=f"Not carried over from the source database: {what}.",
                hint="Set them with GRANT … ON DATABASE and ALTER DATABASE … SET before an application uses the copy.",
            )
        )
    return findings


def _rename(platform: Platform, temporary: str, name: str) -> None:
    """Give a proven database its name; the server refuses if somebody took it meanwhile."""
    with _connect(platform) as connection, translated(f"naming the restored database {name}"):
        connection.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(temporary), sql.Identifier(name))
        )


def drop_temporary(platform: Platform, name: str) -> None:
    """Drop a database of ours by its temporary name, never another."""
    if not name.startswith(temporary_prefix(platform)):
        message = f"{name} is not a temporary database of ours"
        raise ValueError(message)
    with _connect(platform) as connection, translated(f"dropping {name}"):
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def require_fine(found: Iterable[Finding]) -> list[Finding]:
    """The findings, when nothing in them is wrong.

    Raises:
        VerificationFailed: Something is.
    """
    findings = list(found)
    for finding in findings:
        if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN):
            raise VerificationFailed(finding.message, hint=finding.hint)
    return findings
