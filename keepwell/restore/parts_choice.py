"""Which tables of a set somebody wants beside the live ones: decided, or refused, before a row is read. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keepwell.backup.database import Database, Table
from keepwell.errors import PreconditionFailed
from keepwell.postgres.facts import SchemaLine

_NAME_BYTES = 63
_KINDS = ("table", "partitioned")
_PART = r'"(?:[^"]|"")+"|[^".]+'
_IDENTITY = re.compile(rf"(?P<schema>{_PART})\.(?P<name>{_PART})", re.DOTALL)
_PARENT = re.compile(r"from (?P<identity>.*) \d+", re.DOTALL)


@dataclass(frozen=True)
class TablesWanted:
    """What an operator asks for.

    Attributes:
        tables: By schema and name, such as `public.events`; or by name alone where only one schema has it.
        schemas: All tables of each.
        into_schema: New schema that is to hold them.
        database: Which of the set's databases; None for its main one.
    """

    tables: tuple[str, ...]
    schemas: tuple[str, ...]
    into_schema: str
    database: str | None = None


def choose_tables(database: Database, wanted: TablesWanted, lines: Sequence[SchemaLine]) -> tuple[Table, ...]:
    """The tables that are meant, with every partition and child of theirs, by name.

    Args:
        database: What the set says of it.
        wanted: What was asked for.
        lines: The set's schema.

    Raises:
        PreconditionFailed: One is not in the set, or cannot be restored alone, or two would have one name.
    """
    require_schema_name(wanted.into_schema)
    if not wanted.tables and not wanted.schemas:
        raise PreconditionFailed("Nothing was chosen.", hint="Name tables with --table, or schemas with --schema.")
    chosen = [_find_table(database, name) for name in wanted.tables]
    for schema in wanted.schemas:
        chosen += _tables_of(database, schema)
    places = _with_descendants({(table.table_schema, table.name) for table in chosen}, lines)
    found = [table for table in database.tables if (table.table_schema, table.name) in places and table.kind in _KINDS]
    _require_one_name_each(found)
    return tuple(sorted(found, key=lambda table: table.qualified))


def require_schema_name(name: str) -> None:
    """Look whether a name may be a new schema's.

    Raises:
        PreconditionFailed: It is too long, or the server keeps it for itself.
    """
    if not 0 < len(name.encode()) <= _NAME_BYTES or "\0" in name:
        raise PreconditionFailed("The new schema's name must have 1 to 63 bytes.", hint="Choose a shorter name.")
    if name.startswith("pg_"):
        raise PreconditionFailed(f"PostgreSQL keeps names like {name} for itself.", hint="Choose another.")


def tell_left_behind(database: Database, schemas: Iterable[str]) -> list[str]:
    """What of whole schemas is not restored, because it holds no rows of its own or cannot stand alone; in words."""
    wanted = set(schemas)
    others = [table for table in database.tables if table.table_schema in wanted and table.kind not in _KINDS]
    return [f"the {table.kind} {table.qualified}" for table in others]


def _find_table(database: Database, name: str) -> Table:
    exact = [table for table in database.tables if table.qualified == name]
    found = exact or [table for table in database.tables if table.name == name]
    if not found:
        raise PreconditionFailed(
            f"The set holds no table {name} of {database.name}.",
            hint="Name it by schema and name as they are, such as public.events, without quotes.",
        )
    if len(found) > 1:
        raise PreconditionFailed(
            f"{name} may be any of {', '.join(table.qualified for table in found)}.", hint="Name its schema too."
        )
    table = found[0]
    if table.kind not in _KINDS:
        raise PreconditionFailed(
            f"{table.qualified} is a {table.kind}, which holds no rows of its own in the set.",
            hint="Restore the tables that it reads, or the whole database beside the live one.",
        )
    if table.condition:
        raise PreconditionFailed(
            f"{table.qualified} belongs to an extension, which makes it itself.",
            hint="Restore the whole database beside the live one, and read it there.",
        )
    return table


def _tables_of(database: Database, schema: str) -> list[Table]:
    found = [
        table
        for table in database.tables
        if table.table_schema == schema and table.kind in _KINDS and not table.condition
    ]
    if not found:
        raise PreconditionFailed(
            f"The set holds no tables of a schema {schema} of {database.name}.",
            hint="Look with `keepwell backup show` what it holds.",
        )
    return found


def _with_descendants(places: set[tuple[str, str]], lines: Sequence[SchemaLine]) -> set[tuple[str, str]]:
    """Tables, and whatever inherits from them, at any depth."""
    children: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for line in lines:
        parent = _PARENT.fullmatch(line.definition) if line.kind == "inheritance" else None
        if parent is not None:
            children.setdefault(_parse(parent["identity"]), set()).add(_parse(line.identity))
    found, waiting = set(places), list(places)
    while waiting:
        for child in children.get(waiting.pop(), set()) - found:
            found.add(child)
            waiting.append(child)
    return found


def _parse(identity: str) -> tuple[str, str]:
    """Schema and name of a relation as the server quotes them."""
    match = _IDENTITY.fullmatch(identity)
    return (_unquoted(match["schema"]), _unquoted(match["name"])) if match else ("", identity)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _require_one_name_each(tables: Sequence[Table]) -> None:
    names = [table.name for table in tables]
    twice = next((table for table in tables if names.count(table.name) > 1), None)
    if twice is not None:
        raise PreconditionFailed(
            f"Two of the chosen tables are called {twice.name}.", hint="Restore each schema into one of its own."
        )
