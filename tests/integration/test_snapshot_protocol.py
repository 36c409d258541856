"""The snapshot under concurrent changes: what is dumped is one moment of the database, or nothing at all."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import cast

import psycopg
import pytest
from backup_sets import back_up, prove
from pydantic import SecretStr
from real_servers import Server

from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.preflight import require_ready
from keepwell.errors import Busy, LockTimeout, PreconditionFailed, is_transient
from keepwell.objectstore.store import Store
from keepwell.postgres import facts
from keepwell.postgres.snapshot import Snapshot, shared_snapshot
from keepwell.progress import Step, silent
from keepwell.settings import Platform
from keepwell.verdict import Verdict

Connect = Callable[[], psycopg.Connection]


@pytest.fixture
def connect(server: Server, platform: Platform) -> Connect:
    """A session in the platform's database."""
    return lambda: server.connect(platform.database.name)


def wait_until_somebody_queues(connection: psycopg.Connection, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        if row and row[0] >= count:
            return
        time.sleep(0.01)
    pytest.fail("nobody queued for a lock")


@contextmanager
def snapshot_meanwhile(platform: Platform) -> Iterator[Future[dict[str, int]]]:
    """Take a snapshot in another thread; its rows by table."""

    def take() -> dict[str, int]:
        with shared_snapshot(platform.database, lock_wait_seconds=20) as snapshot:
            return count_rows(snapshot)

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(take)


def count_rows(snapshot: Snapshot) -> dict[str, int]:
    rows = {}
    for table in snapshot.tables:
        row = snapshot.coordinator.execute(f'SELECT count(*) FROM "{table.schema}"."{table.name}"').fetchone()
        rows[table.name] = row[0] if row else -1
    return rows


def test_stock_order_snapshot_first_and_locks_later_loses_rows_that_a_truncate_moved(connect: Connect) -> None:
    with connect() as mover, connect() as stock:
        mover.execute("CREATE TABLE a AS SELECT generate_series(1, 10) AS n; CREATE TABLE b (n int)")
        stock.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
        mover.execute("BEGIN; INSERT INTO b SELECT * FROM a; TRUNCATE a; COMMIT")
        row = stock.execute("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)").fetchone()
        stock.execute("ROLLBACK")
    assert row == (0,)


def test_a_truncate_that_commits_while_we_queue_for_its_table_loses_no_row(
    platform: Platform, connect: Connect
) -> None:
    with connect() as mover, connect() as watcher:
        mover.execute("CREATE TABLE a AS SELECT generate_series(1, 10) AS n; CREATE TABLE b (n int)")
        mover.execute("BEGIN; INSERT INTO b SELECT * FROM a; TRUNCATE a")
        with snapshot_meanwhile(platform) as taken:
            wait_until_somebody_queues(watcher)
            mover.execute("COMMIT")
            assert taken.result(30) == {"a": 0, "b": 10}


def test_the_time_of_a_snapshot_is_not_that_of_the_queue_before_it(
    platform: Platform, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed while a lock was waited for is in the snapshot, so its time must be a later one."""
    read_tables = facts.read_tables

    def clock(connection: psycopg.Connection) -> datetime:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        return cast("datetime", row[0])

    def take() -> datetime:
        with shared_snapshot(platform.database, lock_wait_seconds=20) as snapshot:
            return snapshot.taken_at

    with connect() as holder, connect() as watcher, ThreadPoolExecutor(1) as pool:

        def read_and_lock(connection: psycopg.Connection) -> list[facts.TableFacts]:
            """Between the list, which queues by itself, and the locks."""
            found = read_tables(connection)
            monkeypatch.undo()
            holder.execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
            return found

        holder.execute("CREATE TABLE a (n int)")
        monkeypatch.setattr(facts, "read_tables", read_and_lock)
        taken = pool.submit(take)
        wait_until_somebody_queues(watcher)
        released_at = clock(watcher)
        holder.execute("COMMIT")
        assert released_at <= taken.result(30) <= clock(watcher)


def test_no_truncate_comes_between_the_snapshot_and_its_dump(platform: Platform, connect: Connect) -> None:
    with connect() as other:
        other.execute("CREATE TABLE a AS SELECT generate_series(1, 10) AS n")
        with shared_snapshot(platform.database, lock_wait_seconds=3) as snapshot:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("TRUNCATE a")
            assert count_rows(snapshot) == {"a": 10}


def test_tables_created_and_dropped_while_locking_make_it_list_and_lock_anew(
    platform: Platform, connect: Connect
) -> None:
    with connect() as holder, connect() as other:
        holder.execute("CREATE TABLE a (n int); CREATE TABLE gone (n int)")
        holder.execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        with snapshot_meanwhile(platform) as taken:
            wait_until_somebody_queues(other)
            other.execute("DROP TABLE gone; CREATE TABLE new AS SELECT 1 AS n")
            holder.execute("COMMIT")
            assert taken.result(30) == {"a": 0, "new": 1}


def test_a_schema_that_never_stands_still_ends_in_a_transient_error(
    platform: Platform, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_tables, numbers = facts.read_tables, iter(range(1000))
    with connect() as other:

        def read_and_change(connection: psycopg.Connection) -> list[facts.TableFacts]:
            found = read_tables(connection)
            other.execute(f"CREATE TABLE t{next(numbers)} ()")
            return found

        monkeypatch.setattr(facts, "read_tables", read_and_change)
        with (
            pytest.raises(LockTimeout, match="created or dropped during each of 5 attempts") as raised,
            shared_snapshot(platform.database, lock_wait_seconds=1),
        ):
            pytest.fail("no snapshot can be taken")
    assert is_transient(raised.value)


def test_a_set_is_equal_to_its_snapshot_while_others_keep_writing(platform: Platform, connect: Connect) -> None:
    with connect() as setup:
        setup.execute("CREATE TABLE a (id serial PRIMARY KEY, n int); CREATE TABLE b (LIKE a INCLUDING ALL)")
        setup.execute("INSERT INTO a (n) SELECT generate_series(1, 2000); INSERT INTO b (n) SELECT n FROM a")
    done, writes = threading.Event(), []

    def write(number: int) -> None:
        """Each writer changes rows of its own, so that two never wait for one another."""
        with connect() as writer:
            while not done.is_set():
                writer.execute("INSERT INTO a (n) SELECT generate_series(1, 10); INSERT INTO b (n) VALUES (1), (2)")
                writer.execute(
                    f"UPDATE a SET n = n + 1 WHERE id % 10 = {number}; DELETE FROM b WHERE id % 14 = {number}"
                )
                writes.append(1)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        try:
            manifest = back_up(platform)
        finally:
            done.set()
        for writer in writers:
            writer.result()
    with connect() as later:
        row = later.execute("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)").fetchone()
    assert len(writes) > 1
    assert row is not None
    assert row[0] != manifest.rows
    assert prove(platform, manifest.backup_id).reached == "serving"


def test_a_locked_table_ends_the_backup_in_a_transient_error_and_leaves_nothing_catalogued(
    platform: Platform, store: Store, connect: Connect
) -> None:
    impatient = platform.model_copy(update={"backup": platform.backup.model_copy(update={"lock_wait_seconds": 1})})
    with connect() as holder:
        holder.execute("CREATE TABLE a AS SELECT 1 AS n")
        holder.execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockTimeout) as raised:
            back_up(impatient)
        holder.execute("ROLLBACK")
    assert is_transient(raised.value)
    assert read_catalogue(store) == []
    again = back_up(platform)
    assert [entry.backup_id for entry in read_catalogue(store)] == [again.backup_id]
    assert list(store.list_objects("unfinished/")) == []


def test_a_change_of_the_schema_that_queues_during_the_dump_wins_and_the_error_is_transient(
    platform: Platform, store: Store, connect: Connect
) -> None:
    """pg_dump would wait behind it, and the application behind both: the backup gives way."""
    impatient = platform.model_copy(update={"backup": platform.backup.model_copy(update={"lock_wait_seconds": 1})})
    with connect() as migrator, connect() as watcher, ThreadPoolExecutor(1) as pool:
        migrator.execute("CREATE TABLE a AS SELECT 1 AS n")
        altered: list[Future[psycopg.Cursor]] = []

        def queue(step: Step) -> None:
            if step.stage == "dumping" and not altered:
                altered.append(pool.submit(migrator.execute, "ALTER TABLE a ADD COLUMN m int"))
                wait_until_somebody_queues(watcher)

        with pytest.raises(LockTimeout) as raised:
            create_backup(impatient, store, queue)
        altered[0].result(20)
    assert is_transient(raised.value)
    assert read_catalogue(store) == []


# What is refused before anything starts.


def as_role(platform: Platform, name: str) -> Platform:
    database = platform.database.model_copy(update={"user": name, "password": SecretStr("p")})
    return platform.model_copy(update={"database": database})


@pytest.fixture
def limited(platform: Platform, connect: Connect) -> Iterator[str]:
    """A role that may log in and read the table `a`."""
    name = f"limited_{platform.database.name}"
    with connect() as connection:
        connection.execute(
            f"CREATE TABLE a (n int); CREATE ROLE {name} LOGIN PASSWORD 'p'; GRANT SELECT ON a TO {name}"
        )
        yield name
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_role_that_may_not_read_a_table_is_refused_with_the_table_and_the_grant(
    platform: Platform, connect: Connect, limited: str
) -> None:
    with connect() as connection:
        connection.execute('CREATE SCHEMA s; CREATE TABLE s."Un read" (n int)')
    with pytest.raises(PreconditionFailed, match=r"may not read s\.Un read") as raised:
        require_ready(as_role(platform, limited))
    assert f'GRANT pg_read_all_data TO "{limited}"' in raised.value.hint


def test_a_role_whose_rows_are_hidden_by_row_security_is_refused(
    platform: Platform, connect: Connect, limited: str
) -> None:
    with connect() as connection:
        connection.execute("ALTER TABLE a ENABLE ROW LEVEL SECURITY")
    with pytest.raises(PreconditionFailed, match=r"Row security hides rows of public\.a") as raised:
        require_ready(as_role(platform, limited))
    assert "BYPASSRLS" in raised.value.hint


def test_a_role_that_may_not_enter_a_schema_is_refused_before_anything_is_stored(
    platform: Platform, store: Store, connect: Connect, limited: str
) -> None:
    """What is granted on a table or a sequence is of no use without its schema."""
    seen = as_role(platform, limited)
    with connect() as connection:
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.t (n int); CREATE SEQUENCE s.numbers")
        connection.execute(f"GRANT SELECT ON s.t, s.numbers TO {limited}")
        with pytest.raises(PreconditionFailed, match=r"may not read s\.numbers, s\.t\. Hint") as raised:
            create_backup(seen, store, silent)
        assert "USAGE on each schema" in raised.value.hint
        assert list(store.list_objects("")) == []
        connection.execute(f"GRANT USAGE ON SCHEMA s TO {limited}")
    require_ready(seen)


def test_a_running_migration_is_waited_for(
    platform: Platform, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that runs at the hour of the nightly backup must not cost the night its backup."""
    monkeypatch.setattr("keepwell.backup.preflight._POLL_SECONDS", 0.01)
    told: list[str] = []
    with connect() as migrator, ThreadPoolExecutor(1) as pool:
        migrator.execute("SELECT pg_advisory_lock(72707369)")
        waiting = pool.submit(require_ready, platform, lambda step: told.append(step.stage))
        deadline = time.monotonic() + 20
        while not told and not waiting.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        migrator.execute("CREATE TABLE made_by_the_migration (a text)")
        migrator.execute("SELECT pg_advisory_unlock(72707369)")
        assert waiting.result(20).findings == ()
    assert told == ["waiting for a migration to end"]


def test_a_migration_that_does_not_end_in_time_stops_the_backup(platform: Platform, connect: Connect) -> None:
    backup = platform.backup.model_copy(update={"interlock_wait_seconds": 0})
    with connect() as migrator:
        migrator.execute("SELECT pg_advisory_lock(72707369)")
        with pytest.raises(Busy, match="A migration of Prisma is running") as raised:
            require_ready(platform.model_copy(update={"backup": backup}))
    assert "Wait for it" in raised.value.hint


def test_a_half_applied_migration_is_a_warning_and_is_named_in_the_manifest(
    platform: Platform, connect: Connect
) -> None:
    with connect() as connection:
        connection.execute(
            "CREATE TABLE _prisma_migrations (migration_name text, finished_at timestamptz, rolled_back_at timestamptz)"
        )
        connection.execute(
            "INSERT INTO _prisma_migrations VALUES ('1_init', now(), NULL), ('2_half', NULL, NULL), ('3', NULL, now())"
        )
    (finding,) = require_ready(platform).findings
    assert (finding.verdict, "2_half" in finding.message) == (Verdict.WARN, True)
    source = back_up(platform).main.source
    assert (source.migration_head, source.unfinished_migrations) == ("1_init", ("2_half",))


def test_a_wrong_database_name_fails_before_anything_is_stored(platform: Platform, store: Store) -> None:
    """The guide's pipe leaves an archive of 20 bytes and says that the backup was completed."""
    from keepwell.errors import ConfigurationError

    database = platform.database.model_copy(update={"name": "no_such_database"})
    with pytest.raises(ConfigurationError, match="does not exist"):
        back_up(platform.model_copy(update={"database": database}))
    assert list(store.list_objects("")) == []


def test_the_roles_that_own_or_use_something_are_in_the_set(platform: Platform, connect: Connect, limited: str) -> None:
    assert limited in back_up(platform).main.source.roles
