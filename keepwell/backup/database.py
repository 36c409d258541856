"""What a manifest says of one database of the server: its properties, its relations, and where they lie in the set."""

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.backup import layout
from keepwell.document import Document
from keepwell.verdict import Finding


class Table(Document):
    """One relation at the dump's snapshot."""

    oid: int
    table_schema: str
    name: str
    kind: Literal["table", "partitioned", "materialized view", "foreign table"]
    columns: tuple[str, ...] = Field(description="Those that are hashed, in order; generated ones are computed anew.")
    condition: str = Field(default="", description="Which rows of an extension's configuration table are dumped.")
    populated: bool = True
    size_bytes: int = Field(ge=0, description="With its indexes and TOAST.")
    rows: int | None = Field(description="None when nothing of it is dumped as rows.")
    content_hash: str | None = Field(description="Sum of the rows' 64-bit hashes, decimal.")
    part: str | None = Field(description="Name of the part that holds its rows.")
    unproven: str | None = Field(default=None, description="Why its content cannot be shown equal; None when it can.")

    @property
    def qualified(self) -> str:
        """Schema and name, for people."""
        return f"{self.table_schema}.{self.name}"


class Sequence(Document):
    """One sequence, read before the dump began, so that a restored one may be ahead but never behind."""

    sequence_schema: str
    name: str
    increment: int
    cycles: bool
    last_value: int | None
    owner: tuple[str, str, str] | None = Field(description="Schema, table and column that draw from it.")

    @property
    def qualified(self) -> str:
        """Schema and name, for people."""
        return f"{self.sequence_schema}.{self.name}"


class LargeObjects(Document):
    """All large objects of the database together."""

    count: int
    content_hash: str | None
    unproven: str | None = None


class Source(Document):
    """The database that was dumped and its server."""

    database: str
    server_version: str
    server_major: int
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    collation_version: str | None
    locale: str | None = Field(description="Of the ICU or builtin provider; None for libc.")
    owner: str
    has_grants: bool = Field(description="Whether privileges were granted on the database itself.")
    settings: tuple[str, ...] = Field(description="Names of what ALTER DATABASE … SET was used for.")
    size_bytes: int
    standby: bool
    extensions: dict[str, str] = Field(description="Name to version.")
    stale_collations: tuple[str, ...] = Field(description="Whose version changed under their indexes.")
    tablespaces: dict[str, str] = Field(description="Name to location; a restore puts everything into the default one.")
    roles: tuple[str, ...] = Field(description="Roles that own or are granted something in the database.")
    owners: tuple[str, ...] | None = Field(
        default=None, description="Those of them that own something; None in sets from before that was asked."
    )
    migration_head: str | None
    unfinished_migrations: tuple[str, ...] = ()
    undumped: tuple[str, ...] = Field(
        default=(), description="What pg_dump leaves out: rows of extensions' own tables, subscriptions."
    )


class Database(Document):
    """One database of the server, as a snapshot of its own showed it: PostgreSQL has none across databases."""

    folder: str = Field(pattern=r"^database(-[1-9][0-9]*)?/$", description="Of its archive, below the set's folder.")
    schema_file: str = Field(pattern=r"^schema(-[1-9][0-9]*)?\.jsonl$", description="Content of the part that says it.")
    snapshot_at: AwareDatetime = Field(description="The moment that a restore brings back, by the server's clock.")
    source: Source
    tables: tuple[Table, ...]
    sequences: tuple[Sequence, ...]
    large_objects: LargeObjects
    schema_digest: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of its schema's lines.")
    spooled_bytes: int = Field(default=0, ge=0, description="Rows that lay on a disk of ours on their way.")

    @property
    def name(self) -> str:
        """Its name on the server that was dumped."""
        return self.source.database

    @property
    def is_main(self) -> bool:
        """Whether it is the platform's main one, which goes without saying."""
        return self.folder == layout.DATABASE

    @property
    def dumped_tables(self) -> tuple[Table, ...]:
        """Tables whose rows are in the archive."""
        return tuple(table for table in self.tables if table.kind == "table" and table.rows is not None)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows or 0 for table in self.tables)

    @property
    def unproven(self) -> tuple[tuple[str, str], ...]:
        """What cannot be shown equal to its source, each with its reason."""
        named = [(self.tell(table.qualified), table.unproven) for table in self.tables if table.unproven]
        named += [(self.tell(what), "pg_dump leaves it out") for what in self.source.undumped]
        if self.large_objects.unproven:
            named.append((self.tell("large objects"), self.large_objects.unproven))
        return tuple(named)

    def tell(self, what: str) -> str:
        """Something of it in words: with the database's name, unless it is the main one's."""
        return what if self.is_main else f"{self.name}: {what}"

    def tell_findings(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Findings about it, each of which says whose it is."""
        for finding in findings:
            yield finding if self.is_main else finding.named_for(self.name)
