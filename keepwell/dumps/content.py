"""What a dump says it holds: the same facts, whichever format they were read from."""

import re
from dataclasses import dataclass, field
from datetime import datetime

_VERSION = re.compile(r"(\d+)")


@dataclass(frozen=True)
class HeldRows:
    """The rows of one table as the dump carries them.

    Attributes:
        database: In which database of a cluster's dump; empty where the dump is of one database and does not say.
        schema: Of the table.
        table: Its name.
        rows: How many; None where they cannot be counted without restoring them.
        whole: Whether they end as they should.
        place: Where they begin, for people: a line, or a file.
    """

    database: str
    schema: str
    table: str
    rows: int | None
    whole: bool
    place: str

    @property
    def qualified(self) -> str:
        """Schema and name for people."""
        return f"{self.schema}.{self.table}"

    @property
    def key(self) -> tuple[str, str, str]:
        """Database, schema and name."""
        return self.database, self.schema, self.table


@dataclass(frozen=True)
class Origin:
    """Where and when a dump was made, as far as it says so.

    Attributes:
        server_version: Of the server that was dumped, such as `15.18 (Debian 15.18-0+deb12u1)`; empty when not said.
        tool_version: Of the pg_dump that wrote it; empty when not said.
        database: Its name; empty when not said.
        made_at: In the clock of the machine that made it, which no dump names: without a time zone; None when not said.
    """

    server_version: str = ""
    tool_version: str = ""
    database: str = ""
    made_at: datetime | None = None

    @property
    def server_major(self) -> int | None:
        """Major version of the server; None when not said."""
        return _major(self.server_version)

    @property
    def tool_major(self) -> int | None:
        """Major version of pg_dump; None when not said."""
        return _major(self.tool_version)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a dump itself.

    Attributes:
        name: What it concerns, such as a table.
        message: What is wrong, one sentence.
        hint: What it usually comes from, or what to do.
    """

    name: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Content:
    """Everything that a dump says of itself.

    Attributes:
        origin: Where it comes from.
        rows: Each table's rows, in the dump's order; a table may come more than once.
        tables: How many tables it creates; 0 for one that holds rows only.
        cluster: Whether it is of all databases of a server, as pg_dumpall writes it.
        recognized: Whether it looks like a dump at all.
        by_pg_dump: Whether it says that pg_dump wrote it, so that its end can be told.
        roles_needed: Roles that own or are granted something.
        roles_made: Roles that it brings along.
        extensions: What it creates, in its order.
        tablespaces: What it puts tables into.
        refreshed: Materialized views that it fills, by database, schema and name.
        encoding: Of its text, as PostgreSQL names it; empty when not said.
        faults: What is wrong with it.
        unknowns: What could not be read, though it may be fine.
    """

    origin: Origin = field(default_factory=Origin)
    rows: tuple[HeldRows, ...] = ()
    tables: int = 0
    cluster: bool = False
    recognized: bool = True
    by_pg_dump: bool = True
    roles_needed: frozenset[str] = frozenset()
    roles_made: frozenset[str] = frozenset()
    extensions: tuple[str, ...] = ()
    tablespaces: frozenset[str] = frozenset()
    refreshed: frozenset[tuple[str, str, str]] = frozenset()
    encoding: str = ""
    faults: tuple[Fault, ...] = ()
    unknowns: tuple[Fault, ...] = ()

    @property
    def row_count(self) -> int:
        """All rows that could be counted."""
        return sum(held.rows or 0 for held in self.rows)

    @property
    def has_rows(self) -> bool:
        """Whether it carries rows of any table, be they none: the dump of an empty table has its place too."""
        return bool(self.rows)

    @property
    def roles_missing(self) -> tuple[str, ...]:
        """Roles that it needs and does not bring along, but for `postgres`, which every server has."""
        return tuple(sorted(self.roles_needed - self.roles_made - {"postgres"}))


def _major(version: str) -> int | None:
    found = _VERSION.match(version)
    return int(found[1]) if found else None
