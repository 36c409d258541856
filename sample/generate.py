"""Fills a PostgreSQL database with the sample platform: the same seed and scale always give the same rows.

The address and password come from libpq's environment variables (PGHOST, PGDATABASE, PGPASSWORD or PGPASSFILE, ...).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from sample.population import DEFAULT_AS_OF, Population
from sample.rows import COLUMNS, Row, row_blocks


def create_schema(connection: psycopg.Connection[Any]) -> None:
    """Create the platform's types, tables, indexes and constraints in an empty database.

    Raises:
        psycopg.errors.DuplicateObject: The schema is there already; nothing was changed.
    """
    statements = Path(__file__).with_name("schema.sql").read_bytes()
    with connection.transaction():
        connection.execute(statements)


def load(
    connection: psycopg.Connection[Any], *, scale: float, seed: int = 1, as_of: date = DEFAULT_AS_OF
) -> dict[str, int]:
    """Write the sample rows in one transaction: all of them, or none.

    Args:
        connection: To a database that has the schema and no rows.
        scale: 1 makes a database of about 60 MB, 25 about 1.3 GB.
        seed: The same seed, scale and day always make the same rows.
        as_of: The day the data pretend to be of; no clock is read.

    Returns:
        The number of rows written, by table; every table of the platform is named.
    """
    rows_by_table = dict.fromkeys(COLUMNS, 0)
    with connection.transaction(), connection.cursor() as cursor:
        for table, rows in row_blocks(Population.plan(scale=scale, seed=seed, as_of=as_of)):
            _copy(cursor, table, rows)
            rows_by_table[table] += len(rows)
    # Fresh statistics, so that plans and row estimates are those of a platform that has lived for a while.
    with connection.transaction():
        connection.execute("ANALYZE")
    return rows_by_table


def _copy(cursor: psycopg.Cursor[Any], table: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    statement = sql.SQL("COPY {table} ({columns}) FROM STDIN").format(
        table=sql.Identifier(table), columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
    )
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sample.generate",
        description="Create the sample platform's schema and rows in an empty PostgreSQL database.",
        epilog="The connection is read from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD or PGPASSFILE.",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1 makes about 60 MB (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same rows (default: %(default)s)")
    parser.add_argument(
        "--as-of",
        type=date.fromisoformat,
        default=DEFAULT_AS_OF,
        metavar="YYYY-MM-DD",
        help="the day the data pretend to be of (default: %(default)s)",
    )
    parser.add_argument("--rows-only", action="store_true", help="the schema is there already: write rows only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the rows are there, 1 with a message on stderr otherwise."""
    options = _parse_arguments(arguments)
    started = time.monotonic()
    try:
        with psycopg.connect() as connection:
            if not options.rows_only:
                create_schema(connection)
            rows_by_table = load(connection, scale=options.scale, seed=options.seed, as_of=options.as_of)
    except (psycopg.Error, ValueError) as error:
        sys.stderr.write(f"sample.generate: {str(error).strip()}\n")
        return 1
    for table, rows in rows_by_table.items():
        sys.stdout.write(f"{table:<18}{rows:>12,}\n")
    sys.stdout.write(f"done in {time.monotonic() - started:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
