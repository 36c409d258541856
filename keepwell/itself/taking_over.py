"""Putting a restored database of the orchestrator in the place of the served one, which stays beside it.

The server keeps running: its sessions are ended, both databases are renamed in one go, and it logs in to the other.
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from keepwell.errors import PreconditionFailed
from keepwell.orchestrator.client import Orchestrator
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

_MAINTENANCE = "postgres"
_LOST = "The machine that it ran on was lost."


@dataclass(frozen=True)
class TakenOver:
    """What was put where.

    Attributes:
        database: That the orchestrator uses now.
        before: Name of the one that it used before, which is kept.
        ended_runs: Runs that had not ended when the set was made, and are told to be crashed now; None where the server
            did not answer.
    """

    database: str
    before: str
    ended_runs: int | None


def exchange(own: DatabaseSettings, restored: str, before: str) -> None:
    """Give a restored database the name of the served one, and the served one another; all of it or nothing.

    Args:
        own: The served database, as its superuser.
        restored: Name of the restored one.
        before: Free name for the served one.

    Raises:
        PreconditionFailed: There is no database of the first name, or one of the second.
    """
    with connect(own, dbname=_MAINTENANCE) as connection:
        _require_names(connection, restored, before)
        try:
            # Nobody comes back between the end of the sessions and the change of names.
            _allow_connections(connection, own.name, allowed=False)
            with translated("ending the orchestrator's sessions"):
                connection.execute(
                    "SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity "
                    "WHERE datname = ANY(%s)",
                    ([own.name, restored],),
                )
            with translated("exchanging the databases"), connection.transaction():
                for name, new_name in ((own.name, before), (restored, own.name)):
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new_name))
                    )
        finally:
            for name in (own.name, before):
                _allow_connections(connection, name, allowed=True)


def end_lost_runs(client: Orchestrator, before: datetime) -> int:
    """Mark runs that nobody runs any more as crashed: until then they hold the places of new ones.

    Args:
        client: Of the orchestrator.
        before: When the databases were exchanged; what changed later is run by somebody.

    Raises:
        ServiceUnavailable: The server does not answer yet.
    """
    lost = [run for run in client.read_unfinished_runs() if run.changed_at is None or run.changed_at < before]
    for run in lost:
        client.mark_crashed(run, _LOST)
    return len(lost)


def _require_names(connection: psycopg.Connection, restored: str, before: str) -> None:
    found = connection.execute("SELECT datname FROM pg_catalog.pg_database").fetchall()
    names = {row[0] for row in found}
    if restored not in names or before in names:
        raise PreconditionFailed(
            f"There is no database {restored}, or {before} is there already.", hint="List them: psql --list."
        )


def _allow_connections(connection: psycopg.Connection, name: str, *, allowed: bool) -> None:
    """Where there is a database of that name."""
    with translated(f"closing or opening {name}"):
        known = connection.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", (name,)).fetchone()
        if known is not None:
            connection.execute(
                sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(
                    sql.Identifier(name), sql.Literal(allowed)
                )
            )
