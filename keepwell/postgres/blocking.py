"""Who waits behind our locks.

A dump holds the weakest lock on every table. It stands in nobody's way but a change of the schema's; yet behind a
change that waits, everybody else queues too, so a backup that is looked away from can stop an application.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from keepwell.errors import KeepwellError, LockTimeout
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

_LOOK_SECONDS = 1.0
# Every session of ours is named like this, and nobody else's is.
OUR_SESSIONS = "keepwell %"


@dataclass(frozen=True)
class Blocked:
    """Somebody who waits for a lock that we stand in the way of."""

    pid: int
    mode: str
    relation: str
    seconds: float

    def __str__(self) -> str:
        return f"session {self.pid} has waited {self.seconds:.0f} s for {self.mode} on {self.relation}"


class BlockingWatch:
    """Looks once a second, from a thread and a session of its own, for as long as a dump holds its locks."""

    def __init__(self, database: DatabaseSettings, limit_seconds: int) -> None:
        self._database, self._limit_seconds = database, limit_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="blocking watch", daemon=True)
        self._worst: Blocked | None = None
        self._over: Blocked | None = None

    @property
    def longest_seconds(self) -> float:
        """How long anybody waited behind us, so far as was seen."""
        return self._worst.seconds if self._worst else 0.0

    def require_patience(self) -> None:
        """Go on only while nobody has waited too long.

        Raises:
            LockTimeout: Somebody has; the locks have to be given back.
        """
        if self._over is not None:
            raise LockTimeout(
                f"The backup let go, because {self._over} behind it.",
                hint="It is tried again; a migration at that time of day would do better at another.",
            )

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._done.is_set():
            try:
                with connect(self._database, application_name="keepwell watch") as connection:
                    while not self._done.wait(_LOOK_SECONDS):
                        self._judge(read_blocked(connection))
            except KeepwellError:
                # A watch that cannot see ends nothing; the dump's own sessions will tell of a server that is gone.
                self._done.wait(_LOOK_SECONDS)

    def _judge(self, blocked: list[Blocked]) -> None:
        for one in blocked:
            if one.seconds > self.longest_seconds:
                self._worst = one
            if self._limit_seconds and one.seconds >= self._limit_seconds:
                self._over = one


@contextmanager
def watched_blocking(database: DatabaseSettings, *, limit_seconds: int) -> Iterator[BlockingWatch]:
    """Watch for as long as the block.

    Args:
        database: Where our locks are.
        limit_seconds: How long somebody may wait behind us; 0 only counts.
    """
    watch = BlockingWatch(database, limit_seconds)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def read_blocked(connection: psycopg.Connection) -> list[Blocked]:
    """Sessions of this database that wait for a lock behind a session of ours, and are not ours themselves."""
    with translated("looking who waits behind us"):
        rows = connection.execute(
            """
            WITH ours AS (
                SELECT pg_catalog.array_agg(pid) AS pids FROM pg_catalog.pg_stat_activity
                WHERE datname = current_database() AND usename = current_user AND application_name LIKE %s
            )
            SELECT l.pid, l.mode, coalesce(l.relation::regclass::text, l.locktype),
                   extract(epoch FROM pg_catalog.clock_timestamp() - l.waitstart)::float8
            FROM pg_catalog.pg_locks l, ours
            WHERE NOT l.granted AND l.waitstart IS NOT NULL AND l.pid <> ALL (ours.pids)
              AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
              AND pg_catalog.pg_blocking_pids(l.pid) && ours.pids
            ORDER BY 4 DESC
            """,
            (OUR_SESSIONS,),
        ).fetchall()
    return [Blocked(*row) for row in rows]
