"""The manifest: what a backup set is, written last. Without one there is no backup set."""

import re
import secrets
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field, field_validator

from keepwell.backup import layout
from keepwell.document import Document

_BACKUP_ID = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
# At most one folder deep and no dot in front: a name never leads out of the folder that a set is read back into.
_PART_NAME = r"^([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


class Part(Document):
    """One stored object of a set.

    `content_*` describe what it holds once decompressed, which for a table is its COPY stream.
    """

    name: str = Field(pattern=_PART_NAME, description="Key below the set's folder.")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    compression: Literal["zstd"] | None
    encryption: Literal["age"] | None = None
    content_size_bytes: int = Field(ge=0)
    content_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @property
    def content_name(self) -> str:
        """What its content is called: the name without the suffixes of sealing and compression."""
        opened = self.name.removesuffix(".age") if self.encryption else self.name
        return opened.removesuffix(".zst") if self.compression else opened


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
    migration_head: str | None
    unfinished_migrations: tuple[str, ...] = ()
    undumped: tuple[str, ...] = Field(
        default=(), description="What pg_dump leaves out: rows of extensions' own tables, subscriptions."
    )


class Tools(Document):
    """What wrote the set."""

    keepwell: str
    pg_dump: str
    archive_major: int = Field(description="A pg_restore of this major version or newer reads it.")


class UploadedFiles(Document):
    """The platform's uploads folder, as `uploads.jsonl` lists it; contents lie in `uploads/`, for all sets together.

    Read after the database's snapshot, so that a file which a row speaks of was there to be read unless it was removed.
    """

    began_at: AwareDatetime = Field(description="The folder was read from then on, by this machine's clock.")
    finished_at: AwareDatetime
    files: int = Field(ge=0)
    folders: int = Field(ge=0, description="Below the uploads folder, empty ones too.")
    links: int = Field(ge=0, description="Symbolic links: kept as such, never followed.")
    size_bytes: int = Field(ge=0, description="Of all files.")
    contents: int = Field(ge=0, description="Different ones, each one object.")
    stored_bytes: int = Field(ge=0, description="Of those objects in the store.")
    sent_contents: int = Field(ge=0, description="Those that the store did not have before this set.")
    sent_bytes: int = Field(ge=0, description="Of the objects that were sent.")
    left_out: int = Field(ge=0, description="What lies in the folder and could not be included; the index names each.")
    named_left_out: tuple[str, ...] = Field(default=(), description="The first of them, each with its reason.")
    seconds: float = Field(ge=0)


class CacheKeys(Document):
    """The keys of the Redis beside the database, as `redis.jsonl` holds them.

    Each key is as it was at one moment, but not all at the same moment.
    """

    began_at: AwareDatetime = Field(description="Keys were read from then on, by this machine's clock.")
    finished_at: AwareDatetime
    product: Literal["redis", "valkey"]
    server_version: str
    records: int = Field(ge=0, description="Lines of redis.jsonl; a key that moved meanwhile may have two.")
    databases: dict[str, int] = Field(description="Number of each database to its records.")
    types: dict[str, int] = Field(description="Type to its records.")
    expiring: int = Field(ge=0, description="Records of keys that expire.")
    unproven: dict[str, int] = Field(default={}, description="Why a key cannot be compared, to how many there are.")
    not_included: tuple[str, ...] = Field(default=(), description="What the server holds beside keys.")
    seconds: float = Field(ge=0)


class Seconds(Document):
    """How long each step took."""

    dump: float
    fingerprint: float
    upload: float
    total: float


class Manifest(Document):
    """One backup set, whole."""

    format_version: Literal[1, 2] = 2
    backup_id: str = Field(pattern=_BACKUP_ID.pattern)
    platform: str
    snapshot_at: AwareDatetime = Field(description="The moment that a restore brings back, by the server's clock.")
    finished_at: AwareDatetime
    source: Source
    tools: Tools
    tables: tuple[Table, ...]
    sequences: tuple[Sequence, ...]
    large_objects: LargeObjects
    role_passwords: bool = Field(description="Whether globals.sql holds password hashes; else they must be set anew.")
    schema_digest: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of schema.jsonl.")
    parts: tuple[Part, ...]
    uploads: UploadedFiles | None = Field(default=None, description="None where no uploads folder is configured.")
    cache: CacheKeys | None = Field(default=None, description="None where no Redis is configured.")
    sealed_for: tuple[str, ...] = Field(default=(), description="Public age keys whose secrets open the sealed parts.")
    spooled_bytes: int = Field(default=0, ge=0, description="Rows that lay on a disk of ours on their way.")
    blocked_others_seconds: float = Field(
        default=0, ge=0, description="Longest that somebody waited for a lock behind this dump."
    )
    seconds: Seconds

    @field_validator("parts")
    @classmethod
    def _named_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        names = {part.content_name for part in parts}
        if len(names) != len(parts):
            message = "two parts would be read back into one file"
            raise ValueError(message)
        return parts

    @property
    def dumped_tables(self) -> tuple[Table, ...]:
        """Tables whose rows are in the archive."""
        return tuple(table for table in self.tables if table.kind == "table" and table.rows is not None)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows or 0 for table in self.tables)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts in the store."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def content_bytes(self) -> int:
        """Bytes of the database's parts once decompressed: what a set is compared with older ones by."""
        # A cache that was emptied, or an uploads folder that grew, says nothing of the database.
        beside = (layout.CACHE_KEYS, layout.UPLOADS_INDEX)
        return sum(part.content_size_bytes for part in self.parts if part.content_name not in beside)

    @property
    def unproven(self) -> tuple[tuple[str, str], ...]:
        """What cannot be shown equal to its source, each with its reason."""
        named = [(table.qualified, table.unproven) for table in self.tables if table.unproven]
        named += [(what, "pg_dump leaves it out") for what in self.source.undumped]
        if self.large_objects.unproven:
            named.append(("large objects", self.large_objects.unproven))
        if self.uploads is not None and self.uploads.left_out:
            named.append((f"{self.uploads.left_out} entries of the uploads folder", self.uploads.named_left_out[0]))
        if self.cache is not None:
            named += [(f"{count} keys of Redis", why) for why, count in self.cache.unproven.items()]
            named += [(what, "only keys are read from Redis") for what in self.cache.not_included]
        return tuple(named)


def new_backup_id(now: datetime) -> str:
    """UTC time, so that names sort by age, and a random end, so that two runs never meet."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_backup_id(text: str) -> bool:
    """Whether a text has the form of a backup id."""
    return _BACKUP_ID.fullmatch(text) is not None
