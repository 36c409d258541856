import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from sample.generate import create_schema, load
from sample.rows import COLUMNS

REPOSITORY = Path(__file__).parents[2]
SMALL = 0.02

# An index whose columns are the first columns of another index of the same kind.
DUPLICATED_INDEXES = """
    SELECT narrow.indexrelid::regclass::text
    FROM pg_index narrow JOIN pg_index wide USING (indrelid)
    WHERE narrow.indrelid::regclass::text IN (SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public')
      AND narrow.indexrelid <> wide.indexrelid
      AND NOT narrow.indisunique
      AND wide.indkey::text LIKE narrow.indkey::text || ' %'
    GROUP BY 1 ORDER BY 1
"""
FOREIGN_KEYS_WITHOUT_INDEX = """
    SELECT conrelid::regclass::text, attname
    FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE contype = 'f'
      AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1])
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        opened.execute("DROP SCHEMA public CASCADE")
        opened.execute("CREATE SCHEMA public")
        yield opened


def content_fingerprint(connection: psycopg.Connection[Any]) -> str:
    digest = hashlib.sha256()
    for table in COLUMNS:
        with connection.cursor().copy(f'COPY (SELECT * FROM "{table}" ORDER BY "id") TO STDOUT'.encode()) as copy:
            for chunk in copy:
                digest.update(chunk)
    return digest.hexdigest()


def test_loading_reports_exactly_the_rows_that_are_there(connection: psycopg.Connection[Any]) -> None:
    create_schema(connection)
    rows_by_table = load(connection, scale=SMALL)
    for table, rows in rows_by_table.items():
        assert rows > 0
        assert connection.execute(f'SELECT count(*) FROM "{table}"'.encode()).fetchall() == [(rows,)]
    assert connection.execute('SELECT count(*) FROM "_prisma_migrations" WHERE finished_at IS NULL').fetchone() == (0,)


def test_two_loads_of_one_seed_hold_equal_rows(connection: psycopg.Connection[Any]) -> None:
    fingerprints = []
    for seed in (5, 5, 6):
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        create_schema(connection)
        load(connection, scale=SMALL, seed=seed)
        fingerprints.append(content_fingerprint(connection))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_tenth_loads_quickly(connection: psycopg.Connection[Any]) -> None:
    create_schema(connection)
    started = time.monotonic()
    load(connection, scale=0.1)
    assert time.monotonic() - started < 15


def test_the_schema_has_the_reference_platforms_flaws(connection: psycopg.Connection[Any]) -> None:
    create_schema(connection)
    assert len(connection.execute(DUPLICATED_INDEXES).fetchall()) == 7
    assert connection.execute(FOREIGN_KEYS_WITHOUT_INDEX).fetchall() == [("payments", "registrationId")]


def test_foreign_keys_restrict_and_cascade_as_on_the_reference_platform(connection: psycopg.Connection[Any]) -> None:
    create_schema(connection)
    load(connection, scale=SMALL)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute('DELETE FROM "registrations" WHERE "id" IN (SELECT "registrationId" FROM "payments")')
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute('DELETE FROM "users" WHERE "id" IN (SELECT "organizerId" FROM "events")')
    connection.execute('DELETE FROM "payments"')
    connection.execute('DELETE FROM "events"')
    assert connection.execute('SELECT count(*) FROM "registrations"').fetchone() == (0,)


def test_a_second_schema_is_refused_and_changes_nothing(connection: psycopg.Connection[Any]) -> None:
    create_schema(connection)
    load(connection, scale=SMALL)
    before = content_fingerprint(connection)
    with pytest.raises(psycopg.errors.DuplicateObject):
        create_schema(connection)
    with pytest.raises(psycopg.errors.UniqueViolation):
        load(connection, scale=SMALL)
    assert content_fingerprint(connection) == before


def test_the_command_line_reads_the_connection_from_the_environment(connection: psycopg.Connection[Any]) -> None:
    address = conninfo_to_dict(connection.info.dsn, password=connection.info.password)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = {name: str(address[key]) for key, name in names.items() if address.get(key)}
    done = subprocess.run(
        [sys.executable, "-m", "sample.generate", "--scale", str(SMALL)],
        cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "registrations" in done.stdout
    assert connection.execute('SELECT count(*) FROM "users"').fetchone() == (250,)


def test_the_command_line_says_why_it_cannot_connect() -> None:
    environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": "1", "PGCONNECT_TIMEOUT": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "sample.generate"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "sample.generate: " in done.stderr
    assert "Traceback" not in done.stderr
