"""How a server is just now, asked from its maintenance database: the one that is maintained may be gone."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row, dict_row

from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings


@dataclass(frozen=True)
class DatabaseState:
    """One database of a server.

    Attributes:
        name: Of the database.
        lets_in: Whether it takes connections; a fenced one does not.
        size_bytes: None where our role may not ask.
    """

    name: str
    lets_in: bool
    size_bytes: int | None


@dataclass(frozen=True)
class ServerState:
    """One server.

    Attributes:
        version: As people know it, such as `15.8`.
        started_at: When its postmaster was started; aware.
        in_recovery: Whether it takes no writes.
        connections: Of clients, to any database.
        connections_allowed: As it is configured.
        longest_transaction_seconds: Of any client; 0 where there is none.
        databases: All but templates, by name.
    """

    version: str
    started_at: datetime
    in_recovery: bool
    connections: int
    connections_allowed: int
    longest_transaction_seconds: float
    databases: tuple[DatabaseState, ...]


def read_server_state(settings: DatabaseSettings) -> ServerState:
    """Ask a server how it is; nothing is changed.

    Raises:
        AccessDenied: Our login is refused.
        ServiceUnavailable: It does not answer.
        KeepwellError: It answers something else.
    """
    with (
        connect(settings, dbname=settings.maintenance_name, application_name="keepwell incident") as connection,
        translated("asking the server how it is"),
    ):
        with connection.cursor(row_factory=dict_row) as cursor:
            told = cursor.execute(
                """
                SELECT pg_catalog.current_setting('server_version') AS version,
                       pg_catalog.pg_postmaster_start_time() AS started_at,
                       pg_catalog.pg_is_in_recovery() AS in_recovery,
                       pg_catalog.current_setting('max_connections')::int AS connections_allowed,
                       count(*) FILTER (WHERE backend_type = 'client backend')::int AS connections,
                       coalesce(extract(epoch FROM max(pg_catalog.clock_timestamp() - xact_start)
                           FILTER (WHERE backend_type = 'client backend'
                                   AND pid <> pg_catalog.pg_backend_pid())), 0)::float AS longest_transaction_seconds
                FROM pg_catalog.pg_stat_activity
                """
            ).fetchone()
        with connection.cursor(row_factory=class_row(DatabaseState)) as named:
            databases = named.execute(
                """
                SELECT datname AS name,
                       datallowconn AND datconnlimit <> -2 AS lets_in,
                       CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')
                            THEN pg_catalog.pg_database_size(oid) END AS size_bytes
                FROM pg_catalog.pg_database WHERE NOT datistemplate ORDER BY datname
                """
            ).fetchall()
    return ServerState(**(told or {}), databases=tuple(databases))
