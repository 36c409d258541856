"""SQL with which rows of a restored table would go back into the live one: written out for a person, never run."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from keepwell.postgres.connection import translated


@dataclass(frozen=True)
class _Column:
    """A column of the restored table that the live one has too; `live_type` is the live one's, in words of SQL."""

    name: str
    live_type: str
    is_cast: bool
    is_key: bool
    is_identity: bool


def render_copy_back(connection: psycopg.Connection, schema: str, name: str, restored_schema: str) -> str:
    """An INSERT of the rows that the live table lacks, by its primary key.

    Types that came along with the restored table are cast to those of the live one.

    Args:
        connection: To the live database.
        schema: Of the live table.
        name: Of both.
        restored_schema: Of the restored one.

    Returns:
        One statement; empty where there is no live table of that name, or it has no primary key.
    """
    with translated(f"comparing the columns of {schema}.{name}"):
        rows = connection.execute(
            """
            SELECT l.attname::text, pg_catalog.format_type(l.atttypid, l.atttypmod), l.atttypid <> r.atttypid,
                   coalesce(l.attnum = ANY (k.indkey), false), l.attidentity = 'a'
            FROM pg_catalog.pg_class lc
            JOIN pg_catalog.pg_namespace ln ON ln.oid = lc.relnamespace AND ln.nspname = %(schema)s
            JOIN pg_catalog.pg_class rc ON rc.relname = lc.relname
            JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace AND rn.nspname = %(restored)s
            JOIN pg_catalog.pg_attribute l ON l.attrelid = lc.oid AND l.attnum > 0 AND NOT l.attisdropped
            JOIN pg_catalog.pg_attribute r ON r.attrelid = rc.oid AND r.attname = l.attname AND NOT r.attisdropped
            LEFT JOIN pg_catalog.pg_index k ON k.indrelid = lc.oid AND k.indisprimary
            WHERE lc.relname = %(name)s AND lc.relkind IN ('r', 'p') AND l.attgenerated = ''
            ORDER BY l.attnum
            """,
            {"schema": schema, "restored": restored_schema, "name": name},
        ).fetchall()
    columns = [_Column(*row) for row in rows]
    if not any(column.is_key for column in columns):
        return ""
    statement = sql.SQL("INSERT INTO {} ({}){} SELECT {} FROM {} AS r WHERE NOT EXISTS (SELECT FROM {} AS l WHERE {});")
    live, restored = sql.Identifier(schema, name), sql.Identifier(restored_schema, name)
    overriding = " OVERRIDING SYSTEM VALUE" if any(column.is_identity for column in columns) else ""
    return statement.format(
        live,
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
        sql.SQL(overriding),
        sql.SQL(", ").join(map(_value, columns)),
        restored,
        live,
        sql.SQL(" AND ").join(
            sql.SQL("l.{} = {}").format(sql.Identifier(column.name), _value(column))
            for column in columns
            if column.is_key
        ),
    ).as_string(connection)


def _value(column: _Column) -> sql.Composable:
    if not column.is_cast:
        return sql.SQL("r.{}").format(sql.Identifier(column.name))
    # The server's own words for a type, which quotes what must be quoted.
    return sql.SQL("r.{}::text::{}").format(sql.Identifier(column.name), sql.SQL(column.live_type))
