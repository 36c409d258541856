"""The manifest: what a backup set is, written last. Without one there is no backup set."""

import re
import secrets
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from keepwell.backup import layout
from keepwell.backup.database import Database, Table
from keepwell.document import Document

_BACKUP_ID = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
# At most one folder deep and no dot in front: a name never leads out of the folder that a set is read back into.
_PART_NAME = r"^([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
# What stood beside the rest while a set held one database.
_OF_ONE_DATABASE = (
    "snapshot_at",
    "source",
    "tables",
    "sequences",
    "large_objects",
    "schema_digest",
    "spooled_bytes",
)


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

    format_version: Literal[3] = Field(default=3, description="Older documents are read into this shape.")
    backup_id: str = Field(pattern=_BACKUP_ID.pattern)
    platform: str
    finished_at: AwareDatetime
    databases: tuple[Database, ...] = Field(min_length=1, description="The platform's main one first.")
    tools: Tools
    role_passwords: bool = Field(description="Whether globals.sql holds password hashes; else they must be set anew.")
    parts: tuple[Part, ...]
    uploads: UploadedFiles | None = Field(default=None, description="None where no uploads folder is configured.")
    cache: CacheKeys | None = Field(default=None, description="None where no Redis is configured.")
    sealed_for: tuple[str, ...] = Field(default=(), description="Public age keys whose secrets open the sealed parts.")
    blocked_others_seconds: float = Field(
        default=0, ge=0, description="Longest that somebody waited for a lock behind this dump."
    )
    seconds: Seconds

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, document: Any) -> Any:
        return lift(document)

    @field_validator("databases")
    @classmethod
    def _main_first(cls, databases: tuple[Database, ...]) -> tuple[Database, ...]:
        names = {database.name for database in databases}
        places = {place for database in databases for place in (database.folder, database.schema_file)}
        if len(names) < len(databases) or len(places) < 2 * len(databases):
            message = "two databases have one name or one place"
            raise ValueError(message)
        if not databases[0].is_main:
            message = f"the first database does not lie in {layout.DATABASE}"
            raise ValueError(message)
        return databases

    @field_validator("parts")
    @classmethod
    def _named_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        names = {part.content_name for part in parts}
        if len(names) != len(parts):
            message = "two parts would be read back into one file"
            raise ValueError(message)
        return parts

    @model_validator(mode="after")
    def _in_known_folders(self) -> Self:
        folders = {database.folder for database in self.databases}
        for part in self.parts:
            folder, slash, _ = part.name.rpartition("/")
            if slash and folder + slash not in folders:
                message = f"{part.name} belongs to no database"
                raise ValueError(message)
        return self

    @property
    def main(self) -> Database:
        """The platform's main database; whatever is the server's own stands there too."""
        return self.databases[0]

    @property
    def snapshot_at(self) -> datetime:
        """The moment that a restore of all databases surely brings back: that of the oldest snapshot."""
        return min(database.snapshot_at for database in self.databases)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Relations of all databases."""
        return tuple(table for database in self.databases for table in database.tables)

    @property
    def rows(self) -> int:
        """Rows of all tables of all databases."""
        return sum(database.rows for database in self.databases)

    @property
    def source_bytes(self) -> int:
        """Size of all databases, as their server counts it."""
        return sum(database.source.size_bytes for database in self.databases)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts in the store."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def content_bytes(self) -> int:
        """Bytes of the databases' parts once decompressed: what a set is compared with older ones by."""
        return sum(map(self.content_bytes_of, self.databases))

    def content_bytes_of(self, database: Database) -> int:
        """The share of one database; what belongs to none of them, such as roles, counts as the main one's."""
        # A cache that was emptied, or an uploads folder that grew, says nothing of the database.
        beside = (layout.CACHE_KEYS, layout.UPLOADS_INDEX)
        owners = (None, database) if database.is_main else (database,)
        counted = [part for part in self.parts if part.content_name not in beside and self.database_of(part) in owners]
        return sum(part.content_size_bytes for part in counted)

    def database_of(self, part: Part) -> Database | None:
        """Whose part it is; None for what the set holds once for all."""
        for database in self.databases:
            if part.name.startswith(database.folder) or part.content_name == database.schema_file:
                return database
        return None

    def parts_with(self, database: Database) -> tuple[Part, ...]:
        """Every part but those of other databases: what somebody reads who wants only this one."""
        return tuple(part for part in self.parts if self.database_of(part) in (None, database))

    @property
    def unproven(self) -> tuple[tuple[str, str], ...]:
        """What cannot be shown equal to its source, each with its reason."""
        named = [one for database in self.databases for one in database.unproven]
        if self.uploads is not None and self.uploads.left_out:
            named.append((f"{self.uploads.left_out} entries of the uploads folder", self.uploads.named_left_out[0]))
        if self.cache is not None:
            named += [(f"{count} keys of Redis", why) for why, count in self.cache.unproven.items()]
            named += [(what, "only keys are read from Redis") for what in self.cache.not_included]
        return tuple(named)


def lift(document: Any) -> Any:
    """A manifest of format version 1 or 2 in the shape of version 3; anything else as it is.

    Until then a set held one database, and what is said of it stood beside what is said of the set.
    """
    if not isinstance(document, dict) or document.get("format_version") not in (1, 2) or "databases" in document:
        return document
    of_set = {key: value for key, value in document.items() if key not in _OF_ONE_DATABASE}
    of_database = {key: value for key, value in document.items() if key in _OF_ONE_DATABASE}
    placed = {"folder": layout.DATABASE, "schema_file": layout.SCHEMA}
    return of_set | {"format_version": 3, "databases": [placed | of_database]}


def describe_snapshots(manifest: Manifest) -> str:
    """The moment that a set brings back, or one for each of several databases."""
    moments = {one.name: f"{one.snapshot_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for one in manifest.databases}
    if len(moments) == 1:
        return moments[manifest.main.name]
    return ", ".join(f"{moment} ({name})" for name, moment in moments.items())


def new_backup_id(now: datetime) -> str:
    """UTC time, so that names sort by age, and a random end, so that two runs never meet."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_backup_id(text: str) -> bool:
    """Whether a text has the form of a backup id."""
    return _BACKUP_ID.fullmatch(text) is not None
