"""A gentle, endless write load on the sample platform: `python -m sample.write_load --rate 5`.

What students do all day: register, get confirmed, cancel, comment. Each action is one small transaction. The load
outlives a restart, a rename or a restore of the database: it reconnects, patiently, and goes on.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import psycopg
import redis

from sample.event_store import CONNECT_TIMEOUT_SECONDS, connect_redis
from sample.population import cuid
from sample.settings import Settings, SettingsError

KNOWN_IDS = 2_000
SHORTEST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0
REPORT_SECONDS = 60.0
LAST_SEEN_SECONDS = 600

_REGISTER = """
    INSERT INTO "registrations" ("id", "userId", "eventId", "status", "paymentStatus", "updatedAt")
    VALUES (%s, %s, %s, 'PENDING', 'PENDING', now() AT TIME ZONE 'UTC')
    ON CONFLICT ("userId", "eventId") DO NOTHING
"""
_CONFIRM = """
    UPDATE "registrations"
    SET "status" = 'CONFIRMED', "confirmedAt" = now() AT TIME ZONE 'UTC', "updatedAt" = now() AT TIME ZONE 'UTC'
    WHERE "id" = (SELECT "id" FROM "registrations" WHERE "eventId" = %s AND "status" = 'PENDING' LIMIT 1)
"""
_CANCEL = """
    UPDATE "registrations"
    SET "status" = 'CANCELLED', "cancelledAt" = now() AT TIME ZONE 'UTC', "updatedAt" = now() AT TIME ZONE 'UTC'
    WHERE "id" = (SELECT "id" FROM "registrations" WHERE "eventId" = %s AND "status" = 'CONFIRMED' LIMIT 1)
"""
_COMMENT = """
    INSERT INTO "comments" ("id", "userId", "eventId", "content", "updatedAt")
    VALUES (%s, %s, %s, %s, now() AT TIME ZONE 'UTC')
"""


@dataclass
class WriteTotals:
    """What a load has done so far; only committed transactions count."""

    transactions: int = 0
    failures: int = 0
    reconnections: int = 0
    cache_writes: int = 0


class WriteLoad:
    """Writes at a bounded rate until told to stop."""

    def __init__(
        self, database_url: str, redis_url: str | None, *, rate_per_second: float, rng: Random | None = None
    ) -> None:
        """Prepare a load; nothing is connected yet.

        Args:
            database_url: A libpq address of a filled sample platform.
            redis_url: Also set a short-lived key now and then; None leaves Redis out.
            rate_per_second: At most so many transactions; time lost while the database was away is not caught up.
            rng: Chooses what happens to whom.

        Raises:
            ValueError: The rate is not positive.
        """
        if rate_per_second <= 0:
            raise ValueError(f"the rate must be positive, not {rate_per_second}")
        self.totals = WriteTotals()
        self._database_url = database_url
        self._redis = connect_redis(redis_url) if redis_url else None
        self._interval_seconds = 1 / rate_per_second
        self._rng = rng or Random()
        self._stopping = threading.Event()
        self._users: list[str] = []
        self._events: list[str] = []

    def stop(self) -> None:
        """End `run` soon, after the transaction under way."""
        self._stopping.set()

    def run(self, *, for_seconds: float | None = None, report: Callable[[str], object] = print) -> WriteTotals:
        """Write until `stop` or until the time is over.

        Args:
            for_seconds: None means without end.
            report: Is told in a line when the database goes and comes, and once a minute what was written.

        Returns:
            What was done.
        """
        ends = None if for_seconds is None else time.monotonic() + for_seconds
        wait_seconds = SHORTEST_WAIT_SECONDS
        while not self._over(ends):
            written_before = self.totals.transactions
            try:
                with self._connect() as connection:
                    self._write_until_over(connection, ends, report)
            except psycopg.Error as error:
                if self.totals.transactions > written_before:
                    wait_seconds = SHORTEST_WAIT_SECONDS
                self.totals.failures += 1
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                report(f"database: {reason}; trying again in {wait_seconds:.1f} s")
                self._stopping.wait(wait_seconds)
                wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)
        if self._redis is not None:
            self._redis.close()
        return self.totals

    def _over(self, ends: float | None) -> bool:
        return self._stopping.is_set() or (ends is not None and time.monotonic() >= ends)

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(
            self._database_url, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="esn_write_load"
        )
        # Ids are read anew each time: after a restore they may be others.
        self._users = _read_some_ids(connection, "users")
        self._events = _read_some_ids(connection, "events")
        if not self._users or not self._events:
            connection.close()
            raise psycopg.DataError("there are no users or events to write about")
        if self.totals.transactions:
            self.totals.reconnections += 1
        return connection

    def _write_until_over(
        self, connection: psycopg.Connection[Any], ends: float | None, report: Callable[[str], object]
    ) -> None:
        due = next_report = time.monotonic()
        while not self._over(ends):
            with connection.transaction():
                self._write_once(connection)
            self.totals.transactions += 1
            self._touch_cache()
            if time.monotonic() >= next_report:
                report(f"{self.totals.transactions} transactions, {self.totals.reconnections} reconnections")
                next_report += REPORT_SECONDS
            due = max(due + self._interval_seconds, time.monotonic())
            self._stopping.wait(due - time.monotonic())

    def _write_once(self, connection: psycopg.Connection[Any]) -> None:
        user, event, chance = self._rng.choice(self._users), self._rng.choice(self._events), self._rng.random()
        if chance < 0.50:
            connection.execute(_REGISTER, (self._new_id(), user, event))
        elif chance < 0.75:
            connection.execute(_CONFIRM, (event,))
        elif chance < 0.90:
            connection.execute(_CANCEL, (event,))
        else:
            connection.execute(_COMMENT, (self._new_id(), user, event, "See you there! 👋"))

    def _new_id(self) -> str:
        entropy = self._rng.getrandbits(64)
        return cuid(time.time_ns() // 1_000_000, entropy >> 32, entropy)

    def _touch_cache(self) -> None:
        if self._redis is None or self._rng.random() > 0.2:
            return
        try:
            self._redis.set(f"user:last-seen:{self._rng.choice(self._users)}", int(time.time()), ex=LAST_SEEN_SECONDS)
        except (redis.RedisError, OSError):
            self.totals.failures += 1
        else:
            self.totals.cache_writes += 1


def _read_some_ids(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """The most recent ids: a cuid begins with its time, and recent rows are those that people touch."""
    query = psycopg.sql.SQL('SELECT "id" FROM {} ORDER BY "id" DESC LIMIT %s').format(psycopg.sql.Identifier(table))
    with connection.transaction():
        return [row[0] for row in connection.execute(query, (KNOWN_IDS,))]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command line; 0 after a clean stop, 1 with a message on stderr when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m sample.write_load",
        description="Write to the sample platform, gently, until stopped.",
        epilog="DATABASE_URL and, if wanted, REDIS_URL are read from the environment.",
    )
    parser.add_argument("--rate", type=float, default=5.0, help="transactions per second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=None, help="stop after so long (default: never)")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment(environment)
        load = WriteLoad(settings.database_url, settings.redis_url, rate_per_second=options.rate)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"sample.write_load: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_stop, load))
    totals = load.run(for_seconds=options.seconds, report=_say)
    _say(f"stopped: {totals.transactions} transactions, {totals.reconnections} reconnections")
    return 0


def _stop(load: WriteLoad, *_: object) -> None:
    # From another thread: the signal may have interrupted the very wait that `stop` ends, lock in hand.
    threading.Thread(target=load.stop).start()


if __name__ == "__main__":
    sys.exit(main())
