"""What must be true before a backup starts: a gate that says no while nothing has been changed yet."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from keepwell.backup.spool import require_space, spool_place
from keepwell.errors import Busy, PreconditionFailed
from keepwell.postgres import facts
from keepwell.postgres.binaries import Binaries, choose_client, find_installations
from keepwell.postgres.connection import connect
from keepwell.postgres.facts import DatabaseFacts, MigrationFacts, TableFacts
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

# COPY's text is about as large as the table on disk; rows that TOAST compressed well may be larger.
_DUMP_FACTOR = 1.5
# For what never goes through a FIFO: tables of contents, roles, schema lines.
WORKING_BYTES = 64 * 1024 * 1024
_NAMED = 5
_OLDEST_SERVER = 15


@dataclass(frozen=True)
class Readiness:
    """What a backup needs to know before it starts."""

    client: Binaries
    database: DatabaseFacts
    findings: tuple[Finding, ...]


def require_ready(platform: Platform) -> Readiness:
    """Look at the source, the tools and the disk.

    Returns:
        The tools to use, the database's properties, and findings that do not stop a backup.

    Raises:
        PreconditionFailed: A table cannot be read whole, a pooler stands between, space is short.
        Busy: A migration is running.
        LockTimeout: Somebody holds a table so that not even its size can be asked.
        ConfigurationError: No client tools of the server's version or newer.
    """
    with connect(platform.database, lock_wait_seconds=platform.backup.lock_wait_seconds) as connection:
        _refuse_old_server(connection)
        _refuse_pooler(connection)
        database = facts.read_database(connection)
        client = choose_client(find_installations(platform.backup.tools_directory), server_major=database.server_major)
        tables = facts.read_tables(connection)
        refuse_unreadable(tables, role=platform.database.user)
        _refuse_unreadable_large_objects(connection, role=platform.database.user)
        findings = [*judge_migrations(facts.read_migrations(connection)), *judge_client(client, database)]
    require_space(spool_place(platform), WORKING_BYTES, "the run")
    return Readiness(client, database, tuple(findings))


def estimate_dump_bytes(tables: Sequence[TableFacts]) -> int:
    """About how large the rows of a dump are, for where they have to take the way over a disk."""
    return int(sum(table.data_bytes for table in tables if table.has_rows) * _DUMP_FACTOR)


def refuse_unreadable(tables: Sequence[TableFacts], *, role: str) -> None:
    """Stop when rows would be missing from the dump.

    Raises:
        PreconditionFailed: Names the first few tables, and the statement that helps.
    """
    unreadable = [table for table in tables if not table.readable and table.kind != "f"]
    if unreadable:
        raise PreconditionFailed(
            f"The role {role} may not read {_name_some(unreadable)}.",
            hint=f'GRANT pg_read_all_data TO "{role}", or SELECT on each of them; sequences too.',
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


def _refuse_old_server(connection: psycopg.Connection) -> None:
    if connection.info.server_version < _OLDEST_SERVER * 10_000:
        raise PreconditionFailed(
            f"PostgreSQL {connection.info.server_version // 10_000} is too old: {_OLDEST_SERVER} is needed at least.",
            hint="Upgrade it: older versions get no more fixes.",
        )


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
