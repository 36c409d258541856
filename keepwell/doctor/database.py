"""The database: login, versions, privileges, what stands between, and the room to prove a backup in."""

import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import psycopg

from keepwell.backup.preflight import judge_migrations, refuse_old_server, refuse_unreadable
from keepwell.backup.source_image import find_client, find_provers, suggest_container, why_image
from keepwell.backup.space import estimate_scratch_bytes, estimate_working_bytes
from keepwell.backup.spool import open_spool, require_space, spool_place
from keepwell.doctor.clock import judge_clock
from keepwell.doctor.outcome import alert, guarded, not_checked, ok, warn
from keepwell.doctor.role import examine_role
from keepwell.errors import Busy, KeepwellError, PreconditionFailed
from keepwell.postgres import facts
from keepwell.postgres.binaries import find_installations
from keepwell.postgres.connection import connect, translated
from keepwell.postgres.facts import DatabaseFacts
from keepwell.settings import DatabaseSettings, Platform
from keepwell.verdict import Finding, Verdict

_STATEMENT_SECONDS = 20
_MIB = 1024 * 1024
# The first number is ours alone; a lock on it shows that sessions keep their locks, then goes at once.
_PROBE_LOCK = (0x6B656570, 1)

_HINTS = (
    ("password authentication failed", "Check database.password_file; was the password changed on the server?"),
    ("no password supplied", "The server wants a password: set database.password_file."),
    ("no encryption", "The server takes encrypted connections only: set database.sslmode to require or better."),
    ("no pg_hba.conf entry", "The server's pg_hba.conf does not let this user in from here."),
    ("certificate verify failed", "Set database.ssl_root_certificate to the authority that signed the server's."),
    ("root certificate file", "Set database.ssl_root_certificate, or choose an sslmode that checks no certificate."),
    ("does not support SSL", "The server speaks no TLS: switch it on there, or set database.sslmode to disable."),
    ("SSL", "TLS failed: compare database.sslmode and the certificates on both sides."),
    ("Connection refused", "Nothing listens there: is the server up, its port published, and database.port right?"),
    ("could not translate host name", "The host's name is not known here: check database.host."),
    ("failed to resolve host", "The host's name is not known here: check database.host."),
    ("timeout", "Nothing answered: check database.host, and firewalls between."),
    ("No such file or directory", "There is no such socket: check database.host and that the server is up."),
    ("too many clients", "All connections are taken: look at who holds them (pg_stat_activity)."),
    ("too many connections", "All connections are taken: look at who holds them (pg_stat_activity)."),
    ("starting up", "The server is starting: wait for it."),
)


def examine_database(platform: Platform) -> Iterator[Finding]:
    """Everything that a backup needs of the databases and of this machine beside them."""
    yield from _examine_main(platform)
    for name in platform.database.more_names:
        for finding in _examine_further(platform.database.of(name)):
            yield finding.named_for(name)


def _examine_main(platform: Platform) -> Iterator[Finding]:
    database = platform.database
    try:
        connection = connect(database, application_name="keepwell doctor")
    except KeepwellError as error:
        yield alert("database login", error.message, hint=login_hint(error))
        yield not_checked("database", "Versions, privileges, locks and space were not checked: there is no login.")
        return
    with connection:
        yield _told_login(database)
        try:
            refuse_old_server(connection.info.server_version)
        except PreconditionFailed as error:
            yield alert("server version", error.message, hint=error.hint)
            yield not_checked("database", "Privileges, locks and space were not checked: the server is too old.")
            return
        yield from guarded("pooler", lambda: _examine_session(connection, database))
        yield from guarded("maintenance database", lambda: _examine_locks(database))
        yield from guarded("privileges", lambda: _examine_privileges(connection, database))
        yield from guarded("least privilege", lambda: examine_role(connection, platform))
        yield from guarded("migrations", lambda: _examine_migrations(connection))
        yield from guarded("database facts", lambda: _examine_facts(connection, platform))


def _examine_further(database: DatabaseSettings) -> Iterator[Finding]:
    """What may differ from the main database of the same server."""
    try:
        connection = connect(database, application_name="keepwell doctor")
    except KeepwellError as error:
        yield alert("database login", error.message, hint=login_hint(error))
        yield not_checked("database", "Privileges and migrations were not checked: there is no login.")
        return
    with connection:
        yield _told_login(database)
        yield from guarded("pooler", lambda: _examine_session(connection, database))
        yield from guarded("privileges", lambda: _examine_privileges(connection, database))
        yield from guarded("migrations", lambda: _examine_migrations(connection))


def _told_login(database: DatabaseSettings) -> Finding:
    return ok("database login", f"Logged in to {database.name} on {database.place} as {database.user}.")


def login_hint(error: KeepwellError) -> str:
    """What to do about a failed login, by the driver's words; the error's own hint where they say nothing new."""
    said = f"{error.message} {error.__cause__ or ''}"
    return next((hint for words, hint in _HINTS if words.casefold() in said.casefold()), error.hint)


def _examine_facts(connection: psycopg.Connection, platform: Platform) -> Iterator[Finding]:
    _limit_statements(connection)
    before = time.time()
    found = facts.read_database(connection)
    asked_at = datetime.fromtimestamp((before + time.time()) / 2, UTC)
    offset_seconds = (found.now_at - asked_at).total_seconds()
    yield judge_clock("database clock", "the database server", offset_seconds)
    yield from guarded("client tools", lambda: _examine_tools(found, platform))
    yield from guarded("scratch space", lambda: [_judge_space(platform, found.size_bytes)])
    if found.standby:
        yield warn(
            "standby",
            "The database server is a standby.",
            hint="A long dump may be cancelled by replay: raise max_standby_streaming_delay, or dump the primary.",
        )


def _examine_tools(found: DatabaseFacts, platform: Platform) -> Iterator[Finding]:
    installations = find_installations(platform.backup.tools_directory)
    client = find_client(platform, installations, server_major=found.server_major)
    yield ok("client tools", f"{client} dumps the server's {found.server_version}.")
    with open_spool(platform) as folder:
        provers = find_provers(
            platform, folder, installations, source_major=found.server_major, archive_major=client.major
        )
    yield from (finding for finding in provers.findings if finding.verdict is Verdict.WARN)
    if not provers.servers:
        missing = provers.findings[-1]
        yield alert("proving server", missing.message, hint=missing.hint)
        return
    server = provers.servers[0]
    if server.elsewhere is not None:
        yield ok("proving server", f"{server} restores and proves: {why_image(platform)}.")
    elif server.major == found.server_major:
        message = f"{server} restores and proves, the same major version as the source."
        yield ok("proving server", message, hint=suggest_container(platform))
    else:
        yield warn(
            "proving server",
            f"{server} restores and proves; the source is {found.server_version}, and each proof will say so.",
            hint=suggest_container(platform)
            or f"Install postgresql-{found.server_major} to prove on the source's own version.",
        )


def _judge_space(platform: Platform, main_bytes: int) -> Finding:
    """By the very estimates that would stop a backup or its proof, of all databases together."""
    place, names = spool_place(platform), platform.database.names
    databases_bytes = main_bytes + sum(_read_bytes(platform.database.of(name)) for name in names[1:])
    needed_bytes = max(estimate_working_bytes(len(names)), estimate_scratch_bytes(databases_bytes))
    require_space(place, needed_bytes, "a backup with its proof")
    free_bytes = shutil.disk_usage(place).free
    message = (
        f"{free_bytes / _MIB:,.0f} MiB are free in {place}; a backup with its proof may take "
        f"{needed_bytes / _MIB:,.0f} MiB."
    )
    return ok("scratch space", message)


def _read_bytes(database: DatabaseSettings) -> int:
    with connect(database, application_name="keepwell doctor") as connection:
        _limit_statements(connection)
        return facts.read_database(connection).size_bytes


def _examine_migrations(connection: psycopg.Connection) -> Iterable[Finding]:
    """What would make a backup wait, and what it would carry over half-applied."""
    _limit_statements(connection)
    found = facts.read_migrations(connection)
    try:
        unfinished = judge_migrations(found)
    except Busy as error:
        return [warn("migrations", error.message, hint=error.hint)]
    newest = f"; the newest is {found.head}" if found.head else ""
    return unfinished or [ok("migrations", f"None is at work or half-applied{newest}.")]


def _examine_privileges(connection: psycopg.Connection, database: DatabaseSettings) -> Iterator[Finding]:
    _limit_statements(connection)
    tables = facts.read_tables(connection)
    refuse_unreadable(tables, role=database.user)
    hidden = facts.read_unreadable_large_objects(connection)
    if hidden:
        yield alert(
            "privileges",
            f"The role {database.user} may not read {hidden} large objects.",
            hint="GRANT SELECT ON LARGE OBJECT … to it, or dump as their owner.",
        )
        return
    message = f"The role {database.user} may read all {len(tables)} tables and sequences, every row of them."
    if tables:
        yield ok("privileges", message)
    else:
        yield warn("privileges", "The database holds no table at all.", hint="Is database.name the right one?")


def _examine_session(connection: psycopg.Connection, database: DatabaseSettings) -> Iterable[Finding]:
    """Tell a pooler: it answers with another session's process, or another session cannot join a snapshot."""
    _limit_statements(connection)
    hint = "Set database.host and database.port to the PostgreSQL server itself."
    with translated("looking for a pooler"):
        pids = {connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() for _ in range(3)}
    if pids != {(connection.info.backend_pid,)}:
        return [alert("pooler", "A connection pooler stands between us and the database.", hint=hint)]
    if not _snapshot_is_shared(connection, database):
        return [alert("pooler", "A second session cannot join an exported snapshot.", hint=hint)]
    return [ok("pooler", "No pooler stands between; an exported snapshot can be shared.")]


def _snapshot_is_shared(connection: psycopg.Connection, database: DatabaseSettings) -> bool:
    with (
        translated("sharing a snapshot"),
        connection.transaction(),
        connect(database, application_name="keepwell doctor") as other,
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
        snapshot = str(row[0]) if row else ""
        try:
            with other.transaction():
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                other.execute(psycopg.sql.SQL("SET TRANSACTION SNAPSHOT {}").format(psycopg.sql.Literal(snapshot)))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject):
            return False
    return True


def _examine_locks(database: DatabaseSettings) -> Iterable[Finding]:
    """The interlock's locks live in another database, and must bind sessions."""
    name = "maintenance database"
    if database.maintenance_name in database.names:
        return [
            alert(
                name,
                f"database.maintenance_name is the maintained database {database.maintenance_name} itself.",
                hint="Name another database of the same server, such as postgres; our locks would block a restore.",
            )
        ]
    with (
        translated("trying a session lock"),
        connect(database, dbname=database.maintenance_name, application_name="keepwell doctor") as holder,
        connect(database, dbname=database.maintenance_name, application_name="keepwell doctor") as other,
    ):
        taken = holder.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", _PROBE_LOCK).fetchone()
        second = other.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", _PROBE_LOCK).fetchone()
    if taken == (False,):
        return [
            ok(name, f"{database.maintenance_name} takes logins; another doctor holds the lock that would be tried.")
        ]
    if second == (True,):
        hint = "Set database.host and database.port to the PostgreSQL server itself."
        return [alert(name, f"Session locks do not bind in {database.maintenance_name}.", hint=hint)]
    return [ok(name, f"{database.maintenance_name} takes logins, and session locks bind there.")]


def _limit_statements(connection: psycopg.Connection) -> None:
    with translated("limiting statements"):
        connection.execute("SELECT pg_catalog.set_config('statement_timeout', %s, false)", (f"{_STATEMENT_SECONDS}s",))
