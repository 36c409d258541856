"""Least-privilege roles for a platform: what backup, vacuum and restore each need, as SQL to be read and then run.

Nothing here speaks to a server. A script is planned from what the server says of itself (`role_facts`), shown to a
person, and run by a superuser: Keepwell's own roles could not make themselves.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from psycopg import sql
from psycopg.conninfo import make_conninfo

from keepwell.errors import ConfigurationError
from keepwell.postgres.role_facts import DatabaseReach, HeldMembership, RoleFacts, render_mark

# The first major with a predefined role, and a privilege, to vacuum what one does not own.
_MAINTAIN_MAJOR = 17
# The first major in which a membership can be used without SET ROLE to it.
_GRADED_MEMBERSHIP_MAJOR = 16
# Beside those that dump and those that hash: interlock, snapshot, watch, the leader of pg_dump, and short ones that
# come and go (listing tables, the next run that waits for its turn, a doctor with three).
_FURTHER_SESSIONS = 10
_PASSWORD_BYTES = 24

_WHY_CLOSING = (
    "-- Every role may log in to every database unless it is told otherwise, and one that reads all tables would read",
    "-- those of other applications. From now on, whoever is let in by name may; --undo opens them again.",
)


class Purpose(StrEnum):
    """What a role is for."""

    BACKUP = "backup"
    VACUUM = "vacuum"
    RESTORE = "restore"


@dataclass(frozen=True)
class Membership:
    """One role's membership in another.

    Attributes:
        role: Of which it becomes a member.
        options: Behind WITH, where the server knows degrees of it; else empty.
    """

    role: str
    options: str = ""


@dataclass(frozen=True)
class PlannedRole:
    """One role as it is to be.

    Attributes:
        purpose: What for.
        name: Such as `keepwell_backup_esn`.
        exists: Whether there is a role of that name already, which is then altered.
        attributes: Such as NOSUPERUSER; plain words of SQL.
        settings: Of its sessions, name to value.
        memberships: Where its privileges come from.
        strays: Memberships that it has and is not to have; none of a role that is made anew.
        login_to: Databases that it must be let in to by name.
        large_objects_in: Databases whose large objects it must be granted one by one.
        schemas_in: Schemas that it must be let into, by database.
        why: What each of its powers is for, a line each.
    """

    purpose: Purpose
    name: str
    exists: bool
    attributes: tuple[str, ...]
    settings: Mapping[str, str]
    memberships: tuple[Membership, ...]
    login_to: tuple[str, ...]
    strays: tuple[HeldMembership, ...] = ()
    large_objects_in: tuple[str, ...] = ()
    schemas_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolePlan:
    """What a script does.

    Attributes:
        platform: Whose roles.
        server_major: Such as 15.
        roles: In the order of their making.
        impossible: Purposes that no role short of a superuser could serve on this server, each with the reason.
        notes: What the operator should know.
        closing: Databases that every role could log in to, and now only those named can; none without a backup role.
        closed: What its backup role needs closed, of what scripts of ours closed, this one and those before, for any
            platform: what the role's mark is to say.
        opening: What `--undo` opens again: of what the role's mark says now, all that no other platform's needs.
        databases: The platform's, the main one first.
    """

    platform: str
    server_major: int
    roles: tuple[PlannedRole, ...]
    impossible: Mapping[Purpose, str]
    notes: tuple[str, ...]
    closing: Mapping[str, tuple[str, ...]]
    closed: Mapping[str, tuple[str, ...]]
    opening: Mapping[str, tuple[str, ...]]
    databases: tuple[str, ...]


def name_role(platform: str, purpose: Purpose) -> str:
    """The name of a platform's role: one's own, since several may share a server."""
    return f"keepwell_{purpose}_{platform}"


def count_connections(jobs: int) -> int:
    """How many sessions a backup may have open at once, with what else of ours comes beside it.

    Args:
        jobs: As many dump, and as many hash.
    """
    return 2 * jobs + _FURTHER_SESSIONS


def make_password() -> str:
    """A password that nobody has to type: 192 random bits."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def plan_roles(
    facts: RoleFacts, *, platform: str, maintenance: str, jobs: int, purposes: Sequence[Purpose] = tuple(Purpose)
) -> RolePlan:
    """Choose the least that each purpose can do with.

    Args:
        facts: Of the server.
        platform: Its name, for the roles' names.
        maintenance: The database that holds the interlock's locks.
        jobs: Parallel connections of a backup, for the limits.
        purposes: Which roles to plan.

    Returns:
        The plan; a purpose that cannot be served short of a superuser is named as such, and left out.

    Source: PostgreSQL manual, "Predefined Roles", "Role Attributes", "VACUUM".
    """
    ours = tuple(ownership.database for ownership in facts.ownerships)
    planners = {Purpose.BACKUP: _plan_backup, Purpose.VACUUM: _plan_vacuum, Purpose.RESTORE: _plan_restore}
    roles: list[PlannedRole] = []
    impossible: dict[Purpose, str] = {}
    login_to = _closed_among((*ours, maintenance), facts)
    for purpose in purposes:
        planned = planners[purpose](facts, name_role(platform, purpose), login_to, jobs)
        if isinstance(planned, PlannedRole):
            roles.append(replace(planned, strays=tuple(_find_strays(planned, facts))))
        else:
            impossible[purpose] = planned
    strange = tuple(one for one in facts.databases if one.name not in (*ours, maintenance))
    closing: dict[str, tuple[str, ...]] = {}
    if any(role.purpose is Purpose.BACKUP for role in roles):
        closing = _plan_closing(facts, platform, strange)
    own, others = _read_marks(facts, name_role(platform, Purpose.BACKUP))
    shared = {one.name: others[one.name] for one in strange if one.name in others}
    return RolePlan(
        platform=platform,
        server_major=facts.server_major,
        roles=tuple(roles),
        impossible=impossible,
        notes=tuple(_note(facts, roles)),
        closing=closing,
        closed=_merge(own, shared, closing),
        opening={name: logins for name, logins in own.items() if name not in others},
        databases=ours,
    )


def _find_strays(role: PlannedRole, facts: RoleFacts) -> Iterator[HeldMembership]:
    """Powers that somebody gave it, or that an older server took, or that an owner of before left behind."""
    wanted = {membership.role for membership in role.memberships}
    return (held for held in facts.memberships if held.member == role.name and held.role not in wanted)


def _plan_closing(facts: RoleFacts, platform: str, strange: Sequence[DatabaseReach]) -> dict[str, tuple[str, ...]]:
    """Databases to close, and whom to let in by name; not who is let in already, whose right is not ours to take."""
    names = {name_role(platform, purpose) for purpose in Purpose}
    logins = tuple(login for login in facts.logins if login not in names)
    return {
        one.name: tuple(login for login in logins if login not in (one.owner, *one.let_in))
        for one in strange
        if one.open_to_all
    }


def _read_marks(facts: RoleFacts, role: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """What one role's mark says, and those of all others together; without databases and roles that are gone since."""
    there = {one.name for one in facts.databases}
    marks = {
        marked: {
            name: tuple(login for login in logins if login in facts.roles)
            for name, logins in closed.items()
            if name in there
        }
        for marked, closed in facts.closed.items()
    }
    return marks.pop(role, {}), _merge(*marks.values())


def _merge(*marks: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    merged: dict[str, tuple[str, ...]] = {}
    for name, logins in (item for mark in marks for item in mark.items()):
        merged[name] = tuple(dict.fromkeys((*merged.get(name, ()), *logins)))
    return merged


def _closed_among(names: Sequence[str], facts: RoleFacts) -> tuple[str, ...]:
    """Databases whose door is not open to every role, so that ours must be let in."""
    closed = {one.name for one in facts.databases if not one.open_to_all}
    return tuple(dict.fromkeys(name for name in names if name in closed))


def _plan_backup(facts: RoleFacts, name: str, login_to: tuple[str, ...], jobs: int) -> PlannedRole:
    return PlannedRole(
        purpose=Purpose.BACKUP,
        name=name,
        exists=name in facts.roles,
        attributes=_attributes(connections=count_connections(jobs), more=("BYPASSRLS",)),
        settings={"default_transaction_read_only": "on"},
        memberships=(Membership("pg_read_all_data"),),
        login_to=login_to,
        large_objects_in=tuple(one.database for one in facts.ownerships if one.large_objects),
        why=(
            "Reads everything of this platform's databases, and writes nothing.",
            "pg_read_all_data: every table and sequence, those that come later too, and the password hashes of roles.",
            "BYPASSRLS: row security would hide rows from a dump.",
            "read only: against mistakes; whoever logs in can switch it off, and still has no right to write.",
        ),
    )


def _plan_vacuum(facts: RoleFacts, name: str, login_to: tuple[str, ...], jobs: int) -> PlannedRole | str:
    del jobs
    base = {
        "purpose": Purpose.VACUUM,
        "name": name,
        "exists": name in facts.roles,
        "attributes": _attributes(connections=5),
        # A vacuum changes nothing that a reader sees, so it is allowed in a transaction that only reads.
        "settings": {"default_transaction_read_only": "on"},
        "login_to": login_to,
    }
    if facts.server_major >= _MAINTAIN_MAJOR:
        why = (
            "Vacuums and analyzes every table, and reads none.",
            "pg_maintain: VACUUM, ANALYZE, CLUSTER, REINDEX, REFRESH and LOCK TABLE, on all tables of the server.",
        )
        schemas = {one.database: one.closed_schemas for one in facts.ownerships if one.closed_schemas}
        return PlannedRole(**base, memberships=(Membership("pg_maintain"),), schemas_in=schemas, why=why)  # type: ignore[arg-type]
    owners, superusers = _split_owners(facts)
    if superusers:
        return (
            f"Before PostgreSQL {_MAINTAIN_MAJOR} only its owner may vacuum a table, and {', '.join(superusers)} owns "
            "some here and is a superuser: whoever acts for it may do anything."
        )
    options = "INHERIT TRUE, SET FALSE" if facts.server_major >= _GRADED_MEMBERSHIP_MAJOR else ""
    why = (
        f"Before PostgreSQL {_MAINTAIN_MAJOR} only its owner may vacuum a table, so this role may do what owners may.",
        "read only: against mistakes; whoever logs in can switch it off, and then write what the owners may write.",
    )
    memberships = tuple(Membership(owner, options) for owner in owners)
    return PlannedRole(**base, memberships=memberships, why=why)  # type: ignore[arg-type]


def _plan_restore(facts: RoleFacts, name: str, login_to: tuple[str, ...], jobs: int) -> PlannedRole | str:
    owners, superusers = _split_owners(facts)
    if superusers:
        return (
            f"A restore gives everything back to its owners, and {', '.join(superusers)} is one of them and a "
            "superuser: whoever acts for it may do anything."
        )
    return PlannedRole(
        purpose=Purpose.RESTORE,
        name=name,
        exists=name in facts.roles,
        attributes=_attributes(connections=count_connections(jobs), more=("CREATEDB", "BYPASSRLS")),
        settings={},
        memberships=tuple(Membership(owner) for owner in owners),
        login_to=login_to,
        why=(
            "Creates a database beside the live one, and gives everything in it back to its owners.",
            "So it may do what they may, in the live database too: keep its password away from this machine.",
            "BYPASSRLS: what was restored is compared row by row.",
        ),
    )


def _attributes(*, connections: int, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Each power that a role may have by itself, switched on or off, so that a role of before is put right too."""
    powers = ("SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS")
    chosen = (power if power in more else f"NO{power}" for power in powers)
    return ("LOGIN", "INHERIT", *chosen, f"CONNECTION LIMIT {connections}")


def _split_owners(facts: RoleFacts) -> tuple[list[str], list[str]]:
    """Owners in the platform's databases, sorted: ordinary roles, and superusers."""
    owners = sorted({owner for one in facts.ownerships for owner in one.owners})
    superusers = [owner for owner in owners if owner in facts.superusers]
    return [owner for owner in owners if owner not in superusers], superusers


def _note(facts: RoleFacts, roles: Sequence[PlannedRole]) -> Iterator[str]:
    purposes = {role.purpose for role in roles}
    if any(role.schemas_in for role in roles):
        yield "The role that vacuums is let into each schema by name: print this anew when there is a new schema."
    for one in facts.ownerships:
        if one.large_objects and Purpose.BACKUP in purposes:
            yield (
                f"{one.database} holds {one.large_objects} large objects, each of which is granted by itself. New ones "
                "are not: run this again when doctor says so."
            )
        if one.untrusted_extensions and Purpose.RESTORE in purposes:
            yield (
                f"{one.database} uses extensions that only a superuser may create, so only a superuser can restore it: "
                f"{', '.join(one.untrusted_extensions)}."
            )


def render_role_script(plan: RolePlan, *, verifiers: Mapping[str, str] | None = None) -> str:
    r"""The plan as a script for psql.

    Args:
        plan: Of `plan_roles`.
        verifiers: Role to the SCRAM verifier of its password; without one, psql is made to ask for it (`\password`).

    Returns:
        One transaction, then what cannot be part of it. Nothing of it is a password.

    Raises:
        ConfigurationError: A database with large objects has a name that psql cannot be told.
    """
    if not plan.roles:
        return "\n".join(_head(plan)) + "\n"
    parts = [*_head(plan), "BEGIN;"]
    for role in plan.roles:
        parts += ["", *(f"-- {line}" for line in (f"{role.purpose}: {role.why[0]}", *role.why[1:]))]
        parts += [_text(statement) for statement in _make_role(role, (verifiers or {}).get(role.name))]
    if plan.closing:
        parts += ["", *_WHY_CLOSING, *map(_text, _close(plan.closing))]
    if plan.closed and any(role.purpose is Purpose.BACKUP for role in plan.roles):
        marked = sql.Identifier(name_role(plan.platform, Purpose.BACKUP))
        comment = sql.SQL("COMMENT ON ROLE {} IS {};").format(marked, sql.Literal(render_mark(plan.closed)))
        parts += [_text(comment)]
    parts += ["", "COMMIT;"]
    for role in plan.roles:
        parts += _grant_inside(role)
    asked = [role for role in plan.roles if role.name not in (verifiers or {})]
    if asked:
        parts += ["", "-- psql asks for each password, and sends nothing but its SCRAM verifier."]
        parts += [f"\\password {_text(sql.Identifier(role.name))}" for role in asked]
    return "\n".join(parts) + "\n"


def render_undo_script(plan: RolePlan) -> str:
    """What takes a platform's roles away again, as a script for psql.

    Args:
        plan: Of `plan_roles`, from what the server says now; only roles that exist are dropped.

    Returns:
        What they own, if anything, goes to whoever runs it; databases that were closed for their sake are open again,
        unless another platform's role needs them closed.

    Raises:
        ConfigurationError: A database has a name that psql cannot be told.
    """
    existing = [role for role in plan.roles if role.exists]
    parts = [
        f"-- Takes Keepwell's roles for the platform {plan.platform} away again. Run it as a superuser:",
        "-- psql -X -v ON_ERROR_STOP=1 -d postgres -f FILE",
    ]
    if not existing:
        return "\n".join([*parts, "-- There are none."]) + "\n"
    for database in plan.databases:
        parts += ["", _connect_to(database)]
        for role in existing:
            name = sql.Identifier(role.name)
            # In this order, so that nothing is dropped with them.
            parts += [_text(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER;").format(name))]
            parts += [_text(sql.SQL("DROP OWNED BY {};").format(name))]
    parts += ["", "BEGIN;"]
    if any(role.purpose is Purpose.BACKUP for role in existing):
        parts += [_text(statement) for statement in _open_again(plan.opening)]
    parts += [_text(sql.SQL("DROP ROLE {};").format(sql.Identifier(role.name))) for role in existing]
    return "\n".join([*parts, "COMMIT;"]) + "\n"


def _head(plan: RolePlan) -> Iterator[str]:
    yield f"-- Roles for the platform {plan.platform} on PostgreSQL {plan.server_major}, with the least each needs."
    yield "-- Read it, then run it as a superuser: psql -X -v ON_ERROR_STOP=1 -d postgres -f FILE"
    yield "-- Undo: keepwell roles --undo"
    for purpose, reason in plan.impossible.items():
        yield f"-- No role for {purpose}: {_one_line(reason)}"
    for note in plan.notes:
        yield f"-- {_one_line(note)}"


def _make_role(role: PlannedRole, verifier: str | None) -> Iterator[sql.Composable]:
    name = sql.Identifier(role.name)
    verb = sql.SQL("ALTER ROLE" if role.exists else "CREATE ROLE")
    yield sql.SQL("{} {} WITH {};").format(verb, name, sql.SQL(" ".join(role.attributes)))
    for setting, value in role.settings.items():
        yield sql.SQL("ALTER ROLE {} SET {} = {};").format(name, sql.Identifier(setting), sql.Literal(value))
    for stray in role.strays:
        grantor = sql.SQL(" GRANTED BY {}").format(sql.Identifier(stray.grantor)) if stray.grantor else sql.SQL("")
        yield sql.SQL("REVOKE {} FROM {}{};").format(sql.Identifier(stray.role), name, grantor)
    for membership in role.memberships:
        options = sql.SQL(f" WITH {membership.options}" if membership.options else "")
        yield sql.SQL("GRANT {} TO {}{};").format(sql.Identifier(membership.role), name, options)
    for database in role.login_to:
        yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {};").format(sql.Identifier(database), name)
    if verifier is not None:
        yield sql.SQL("ALTER ROLE {} PASSWORD {};").format(name, sql.Literal(verifier))


def _close(closing: Mapping[str, Sequence[str]]) -> Iterator[sql.Composable]:
    for database, logins in closing.items():
        if logins:
            who = sql.SQL(", ").join(map(sql.Identifier, logins))
            yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {};").format(sql.Identifier(database), who)
        yield sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC;").format(sql.Identifier(database))


def _open_again(closed: Mapping[str, Sequence[str]]) -> Iterator[sql.Composable]:
    for database, logins in closed.items():
        yield sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC;").format(sql.Identifier(database))
        if logins:
            who = sql.SQL(", ").join(map(sql.Identifier, logins))
            yield sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {};").format(sql.Identifier(database), who)


def _grant_inside(role: PlannedRole) -> Iterator[str]:
    """What is granted in a database, and so from within it."""
    for database, schemas in role.schemas_in.items():
        names = sql.SQL(", ").join(map(sql.Identifier, schemas))
        yield ""
        yield _connect_to(database)
        yield _text(sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(names, sql.Identifier(role.name)))
    for database in role.large_objects_in:
        grant = sql.SQL("GRANT SELECT ON LARGE OBJECT %s TO {}").format(sql.Identifier(role.name))
        yield ""
        yield _connect_to(database)
        yield "DO $grants$"
        yield "DECLARE number oid;"
        yield "BEGIN"
        yield "    FOR number IN SELECT oid FROM pg_catalog.pg_largeobject_metadata LOOP"
        yield f"        EXECUTE pg_catalog.format({_text(sql.Literal(_text(grant)))}, number);"
        yield "    END LOOP;"
        yield "END $grants$;"


def _connect_to(database: str) -> str:
    """The command of psql that connects elsewhere, as pg_dumpall writes it."""
    if any(sign in database for sign in "\n\r\0"):
        raise ConfigurationError(
            "A database has a name of several lines, which psql cannot be told.", hint="Grant there by hand."
        )
    return f"\\connect -reuse-previous=on {_text(sql.Identifier(make_conninfo('', dbname=database)))}"


def _one_line(text: str) -> str:
    """A comment that stays one: names in it may hold anything."""
    return " ".join(text.split())


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
