"""What must be true before a backup starts: a gate that says no while nothing has been changed yet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from keepwell.backup.source_image import find_client, moved_to
from keepwell.backup.space import estimate_working_bytes
from keepwell.backup.spool import require_space, spool_place
from keepwell.errors import Busy, PreconditionFailed
from keepwell.postgres import facts
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.connection import connect
from keepwell.postgres.facts import DatabaseFacts, MigrationFacts, TableFacts
from keepwell.progress import Progress, Step, silent
from keepwell.settings import DatabaseSettings, Platform
from keepwell.verdict import Finding, Verdict

_NAMED = 5
_OLDEST_SERVER = 15
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Readiness:
    """What a backup needs to know before it starts.

    Attributes:
        client: Whose programs dump.
        main: The platform's main database.
        findings: What does not stop a backup but is worth knowing, of all databases.
    """

    client: Binaries
    main: DatabaseFacts
    findings: tuple[Finding, ...]

    def moved_to(self, folder: Path) -> "Readiness":
        """The same for a run with that folder, which the client's programs may need."""
        return replace(self, client=moved_to(self.client, folder))


def require_ready(platform: Platform, progress: Progress = silent) -> Readiness:
    """Look at the source, the tools and the disk; a migration at work is waited for, as another procedure would be.

    Args:
        platform: Whose databases, and how long to wait for a migration (`backup.interlock_wait_seconds`).
        progress: Told once when a migration is waited for.

    Returns:
        The tools to use, the main database's properties, and findings that do not stop a backup.

    Raises:
        PreconditionFailed: A table cannot be read whole, a pooler stands between, space is short.
        Busy: A migration was still running when the time was over.
        LockTimeout: Somebody holds a table so that not even its size can be asked.
        ConfigurationError: No client tools of the server's version or newer.
    """
    deadline = time.monotonic() + platform.backup.interlock_wait_seconds
    main, findings = _examine(platform, platform.database, deadline, progress)
    for name in platform.database.more_names:
        findings += _examine_further(platform, name, deadline, progress)
    installations = find_installations(platform.backup.tools_directory)
    client = find_client(platform, installations, server_major=main.server_major)
    findings += judge_client(client, main)
    require_space(spool_place(platform), estimate_working_bytes(len(platform.database.names)), "the run")
    return Readiness(client, main, tuple(findings))


def _examine(
    platform: Platform, database: DatabaseSettings, deadline: float, progress: Progress
) -> tuple[DatabaseFacts, list[Finding]]:
    with connect(database, lock_wait_seconds=platform.backup.lock_wait_seconds) as connection:
        refuse_old_server(connection.info.server_version)
        _refuse_pooler(connection)
        # First, since it may change everything that is looked at below.
        findings = _wait_for_migrations(connection, deadline, progress)
        found = facts.read_database(connection)
        refuse_unreadable(facts.read_tables(connection), role=database.user)
        _refuse_unreadable_large_objects(connection, role=database.user)
    return found, findings


def _examine_further(platform: Platform, name: str, deadline: float, progress: Progress) -> list[Finding]:
    """As the main database is looked at; whatever is said of it names it."""
    try:
        _, findings = _examine(platform, platform.database.of(name), deadline, progress)
    except PreconditionFailed as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
    return [finding.named_for(name) for finding in findings]


def refuse_old_server(version_number: int) -> None:
    """Stop at a server that was never tried.

    Args:
        version_number: As `server_version_num` gives it, such as 150018.

    Raises:
        PreconditionFailed: Its major version is too old.
    """
    if version_number < _OLDEST_SERVER * 10_000:
        raise PreconditionFailed(
            f"PostgreSQL {version_number // 10_000} is too old: {_OLDEST_SERVER} is needed at least.",
            hint="Upgrade it: older versions get no more fixes.",
        )


def refuse_unreadable(tables: Sequence[TableFacts], *, role: str) -> None:
    """Stop when rows would be missing from the dump.

    Raises:
        PreconditionFailed: Names the first few tables, and the statement that helps.
    """
    unreadable = [table for table in tables if not table.readable and table.kind != "f"]
    if unreadable:
        raise PreconditionFailed(
            f"The role {role} may not read {_name_some(unreadable)}.",
            hint=f'GRANT pg_read_all_data TO "{role}", or USAGE on each schema and SELECT on each table and sequence.',
        )
    hidden = [table for table in tables if table.rows_hidden]
    if hidden:
        raise PreconditionFailed(
            f"Row security hides rows of {_name_some(hidden)} from the role {role}.",
            hint=f'ALTER ROLE "{role}" BYPASSRLS, else the backup would silently miss rows.',
        )


def judge_migrations(migrations: MigrationFacts) -> list[Finding]:
    """Findings about half-applied migrations.

    Raises:
        Busy: A migration is at work now.
    """
    if migrations.locked_by is not None:
        raise Busy(
            f"A migration of {migrations.locked_by} is running (its advisory lock is held).",
            hint="Wait for it; a lock left behind by a killed migrator goes with its session.",
        )
    return [
        Finding(
            name="migrations",
            verdict=Verdict.WARN,
            message=f"The migration {name} was begun and neither finished nor rolled back.",
            hint="The backup holds the half-applied state: resolve the migration before the next deploy.",
        )
        for name in migrations.unfinished
    ]


def judge_client(client: Binaries, database: DatabaseFacts) -> list[Finding]:
    """A finding when only newer tools are at hand."""
    if client.major == database.server_major:
        return []
    return [
        Finding(
            name="client tools",
            verdict=Verdict.WARN,
            message=f"{client} dumps a server {database.server_major}: the set restores onto {client.major} or newer.",
            hint=f"Install postgresql-client-{database.server_major} here, so that the server itself can take it back.",
        )
    ]


def _wait_for_migrations(connection: psycopg.Connection, deadline: float, progress: Progress) -> list[Finding]:
    """What migrations left half-done, once none is at work; a nightly backup must not fail for a minute's migration.

    Raises:
        Busy: One was still at work when the time was over.
    """
    told = False
    while True:
        try:
            return judge_migrations(facts.read_migrations(connection))
        except Busy:
            if time.monotonic() >= deadline:
                raise
        if not told:
            progress(Step("waiting for a migration to end"))
            told = True
        time.sleep(_POLL_SECONDS)


def _refuse_unreadable_large_objects(connection: psycopg.Connection, *, role: str) -> None:
    count = facts.read_unreadable_large_objects(connection)
    if count:
        raise PreconditionFailed(
            f"The role {role} may not read {count} large objects.",
            hint=f'GRANT SELECT ON LARGE OBJECT … TO "{role}", or ALTER ROLE … SET lo_compat_privileges = on for it.',
        )


def _refuse_pooler(connection: psycopg.Connection) -> None:
    """A transaction pooler hands each statement to any session, so nobody else can join an exported snapshot."""
    pids = {connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() for _ in range(3)}
    if len(pids) > 1 or connection.info.backend_pid not in {row[0] for row in pids if row}:
        raise PreconditionFailed(
            "A connection pooler stands between Keepwell and the database, and breaks snapshot sharing.",
            hint="Set database.host and database.port to the PostgreSQL server itself.",
        )


def _name_some(tables: Sequence[TableFacts]) -> str:
    names = ", ".join(table.qualified for table in tables[:_NAMED])
    return names if len(tables) <= _NAMED else f"{names} and {len(tables) - _NAMED} more"
