"""What a server says of its roles and of who may reach which database, read from its catalogue; changes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg.rows import class_row

from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

# How a comment of ours on a role begins; behind it stands, as JSON, whose right to log in was taken from everybody.
MARK = "keepwell: "


@dataclass(frozen=True)
class DatabaseReach:
    """One database of the server that takes logins and is no template.

    Attributes:
        name: Its name.
        owner: Its owner.
        open_to_all: Whether every role may log in to it (CONNECT for PUBLIC), as PostgreSQL has it by default.
        let_in: Roles that may log in to it by name, sorted.
    """

    name: str
    owner: str
    open_to_all: bool
    let_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ownership:
    """Who owns what in one database of the platform's, as far as roles have to be made for it.

    Attributes:
        database: Its name.
        owners: Roles that own it, or anything in it that a dump brings back; sorted.
        large_objects: How many there are.
        untrusted_extensions: Installed extensions that only a superuser may create; sorted.
        closed_schemas: Schemas of its own in which not every role may use what it has a right to; sorted.
    """

    database: str
    owners: tuple[str, ...]
    large_objects: int
    untrusted_extensions: tuple[str, ...]
    closed_schemas: tuple[str, ...]


@dataclass(frozen=True)
class HeldMembership:
    """One role's membership in another, as it is.

    Attributes:
        member: Who is the member.
        role: Of which.
        grantor: By whose grant, where the server tells several such grants apart (from 16 on); else empty.
    """

    member: str
    role: str
    grantor: str = ""


@dataclass(frozen=True)
class RoleFacts:
    """A server's roles, its databases, and the platform's among them.

    Attributes:
        server_major: Such as 15.
        superusers: Names.
        logins: Roles that may log in and are no superusers, sorted.
        roles: Every role's name.
        databases: Every database that takes logins, sorted by name.
        ownerships: Of the platform's databases, the main one first.
        closed: What a comment of ours on a role says was closed to everybody for its sake: the role to databases, and
            each of these to the roles that were let in.
        memberships: Every one on the server.
    """

    server_major: int
    superusers: frozenset[str]
    logins: tuple[str, ...]
    roles: frozenset[str]
    databases: tuple[DatabaseReach, ...]
    ownerships: tuple[Ownership, ...]
    closed: Mapping[str, Mapping[str, tuple[str, ...]]]
    memberships: tuple[HeldMembership, ...]


@dataclass(frozen=True)
class OwnPrivileges:
    """What the role of a session may do, beyond reading.

    Attributes:
        role: Its name.
        superuser: Whether it may do anything.
        creates_roles: Whether it may create roles.
        connection_limit: Of the role; -1 for none.
        writable_tables: Names of some tables that it may change, at most a few.
        writable_count: How many tables that are.
        writable_schemas: Schemas that it may create objects in.
        powers: Roles that write everything, reach the server's files and programs, or may do anything, of which it
            is a member.
        other_databases: Other databases that it may log in to, where it reads every table of the server.
        free_connections: How many more sessions the server takes from it now.
    """

    role: str
    superuser: bool
    creates_roles: bool
    connection_limit: int
    writable_tables: tuple[str, ...]
    writable_count: int
    writable_schemas: tuple[str, ...]
    powers: tuple[str, ...]
    other_databases: tuple[str, ...]
    free_connections: int


@dataclass(frozen=True)
class RestoringFacts:
    """What a role could give back in a restore.

    Attributes:
        exists: Whether there is such a role.
        superuser: Whether it may do anything.
        creates_databases: Whether it may create databases.
        missing: Owners that it may not act as, sorted.
    """

    exists: bool
    superuser: bool
    creates_databases: bool
    missing: tuple[str, ...]


def read_role_facts(database: DatabaseSettings) -> RoleFacts:
    """Ask the server of a platform; any role may.

    Raises:
        KeepwellError: It cannot be reached, or one of its databases cannot.
    """
    ownerships = []
    for name in database.names:
        with connect(database.of(name)) as connection:
            ownerships.append(read_ownership(connection))
    with connect(database) as connection:
        roles = _rows(connection, "SELECT rolname::text, rolsuper, rolcanlogin FROM pg_catalog.pg_roles ORDER BY 1")
        return RoleFacts(
            server_major=connection.info.server_version // 10_000,
            superusers=frozenset(name for name, superuser, _ in roles if superuser),
            logins=tuple(name for name, superuser, login in roles if login and not superuser),
            roles=frozenset(name for name, _, _ in roles),
            databases=tuple(_read_databases(connection)),
            ownerships=tuple(ownerships),
            closed=_read_closed(connection),
            memberships=tuple(_read_memberships(connection)),
        )


def read_ownership(connection: psycopg.Connection) -> Ownership:
    """Who owns what in the connected database."""
    (found,) = _rows(
        connection,
        """
        SELECT current_database()::text, pg_catalog.pg_get_userbyid(datdba)::text,
               (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata),
               ARRAY(
                   SELECT e.extname::text FROM pg_catalog.pg_extension e
                   WHERE NOT EXISTS (
                       SELECT FROM pg_catalog.pg_available_extension_versions v
                       WHERE v.name = e.extname AND v.version = e.extversion AND v.trusted
                   ) AND e.extname <> 'plpgsql'
                   ORDER BY 1
               ),
               ARRAY(
                   SELECT n.nspname::text FROM pg_catalog.pg_namespace n
                   WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND NOT EXISTS (
                       SELECT FROM pg_catalog.aclexplode(n.nspacl) a
                       WHERE a.grantee = 0 AND a.privilege_type = 'USAGE'
                   )
                   ORDER BY 1
               )
        FROM pg_catalog.pg_database WHERE datname = current_database()
        """,
    )
    name, owner, large_objects, untrusted, closed_schemas = found
    owners = {owner, *read_owners(connection)}
    return Ownership(name, tuple(sorted(owners)), large_objects, tuple(untrusted), tuple(closed_schemas))


def read_owners(connection: psycopg.Connection) -> list[str]:
    """Roles that own anything in the connected database that a restore gives back to them, sorted.

    The bootstrap superuser's objects have no entry in pg_shdepend, so they are looked for by kind.
    """
    rows = _rows(
        connection,
        """
        SELECT r.rolname::text
        FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
        WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.deptype = 'o'
          AND s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        UNION
        SELECT pg_catalog.pg_get_userbyid(owner)::text FROM (
            SELECT relowner, oid, 'pg_catalog.pg_class'::regclass FROM pg_catalog.pg_class
            WHERE relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
            UNION ALL SELECT proowner, oid, 'pg_catalog.pg_proc'::regclass FROM pg_catalog.pg_proc
            UNION ALL SELECT typowner, oid, 'pg_catalog.pg_type'::regclass FROM pg_catalog.pg_type
            WHERE typtype IN ('b', 'd', 'e', 'r') AND typelem = 0
            UNION ALL SELECT nspowner, oid, 'pg_catalog.pg_namespace'::regclass FROM pg_catalog.pg_namespace
        ) AS own (owner, oid, class)
        WHERE own.oid >= 16384 AND NOT EXISTS (
            -- Whatever an extension brings belongs to whoever creates it.
            SELECT FROM pg_catalog.pg_depend d
            WHERE d.classid = own.class AND d.objid = own.oid AND d.deptype = 'e'
        )
        ORDER BY 1
        """,
    )
    return [name for (name,) in rows]


def read_own_privileges(connection: psycopg.Connection) -> OwnPrivileges:
    """What our own role may do in the connected database, beyond reading it."""
    with (
        translated("looking at our own privileges"),
        connection.cursor(row_factory=class_row(OwnPrivileges)) as cursor,
    ):
        query = files("keepwell.postgres").joinpath("sql", "privileges.sql").read_bytes()
        found = cursor.execute(query).fetchone()
        assert found is not None  # noqa: S101 - every session has a role
        return found


def read_restoring(connection: psycopg.Connection, role: str, owners: Sequence[str]) -> RestoringFacts:
    """Whether a role, ours or another, could restore what some owners own."""
    with translated("looking at the restoring role"):
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, ARRAY("
            "   SELECT o.rolname::text FROM pg_catalog.pg_roles o"
            "   WHERE o.rolname = ANY (%s) AND NOT pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER') ORDER BY 1"
            ") FROM pg_catalog.pg_roles r WHERE r.rolname = %s",
            (list(owners), role),
        ).fetchone()
    if row is None:
        return RestoringFacts(exists=False, superuser=False, creates_databases=False, missing=tuple(sorted(owners)))
    return RestoringFacts(exists=True, superuser=row[0], creates_databases=row[1], missing=tuple(row[2]))


def _read_databases(connection: psycopg.Connection) -> list[DatabaseReach]:
    with translated("listing databases"), connection.cursor(row_factory=class_row(DatabaseReach)) as cursor:
        return cursor.execute(
            """
            SELECT datname::text AS name, pg_catalog.pg_get_userbyid(datdba)::text AS owner,
                   EXISTS (
                       SELECT FROM pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba))) a
                       WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT'
                   ) AS open_to_all,
                   ARRAY(
                       SELECT DISTINCT r.rolname::text
                       FROM pg_catalog.aclexplode(datacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
                       WHERE a.privilege_type = 'CONNECT' ORDER BY 1
                   ) AS let_in
            FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1
            """
        ).fetchall()


def _read_memberships(connection: psycopg.Connection) -> list[HeldMembership]:
    # Before 16 the grantor means nothing to REVOKE, and may be gone.
    told_apart = connection.info.server_version >= 160_000
    with translated("reading memberships"), connection.cursor(row_factory=class_row(HeldMembership)) as cursor:
        return cursor.execute(
            """
            SELECT pg_catalog.pg_get_userbyid(member)::text AS member, pg_catalog.pg_get_userbyid(roleid)::text AS role,
                   CASE WHEN %s THEN pg_catalog.pg_get_userbyid(grantor)::text ELSE '' END AS grantor
            FROM pg_catalog.pg_auth_members ORDER BY 1, 2, 3
            """,
            (told_apart,),
        ).fetchall()


def _read_closed(connection: psycopg.Connection) -> dict[str, dict[str, tuple[str, ...]]]:
    rows = _rows(
        connection,
        """
        SELECT r.rolname::text, pg_catalog.substr(said, pg_catalog.length(%s) + 1)
        FROM pg_catalog.pg_roles r, LATERAL pg_catalog.shobj_description(r.oid, 'pg_authid') AS said
        WHERE pg_catalog.starts_with(said, %s)
        ORDER BY r.rolname
        """,
        (MARK, MARK),
    )
    return {role: read_mark(said) for role, said in rows}


def render_mark(closed: Mapping[str, Sequence[str]]) -> str:
    """The comment on a role that remembers what was closed to everybody for its sake."""
    return MARK + json.dumps({name: list(logins) for name, logins in sorted(closed.items())}, ensure_ascii=False)


def read_mark(said: str) -> dict[str, tuple[str, ...]]:
    """What a comment remembers, without its beginning; nothing where somebody wrote something else there."""
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    return {str(name): tuple(map(str, logins)) for name, logins in found.items()} if isinstance(found, dict) else {}


def _rows(
    connection: psycopg.Connection, query: str, parameters: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    with translated("reading the roles"):
        return connection.execute(query, parameters).fetchall()
