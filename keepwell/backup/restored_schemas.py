"""Schemas of ours in the live database: those that a restore put beside the live ones, and what dead ones left."""

from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.postgres.connection import connect, translated
from keepwell.postgres.gathering import read_dependents
from keepwell.settings import Platform

# How the comment on a schema that we restored begins; behind it stand the set's id and its tables.
MARK = "Restored by Keepwell from "
_LOCK_WAIT_SECONDS = 10


@dataclass(frozen=True)
class RestoredSchema:
    """One schema that was restored beside the live ones.

    Attributes:
        live: The database that it lies in.
        name: Its name.
        comment: What was written on it: from which set, which tables.
        size_bytes: Of its tables, with their indexes.
        relations: Names of its tables and views.
    """

    live: str
    name: str
    comment: str
    size_bytes: int
    relations: tuple[str, ...] = ()

    @property
    def strangers(self) -> tuple[str, ...]:
        """Tables and views that somebody made in it since; they would go with it."""
        ours = {told.rpartition(".")[2] for told in self.comment.partition(": ")[2].split(", ")}
        return tuple(name for name in self.relations if name not in ours)


def read_restored_schemas(platform: Platform, live: str) -> list[RestoredSchema]:
    """Those of one database, by name.

    Raises:
        KeepwellError: It cannot be asked.
    """
    with (
        connect(platform.database.for_restoring, dbname=live) as connection,
        translated("looking for restored schemas"),
    ):
        rows = connection.execute(
            """
            SELECT n.nspname::text, d.description,
                   coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)) FILTER (WHERE c.relkind IN ('r', 'm')), 0)
                       ::bigint,
                   coalesce(pg_catalog.array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE c.oid IS NOT NULL),
                       '{}')
            FROM pg_catalog.pg_namespace n
            JOIN pg_catalog.pg_description d
                ON d.classoid = 'pg_catalog.pg_namespace'::regclass AND d.objoid = n.oid
            LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
            WHERE starts_with(d.description, %s)
            GROUP BY 1, 2 ORDER BY 1
            """,
            (MARK,),
        ).fetchall()
    return [RestoredSchema(live, name, comment, taken, tuple(held)) for name, comment, taken, held in rows]


def find_restored_schema(platform: Platform, live: str, name: str) -> RestoredSchema:
    """One that may be dropped.

    Raises:
        PreconditionFailed: There is none of that name, or it is not ours.
    """
    found = next((one for one in read_restored_schemas(platform, live) if one.name == name), None)
    if found is None:
        raise PreconditionFailed(
            f"{live} has no schema {name} that Keepwell restored.",
            hint="Only schemas whose comment says so are dropped; look with \\dn+ in psql.",
        )
    return found


def drop_restored_schema(platform: Platform, live: str, name: str) -> RestoredSchema:
    """Drop a schema that was restored beside the live ones, and nothing else; the caller holds the platform.

    Raises:
        PreconditionFailed: It is not ours, or something outside of it needs it.
        LockTimeout: Somebody is reading it.
    """
    found = find_restored_schema(platform, live, name)
    settings = platform.database.for_restoring
    with connect(settings, dbname=live, lock_wait_seconds=_LOCK_WAIT_SECONDS) as connection:
        dependents = read_dependents(connection, name)
        if dependents:
            raise PreconditionFailed(
                f"Something outside of {name} needs it and would go with it: {', '.join(dependents)}.",
                hint="Drop or change that first.",
            )
        with translated(f"dropping the schema {name}"):
            _drop(connection, name)
    return found


def sweep_schemas(platform: Platform, prefix: str) -> list[str]:
    """Drop schemas that dead restores left in the live databases under their temporary names.

    The caller holds the platform for a restore or a backup, so none is being restored. A database that cannot be
    asked has none that would be in anybody's way.

    Args:
        platform: Whose.
        prefix: How their names begin; no other schema's does.

    Returns:
        Their names.
    """
    dropped = []
    for live in platform.database.names:
        with suppress(KeepwellError):
            for name in _find_left(platform, live, prefix):
                # Only now as the role that restores: a nightly backup need not know its password.
                with (
                    connect(platform.database.for_restoring, dbname=live) as connection,
                    translated(f"dropping {name}"),
                ):
                    _drop(connection, name)
                dropped.append(name)
    return dropped


def _find_left(platform: Platform, live: str, prefix: str) -> list[str]:
    with connect(platform.database, dbname=live) as connection, translated("looking for what dead restores left"):
        rows = connection.execute(
            "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE starts_with(nspname::text, %s)", (prefix,)
        ).fetchall()
    return [name for (name,) in rows]


def _drop(connection: psycopg.Connection, name: str) -> None:
    connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
