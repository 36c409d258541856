"""The head and table of contents of an archive of pg_dump: the same in its custom, directory and tar formats.

Read here and not by `pg_restore --list`, which passes on an archive that was cut, and whose lines cannot be told apart
where names hold blanks. Source: PostgreSQL's src/bin/pg_dump/pg_backup_archiver.c, versions 1.12 to 1.16 (9.0 to 18).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from keepwell.dumps.content import Origin
from keepwell.dumps.statements import Copy, Made, Relation, read_statement, roles_named

MAGIC = b"PGDMP"
OLDEST, NEWEST = (1, 12), (1, 16)
_ONE_TEXT_BYTES = 256 * 1024 * 1024
_MOST_ENTRIES = 10_000_000
_NO_DATA = 3
_SET_ENCODING = re.compile(r"client_encoding\s*=\s*'([^']*)'")


class Layout(IntEnum):
    """How an archive lays out its rows, by its own number."""

    CUSTOM = 1
    TAR = 3
    DIRECTORY = 5


class Compression(StrEnum):
    """How the rows inside an archive are compressed."""

    NONE = "none"
    GZIP = "gzip"
    LZ4 = "lz4"
    ZSTD = "zstd"


_ALGORITHMS = (Compression.NONE, Compression.GZIP, Compression.LZ4, Compression.ZSTD)


class UnreadableArchiveError(Exception):
    """The archive's head or contents are not what they should be; the text says why, without a full stop."""


class TooNewArchiveError(Exception):
    """The archive may be fine, but is of a version that is not known here."""


@dataclass(frozen=True)
class Entry:
    """One entry of the contents.

    Attributes:
        number: By which its rows name it.
        kind: Such as `TABLE DATA`, in PostgreSQL's words.
        relation: Schema and name of what it describes.
        statement: That creates it; empty for rows.
        copy: The COPY that its rows belong behind; None for INSERTs and for everything that holds no rows.
        owner: Role that owns it; empty for none.
        tablespace: Where it lies; empty for the default.
        holds_rows: Whether its rows must be in the archive.
        file_name: Of its rows, in the directory and tar formats; empty in the custom format.
    """

    number: int
    kind: str
    relation: Relation
    statement: str
    copy: Copy | None
    owner: str
    tablespace: str
    holds_rows: bool
    file_name: str


@dataclass(frozen=True)
class Contents:
    """An archive's head and contents."""

    version: tuple[int, int]
    layout: Layout
    compression: Compression
    integer_bytes: int
    origin: Origin
    entries: tuple[Entry, ...]

    @property
    def encoding(self) -> str:
        """Of its text, as PostgreSQL names it; empty when not said."""
        said = next((entry.statement for entry in self.entries if entry.kind == "ENCODING"), "")
        found = _SET_ENCODING.search(said)
        return found[1] if found else ""

    @property
    def tables(self) -> int:
        """How many tables it creates."""
        return sum(entry.kind == "TABLE" for entry in self.entries)

    @property
    def extensions(self) -> tuple[str, ...]:
        """What it creates, in its order."""
        made = (read_statement(entry.statement.strip()) for entry in self.entries if entry.kind == "EXTENSION")
        return tuple(one.name.name for one in made if isinstance(one, Made))

    @property
    def tablespaces(self) -> frozenset[str]:
        """What it puts tables and indexes into."""
        return frozenset(entry.tablespace for entry in self.entries if entry.tablespace)

    @property
    def refreshed(self) -> frozenset[tuple[str, str, str]]:
        """Materialized views that it fills."""
        filled = (entry.relation for entry in self.entries if entry.kind == "MATERIALIZED VIEW DATA")
        return frozenset(("", view.schema, view.name) for view in filled)

    @property
    def roles(self) -> frozenset[str]:
        """Roles that own or are granted something, or that a policy or a mapping names."""
        # What belongs to the database itself is not restored into another one.
        inside = [
            e for e in self.entries if not f"{e.kind} {e.relation.name}".startswith(("DATABASE", "ACL DATABASE "))
        ]
        named = {entry.owner for entry in inside if entry.owner}
        for entry in inside:
            if entry.kind in ("ACL", "DEFAULT ACL", "POLICY", "USER MAPPING"):
                for statement in entry.statement.split(";\n"):
                    named.update(roles_named(statement.strip().removesuffix(";")))
        return frozenset(named)


def read_contents(read: Callable[[int], bytes]) -> Contents:
    """Read an archive's beginning, up to its rows.

    Args:
        read: Gives exactly so many bytes; raises `EOFError` where the archive ends before them.

    Raises:
        UnreadableArchiveError: It is cut or damaged.
        TooNewArchiveError: Its version is not one of those above.
    """
    try:
        return _Reader(read).contents()
    except EOFError:
        raise UnreadableArchiveError("it ends within its table of contents") from None


class _Reader:
    """Reads PostgreSQL's own numbers and texts."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._integer_bytes = 4
        self._offset_bytes = 8
        self._version = (0, 0)

    def contents(self) -> Contents:
        if self._read(len(MAGIC)) != MAGIC:
            raise UnreadableArchiveError("it does not begin like one")
        major, minor, _ = self._read(3)
        self._version = (major, minor)
        if self._version > NEWEST:
            message = f"its version is {major}.{minor}, and the newest that is known here is {NEWEST[0]}.{NEWEST[1]}"
            raise TooNewArchiveError(message)
        if self._version < OLDEST:
            raise UnreadableArchiveError(f"its version is {major}.{minor}, older than PostgreSQL 9.0")
        self._integer_bytes, self._offset_bytes, layout = self._read(3)
        if (
            not 1 <= self._integer_bytes <= 8
            or not 1 <= self._offset_bytes <= 16
            or layout not in Layout.__members__.values()
        ):
            raise UnreadableArchiveError("its head makes no sense")
        compression = self._compression()
        second, minute, hour, day, month, year = (self._integer() for _ in range(6))
        self._integer()  # daylight saving time
        database, server, tool = self._text(), self._text(), self._text()
        try:
            made_at = datetime(year + 1900, month + 1, day, hour, minute, min(second, 59))  # noqa: DTZ001 - no zone is said
        except ValueError:
            raise UnreadableArchiveError("its date makes no sense") from None
        count = self._integer()
        if not 0 <= count <= _MOST_ENTRIES:
            raise UnreadableArchiveError("its number of entries makes no sense")
        entries = tuple(self._entry(Layout(layout)) for _ in range(count))
        origin = Origin(server, tool, database, made_at)
        return Contents(self._version, Layout(layout), compression, self._integer_bytes, origin, entries)

    def _compression(self) -> Compression:
        if self._version >= (1, 15):
            number = self._read(1)[0]
            if number >= len(_ALGORITHMS):
                raise TooNewArchiveError(f"its compression has the number {number}, which is not known here")
            return _ALGORITHMS[number]
        return Compression.NONE if self._integer() == 0 else Compression.GZIP

    def _entry(self, layout: Layout) -> Entry:
        number = self._integer()
        dumps_rows = self._integer() != 0
        self._text()  # oid of the catalogue
        self._text()  # oid of the object
        tag, kind = self._text(), self._text()
        self._integer()  # section
        statement = self._text()
        self._text()  # how to drop it
        copy = read_statement(self._text().strip().removesuffix(";"))
        schema, tablespace = self._text(), self._text()
        if self._version >= (1, 14):
            self._text()  # access method
        if self._version >= (1, 16):
            self._integer()  # kind of relation
        owner = self._text()
        self._text()  # with oids
        while self._optional_text() is not None:
            pass  # what it depends on
        file_name, without_rows = "", False
        if layout is Layout.CUSTOM:
            without_rows = self._read(1)[0] == _NO_DATA
            self._read(self._offset_bytes)
        else:
            file_name = self._text()
        return Entry(
            number,
            kind,
            Relation(schema, tag),
            statement,
            copy if isinstance(copy, Copy) else None,
            owner,
            tablespace,
            dumps_rows and not without_rows,
            file_name,
        )

    def _integer(self) -> int:
        sign, value = self._read(1)[0], int.from_bytes(self._read(self._integer_bytes), "little")
        return -value if sign else value

    def _text(self) -> str:
        return self._optional_text() or ""

    def _optional_text(self) -> str | None:
        length = self._integer()
        if length < 0:
            return None
        if length > _ONE_TEXT_BYTES:
            raise UnreadableArchiveError("the length of a text in its contents makes no sense")
        return self._read(length).decode(errors="replace")


def read_blocks(read: Callable[[int], bytes], integer_bytes: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The blocks of rows of an archive in custom format, in its order.

    Args:
        read: As for `read_contents`, at the first byte behind the contents.
        integer_bytes: From the contents.

    Yields:
        An entry's number, and its stored bytes piece by piece, to be taken before the next block. Each large object is
        a block of its own, with its entry's number.

    Raises:
        EOFError: The archive ends within a block.
        UnreadableArchiveError: It is damaged.
    """

    def integer() -> int:
        sign, value = read(1)[0], int.from_bytes(read(integer_bytes), "little")
        return -value if sign else value

    def pieces() -> Iterator[bytes]:
        while (length := integer()) > 0:
            while length > 0:
                piece = read(min(length, 1 << 20))
                length -= len(piece)
                yield piece

    while True:
        try:
            kind = read(1)[0]
        except EOFError:
            return
        number = integer()
        if kind == 1:
            yield number, pieces()
        elif kind == 3:
            while integer() != 0:
                yield number, pieces()
        else:
            raise UnreadableArchiveError("a block of rows begins with a byte that none begins with")
