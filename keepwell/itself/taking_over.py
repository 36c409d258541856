"""Putting a restored database of the orchestrator in the place of the served one, which stays beside it.

The server keeps running: its sessions are ended, both databases are renamed in one go, and it logs in to the other.
"""

import time
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import errors as pg
from psycopg import sql

from keepwell.errors import PreconditionFailed
from keepwell.orchestrator.client import Orchestrator
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

_MAINTENANCE = "postgres"
_TRIES = 10
# Whoever waited for the lock of a try that failed is logged in by then, and can be ended.
_BETWEEN_TRIES_SECONDS = 0.5
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

    Nothing but the names is ever changed, so that a kill at any moment leaves both databases open under a name.

    Args:
        own: The served database, as its superuser.
        restored: Name of the restored one.
        before: Free name for the served one.

    Raises:
        PreconditionFailed: There is no database of the first name, or one of the second, or somebody
            logged in again at every try.
    """
    with connect(own, dbname=_MAINTENANCE) as connection:
        _require_names(connection, restored, before)
        for _ in range(_TRIES):
            in_use = _try_exchange(connection, own.name, restored, before)
            if in_use is None:
                return
            time.sleep(_BETWEEN_TRIES_SECONDS)
    raise PreconditionFailed(
        f"{in_use}; somebody logs in again each time. The names are as they were.",
        hint=f"See who uses {own.name} or {restored} in pg_stat_activity, end that, and try again.",
    )


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


def _try_exchange(connection: psycopg.Connection, served: str, restored: str, before: str) -> str | None:
    """Both renames or none; what the server says where somebody came back in between."""
    with translated("exchanging the databases"):
        try:
            with connection.transaction():
                _end_sessions(connection, served, restored)
                for name, new_name in ((served, before), (restored, served)):
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new_name))
                    )
        except pg.ObjectInUse as error:
            return error.diag.message_primary or "a database is in use"
    return None


def _end_sessions(connection: psycopg.Connection, *names: str) -> None:
    """Tell all of them to end. The rename awaits that, for seconds, under a lock that lets nobody else in."""
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = ANY(%s)",
        (list(names),),
    )
