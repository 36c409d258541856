"""Connections to the maintained server, and the one translation of the driver's errors into ours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from keepwell.containers.reach import find_place
from keepwell.errors import AccessDenied, ConfigurationError, KeepwellError, LockTimeout, ServiceUnavailable
from keepwell.settings import DatabaseSettings

# Text output must be the same wherever it is produced, or equal rows would hash differently.
CANONICAL_OUTPUT: dict[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "xmloption": "content",
    "search_path": "",
    "synchronize_seqscans": "off",
    "quote_all_identifiers": "off",
    "row_security": "off",
}
# What a role or a database may have set for its applications, and what would end our long, quiet sessions.
_UNHURRIED: dict[str, str] = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
# pg_dump pins part of this itself; the rest it takes from the role and the database, which may say anything. It lifts
# the limit of a statement too, but not before its first one; pg_dumpall never does.
DUMP_OPTIONS = "-c TimeZone=UTC -c bytea_output=hex -c lc_monetary=C -c statement_timeout=0"

_TRANSIENT_CLASSES = ("08", "40", "53", "57P", "25P03", "25P04")
_HINTS_FOR_CLASS: dict[str, str] = {
    "53": "The server is short of a resource (connections, memory or disk): look at it before the next try.",
    "57P": "The server is stopping or starting: wait for it.",
    "40": "It stood in another's way, such as a standby's replay: the next try may fare better.",
}


def conninfo(database: DatabaseSettings, *, dbname: str | None = None, application_name: str = "keepwell") -> str:
    """A libpq connection string without the password, fit for argv; the password goes by PGPASSWORD.

    A server in a container is looked for now: the string is for one connection, or for one program.

    Raises:
        PreconditionFailed: There is no way into its container.
        ServiceUnavailable: It does not run, or the engine does not answer.
    """
    place = find_place(database)
    parameters: dict[str, str | int] = {
        "host": place.host,
        "port": place.port,
        "user": database.user,
        "dbname": dbname or database.name,
        "application_name": application_name,
    }
    if not place.host.startswith("/"):
        parameters["sslmode"] = database.sslmode
    if database.ssl_root_certificate is not None:
        # Programs may run in another folder than ours.
        parameters["sslrootcert"] = str(database.ssl_root_certificate.absolute())
    return make_conninfo("", **parameters)


def password_environment(database: DatabaseSettings) -> dict[str, str]:
    """What a client program needs to log in, for its environment."""
    return {} if database.password is None else {"PGPASSWORD": database.password.get_secret_value()}


def connect(
    database: DatabaseSettings,
    *,
    dbname: str | None = None,
    autocommit: bool = True,
    application_name: str = "keepwell",
    connect_timeout_seconds: int = 10,
    lock_wait_seconds: int = 0,
) -> psycopg.Connection:
    """Log in to the maintained server.

    Args:
        database: Where and as whom.
        dbname: Another database of the same server; the maintained one by default.
        autocommit: Each statement by itself, so that nothing holds a transaction open unasked.
        application_name: How we show in pg_stat_activity.
        connect_timeout_seconds: Per address.
        lock_wait_seconds: How long a statement may queue for a lock (asking a table's size takes one); 0 is for ever.

    Raises:
        AccessDenied: Wrong password, or no right to connect.
        ConfigurationError: There is no such database.
        ServiceUnavailable: No answer, or too many connections.
    """
    with translated(f"database {dbname or database.name} on {database.place}"):
        connection = psycopg.connect(
            conninfo(database, dbname=dbname, application_name=application_name),
            password=database.password.get_secret_value() if database.password else None,
            connect_timeout=connect_timeout_seconds,
            # Poolers and dropped servers alike: a prepared statement would survive neither.
            prepare_threshold=None,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
        return _prepared(connection, autocommit=autocommit, lock_wait_seconds=lock_wait_seconds)


def connect_to(
    info: str, *, password: SecretStr | None = None, autocommit: bool = True, name: str = "a restored database"
) -> psycopg.Connection:
    """Log in to a restored database, to a scratch server, or to whatever `name` calls it, by its connection string."""
    with translated(name):
        connection = psycopg.connect(
            info,
            password=password.get_secret_value() if password else None,
            connect_timeout=10,
            prepare_threshold=None,
        )
        return _prepared(connection, autocommit=autocommit)


def client_encoding(server_encoding: str) -> str:
    """The encoding in which text leaves the server: the same for a dump and for whatever is compared with it.

    The server's own, so that no byte needs a counterpart elsewhere. A database without an encoding may hold any bytes;
    LATIN1 lets each of them pass as it is.
    """
    return "LATIN1" if server_encoding == "SQL_ASCII" else server_encoding


def _prepared(connection: psycopg.Connection, *, autocommit: bool, lock_wait_seconds: int = 0) -> psycopg.Connection:
    """Pin what a role or a database may have set otherwise, for the whole session; closed when that fails."""
    pinned = CANONICAL_OUTPUT | _UNHURRIED
    pinned |= {"client_encoding": client_encoding(connection.info.parameter_status("server_encoding") or "")}
    pinned |= {"lock_timeout": f"{lock_wait_seconds}s"}
    try:
        connection.autocommit = True  # outside a transaction, or the first rollback would undo it
        connection.execute("SET statement_timeout = 0")  # first, since a short one would end what follows
        connection.execute(
            """
            SELECT pg_catalog.set_config(known.name, wanted.value, false)
            FROM pg_catalog.jsonb_each_text(%s::pg_catalog.jsonb) AS wanted
            JOIN pg_catalog.pg_settings AS known ON pg_catalog.lower(known.name) = pg_catalog.lower(wanted.key)
            """,
            (json.dumps(pinned),),
        )
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours, by SQLSTATE.

    Args:
        what: What was being done or spoken to, for the message.
    """
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, what) from error


def translate(error: psycopg.Error, what: str) -> KeepwellError:
    """Our error for a driver's error; its text names `what` and holds no secret."""
    state = error.sqlstate or ""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, pg.LockNotAvailable | pg.DeadlockDetected):
        return LockTimeout(f"{what}: {said}", hint="Another session holds the lock; try again when it is done.")
    if state.startswith("28") or isinstance(error, pg.InsufficientPrivilege):
        return AccessDenied(f"{what}: {said}", hint="Check the role, its password and its grants.")
    if isinstance(error, pg.InvalidCatalogName):
        return ConfigurationError(
            f"{what}: {said}", hint="Check database.name and database.more_names in the platform file."
        )
    if isinstance(error, psycopg.OperationalError) and not state:
        return _login_error(said, what)
    for prefix in _TRANSIENT_CLASSES:
        if state.startswith(prefix):
            hint = _HINTS_FOR_CLASS.get(prefix, "Check that the server is up and reachable.")
            return ServiceUnavailable(f"{what}: {said}", hint=hint)
    return KeepwellError(f"{what}: {said}", hint="" if not state else f"The server's SQLSTATE is {state}.")


def _login_error(said: str, what: str) -> KeepwellError:
    """A failed login has no SQLSTATE, only the server's words."""
    if "authentication failed" in said or "no pg_hba.conf entry" in said or "no password supplied" in said:
        return AccessDenied(
            f"{what}: {said}", hint="Check database.user and its password; were they changed on the server?"
        )
    if "permission denied for database" in said:
        return AccessDenied(f"{what}: {said}", hint="GRANT CONNECT ON DATABASE … to database.user.")
    if "certificate verify failed" in said or ("certificate" in said and "does not match" in said):
        return ConfigurationError(f"{what}: {said}", hint="Check database.sslmode and database.ssl_root_certificate.")
    if "does not exist" in said and "database" in said:
        return ConfigurationError(
            f"{what}: {said}", hint="Check database.name and database.more_names in the platform file."
        )
    if "does not exist" in said and "role" in said:
        return AccessDenied(f"{what}: {said}", hint="Check database.user in the platform file.")
    return ServiceUnavailable(f"{what}: {said}", hint="Check that the server is up and reachable from here.")
