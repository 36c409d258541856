"""Bringing some tables of a throwaway database, with all that they need, together into one schema of their own.

For a database that holds definitions and no rows, and that nobody else uses. What the tables need is told by the
catalogue (pg_depend), never by their text; what would tie them to anything that stays behind is cut off and named.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql

from keepwell.errors import PreconditionFailed
from keepwell.postgres.connection import translated

# How each kind of object that lies in a schema is moved, by pg_identify_object's word for it. What is not named here
# moves with its table or type, or lies in no schema.
_MOVED_BY = {
    "table": "TABLE",
    "sequence": "SEQUENCE",
    "type": "TYPE",
    "composite type": "TYPE",
    "function": "ROUTINE",
    "procedure": "ROUTINE",
    "aggregate": "ROUTINE",
    "collation": "COLLATION",
    "conversion": "CONVERSION",
    "operator": "OPERATOR",
    "operator class": "OPERATOR CLASS",
    "operator family": "OPERATOR FAMILY",
    "statistics object": "STATISTICS",
    "text search configuration": "TEXT SEARCH CONFIGURATION",
    "text search dictionary": "TEXT SEARCH DICTIONARY",
}
# Types first; sequences last, since those that a table owns go with it.
_ORDER = ("type", "composite type", "function", "procedure", "aggregate", "table", "sequence")


@dataclass(frozen=True)
class Gathered:
    """What came of it.

    Attributes:
        left_out: What was cut off, each in words.
        came_along: Functions that the tables need; their bodies may speak of other objects by name.
        extensions: Those whose objects the tables use, name to schema.
    """

    left_out: tuple[str, ...]
    came_along: tuple[str, ...]
    extensions: dict[str, str]


@dataclass(frozen=True)
class _Needed:
    """One object as `needed.sql` tells it; `extensions` are those whose members it uses, each with its schema."""

    kind: str
    schema: str | None
    identity: str
    oid: int
    is_relation: bool
    moves_alone: bool
    extensions: dict[str, str]


def gather(connection: psycopg.Connection, tables: Sequence[tuple[str, str]], schema: str, owner: str) -> Gathered:
    """Move tables and what they need into a new schema, which then needs nothing else but extensions.

    Args:
        connection: To the throwaway database, in autocommit; as whoever restored it.
        tables: Schema and name of each, with all partitions and children of those that have some.
        schema: Name of the new schema.
        owner: Of the new schema.

    Raises:
        PreconditionFailed: They need something that was not chosen or cannot be moved, or two have one name.
        KeepwellError: The database refused something.
    """
    with translated("gathering the tables"), connection.transaction():
        chosen = _find(connection, tables)
        left_out = [*_cut_from_parents(connection, chosen), *_cut_foreign_keys(connection, chosen)]
        left_out += _cut_rules(connection, chosen)
        needed = _read_needed(connection, chosen)
        _require_only(needed, chosen)
        connection.execute(
            sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), sql.Identifier(owner))
        )
        _free_sequences(connection, needed)
        _move(connection, needed, schema)
        _require_gathered(_read_needed(connection, chosen), schema)
        came_along = tuple(one.identity for one in needed if _MOVED_BY.get(one.kind) == "ROUTINE" and one.moves_alone)
        extensions = {name: place for one in needed for name, place in one.extensions.items()}
        return Gathered(tuple(left_out), came_along, extensions)


def read_dependents(connection: psycopg.Connection, schema: str) -> list[str]:
    """What of a database needs something in a schema and does not lie in it, in words; sorted."""
    query = """
        WITH inside AS (
            SELECT 'pg_catalog.pg_class'::regclass::oid AS classid, oid AS objid FROM pg_catalog.pg_class
            WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
            UNION ALL
            SELECT 'pg_catalog.pg_type'::regclass, oid FROM pg_catalog.pg_type
            WHERE typnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
            UNION ALL
            SELECT 'pg_catalog.pg_proc'::regclass, oid FROM pg_catalog.pg_proc
            WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
            UNION ALL  -- operators, collations and whatever else lies in a schema
            SELECT classid, objid FROM pg_catalog.pg_depend
            WHERE refclassid = 'pg_catalog.pg_namespace'::regclass
              AND refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
        ), dependent AS (
            SELECT DISTINCT d.classid, d.objid FROM pg_catalog.pg_depend d
            JOIN inside ON inside.classid = d.refclassid AND inside.objid = d.refobjid
            -- What an operator class consists of is told by the class.
            WHERE d.deptype = 'n'
              AND d.classid NOT IN ('pg_catalog.pg_amop'::regclass, 'pg_catalog.pg_amproc'::regclass)
        ), told AS (
            -- A view depends by its rule, a foreign key, a default and a trigger by themselves: told by their relation.
            SELECT coalesce(w.ev_class, nullif(c.conrelid, 0), a.adrelid, p.polrelid, t.tgrelid) AS relation, d.*
            FROM dependent d
            LEFT JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND w.oid = d.objid
            LEFT JOIN pg_catalog.pg_constraint c ON d.classid = 'pg_catalog.pg_constraint'::regclass AND c.oid = d.objid
            LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = d.objid
            LEFT JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::regclass AND p.oid = d.objid
            LEFT JOIN pg_catalog.pg_trigger t ON d.classid = 'pg_catalog.pg_trigger'::regclass AND t.oid = d.objid
        ), named AS (
            SELECT o.type AS kind, o.schema, o.identity
            FROM told,
                 LATERAL pg_catalog.pg_identify_object(
                     CASE WHEN relation IS NULL THEN classid ELSE 'pg_catalog.pg_class'::regclass::oid END,
                     coalesce(relation, objid), 0) o
        )
        SELECT DISTINCT kind || ' ' || identity FROM named
        -- What lies in no schema, such as a cast or an event trigger, lies outside of this one.
        WHERE coalesce(schema, '') NOT IN (%(schema)s, pg_catalog.quote_ident(%(schema)s))
        ORDER BY 1
    """
    with translated(f"looking who needs the schema {schema}"):
        return [told for (told,) in connection.execute(query, {"schema": schema}).fetchall()]


def _find(connection: psycopg.Connection, tables: Sequence[tuple[str, str]]) -> list[int]:
    rows = connection.execute(
        """
        SELECT c.oid::bigint FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS wanted (schema, name)
            ON wanted.schema = n.nspname AND wanted.name = c.relname
        WHERE c.relkind IN ('r', 'p')
        """,
        ([schema for schema, _ in tables], [name for _, name in tables]),
    ).fetchall()
    if len(rows) != len(tables):
        raise PreconditionFailed(
            f"{len(tables)} tables were chosen, and the set defines {len(rows)} of them.",
            hint="Look with `keepwell backup show` what it holds.",
        )
    return [oid for (oid,) in rows]


def _cut_from_parents(connection: psycopg.Connection, chosen: Sequence[int]) -> Iterator[str]:
    rows = connection.execute(
        """
        SELECT c.relispartition, cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text
        FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
        JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
        JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
        WHERE i.inhrelid = ANY (%(chosen)s) AND i.inhparent <> ALL (%(chosen)s) ORDER BY 2, 3
        """,
        {"chosen": list(chosen)},
    ).fetchall()
    for partition, schema, name, parent_schema, parent in rows:
        child, above = sql.Identifier(schema, name), sql.Identifier(parent_schema, parent)
        cut = "ALTER TABLE {1} DETACH PARTITION {0}" if partition else "ALTER TABLE {0} NO INHERIT {1}"
        connection.execute(sql.SQL(cut).format(child, above))
        what = "a partition" if partition else "a child"
        yield f"{schema}.{name} is {what} of {parent_schema}.{parent}, and comes back as a table of its own"


def _cut_foreign_keys(connection: psycopg.Connection, chosen: Sequence[int]) -> Iterator[str]:
    rows = connection.execute(
        """
        SELECT n.nspname::text, r.relname::text, c.conname::text, c.confrelid::regclass::text
        FROM pg_catalog.pg_constraint c
        JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        WHERE c.contype = 'f' AND c.conrelid = ANY (%(chosen)s) AND c.confrelid <> ALL (%(chosen)s)
          AND c.conparentid = 0
        ORDER BY 1, 2, 3
        """,
        {"chosen": list(chosen)},
    ).fetchall()
    for schema, name, constraint, referenced in rows:
        connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                sql.Identifier(schema, name), sql.Identifier(constraint)
            )
        )
        yield f"the foreign key {constraint} of {schema}.{name}, which leads to {referenced}"


def _cut_rules(connection: psycopg.Connection, chosen: Sequence[int]) -> Iterator[str]:
    rows = connection.execute(
        """
        SELECT w.rulename::text, n.nspname::text, r.relname::text
        FROM pg_catalog.pg_rewrite w
        JOIN pg_catalog.pg_class r ON r.oid = w.ev_class
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        WHERE r.oid = ANY (%s) AND w.rulename <> '_RETURN' ORDER BY 2, 3, 1
        """,
        (list(chosen),),
    ).fetchall()
    for rule, schema, name in rows:
        connection.execute(sql.SQL("DROP RULE {} ON {}").format(sql.Identifier(rule), sql.Identifier(schema, name)))
        yield f"the rule {rule} of {schema}.{name}"


def _read_needed(connection: psycopg.Connection, chosen: Sequence[int]) -> list[_Needed]:
    query = files("keepwell.postgres").joinpath("sql", "needed.sql").read_bytes()
    return [_Needed(*row) for row in connection.execute(query, {"chosen": list(chosen)}).fetchall()]


def _require_only(needed: Iterable[_Needed], chosen: Sequence[int]) -> None:
    strangers = sorted(one.identity for one in needed if one.is_relation and one.oid not in chosen)
    if strangers:
        raise PreconditionFailed(
            f"The chosen tables need others to be defined at all: {', '.join(strangers)}.",
            hint="Choose those too, or restore the whole database beside the live one.",
        )


def _free_sequences(connection: psycopg.Connection, needed: Iterable[_Needed]) -> None:
    """Take sequences from a table that stays behind, which they could not leave otherwise."""
    moving = {one.oid for one in needed}
    sequences = [one for one in needed if one.kind == "sequence"]
    for sequence in sequences:
        owned = connection.execute(
            """
            SELECT refobjid::bigint FROM pg_catalog.pg_depend
            WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = %s
              AND refclassid = 'pg_catalog.pg_class'::regclass AND deptype = 'a'
            """,
            (sequence.oid,),
        ).fetchone()
        if owned is not None and owned[0] not in moving:
            connection.execute(sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sql.SQL(sequence.identity)))


def _move(connection: psycopg.Connection, needed: Sequence[_Needed], schema: str) -> None:
    def place(one: _Needed) -> int:
        return _ORDER.index(one.kind) if one.kind in _ORDER else 0

    for one in sorted(needed, key=place):
        verb = _MOVED_BY.get(one.kind)
        if verb is None or one.schema is None or not one.moves_alone:
            continue
        if _moved_already(connection, one, schema):
            continue
        # The identity is as the server itself quotes it.
        statement = sql.SQL("ALTER {} {} SET SCHEMA {}").format(
            sql.SQL(verb), sql.SQL(one.identity), sql.Identifier(schema)
        )
        try:
            connection.execute(statement)
        except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction):
            raise PreconditionFailed(
                f"Two of the chosen tables, or of what they need, have the name of {one.identity} without its schema.",
                hint="Restore them into one schema each.",
            ) from None


def _moved_already(connection: psycopg.Connection, one: _Needed, schema: str) -> bool:
    """Whether an object came along with another: a sequence does with the table that owns it."""
    if one.kind != "sequence":
        return False
    row = connection.execute(
        "SELECT n.nspname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        (one.oid,),
    ).fetchone()
    return row is not None and row[0] == schema


def _require_gathered(needed: Iterable[_Needed], schema: str) -> None:
    """The gate before anything of it gets near a live database: it needs nothing outside its schema."""
    outside = sorted(f"{one.kind} {one.identity}" for one in needed if one.schema not in (None, schema))
    if outside:
        raise PreconditionFailed(
            f"The chosen tables need something that cannot be brought along: {', '.join(outside)}.",
            hint="Restore the whole database beside the live one.",
        )
