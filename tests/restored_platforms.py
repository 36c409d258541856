"""A platform with a proven set and a misfortune since: what the tests of restores begin with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from backup_sets import back_up, prove
from psycopg import sql
from real_servers import Server

from keepwell.approval import Approval, Place, Subject, build_approval
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import Progress, silent
from keepwell.restore.apply import RestoreOutcome, apply_restore
from keepwell.restore.choice import Choice
from keepwell.restore.plan import Mode, RestorePlan, plan_restore
from keepwell.settings import Platform

SOURCE = "CREATE TABLE people AS SELECT n AS id, 'person ' || n AS name FROM generate_series(1, 100) n"
MISFORTUNE = "DELETE FROM people WHERE id <= 40; INSERT INTO people VALUES (1000, 'written since')"


@dataclass(frozen=True)
class Stricken:
    """A platform whose live database lost rows after its proven backup.

    Attributes:
        server: It runs on.
        platform: Of the live database.
        store: Its folder of the bucket.
        backup_id: Of the proven set.
    """

    server: Server
    platform: Platform
    store: Store
    backup_id: str

    @property
    def live(self) -> str:
        return self.platform.database.name

    def ids(self, database: str | None = None) -> tuple[int, int]:
        """How many of the first rows are there, and how many that were written since."""
        with self.server.connect(database or self.live) as connection:
            query = "SELECT count(*) FILTER (WHERE id <= 100), count(*) FILTER (WHERE id > 100) FROM people"
            row = connection.execute(query).fetchone()
            assert row is not None
            return row

    def ids_if_open(self) -> tuple[int, int] | None:
        """The same of the live database; None where nobody is let in."""
        return self.ids() if self.names()[self.live] else None

    def names(self) -> dict[str, bool]:
        """Databases whose names begin with the live one's, each with whether it lets anybody in."""
        with self.server.connect() as connection:
            query = "SELECT datname, datallowconn FROM pg_database WHERE starts_with(datname, %s) ORDER BY 1"
            return dict(connection.execute(query, (self.live,)).fetchall())

    def execute(self, statement: str, database: str = "postgres") -> None:
        """One statement about the live database, which it calls {}."""
        with self.server.connect(database) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.live)))

    def plan(self, mode: Mode = Mode.SWAP, **choice: object) -> RestorePlan:
        now = datetime.now(UTC)
        return plan_restore(self.platform, self.store, Choice(**choice), mode=mode, name=None, now=now)  # type: ignore[arg-type]

    def apply(
        self,
        plan: RestorePlan,
        approval: Approval | None = None,
        *,
        case_id: str | None = None,
        progress: Progress = silent,
        platform: Platform | None = None,
    ) -> RestoreOutcome:
        used = platform or self.platform
        with hold_platform(used, self.store, Procedure.SWAP):
            given = approval or (approve(plan.subject) if plan.swaps else None)
            return apply_restore(used, self.store, plan, given, progress, case_id=case_id)


def approve(subject: Subject, *, digest: str | None = None, typed: str | None = None) -> Approval:
    return build_approval(
        approver="Ada",
        reason="rows are gone",
        typed=subject.typed if typed is None else typed,
        digest=digest or subject.digest,
        approved_at=datetime.now(UTC),
        given_at=Place.COMMAND_LINE,
    )


def backed_up(server: Server, platform: Platform) -> str:
    """Fill the live database, back it up and prove it; its set's id."""
    with server.connect(platform.database.name) as connection:
        connection.execute(SOURCE)
    backup_id = back_up(platform).backup_id
    assert prove(platform, backup_id).reached == "serving"
    return backup_id


@contextmanager
def stricken_platform(server: Server, platform: Platform) -> Iterator[Stricken]:
    """One whose rows were deleted after the backup; every database that a test makes of it is dropped at the end."""
    backup_id = backed_up(server, platform)
    stricken = Stricken(server, platform, open_store(platform), backup_id)
    try:
        stricken.execute(MISFORTUNE, stricken.live)
        yield stricken
    finally:
        drop_all(stricken)


def drop_all(stricken: Stricken) -> None:
    with stricken.server.connect() as connection:
        for name in stricken.names():
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
