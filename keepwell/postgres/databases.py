"""The databases of a server as things with names: what one is like, who is in it, shutting it, and renaming it.

A database is known by its number (oid), which stays with it whatever it is called. Everything here is done from
another database of the same server, since one cannot rename what one is logged in to.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from keepwell.errors import KeepwellError, LockTimeout, VerificationFailed
from keepwell.postgres.connection import translated

_POLL_SECONDS = 0.2
# Settings that are lists of names: as one quoted text they would be a single name with commas in it.
_LISTS = frozenset(
    (
        "local_preload_libraries",
        "restrict_nonsystem_relation_kind",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    )
)


@dataclass(frozen=True)
class NamedDatabase:
    """One database of the server.

    Attributes:
        oid: Its number, which stays with it whatever it is called.
        name: At the moment.
        open: Whether anybody is let in at all; a fence binds superusers too.
        size_bytes: As the server counts it.
    """

    oid: int
    name: str
    open: bool
    size_bytes: int


@dataclass(frozen=True)
class Grant:
    """One privilege on a database."""

    grantee: str
    privilege: str
    grantable: bool


@dataclass(frozen=True)
class Setting:
    """One line of ALTER DATABASE … SET, or of ALTER ROLE … IN DATABASE … SET where it names a role."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True)
class Properties:
    """What a database has beside what is in it, and a dump of it does not hold.

    Attributes:
        owner: Its role.
        grants: Of privileges on the database itself; None where nobody ever granted or revoked any.
        settings: Of sessions in it, in the order of role and name.
        connection_limit: -1 for none.
        comment: None where there is none.
        tablespace: Where what names no other lies.
    """

    owner: str
    grants: tuple[Grant, ...] | None
    settings: tuple[Setting, ...]
    connection_limit: int
    comment: str | None
    tablespace: str


@dataclass(frozen=True)
class SessionGroup:
    """Sessions in a database that are alike.

    Attributes:
        application: As it calls itself; empty where it does not.
        role: That it logged in as.
        count: How many there are.
        out_of_reach: Whether we may not end them: a superuser's, or of a role whose sessions are not ours to end.
    """

    application: str
    role: str
    count: int
    out_of_reach: bool


@dataclass(frozen=True)
class Obstacles:
    """What ties a database to its name or to itself, so that another one must not just take its place.

    Attributes:
        prepared: Names of its prepared transactions, which forbid another name.
        slots: Names of its logical replication slots, which would go on reading the database that was replaced.
        subscriptions: Names of its subscriptions, which would go on writing into that.
    """

    prepared: tuple[str, ...]
    slots: tuple[str, ...]
    subscriptions: tuple[str, ...]


@dataclass(frozen=True)
class OwnPowers:
    """What the role that we log in as may do beside what owners may."""

    superuser: bool
    createdb: bool


def read_databases(connection: psycopg.Connection) -> tuple[NamedDatabase, ...]:
    """Every database of the server that is no template, by name; a size is 0 where it may not be asked."""
    query = """
        SELECT oid::bigint AS oid, datname::text AS name, datallowconn AS open,
               CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')
                    OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
                    THEN pg_catalog.pg_database_size(oid) ELSE 0 END AS size_bytes
        FROM pg_catalog.pg_database WHERE NOT datistemplate ORDER BY datname
        """
    with translated("listing databases"), connection.cursor(row_factory=class_row(NamedDatabase)) as cursor:
        return tuple(cursor.execute(query).fetchall())


def read_server_id(connection: psycopg.Connection) -> str:
    """Which server this is: databases' numbers mean something on that one alone, and on its standbys."""
    with translated("asking for the server's identity"):
        row = connection.execute("SELECT system_identifier::text FROM pg_catalog.pg_control_system()").fetchone()
    return str(row[0]) if row else ""


def read_powers(connection: psycopg.Connection) -> OwnPowers:
    """What we may do here."""
    query = (
        "SELECT rolsuper AS superuser, rolcreatedb AS createdb FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    with translated("reading our own role"), connection.cursor(row_factory=class_row(OwnPowers)) as cursor:
        found = cursor.execute(query).fetchone()
        assert found is not None  # noqa: S101 - one is always logged in as a role
        return found


def read_properties(connection: psycopg.Connection, oid: int) -> Properties:
    """What one database has beside what is in it.

    Raises:
        KeepwellError: There is no such database, or the server cannot be asked.
    """
    with translated("reading the database's properties"):
        row = connection.execute(
            """
            SELECT pg_catalog.pg_get_userbyid(d.datdba)::text, d.datacl IS NOT NULL, d.datconnlimit,
                   pg_catalog.shobj_description(d.oid, 'pg_database'), t.spcname::text
            FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace WHERE d.oid = %s
            """,
            (oid,),
        ).fetchone()
        if row is None:
            raise KeepwellError(f"The database with the number {oid} is gone.", hint="Somebody dropped it meanwhile.")
        owner, has_grants, limit, comment, tablespace = row
        grants = connection.execute(
            """
            SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END,
                   a.privilege_type, pg_catalog.bool_or(a.is_grantable)
            FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a WHERE d.oid = %s
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            (oid,),
        ).fetchall()
        settings = connection.execute(
            """
            SELECT r.rolname::text, pg_catalog.split_part(line, '=', 1),
                   pg_catalog.substr(line, pg_catalog.strpos(line, '=') + 1)
            FROM pg_catalog.pg_db_role_setting s
            LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, LATERAL pg_catalog.unnest(s.setconfig) AS line
            WHERE s.setdatabase = %s ORDER BY 1 NULLS FIRST, 2
            """,
            (oid,),
        ).fetchall()
    return Properties(
        owner=owner,
        grants=tuple(Grant(*grant) for grant in grants) if has_grants else None,
        settings=tuple(Setting(*setting) for setting in settings),
        connection_limit=limit,
        comment=comment,
        tablespace=tablespace,
    )


def read_sessions(connection: psycopg.Connection, name: str) -> tuple[SessionGroup, ...]:
    """Who is in a database: groups of alike sessions, the largest first; background workers of the server are none."""
    query = """
        SELECT a.application_name AS application, coalesce(a.usename::text, '') AS role,
               pg_catalog.count(*)::int AS count, NOT pg_catalog.bool_and(
                   me.rolsuper OR NOT r.rolsuper AND (
                       pg_catalog.pg_has_role(r.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')
                   )
               ) AS out_of_reach
        FROM pg_catalog.pg_stat_activity a
        JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        JOIN pg_catalog.pg_roles me ON me.rolname = current_user
        WHERE a.datname = %s AND a.pid <> pg_catalog.pg_backend_pid() AND a.leader_pid IS NULL
        GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
        """
    with translated("looking at sessions"), connection.cursor(row_factory=class_row(SessionGroup)) as cursor:
        return tuple(cursor.execute(query, (name,)).fetchall())


def read_obstacles(connection: psycopg.Connection, oid: int) -> Obstacles:
    """What ties a database to its name or to itself."""

    def names(query: str) -> tuple[str, ...]:
        return tuple(name for (name,) in connection.execute(query, (oid,)))

    with translated("looking for what stands in a rename's way"):
        return Obstacles(
            prepared=names(
                "SELECT p.gid FROM pg_catalog.pg_prepared_xacts p"
                " JOIN pg_catalog.pg_database d ON d.datname = p.database WHERE d.oid = %s ORDER BY 1"
            ),
            slots=names("SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE datoid = %s ORDER BY 1"),
            subscriptions=names("SELECT subname::text FROM pg_catalog.pg_subscription WHERE subdbid = %s ORDER BY 1"),
        )


def carry_over(connection: psycopg.Connection, name: str, wanted: Properties) -> None:
    """Give a database the owner, grants, settings, limit and comment of another, and nothing beside them.

    Doing it again does no harm, even where the other one changed in between.

    Raises:
        AccessDenied: Something of it only a superuser may set.
        VerificationFailed: It reads back differently.
    """
    this = sql.Identifier(name)

    def do(statement: str, *parts: sql.Composable) -> None:
        connection.execute(sql.SQL(statement).format(this, *parts))

    with translated(f"giving {name} what the live database has"):
        do("ALTER DATABASE {} OWNER TO {}", sql.Identifier(wanted.owner))
        do("ALTER DATABASE {} CONNECTION LIMIT {}", sql.Literal(wanted.connection_limit))
        do("COMMENT ON DATABASE {} IS {}", sql.Literal(wanted.comment))
        row = connection.execute(
            "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = %s", (name,)
        ).fetchone()
    oid = row[0] if row else 0
    held = read_properties(connection, oid)
    with translated(f"giving {name} what the live database has"):
        if wanted.grants is not None or held.grants is not None:
            for role in {"", wanted.owner, *(grant.grantee for grant in held.grants or ())}:
                do("REVOKE ALL ON DATABASE {} FROM {} CASCADE", _grantee(role))
            for grant in _spelled_out(wanted):
                ending = sql.SQL(" WITH GRANT OPTION" if grant.grantable else "")
                privilege, grantee = sql.SQL(grant.privilege), _grantee(grant.grantee)
                connection.execute(sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(privilege, this, grantee, ending))
        for role_of_settings in {one.role for one in held.settings}:
            connection.execute(sql.SQL("{} RESET ALL").format(_whose(name, role_of_settings)))
        for one in wanted.settings:
            _apply_setting(connection, name, one)
    found = read_properties(connection, oid)
    found, wanted = (replace(one, grants=_spelled_out(one)) for one in (found, wanted))
    for what in ("owner", "grants", "settings", "connection_limit", "comment"):
        if getattr(found, what) != getattr(wanted, what):
            raise VerificationFailed(
                f"The {what.replace('_', ' ')} of {name} read back differently from those of the live database.",
                hint="Compare both with psql's \\l+ and \\drds; somebody may be changing them.",
            )


def _grantee(role: str) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL("PUBLIC")


def _spelled_out(properties: Properties) -> tuple[Grant, ...]:
    """The grants; where nobody ever granted or revoked any, those that the server goes by then."""
    if properties.grants is not None:
        return properties.grants
    own = (Grant(properties.owner, privilege, grantable=False) for privilege in ("CONNECT", "CREATE", "TEMPORARY"))
    everybody = (Grant("", privilege, grantable=False) for privilege in ("CONNECT", "TEMPORARY"))
    return (*everybody, *own)


def _whose(name: str, role: str | None) -> sql.Composed:
    if role is None:
        return sql.SQL("ALTER DATABASE {}").format(sql.Identifier(name))
    return sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(name))


def _apply_setting(connection: psycopg.Connection, name: str, one: Setting) -> None:
    whose = _whose(name, one.role)
    # A setting of an extension has dots in its name, each part of which is quoted by itself.
    setting = sql.SQL(".").join(map(sql.Identifier, one.name.split(".")))
    connection.execute(sql.SQL("{} SET {} TO {}").format(whose, setting, _value(one)))


def _value(one: Setting) -> sql.Composable:
    if one.name not in _LISTS or not one.value.strip():
        return sql.Literal(one.value)
    return sql.SQL(", ").join(map(sql.Literal, split_names(one.value)))


def split_names(text: str) -> list[str]:
    """A list of names as a setting holds it: parted by commas, quoted where a name needs it."""
    names, rest = [], text.strip()
    while rest:
        if rest.startswith('"'):
            end = 1
            while (end := rest.index('"', end)) + 1 < len(rest) and rest[end + 1] == '"':
                end += 2
            names.append(rest[1:end].replace('""', '"'))
            rest = rest[end + 1 :].strip()
        else:
            name, comma, after = rest.partition(",")
            names.append(name.strip())
            rest = comma + after
        rest = rest.removeprefix(",").strip()
    return names


def shut(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Let nobody into these databases any more, superusers neither; whoever is in stays."""
    _allow(connection, names, allowed=False)


def open_again(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Let those in who may."""
    _allow(connection, names, allowed=True)


def _allow(connection: psycopg.Connection, names: Sequence[str], *, allowed: bool) -> None:
    word = sql.SQL("true" if allowed else "false")
    with translated("opening the database" if allowed else "shutting the database"), connection.transaction():
        for name in names:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), word))


def end_sessions(connection: psycopg.Connection, names: Sequence[str], *, wait_seconds: float) -> int:
    """End every session in databases that are shut, and wait until they are gone.

    Returns:
        How many sessions there were.

    Raises:
        AccessDenied: One is a superuser's, and we are none.
        LockTimeout: One was still there when the time was over.
    """
    deadline, ended = time.monotonic() + wait_seconds, set[int]()
    while True:
        with translated("ending sessions"):
            # The server ends its own workers by itself, when the name is changed.
            left = connection.execute(
                """
                SELECT pid, pg_catalog.pg_terminate_backend(pid), usename::text, application_name
                FROM pg_catalog.pg_stat_activity
                WHERE datname = ANY (%s) AND pid <> pg_catalog.pg_backend_pid() AND usesysid IS NOT NULL
                """,
                (list(names),),
            ).fetchall()
        if not left:
            return len(ended)
        ended |= {pid for pid, _, _, _ in left}
        if time.monotonic() >= deadline:
            pid, _, role, application = left[0]
            raise LockTimeout(
                f"{len(left)} sessions did not end within {wait_seconds:.0f} s; one is process {pid} of {role}"
                f" ({application or 'without a name'}).",
                hint="Look at it in pg_stat_activity on the server, or give it longer: restore.fence_seconds.",
            )
        time.sleep(_POLL_SECONDS)


def exchange_names(
    connection: psycopg.Connection,
    renames: Sequence[tuple[str, str]],
    *,
    reopen: Sequence[str],
    wait_seconds: float,
    ends_sessions: bool = False,
) -> None:
    """Give databases other names and open them, all in one transaction: at every moment each name means one of them.

    Args:
        connection: To none of them.
        renames: From and to, in this order.
        reopen: New names of those that let people in from then on.
        wait_seconds: For whoever is still on the way out; the server itself waits a few seconds each time.
        ends_sessions: Of whoever was let in just before the databases were shut, and came in after all.

    Raises:
        LockTimeout: Somebody was still in one of them when the time was over.
        KeepwellError: A name is taken, or a prepared transaction forbids it; nothing was renamed.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            with translated("exchanging the names"), connection.transaction():
                for old, new in renames:
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
                    )
                for name in reopen:
                    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
        except KeepwellError as error:
            if not isinstance(error.__cause__, psycopg.errors.ObjectInUse):
                raise
            detail = error.__cause__.diag.message_detail or ""
            left_seconds = deadline - time.monotonic()
            if left_seconds > 0 and "prepared transaction" not in detail:
                if ends_sessions:
                    end_sessions(connection, [old for old, _ in renames], wait_seconds=left_seconds)
                continue
            raise LockTimeout(
                f"{error.message} {detail}".strip(),
                hint="End whoever is in it, or COMMIT PREPARED / ROLLBACK PREPARED what is left in pg_prepared_xacts.",
            ) from error
        return


def drop_database(connection: psycopg.Connection, oid: int, name: str, *, cuts_sessions: bool) -> None:
    """Drop one database, if it still is the one of that number.

    Raises:
        KeepwellError: Another one has the name now, somebody is in it, or the server refused.
    """
    with translated(f"dropping {name}"):
        row = connection.execute(
            "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = %s", (name,)
        ).fetchone()
        if row is None or row[0] != oid:
            raise KeepwellError(f"{name} is not the database that was meant.", hint="Look: keepwell restore status.")
        statement = sql.SQL("DROP DATABASE {} WITH (FORCE)" if cuts_sessions else "DROP DATABASE {}")
        connection.execute(statement.format(sql.Identifier(name)))
