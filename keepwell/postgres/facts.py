"""What a database holds, read from its catalogue; nothing here changes anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row

from keepwell.postgres.connection import translated

# Kinds whose text is deparsed from a parse tree, which major versions word differently.
VERSION_BOUND_KINDS = frozenset(
    {"view", "rule", "trigger", "policy", "grant", "default grant", "function", "publication", "statistics"}
)
_LOCKS_OF_MIGRATIONS = {72707369: "Prisma"}
_MIGRATION_TABLE = "_prisma_migrations"


@dataclass(frozen=True)
class TableFacts:
    """One relation as `tables.sql` describes it; `kind` as in pg_class.relkind."""

    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool
    populated: bool
    readable: bool
    rows_hidden: bool
    size_bytes: int
    data_bytes: int
    columns: list[str]
    condition: str

    @property
    def qualified(self) -> str:
        """Schema and name for people; SQL quotes them through the driver."""
        return f"{self.schema}.{self.name}"

    @property
    def has_rows(self) -> bool:
        """Whether pg_dump carries rows of it over as they are."""
        return self.kind == "r"


@dataclass(frozen=True)
class LiveTable:
    """One table as `live_tables.sql` describes it, without waiting for a lock; rows and pages as last estimated."""

    oid: int
    schema: str
    name: str
    pages: int
    estimated_rows: int | None
    rows_hidden: bool
    columns: list[str]
    of_extension: bool

    @property
    def qualified(self) -> str:
        """Schema and name for people; SQL quotes them through the driver."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class DatabaseFacts:
    """One database and its server as `database.sql` describes them."""

    name: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    collation_version: str | None
    locale: str | None
    owner: str
    has_grants: bool
    settings: list[str]
    size_bytes: int
    server_version_number: int
    server_version: str
    standby: bool
    now_at: datetime

    @property
    def server_major(self) -> int:
        """Major version, such as 15."""
        return self.server_version_number // 10_000


@dataclass(frozen=True)
class SequenceFacts:
    """One sequence as `sequences.sql` describes it; `last_value` is None before its first use."""

    schema: str
    name: str
    increment: int
    cycles: bool
    last_value: int | None
    owner_schema: str | None
    owner_table: str | None
    owner_column: str | None


@dataclass(frozen=True, order=True)
class SchemaLine:
    """One fact of a schema: what kind of object, which one, and how it is defined."""

    kind: str
    identity: str
    definition: str


@dataclass(frozen=True)
class MigrationFacts:
    """How the application's migrations stand.

    Attributes:
        head: Newest finished migration; None without a migration table.
        unfinished: Names of migrations begun but neither finished nor rolled back.
        locked_by: Which tool holds its migration lock now; None when none does.
    """

    head: str | None
    unfinished: tuple[str, ...]
    locked_by: str | None


def read_database(connection: psycopg.Connection) -> DatabaseFacts:
    """The connected database and its server."""
    with (
        translated("reading the database's properties"),
        connection.cursor(row_factory=class_row(DatabaseFacts)) as cursor,
    ):
        found = cursor.execute(_statement("database")).fetchone()
        assert found is not None  # noqa: S101 - one is always connected to a database
        return found


def read_tables(connection: psycopg.Connection) -> list[TableFacts]:
    """Every relation that pg_dump would dump, ordered by name."""
    with translated("listing tables"), connection.cursor(row_factory=class_row(TableFacts)) as cursor:
        return cursor.execute(_statement("tables")).fetchall()


def read_live_tables(connection: psycopg.Connection) -> list[LiveTable]:
    """Every table with rows of its own, ordered by name, whoever holds one just now."""
    with translated("listing tables"), connection.cursor(row_factory=class_row(LiveTable)) as cursor:
        return cursor.execute(_statement("live_tables")).fetchall()


def read_sequences(connection: psycopg.Connection) -> list[SequenceFacts]:
    """Every sequence, ordered by name."""
    with translated("reading sequences"), connection.cursor(row_factory=class_row(SequenceFacts)) as cursor:
        return cursor.execute(_statement("sequences")).fetchall()


def read_schema(connection: psycopg.Connection) -> list[SchemaLine]:
    """The schema as comparable lines; in canonical output, as every session of ours has it."""
    with translated("reading the schema"), connection.cursor(row_factory=class_row(SchemaLine)) as cursor:
        return cursor.execute(_statement("schema")).fetchall()


def read_extensions(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Installed extensions as (name, version)."""
    return _rows(connection, "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY extname")


def read_stale_collations(connection: psycopg.Connection) -> list[str]:
    """Collations whose provider's version is no longer the one that indexes were built with."""
    rows = _rows(
        connection,
        """
        SELECT 'database ' || quote_ident(datname)
        FROM pg_catalog.pg_database
        WHERE datname = current_database()
          AND datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid)
        UNION ALL
        SELECT oid::regcollation::text
        FROM pg_catalog.pg_collation
        WHERE collversion IS DISTINCT FROM pg_catalog.pg_collation_actual_version(oid)
          AND collnamespace <> 'pg_catalog'::regnamespace
        """,
    )
    return [name for (name,) in rows]


def read_tablespaces(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Tablespaces of our own making as (name, location)."""
    return _rows(
        connection,
        """
        SELECT spcname::text, pg_catalog.pg_tablespace_location(oid)
        FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY spcname
        """,
    )


def read_roles_in_use(connection: psycopg.Connection) -> list[str]:
    """Roles that own or are granted anything in this database, so that a restore needs them."""
    rows = _rows(
        connection,
        """
        SELECT DISTINCT r.rolname::text
        FROM pg_catalog.pg_roles r
        LEFT JOIN pg_catalog.pg_shdepend s
            ON s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.refobjid = r.oid
            AND s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        LEFT JOIN pg_catalog.pg_class c ON c.relowner = r.oid AND c.oid >= 16384
        WHERE (s.refobjid IS NOT NULL OR c.oid IS NOT NULL) AND r.rolname NOT LIKE 'pg\\_%'
        ORDER BY 1
        """,
    )
    return [name for (name,) in rows]


def read_role_names(connection: psycopg.Connection) -> list[str]:
    """All roles of the server."""
    return [name for (name,) in _rows(connection, "SELECT rolname::text FROM pg_catalog.pg_roles")]


def read_unvalidated_constraints(connection: psycopg.Connection) -> list[str]:
    """Constraints that were declared NOT VALID, so that rows may break them."""
    rows = _rows(
        connection,
        """
        SELECT quote_ident(conname) || coalesce(' of ' || nullif(conrelid, 0)::regclass::text, '')
        FROM pg_catalog.pg_constraint WHERE NOT convalidated ORDER BY 1
        """,
    )
    return [name for (name,) in rows]


def read_unreadable_large_objects(connection: psycopg.Connection) -> int:
    """How many large objects this role may not read, which pg_dump would stop at."""
    rows = _rows(
        connection,
        """
        SELECT pg_catalog.count(*)
        FROM pg_catalog.pg_largeobject_metadata m
        WHERE pg_catalog.current_setting('lo_compat_privileges') = 'off'
          AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
          AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
          AND NOT EXISTS (
              SELECT FROM pg_catalog.aclexplode(m.lomacl) a
              WHERE a.privilege_type = 'SELECT'
                AND CASE WHEN a.grantee = 0 THEN true ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END
          )
        """,
    )
    return int(rows[0][0])


def read_large_object_numbers(connection: psycopg.Connection) -> list[int]:
    """The numbers of all large objects, ascending."""
    rows = _rows(connection, "SELECT oid::bigint FROM pg_catalog.pg_largeobject_metadata ORDER BY oid")
    return [number for (number,) in rows]


def read_undumped_tables(connection: psycopg.Connection) -> list[str]:
    """Tables that belong to an extension and are no configuration of it: pg_dump leaves their rows out."""
    rows = _rows(
        connection,
        """
        SELECT d.objid::regclass::text
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'r'
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e'
          AND d.refclassid = 'pg_catalog.pg_extension'::regclass
          AND NOT coalesce(c.oid = ANY (e.extconfig), false)
        ORDER BY 1
        """,
    )
    return [name for (name,) in rows]


def read_subscriptions(connection: psycopg.Connection) -> list[str]:
    """Subscriptions of this database, which only a superuser can dump."""
    rows = _rows(
        connection,
        """
        SELECT subname::text FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY 1
        """,
    )
    return [name for (name,) in rows]


def read_roles_out_of_reach(connection: psycopg.Connection, roles: Sequence[str]) -> list[str]:
    """Which of some roles we may not act as, so that we could give them nothing to own."""
    rows = _rows(
        connection,
        "SELECT rolname::text FROM pg_catalog.pg_roles"
        " WHERE rolname = ANY (%s) AND NOT pg_catalog.pg_has_role(oid, 'MEMBER') ORDER BY 1",
        (list(roles),),
    )
    return [name for (name,) in rows]


def may_read_password_hashes(connection: psycopg.Connection) -> bool:
    """Whether this role may read pg_authid, where password hashes lie."""
    rows = _rows(connection, "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
    return bool(rows[0][0])


def read_migrations(connection: psycopg.Connection) -> MigrationFacts:
    """How the application's migrations stand, where it keeps a table that we know."""
    with translated("reading migrations"):
        held = _rows(
            connection,
            """
            SELECT objid::bigint FROM pg_catalog.pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = 0
              AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
            """,
        )
        locked_by = next((_LOCKS_OF_MIGRATIONS[key] for (key,) in held if key in _LOCKS_OF_MIGRATIONS), None)
        place = _rows(
            connection,
            """
            SELECT n.nspname::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relname = %s AND c.relkind = 'r' AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
              AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
            ORDER BY n.nspname <> 'public' LIMIT 1
            """,
            (_MIGRATION_TABLE,),
        )
        if not place:
            return MigrationFacts(None, (), locked_by)
        table = sql.Identifier(place[0][0], _MIGRATION_TABLE)
        head = _rows(
            connection,
            sql.SQL(
                "SELECT migration_name::text FROM {} WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL"
                " ORDER BY finished_at DESC, migration_name DESC LIMIT 1"
            ).format(table),
        )
        unfinished = _rows(
            connection,
            sql.SQL(
                "SELECT migration_name::text FROM {} WHERE finished_at IS NULL AND rolled_back_at IS NULL ORDER BY 1"
            ).format(table),
        )
    return MigrationFacts(head[0][0] if head else None, tuple(name for (name,) in unfinished), locked_by)


def _statement(name: str) -> bytes:
    return files("keepwell.postgres").joinpath("sql", f"{name}.sql").read_bytes()


def _rows(
    connection: psycopg.Connection, query: str | sql.Composed, parameters: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    with translated("reading the catalogue"), connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, parameters).fetchall()
