"""Giving the live name to another database, so that at every moment exactly one has it.

1. Shut both: nobody is let in any more, superusers neither, or an application's pool would be back in an instant.
2. End the sessions that are in, and wait until they are gone. Look once more that nothing is as it must not be.
3. In one transaction: the live one gets its other name, the other one the live name, and both are open again.

Killed before 3, the live database is where it was, and shut: the journal says so, and `keepwell restore status`.
Killed after it, the swap is done.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.postgres.connection import connect
from keepwell.postgres.databases import (
    NamedDatabase,
    end_sessions,
    exchange_names,
    open_again,
    read_databases,
    read_obstacles,
    shut,
)
from keepwell.progress import Progress, Step
from keepwell.settings import Platform


@dataclass(frozen=True)
class Exchange:
    """Two databases and their names.

    Attributes:
        live: The name that is given to the other one.
        leaving: The database that has it; None where none has.
        leaving_name: What that one is called from then on.
        coming: The database that gets it.
    """

    live: str
    leaving: NamedDatabase | None
    leaving_name: str
    coming: NamedDatabase

    @property
    def oids(self) -> tuple[int, ...]:
        """Of both."""
        return tuple(one.oid for one in (self.leaving, self.coming) if one is not None)


def connect_beside(platform: Platform) -> psycopg.Connection:
    """To the maintenance database, as the role that restores: from there databases are renamed."""
    return connect(
        platform.database.for_restoring,
        dbname=platform.database.maintenance_name,
        application_name="keepwell swap",
        lock_wait_seconds=platform.restore.fence_seconds,
    )


def exchange(platform: Platform, wanted: Exchange, progress: Progress, *, before_shutting: Callable[[], None]) -> None:
    """Give the live name to another database; the caller holds the platform for a swap.

    Args:
        platform: Whose server.
        wanted: Which ones.
        progress: Told how far it is.
        before_shutting: Called right before; while nobody is let in, nothing has a place that takes time.

    Raises:
        PreconditionFailed: The other name is taken, a name means another database by now, or something ties the live
            one to its name; nothing was changed.
        KeepwellError: It could not be done; both are open again, under the names that they had.
    """
    try:
        with connect_beside(platform) as connection:
            _require_free(connection, wanted)
            names = _names_of(connection, wanted.oids)
            before_shutting()
            progress(Step("shutting the live database, and ending its sessions"))
            shut(connection, names)
            end_sessions(connection, names, wait_seconds=platform.restore.fence_seconds)
            _require_untied(connection, wanted)
            progress(Step("exchanging the names"))
            renames = [(wanted.coming.name, wanted.live)]
            reopened = [wanted.live]
            if wanted.leaving is not None:
                renames.insert(0, (wanted.live, wanted.leaving_name))
                reopened.append(wanted.leaving_name)
            wait_seconds = platform.restore.fence_seconds
            exchange_names(connection, renames, reopen=reopened, wait_seconds=wait_seconds, ends_sessions=True)
    except BaseException as error:
        done = is_exchanged(platform, wanted)
        # The connection may have gone in the very moment of the commit: then it is done, whatever the server said.
        if done and isinstance(error, Exception):
            return
        if done is None and isinstance(error, KeepwellError):
            raise ServiceUnavailable(
                f"{error.message} Whether the names were exchanged is not known, since the server does not answer.",
                hint="Once it does: keepwell restore status.",
            ) from error
        if not done:
            with suppress(KeepwellError):  # status tells of a database that stays shut
                open_databases(platform, wanted.oids)
        raise


def is_exchanged(platform: Platform, wanted: Exchange) -> bool | None:
    """Whether the live name is the other one's by now; None where the server cannot be asked."""
    try:
        with connect_beside(platform) as connection:
            live = next((one for one in read_databases(connection) if one.name == wanted.live), None)
    except KeepwellError:
        return None
    return live is not None and live.oid == wanted.coming.oid


def open_databases(platform: Platform, oids: Sequence[int]) -> tuple[str, ...]:
    """Let people into databases again, whatever they are called by now.

    Returns:
        Their names.

    Raises:
        KeepwellError: The server does not answer, or refuses.
    """
    with connect_beside(platform) as connection:
        names = _names_of(connection, oids)
        open_again(connection, names)
    return names


def _names_of(connection: psycopg.Connection, oids: Sequence[int]) -> tuple[str, ...]:
    return tuple(one.name for one in read_databases(connection) if one.oid in oids)


def _require_untied(connection: psycopg.Connection, wanted: Exchange) -> None:
    """What was planned may be hours old; from now on nobody is in these databases who could change it again."""
    now = {one.name: one.oid for one in read_databases(connection)}
    meant = {wanted.live: wanted.leaving.oid if wanted.leaving else None, wanted.coming.name: wanted.coming.oid}
    moved = [name for name, oid in meant.items() if now.get(name) != oid]
    if moved:
        raise PreconditionFailed(
            f"{moved[0]} is another database by now: nothing was exchanged.", hint="Look: keepwell restore status."
        )
    if wanted.leaving is None:
        return
    tied = read_obstacles(connection, wanted.leaving.oid)
    named = {
        "prepared transactions": tied.prepared,
        "replication slots": tied.slots,
        "subscriptions": tied.subscriptions,
    }
    told = [f"{what} ({', '.join(which)})" for what, which in named.items() if which]
    if told:
        raise PreconditionFailed(
            f"{wanted.live} has got {' and '.join(told)} meanwhile: nothing was exchanged.",
            hint="COMMIT PREPARED or ROLLBACK PREPARED the first; drop the others, and make them anew afterwards.",
        )


def _require_free(connection: psycopg.Connection, wanted: Exchange) -> None:
    taken = {one.name for one in read_databases(connection)}
    if wanted.leaving is not None and wanted.leaving_name in taken:
        raise PreconditionFailed(
            f"There is a database {wanted.leaving_name} already. Nothing was changed.",
            hint="Look what it is, and rename or drop it. Then: keepwell restore status tells how to go on.",
        )
