"""The interlock's locks: session advisory locks, which die with their session and so never outlive a dead run.

They are held in the maintenance database, because locks belong to one database, and a session in the source would
stand in the way of its own rename.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from keepwell.errors import LockTimeout, ServiceUnavailable
from keepwell.interlock import Holder, Procedure
from keepwell.postgres.connection import connect, translated
from keepwell.settings import DatabaseSettings

# Two-number advisory locks: ours are told from an application's by the first, a hash of this text and the platform.
_NAMESPACE = "keepwell interlock"
_GATE = 0
# Held for milliseconds; whoever has it for longer hangs, and a nightly backup must not hang with it.
_GATE_WAIT_SECONDS = 60
_NUMBERS = {procedure: number for number, procedure in enumerate(Procedure, start=1)}


class AdvisoryLocks:
    """Who holds what, and taking one's own place, each atomically under a short gate."""

    def __init__(self, connection: psycopg.Connection, platform: str) -> None:
        self._connection = connection
        self._space = zlib.crc32(f"{_NAMESPACE} {platform}".encode()) - 2**31

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Nobody else looks or takes meanwhile; held for milliseconds.

        Raises:
            LockTimeout: Another session did not give it back in time.
        """
        try:
            with translated("taking the interlock"):
                self._connection.execute("SELECT pg_catalog.pg_advisory_lock(%s, %s)", (self._space, _GATE))
        except LockTimeout as error:
            raise LockTimeout(
                f"The interlock's gate was not to be had within {_GATE_WAIT_SECONDS} s.",
                hint="A session named “keepwell interlock …” in pg_stat_activity hangs: end its process.",
            ) from error
        with translated("taking the interlock"):
            try:
                yield
            finally:
                self._connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", (self._space, _GATE))

    def holders(self) -> list[Holder]:
        """Everyone who is at work on this platform now, ourselves included."""
        with translated("looking at the interlock"):
            rows = self._connection.execute(
                """
                SELECT l.objid::bigint, coalesce(a.application_name, ''), a.backend_start, l.pid
                FROM pg_catalog.pg_locks l
                LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                  AND l.classid = %s::bigint::oid AND l.objid <> 0
                  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                """,
                (self._space & 0xFFFFFFFF,),
            ).fetchall()
        procedures = {number: procedure for procedure, number in _NUMBERS.items()}
        return [
            Holder(procedures[number], token=name.rpartition(" ")[2], since=since)
            for number, name, since, _ in rows
            if number in procedures
        ]

    def take(self, procedure: Procedure) -> None:
        """Take a place; shared, because whether two may overlap was decided under the gate."""
        with translated("taking the interlock"):
            self._connection.execute(
                "SELECT pg_catalog.pg_advisory_lock_shared(%s, %s)", (self._space, _NUMBERS[procedure])
            )

    def require_held(self, token: str) -> None:
        """Look whether our place is still ours.

        Raises:
            ServiceUnavailable: The session was lost, and the lock with it: somebody else may have been at work too.
        """
        if all(holder.token != token for holder in self.holders()):
            raise ServiceUnavailable(
                "The interlock's session was lost during the procedure.",
                hint="Its result cannot be trusted to be alone: run it again.",
            )

    def cluster(self) -> str:
        """Which server's locks these are, however it was reached.

        A standby has its primary's identifier and locks of its own, and a restart forgets them: the start tells apart.
        """
        with translated("asking for the cluster's identity"):
            row = self._connection.execute(
                "SELECT system_identifier::text || ' since ' || pg_catalog.pg_postmaster_start_time()::text"
                " FROM pg_catalog.pg_control_system()"
            ).fetchone()
        return str(row[0]) if row else ""


@contextmanager
def open_locks(database: DatabaseSettings, platform: str, token: str) -> Iterator[AdvisoryLocks]:
    """A session in the maintenance database for as long as the block; whatever it took goes with it."""
    name = f"keepwell interlock {token}"
    with connect(
        database,
        dbname=database.maintenance_name,
        application_name=name,
        lock_wait_seconds=_GATE_WAIT_SECONDS,
    ) as connection:
        yield AdvisoryLocks(connection, platform)
