"""Backups whose rows touch no disk, and what ends one: a store that stops, a lock that keeps others waiting."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backup_sets import back_up, part_of, prove
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from real_servers import Server

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.restore import restore_into
from keepwell.command import Command
from keepwell.errors import LockTimeout, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres import archive
from keepwell.postgres.archive import DataEntry
from keepwell.postgres.fifos import FifosUnavailable
from keepwell.progress import Step, silent
from keepwell.settings import Platform

ROWS = 30_000


@pytest.fixture(autouse=True)
def some_rows(server: Server, platform: Platform) -> None:
    with server.connect(platform.database.name) as connection:
        # Several megabytes, more than pipes and sockets hold: a COPY that is read slowly then lasts.
        connection.execute(
            f"CREATE TABLE people AS SELECT n AS id, repeat(md5(n::text), 4) AS sums FROM generate_series(1, {ROWS}) n"
        )
        connection.execute("CREATE TABLE notes AS SELECT 'note' AS note; SELECT lo_from_bytea(0, 'large object')")


def changed(platform: Platform, **settings: object) -> Platform:
    return platform.model_copy(update={"backup": platform.backup.model_copy(update=settings)})


@pytest.fixture
def no_fifos(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no FIFOs here")

    monkeypatch.setattr(os, "mkfifo", refuse)


def test_no_row_and_no_large_object_touches_a_disk(platform: Platform) -> None:
    manifest = back_up(platform)
    assert manifest.rows == ROWS + 1
    assert manifest.main.spooled_bytes == 0
    assert prove(platform, manifest.backup_id).reached == "serving"


def test_without_fifos_rows_take_the_way_over_a_disk_which_is_said(platform: Platform, no_fifos: None) -> None:
    manifest = back_up(platform)
    assert manifest.main.spooled_bytes > ROWS
    assert prove(platform, manifest.backup_id).reached == "serving"


@pytest.fixture
def regular_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a pg_restore of a newer minor version than the tests' own."""

    def refuse(*_: object) -> None:
        raise FifosUnavailable("This pg_restore reads regular files alone.")

    monkeypatch.setattr(read_back, "require_fifo_reader", refuse)


def test_a_pg_restore_that_reads_no_fifos_gets_files_which_are_gone_afterwards(
    platform: Platform, regular_files_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    run = archive.run_tool

    def look(call: Command, **options: Any) -> bytes:
        said = run(call, **options)
        if "--exit-on-error" in call.argv:
            assert len(list(Path(call.argv[-1]).glob("*.dat"))) == 4  # contents, two tables, a large object
            left.append(call.argv[-1])
        return said

    monkeypatch.setattr(archive, "run_tool", look)
    check_equal = rehearsal.check_equal

    def look_again(*arguments: Any) -> Any:
        assert [path.name for path in Path(left[0]).glob("*.dat")] == [archive.CONTENTS_FILE]
        return check_equal(*arguments)

    monkeypatch.setattr(rehearsal, "check_equal", look_again)
    assert prove(platform, back_up(platform).backup_id).reached == "serving"
    assert len(left) == 1


def test_a_damaged_stream_never_reaches_a_pg_restore_that_reads_no_fifos(
    platform: Platform, store: Store, regular_files_alone: None
) -> None:
    manifest = back_up(platform)
    part = part_of(manifest, "public.people")
    key = layout.set_folder(manifest.backup_id) + part.name
    store.put_bytes(key, store.get_bytes(key)[:-7])
    proof = prove(platform, manifest.backup_id)
    assert (proof.reached, proof.damaged) == (None, True)


def test_a_restore_that_needs_files_stops_where_there_is_no_space_for_them(
    platform: Platform, regular_files_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = back_up(platform)

    def refuse(place: Path, needed_bytes: int, purpose: str) -> None:
        raise PreconditionFailed(f"{purpose} needs {needed_bytes} bytes.")

    monkeypatch.setattr(read_back, "require_space", refuse)
    with pytest.raises(PreconditionFailed, match="rows on their way, which this pg_restore does not take"):
        prove(platform, manifest.backup_id)


def test_a_restore_beside_the_live_database_does_without_fifos_too(
    platform: Platform, server: Server, store: Store, no_fifos: None
) -> None:
    manifest = back_up(platform)
    prove(platform, manifest.backup_id)
    name = f"{platform.database.name}_again"
    try:
        assert restore_into(platform, store, manifest.backup_id, name, silent).rows == ROWS + 1
    finally:
        with server.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}"')


def test_a_stream_that_was_foreseen_and_never_came_is_no_backup(
    platform: Platform, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = archive.foresee_data_entries
    monkeypatch.setattr(archive, "foresee_data_entries", lambda *call: [*honest(*call), DataEntry(1, "99999.dat")])
    with pytest.raises(VerificationFailed, match=r"99999\.dat was never written"):
        back_up(platform)
    assert read_catalogue(store) == []


def test_rows_are_taken_no_faster_than_asked(platform: Platform) -> None:
    began = time.monotonic()
    manifest = back_up(changed(platform, most_bytes_per_second=1_000_000))
    assert time.monotonic() - began > manifest.content_bytes / 1_000_000 * 0.6


# Locks: a change of the schema waits behind the dump, and everybody else behind the change.


@pytest.fixture
def migration(server: Server, platform: Platform) -> Iterator[tuple[threading.Event, list[float]]]:
    """Begins to wait for a table once its rows are on their way; says for how long it did.

    Not before: a worker of pg_dump that comes to a table for which somebody waits gives up at once.
    """
    begin: threading.Event = threading.Event()
    waited: list[float] = []
    on_its_way = "SELECT FROM pg_stat_activity WHERE query LIKE 'COPY public.people %'"

    def alter() -> None:
        if not begin.wait(60):
            return
        with psycopg.connect(server.url(platform.database.name), autocommit=True) as connection:
            deadline = time.monotonic() + 30
            while not connection.execute(on_its_way).rowcount and time.monotonic() < deadline:
                time.sleep(0.02)
            began = time.monotonic()
            connection.execute("SET lock_timeout = '5s'")
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                connection.execute("ALTER TABLE people ADD COLUMN more text")
            waited.append(time.monotonic() - began)

    thread = threading.Thread(target=alter)
    thread.start()
    yield begin, waited
    begin.set()
    thread.join(30)


def test_a_backup_lets_go_when_its_locks_keep_somebody_waiting(
    platform: Platform, store: Store, migration: tuple[threading.Event, list[float]]
) -> None:
    begin, waited = migration
    slow = changed(platform, most_bytes_per_second=65_536, blocking_limit_seconds=2)

    def watch(step: Step) -> None:
        if step.stage == "dumping and storing":
            begin.set()

    with pytest.raises(LockTimeout, match=r"session \d+ has waited \d+ s for AccessExclusiveLock on public\.people"):
        create_backup(slow, open_store(slow), watch)
    deadline = time.monotonic() + 10
    while not waited and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 2 <= waited[0] < 15
    assert read_catalogue(store) == []


def test_a_backup_that_may_keep_others_waiting_says_for_how_long_it_did(
    platform: Platform, migration: tuple[threading.Event, list[float]]
) -> None:
    """Whoever waits gives up before the backup hashes that table, which would have to queue behind it."""
    begin, _ = migration
    patient = changed(platform, most_bytes_per_second=400_000, blocking_limit_seconds=0)

    def watch(step: Step) -> None:
        if step.stage == "dumping and storing":
            begin.set()

    manifest = create_backup(patient, open_store(patient), watch)
    assert 3 < manifest.blocked_others_seconds < 6
    assert manifest.rows == ROWS + 1


# A store that stops taking bytes must not pin the snapshot.


@pytest.fixture
def stuck(objectstore: RunningObjectStore) -> Iterator[FaultyProxy]:
    with faulty_proxy(objectstore.endpoint_url) as running:
        yield running


def test_a_store_that_takes_nothing_any_more_ends_the_backup_and_frees_the_snapshot(
    platform: Platform, server: Server, stuck: FaultyProxy
) -> None:
    release = threading.Event()

    def hold(request: object) -> Fault | None:
        if "/database/" in request.path and request.method == "PUT":  # type: ignore[attr-defined]
            release.wait(30)
        return None

    stuck.decide = hold
    bucket = platform.bucket.model_copy(update={"endpoint_url": stuck.endpoint_url})
    # The client itself would wait for longer, as it does behind a proxy that answers and passes nothing on.
    patient = platform.model_copy(update={"bucket": bucket})
    began = time.monotonic()
    try:
        with pytest.raises(ServiceUnavailable, match="has taken no byte for 2 s"):
            create_backup(changed(patient, stall_limit_seconds=2), open_store(patient), silent)
        assert time.monotonic() - began < 20
        # A session ends a moment after its client; an autovacuum worker's snapshot is nobody's of ours.
        with server.connect() as connection:
            while snapshots_held(connection, platform.database.name):
                assert time.monotonic() - began < 20, "a snapshot is still held"
                time.sleep(0.05)
    finally:
        release.set()


def snapshots_held(connection: psycopg.Connection, database: str) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = %s AND backend_type = 'client backend' AND backend_xmin IS NOT NULL",
        (database,),
    ).fetchone() or (0,)
    return int(count)
