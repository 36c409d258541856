"""What a restore would lose, measured on a real server after its backup."""

import pytest
from backup_sets import back_up
from real_servers import Server

from keepwell.backup.manifest import Manifest
from keepwell.postgres.connection import connect
from keepwell.restore.loss import Change, Loss, judge_loss, measure_loss
from keepwell.settings import Platform
from keepwell.verdict import Verdict

SOURCE = """
CREATE TABLE kept (id int PRIMARY KEY, note text);
INSERT INTO kept SELECT n, 'note ' || n FROM generate_series(1, 100) n;
CREATE TABLE "Changed " (LIKE kept); INSERT INTO "Changed " SELECT * FROM kept;
CREATE TABLE grown (LIKE kept); INSERT INTO grown SELECT * FROM kept;
CREATE TABLE shrunk (LIKE kept); INSERT INTO shrunk SELECT * FROM kept;
CREATE TABLE dropped (LIKE kept); INSERT INTO dropped SELECT * FROM kept;
CREATE TABLE widened (LIKE kept); INSERT INTO widened SELECT * FROM kept;
CREATE TABLE measured (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
INSERT INTO measured VALUES (1, '2026-01-05');
"""
SINCE = """
UPDATE "Changed " SET note = 'corrupted' WHERE id = 7;
INSERT INTO grown SELECT n, 'new' FROM generate_series(101, 105) n;
DELETE FROM shrunk WHERE id <= 40;
DROP TABLE dropped;
ALTER TABLE widened ADD COLUMN more int;
CREATE TABLE added AS SELECT 1 AS id;
INSERT INTO measured VALUES (2, '2026-01-06');
"""


@pytest.fixture
def manifest(server: Server, platform: Platform) -> Manifest:
    with server.connect(platform.database.name) as connection:
        connection.execute(SOURCE)
    return back_up(platform)


def measure(platform: Platform, manifest: Manifest, **limits: float) -> Loss:
    with connect(platform.database) as connection:
        return measure_loss(connection, manifest.main, **limits)


def test_each_table_stands_as_it_was_changed(server: Server, platform: Platform, manifest: Manifest) -> None:
    assert measure(platform, manifest).is_nothing
    with server.connect(platform.database.name) as connection:
        connection.execute(SINCE)
    loss = measure(platform, manifest)
    assert {table.table: table.change for table in loss.tables} == {
        "public.Changed ": Change.CHANGED,
        "public.added": Change.NEW,
        "public.dropped": Change.GONE,
        "public.grown": Change.CHANGED,
        "public.kept": Change.NONE,
        "public.measured_1": Change.CHANGED,
        "public.shrunk": Change.CHANGED,
        "public.widened": Change.CHANGED,
    }
    assert (loss.rows_lost, loss.rows_back) == (5 + 1 + 1, 40 + 100)
    assert loss.age_seconds > 0
    assert [finding.verdict for finding in judge_loss(loss)] == [Verdict.WARN, Verdict.WARN, Verdict.OK]


def test_a_large_object_that_was_written_since_is_not_told_as_nothing(
    server: Server, platform: Platform, manifest: Manifest
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("SELECT lo_from_bytea(0, 'new')")
    assert not measure(platform, manifest).is_nothing


def test_without_time_nothing_is_known(platform: Platform, manifest: Manifest) -> None:
    loss = measure(platform, manifest, limit_seconds=0)
    assert {table.change for table in loss.tables} == {Change.UNKNOWN}
    assert not loss.is_nothing
    assert [finding.verdict for finding in judge_loss(loss)] == [Verdict.UNKNOWN]


def test_a_table_that_somebody_holds_is_not_waited_for(server: Server, platform: Platform, manifest: Manifest) -> None:
    with server.connect(platform.database.name) as other, other.transaction():
        other.execute("LOCK TABLE kept IN ACCESS EXCLUSIVE MODE")
        loss = measure(platform, manifest)
    held = next(table for table in loss.tables if table.table == "public.kept")
    assert (held.change, held.why) == (Change.UNKNOWN, "another session holds it")
    assert all(table.change is Change.NONE for table in loss.tables if table is not held)
