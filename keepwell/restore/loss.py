"""What a restore would lose: how the live database differs from what a set brings back, table by table.

Nothing records every change, so three things are said and kept apart: a table whose content still has the set's own
hash has lost nothing; one that has another was changed, by at least so many rows as their numbers differ; and what
could not be counted in time, or not at all, is unknown. It only reads, gives way to everybody, and ends by a limit.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import psycopg

from keepwell.backup.database import Database, Table
from keepwell.errors import AccessDenied, KeepwellError, LockTimeout, ServiceUnavailable
from keepwell.postgres import facts
from keepwell.postgres.connection import translated
from keepwell.postgres.facts import LiveTable
from keepwell.postgres.fingerprint import count_rows, fingerprint_table
from keepwell.verdict import Finding, Verdict

LIMIT_SECONDS = 30.0
# Somebody who changes a table's definition just now is not waited for.
_LOCK_WAIT_SECONDS = 2
_NAMED = 10


class Change(StrEnum):
    """How a table of the live database stands to the set's."""

    NONE = "none"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TableLoss:
    """One table.

    Attributes:
        table: Schema and name, for people.
        change: How it stands.
        rows_then: At the set's snapshot; None where the set has no such table, or did not count it.
        rows_now: In the live database; None where there is no such table, or nothing is known of it.
        counted: Whether `rows_now` was counted; else it is the server's own estimate.
        why: What keeps it unknown, or what else than rows changed; empty otherwise.
    """

    table: str
    change: Change
    rows_then: int | None
    rows_now: int | None
    counted: bool
    why: str = ""

    @property
    def rows_lost(self) -> int:
        """Rows that the live database has beyond the set's, as far as they were counted: at least so many are lost."""
        return max(0, (self.rows_now or 0) - (self.rows_then or 0)) if self.counted else 0

    @property
    def rows_back(self) -> int:
        """Rows that the set has beyond the live database's, as far as they were counted."""
        if self.change is Change.GONE:
            return self.rows_then or 0
        return max(0, (self.rows_then or 0) - (self.rows_now or 0)) if self.counted else 0


@dataclass(frozen=True)
class Loss:
    """What would be lost if the set took the live database's place now.

    Attributes:
        snapshot_at: The moment that the set brings back; whatever happened since is what is asked about.
        measured_at: By the server's clock.
        tables: Every table of either, by name.
        seconds: How long it took to look.
        has_large_objects: Whether the set or the live database has any, or nobody can tell; they are not compared.
    """

    snapshot_at: datetime
    measured_at: datetime
    tables: tuple[TableLoss, ...]
    seconds: float
    has_large_objects: bool = False

    @property
    def age_seconds(self) -> float:
        """How far the set lies back."""
        return (self.measured_at - self.snapshot_at).total_seconds()

    @property
    def rows_lost(self) -> int:
        """Rows that would be lost at least; a changed row is counted in no number, and neither is what is unknown."""
        return sum(table.rows_lost for table in self.tables)

    @property
    def rows_back(self) -> int:
        """Rows that would come back at least."""
        return sum(table.rows_back for table in self.tables)

    @property
    def is_nothing(self) -> bool:
        """Whether everything is known to be as it is in the set."""
        return not self.has_large_objects and all(table.change is Change.NONE for table in self.tables)

    def with_change(self, change: Change) -> tuple[TableLoss, ...]:
        """The tables that stand so."""
        return tuple(table for table in self.tables if table.change is change)


@dataclass(frozen=True)
class Seen:
    """What was read of one live table.

    Attributes:
        rows: Counted, or the server's estimate; None where it has none.
        content_hash: Of its rows, to be compared with the manifest's; None where it was not made.
        counted: Whether `rows` was counted.
        why: Why there is no hash; empty otherwise.
    """

    rows: int | None
    content_hash: str | None
    counted: bool
    why: str = ""


def measure_loss(connection: psycopg.Connection, database: Database, *, limit_seconds: float = LIMIT_SECONDS) -> Loss:
    """Compare the live database with what a set says of it.

    Args:
        connection: To the live database, in autocommit and with canonical output, as `connect` gives it.
        database: What the set's manifest says.
        limit_seconds: After which what was not yet read is unknown; the smallest tables are read first.

    Raises:
        ServiceUnavailable: The server went away.
        KeepwellError: Its catalogue cannot be read.
    """
    began = time.monotonic()
    measured_at = _read_clock(connection)
    known = {(table.table_schema, table.name): table for table in database.dumped_tables}
    listed = {(table.schema, table.name): table for table in facts.read_live_tables(connection)}
    live = {place: table for place, table in listed.items() if place in known or not table.of_extension}
    seen: dict[tuple[str, str], Seen] = {}
    for place, table in sorted(live.items(), key=lambda item: item[1].pages):
        left_seconds = limit_seconds - (time.monotonic() - began)
        seen[place] = _look(connection, table, known.get(place), left_seconds)
    losses = [judge_table(known.get(place), live.get(place), seen.get(place)) for place in sorted({*known, *live})]
    held = database.large_objects
    has_large_objects = bool(held.count or held.unproven) or _has_large_objects(connection)
    return Loss(database.snapshot_at, measured_at, tuple(losses), time.monotonic() - began, has_large_objects)


def judge_table(table: Table | None, live: LiveTable | None, seen: Seen | None) -> TableLoss:
    """How one table stands.

    Args:
        table: What the set says of it; None where it knows none of that name.
        live: What the live catalogue says; None where there is none, and then the set has one.
        seen: What was read of the live one.
    """
    if live is None or seen is None:
        if table is None:
            message = "neither the set nor the live database has this table"
            raise ValueError(message)
        return TableLoss(table.qualified, Change.GONE, table.rows, None, counted=True)
    if table is None:
        change = Change.UNKNOWN if seen.rows is None else Change.NEW
        return TableLoss(live.qualified, change, None, seen.rows, counted=seen.counted, why=seen.why)
    change, why = _judge_content(table, live, seen)
    return TableLoss(table.qualified, change, table.rows, seen.rows, counted=seen.counted, why=why)


def judge_loss(loss: Loss) -> Iterator[Finding]:
    """What a plan says of it: what would be lost, and what nobody knows."""
    changed = loss.with_change(Change.CHANGED)
    if loss.is_nothing:
        yield _finding(Verdict.OK, "Nothing: every table has the rows that it had at the set's snapshot.")
    if changed:
        yield _finding(
            Verdict.WARN,
            f"{_count(changed)} changed since the snapshot: {_named(changed)}.",
            "What was written since is not in the set: look whether it is to be kept before the names are swapped.",
        )
    if new := loss.with_change(Change.NEW):
        yield _finding(Verdict.WARN, f"{_count(new)} not in the set: {_named(new)}.")
    if gone := loss.with_change(Change.GONE):
        yield _finding(Verdict.OK, f"{_count(gone)} only in the set, and would come back: {_named(gone)}.")
    if unknown := loss.with_change(Change.UNKNOWN):
        yield _finding(
            Verdict.UNKNOWN,
            f"{_count(unknown)} could not be compared: {_named(unknown, why=True)}.",
            "Whatever was written there since the snapshot would be lost as well.",
        )
    if loss.has_large_objects:
        yield _finding(
            Verdict.UNKNOWN,
            "Large objects are not compared with the set's.",
            "Look in the application whether some were written since the snapshot: those would be lost.",
        )


def _judge_content(table: Table, live: LiveTable, seen: Seen) -> tuple[Change, str]:
    if seen.counted and table.rows is not None and seen.rows != table.rows:
        return Change.CHANGED, seen.why
    if tuple(live.columns) != table.columns:
        return Change.CHANGED, "it has other columns now"
    if seen.content_hash is None or table.content_hash is None:
        return Change.UNKNOWN, table.unproven or seen.why or "its content was not hashed"
    return (Change.NONE if seen.content_hash == table.content_hash else Change.CHANGED), ""


def _look(connection: psycopg.Connection, table: LiveTable, known: Table | None, left_seconds: float) -> Seen:
    """Read one table within what is left of the time."""
    why = "there was no time left"
    if table.rows_hidden:
        why = "row security hides rows of it from us"
    elif left_seconds > 0:
        try:
            return _read(connection, table, known, left_seconds)
        except ServiceUnavailable:
            raise
        except KeepwellError as error:
            why = _reason(error)
    return Seen(table.estimated_rows, None, counted=False, why=why)


def _read(connection: psycopg.Connection, table: LiveTable, known: Table | None, left_seconds: float) -> Seen:
    comparable = known is not None and known.content_hash is not None and tuple(table.columns) == known.columns
    with translated(f"looking at {table.qualified}"), connection.transaction():
        connection.execute(
            "SELECT pg_catalog.set_config('transaction_read_only', 'on', true),"
            " pg_catalog.set_config('lock_timeout', %s, true), pg_catalog.set_config('statement_timeout', %s, true)",
            (f"{_LOCK_WAIT_SECONDS}s", f"{max(1, int(left_seconds * 1000))}ms"),
        )
        if known is None or not comparable:
            condition = known.condition if known is not None else ""
            return Seen(count_rows(connection, table.schema, table.name, condition), None, counted=True)
        found = fingerprint_table(connection, table.schema, table.name, known.columns, known.condition)
        return Seen(found.rows, found.content_hash, counted=True)


def _reason(error: KeepwellError) -> str:
    if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
        return "there was no time to read it whole"
    if isinstance(error, LockTimeout):
        return "another session holds it"
    return "we may not read it" if isinstance(error, AccessDenied) else "it could not be read"


def _has_large_objects(connection: psycopg.Connection) -> bool:
    with translated("looking for large objects"):
        found = connection.execute("SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)").fetchone()
    return found is None or bool(found[0])


def _read_clock(connection: psycopg.Connection) -> datetime:
    with translated("reading the server's clock"):
        found = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
    assert found is not None  # noqa: S101 - a SELECT without FROM has one row
    clock: datetime = found[0]
    return clock


def _count(tables: Sequence[TableLoss]) -> str:
    return f"{len(tables)} table{'s' if len(tables) != 1 else ''}"


def _named(tables: Iterable[TableLoss], *, why: bool = False) -> str:
    told = [_told(table, why=why) for table in tables]
    return ", ".join(told if len(told) <= _NAMED else [*told[:_NAMED], f"and {len(told) - _NAMED} more"])


def _told(table: TableLoss, *, why: bool) -> str:
    rows = [f"{table.rows_then:,} rows in the set"] if table.rows_then is not None else []
    if table.rows_now is not None and table.change is not Change.GONE:
        rows.append(f"{'' if table.counted else 'about '}{table.rows_now:,} now")
    if table.why and (why or table.change is Change.CHANGED):
        rows.append(table.why)
    return f"{table.table} ({', '.join(rows)})" if rows else table.table


def _finding(verdict: Verdict, message: str, hint: str = "") -> Finding:
    return Finding(name="what would be lost", verdict=verdict, message=message, hint=hint)
