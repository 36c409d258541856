"""The roles that Keepwell logs in as: whether each may do what it must, and not much more."""

from collections.abc import Iterator, Sequence

import psycopg

from keepwell.doctor.outcome import alert, not_applicable, not_checked, ok, warn
from keepwell.errors import KeepwellError
from keepwell.postgres.connection import connect
from keepwell.postgres.role_facts import (
    OwnPrivileges,
    RestoringFacts,
    read_own_privileges,
    read_ownership,
    read_restoring,
)
from keepwell.postgres.roles import count_connections
from keepwell.settings import DatabaseSettings, Platform
from keepwell.verdict import Finding

_MAKE_ROLES = "`keepwell roles` prints SQL for a role that reads and does no more."


def examine_role(connection: psycopg.Connection, platform: Platform) -> Iterator[Finding]:
    """What the role of a session may do beyond reading, and whether a restore would have a role to restore as.

    Args:
        connection: To the platform's main database, as the role that backs up.
        platform: Whose settings hold.
    """
    database = platform.database
    found = read_own_privileges(connection)
    yield judge_privilege(found, (*database.names, database.maintenance_name))
    yield judge_connections(found, count_connections(platform.backup.jobs))
    owners, unread = _read_all_owners(connection, database)
    restorer = database.for_restoring.user
    facts = read_restoring(connection, restorer, owners)
    yield judge_restorer(facts, restorer, named=database.restoring_user is not None, unread=unread)


def _read_all_owners(connection: psycopg.Connection, main: DatabaseSettings) -> tuple[list[str], list[str]]:
    """Who owns anything in any database of the platform, and which of these would not tell."""
    owners, unread = set(read_ownership(connection).owners), []
    for name in main.more_names:
        try:
            with connect(main.of(name), application_name="keepwell doctor") as further:
                owners.update(read_ownership(further).owners)
        except KeepwellError:
            unread.append(name)
    return sorted(owners), unread


def judge_privilege(found: OwnPrivileges, known: Sequence[str]) -> Finding:
    """What a thief of the backup role's password could do to the platform.

    Args:
        found: Of the role.
        known: Databases that it has to log in to.
    """
    name, role = "least privilege", found.role
    if found.superuser:
        message = f"The role {role} is a superuser: whoever gets its password may do anything to every database."
        return warn(name, message, hint=_MAKE_ROLES)
    more = []
    if found.powers:
        more.append(f"act as {', '.join(found.powers)}")
    if found.creates_roles:
        more.append("create roles")
    if found.writable_count:
        some = ", ".join(found.writable_tables)
        more.append(f"change {found.writable_count} tables ({some}{' …' if found.writable_count > 3 else ''})")
    if found.writable_schemas:
        more.append(f"create objects in {', '.join(found.writable_schemas)}")
    strange = [one for one in found.other_databases if one not in known]
    if strange:
        more.append(f"read other databases of the server ({', '.join(strange)})")
    if more:
        return warn(name, f"The role {role} may do more than read this platform: {'; '.join(more)}.", hint=_MAKE_ROLES)
    return ok(name, f"The role {role} may read this platform's databases, and change no table.")


def judge_connections(found: OwnPrivileges, needed: int) -> Finding:
    """Whether a backup gets all the sessions that it opens.

    Args:
        found: Of the role and its server.
        needed: As many may be open at once.
    """
    name = "connection limit"
    if -1 < found.connection_limit < needed and not found.superuser:
        return alert(
            name,
            f"The role {found.role} may have {found.connection_limit} sessions, and a backup opens up to {needed}.",
            hint=f"ALTER ROLE … CONNECTION LIMIT {needed}, or lower backup.jobs.",
        )
    if found.free_connections < needed:
        return warn(
            name,
            f"The server has {max(found.free_connections, 0)} sessions left, and a backup opens up to {needed}: one of"
            " them, or one of the application's, may be refused.",
            hint="Raise max_connections, lower the application's pools, or lower backup.jobs.",
        )
    own = f"{found.connection_limit} are allowed" if found.connection_limit > -1 else "the role has no limit of its own"
    return ok(name, f"A backup opens up to {needed} sessions; {own}, and the server has {found.free_connections} left.")


def judge_restorer(found: RestoringFacts, role: str, *, named: bool, unread: Sequence[str] = ()) -> Finding:
    """Whether `backup restore` would have the rights that it needs, before it is needed.

    Args:
        found: Of the role that would restore.
        role: Its name.
        named: Whether the platform file names one for that alone.
        unread: Databases whose owners are not known.
    """
    name = "restoring role"
    make = "`keepwell roles --role restore` prints SQL for one, or says why only a superuser can."
    if not found.exists:
        return alert(name, f"There is no role {role}, which database.restoring_user names.", hint=make)
    lacks = [] if found.superuser or found.creates_databases else ["create databases"]
    if found.missing and not found.superuser:
        lacks.append(f"act as {', '.join(found.missing)}")
    if not lacks and unread and not found.superuser:
        return not_checked(
            name,
            f"{role} may create a database; whether it may give everything back to its owners was not checked for "
            f"{', '.join(unread)}.",
            hint="See to the login there, and ask again.",
        )
    if not lacks:
        return ok(name, f"{role} may create a database and give everything in it back to its owners.")
    message = f"{role} may not {' nor '.join(lacks)}, so it can restore nothing on this server."
    if named:
        return alert(name, message, hint=make)
    return not_applicable(
        name,
        f"{message} That is as it should be for a role that backs up.",
        hint=f"Name database.restoring_user, so that nobody looks for one on the day: {make}",
    )
