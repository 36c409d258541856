"""Row counts and content hashes: how a restored table is shown equal to its source.

A table's hash is the sum of one 64-bit hash per row. A sum sees every row, in any order; an exclusive-or would not
({x, x} equals {y, y}). The session's output must be canonical on both sides (`connection.CANONICAL_OUTPUT`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from keepwell.errors import KeepwellError
from keepwell.postgres.connection import translated
from keepwell.postgres.fifos import FifosUnavailable, take_through_fifo

# How a server says that it gets to no such file.
_CANNOT_WRITE = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile)


@dataclass(frozen=True)
class Fingerprint:
    """How many rows, and the sum of their hashes as decimal text (it exceeds 64 bits)."""

    rows: int
    content_hash: str


def fingerprint_table(
    connection: psycopg.Connection, schema: str, name: str, columns: Sequence[str], condition: str = ""
) -> Fingerprint:
    """Count and hash one table's own rows (not those of its children).

    Args:
        connection: In the snapshot to be described.
        schema: Of the table.
        name: Of the table.
        columns: Which columns, in which order; empty for a table that has none. Generated ones are left out by the
            caller, because a restore computes them anew.
        condition: SQL of an extension's configuration table, as PostgreSQL keeps it; from its catalogue only.

    Raises:
        KeepwellError: The table cannot be read.
    """
    hashed: sql.Composable = sql.SQL("0")
    if columns:
        row = sql.SQL('ROW({})::text COLLATE "C"').format(sql.SQL(", ").join(map(sql.Identifier, columns)))
        hashed = sql.SQL("pg_catalog.sum(pg_catalog.hashtextextended({}, 0)::numeric)").format(row)
    query = sql.SQL("SELECT pg_catalog.count(*), coalesce({}, 0)::text FROM ONLY {} {}").format(
        hashed, sql.Identifier(schema, name), _trusted(condition)
    )
    with translated(f"hashing {schema}.{name}"):
        found = connection.execute(query).fetchone()
    return Fingerprint(found[0], found[1]) if found else Fingerprint(0, "0")


def count_rows(
    connection: psycopg.Connection, schema: str, name: str, condition: str = "", *, with_children: bool = False
) -> int:
    """Count one table's rows.

    Args:
        connection: To its database.
        schema: Of the table.
        name: Of the table.
        condition: As for `fingerprint_table`.
        with_children: Those of its partitions or children too.

    Raises:
        KeepwellError: The table cannot be read.
    """
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {}{} {}").format(
        sql.SQL("" if with_children else "ONLY "), sql.Identifier(schema, name), _trusted(condition)
    )
    with translated(f"counting {schema}.{name}"):
        found = connection.execute(query).fetchone()
    return int(found[0]) if found else 0


def fingerprint_large_objects(connection: psycopg.Connection) -> Fingerprint:
    """Count and hash all large objects, each by its number and content.

    Raises:
        KeepwellError: One cannot be read, or is larger than a value may be (1 GB).
    """
    with translated("hashing large objects"):
        found = connection.execute(
            """
            SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashtextextended(
                oid::text || ':' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.lo_get(oid)), 'hex'), 0
            )::numeric), 0)::text
            FROM pg_catalog.pg_largeobject_metadata
            """
        ).fetchone()
    return Fingerprint(found[0], found[1]) if found else Fingerprint(0, "0")


def read_copy_stream(
    connection: psycopg.Connection, schema: str, name: str, columns: Sequence[str], condition: str = ""
) -> Iterator[bytes]:
    """A table's COPY text, a row's line at a time, as pg_dump writes it: without the terminator.

    Args:
        connection: In the snapshot to be described, with canonical output.
        schema: Of the table.
        name: Of the table.
        columns: As for `fingerprint_table`.
        condition: As for `fingerprint_table`.
    """
    query = sql.SQL("COPY {} TO STDOUT").format(_copy_source(schema, name, columns, condition))
    with translated(f"reading {schema}.{name}"), connection.cursor() as cursor, cursor.copy(query) as copy:
        for line in copy:
            yield bytes(line)


def digest_copy_stream(
    connection: psycopg.Connection,
    schema: str,
    name: str,
    columns: Sequence[str],
    condition: str = "",
    *,
    trailer: bytes,
    file: Path,
) -> str | None:
    """SHA-256 of what `read_copy_stream` gives and a trailer, which a server of our own writes into a FIFO.

    Millions of rows need not come through a driver for that.

    Args:
        connection: As its superuser, in the state to be described, with canonical output.
        schema: Of the table.
        name: Of the table.
        columns: As for `fingerprint_table`.
        condition: As for `fingerprint_table`.
        trailer: What pg_dump writes behind the rows.
        file: New file in a folder that only the server and we get into; gone afterwards.

    Returns:
        The digest; None when the server could not write there, which says nothing of the rows.

    Raises:
        KeepwellError: The table cannot be read.
    """
    query = sql.SQL("COPY {} TO {}").format(_copy_source(schema, name, columns, condition), sql.Literal(str(file)))
    digest = hashlib.sha256()

    def write() -> None:
        with translated(f"hashing the rows of {schema}.{name}"):
            connection.execute(query)

    try:
        take_through_fifo(file, write, digest.update)
    except FifosUnavailable:
        return None
    except KeepwellError as error:
        if isinstance(error.__cause__, _CANNOT_WRITE):
            return None
        raise
    digest.update(trailer)
    return digest.hexdigest()


def _copy_source(schema: str, name: str, columns: Sequence[str], condition: str) -> sql.Composable:
    listed, relation = sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(schema, name)
    if condition:
        return sql.SQL("(SELECT {} FROM ONLY {} {})").format(listed, relation, _trusted(condition))
    return sql.SQL("{} ({})").format(relation, listed) if columns else relation


class LineHashes:
    """`sum_line_hashes` of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self.total = 0
        self._begun = b""

    def update(self, chunk: bytes) -> None:
        """Take the next bytes; a line counts once it is whole."""
        *lines, self._begun = (self._begun + chunk).split(b"\n")
        self.total += sum_line_hashes(line + b"\n" for line in lines)


def sum_line_hashes(lines: Iterable[bytes]) -> int:
    """A hash of lines in any order, in which each counts as often as it occurs."""
    return sum(int.from_bytes(hashlib.blake2b(line, digest_size=8).digest()) for line in lines)


def _trusted(condition: str) -> sql.SQL:
    """SQL that PostgreSQL's own catalogue handed out; there is no value in it to quote."""
    return sql.SQL(condition)
