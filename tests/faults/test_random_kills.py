"""kill -9 at fifty random moments of backups and their proofs, while the database changes all the time."""

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
import pytest
from deadly_runs import Doomed
from real_servers import Server

KILLS = 50
KILLS_TOGETHER = 7
SQL = (
    "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text)",
    "INSERT INTO accounts SELECT n, 1000, md5(n::text) FROM generate_series(1, 2000) n",
    "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)",
)


@contextmanager
def under_change(server: Server, database: str, dice: random.Random) -> Iterator[Callable[[], int]]:
    """Change rows and tables for as long as the block; tells how often it has."""
    done, changes = threading.Event(), 0

    def change(connection: psycopg.Connection, number: int) -> None:
        one, other = dice.sample(range(1, 2001), 2)
        # Both or neither: a backup that held one without the other would not have the sum that it began with.
        with connection.transaction():
            connection.execute("UPDATE accounts SET balance = balance - 7, note = %s WHERE id = %s", (str(number), one))
            connection.execute("UPDATE accounts SET balance = balance + 7 WHERE id = %s", (other,))
        connection.execute("INSERT INTO events (note) SELECT md5(n::text) FROM generate_series(1, 20) n")
        # Without waiting in a queue, which would end the dump: that is another test's.
        if number % 40 == 0:
            with connection.transaction():
                connection.execute("LOCK events IN ACCESS EXCLUSIVE MODE NOWAIT; TRUNCATE events")
        if number % 25 == 0:
            connection.execute("CREATE TABLE IF NOT EXISTS passing AS SELECT now() AS at")
        if number % 25 == 12:
            with connection.transaction():
                connection.execute("LOCK passing IN ACCESS EXCLUSIVE MODE NOWAIT; DROP TABLE passing")

    def keep_changing() -> None:
        nonlocal changes
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            while not done.wait(0.01):
                # A dump holds the table, or held it when it was to be dropped.
                with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable):
                    change(connection, changes)
                changes += 1

    thread = threading.Thread(target=keep_changing)
    thread.start()
    try:
        yield lambda: changes
    finally:
        done.set()
        thread.join()


@pytest.mark.timeout(600)
def test_fifty_kills_at_random_lose_nothing_and_leave_nothing(
    doomed: Callable[[str, Sequence[str]], Doomed], server: Server
) -> None:
    seed = int(os.environ.get("KEEPWELL_TEST_SEED") or secrets.randbelow(2**32))
    print(f"seed {seed}: KEEPWELL_TEST_SEED={seed} kills at the same moments")  # noqa: T201 - shown when it fails
    dice = random.Random(seed)
    own = doomed("random", SQL)
    killed, outlived = 0, 0
    with under_change(server, own.platform.database.name, random.Random(seed)) as changes:
        began = time.monotonic()
        own.recover("at first")
        whole_seconds = time.monotonic() - began
        while killed < KILLS:
            moment = dice.uniform(0, whole_seconds)
            (own.uploads / f"{killed % 5}.bin").write_bytes(dice.randbytes(5000))
            ended = own.run(after_seconds=moment)
            told = f"killed after {moment:.3f} s (seed {seed}), {ended.effects[-1:]}"
            assert ended.status in (0, -9), told
            if ended.status == 0:
                # Faster than the first one: it is a good set.
                assert ended.reached == "serving", told
                outlived += 1
                own.proven.add(str(ended.wrote))
                assert outlived < KILLS, "the moments are too late to kill anything"
            killed += ended.status != 0
            own.require_no_false_set(told)
            if killed % KILLS_TOGETHER == 0:
                own.recover(told)
                own.require_nothing_left(told)
                own.forget_sets()
        changed = changes()
        own.recover("at last")
    assert changed > KILLS, "nothing has changed meanwhile"
    own.prove_what_was_left("at last")
    own.require_no_false_set("at last")
    own.require_nothing_left("at last")
