"""The set's roles on a server: those that it lacks are created, those that it has are compared, and none is changed.

A set's globals.sql is pg_dumpall's, and only the statements of roles that are missing are run, all of them or none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from keepwell.approval import Subject, digest_plan
from keepwell.backup import layout, read_back
from keepwell.backup.read_back import SetReader
from keepwell.backup.restore import require_fine, require_restorable
from keepwell.backup.spool import open_spool
from keepwell.errors import AccessDenied, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.postgres import archive
from keepwell.postgres.connection import connect, translated
from keepwell.postgres.globals_script import RoleStatement, parse_globals
from keepwell.progress import Step
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

_NAMED = 10
# Where the server's name of an encoding is none of Python's.
_CODECS = {"SQL_ASCII": "utf-8", **{f"WIN{page}": f"cp{page}" for page in (866, 874, *range(1250, 1259))}}
_CODECS |= {f"LATIN{number}": f"iso8859-{part}" for number, part in ((6, 10), (7, 13), (8, 14), (9, 15), (10, 16))}


@dataclass(frozen=True)
class RoleThere:
    """A role as a server has it.

    Attributes:
        attributes: Such as NOSUPERUSER, as pg_dumpall words them.
        member_of: Roles that it is a member of.
    """

    attributes: frozenset[str]
    member_of: frozenset[str]


@dataclass(frozen=True)
class RolesPlan:
    """What of a set's roles a server lacks, and how those stand that it has.

    Attributes:
        platform: Its name.
        backup_id: Of the set.
        server: Where, for people.
        typed: What an approver types.
        missing: Roles that would be created.
        there: Roles that are there already, and stay as they are.
        passwords: Whether the set holds password hashes for those that are missing.
        statements: What would be run; it holds password hashes, so it is shown nowhere.
        findings: Differences, and what would not come back.
    """

    platform: str
    backup_id: str
    server: str
    typed: str
    missing: tuple[str, ...]
    there: tuple[str, ...]
    passwords: bool
    statements: tuple[RoleStatement, ...]
    findings: tuple[Finding, ...]

    @property
    def described(self) -> dict[str, str]:
        """What each missing role would be: what it may do, and of which roles it would be a member."""
        told = {}
        for name in self.missing:
            of_it = [one for one in self.statements if one.role == name]
            powers = sorted(word for one in of_it for word in one.attributes if not word.startswith("NO"))
            groups = sorted(one.member_of for one in of_it if one.kind == "membership")
            told[name] = ", ".join([*powers, *(f"member of {group}" for group in groups)]) or "no attributes"
        return told

    @property
    def undo(self) -> tuple[str, ...]:
        """SQL that drops the roles again; the server refuses it for one that owns something by then."""
        return tuple(f'DROP ROLE "{name.replace(chr(34), chr(34) * 2)}";' for name in self.missing)

    @property
    def subject(self) -> Subject:
        """What somebody approves: new roles may log in, and may be mighty."""
        binds = {
            "backup_id": self.backup_id,
            "server": self.server,
            **{f"role {name}": said for name, said in self.described.items()},
            # With their settings and passwords, which are shown nowhere.
            "statements": digest_plan([one.text for one in self.statements]),
        }
        return Subject(procedure="creation of roles", platform=self.platform, binds=binds, typed=self.typed)


def read_roles_plan(platform: Platform, store: Store, backup_id: str, *, allow_unproven: bool = False) -> RolesPlan:
    """Compare a set's roles with the server's; nothing is changed.

    Raises:
        PreconditionFailed: The set is not fit for it, or holds no roles.
        VerificationFailed: Its roles are damaged.
        ServiceUnavailable: The server does not answer.
    """
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    parts = [part for part in manifest.parts if part.content_name == layout.GLOBALS]
    if not parts:
        raise PreconditionFailed(f"{backup_id} holds no roles.", hint="Take another set.")
    with open_spool(platform) as folder:
        reader = SetReader(store, manifest, folder, _silent, parts=parts)
        require_fine(read_back.check_readable(manifest, reader.fetch_files()))
        require_fine(read_back.check_globals(folder))
        content = archive.without_restriction(archive.without_grantors((folder / layout.GLOBALS).read_bytes()))
    statements = parse_globals(decode_script(content))
    with connect(platform.database.for_restoring, dbname=platform.database.maintenance_name) as connection:
        there = read_roles(connection)
    missing, findings = judge_roles(statements, there)
    return RolesPlan(
        platform=platform.name,
        backup_id=backup_id,
        server=platform.database.place,
        typed=platform.database.name,
        missing=missing,
        there=tuple(sorted({one.role for one in statements} & there.keys())),
        passwords=manifest.role_passwords,
        statements=tuple(choose_statements(statements, set(missing), set(there))),
        findings=tuple(findings),
    )


def create_missing_roles(platform: Platform, plan: RolesPlan) -> tuple[str, ...]:
    """Create the roles that the server lacks, all of them or none; then look whether they are as the set says.

    Args:
        platform: Whose server.
        plan: Approved.

    Returns:
        Their names.

    Raises:
        AccessDenied: The role that restores may create none.
        PreconditionFailed: There are others by now.
        VerificationFailed: One is not as the set says; none was created.
    """
    with connect(platform.database.for_restoring, dbname=platform.database.maintenance_name) as connection:
        _require_power(connection, platform)
        with translated("creating the roles"), connection.transaction():
            _keep_out_of_log(connection)
            present = read_roles(connection)
            if taken := sorted(set(plan.missing) & present.keys()):
                raise PreconditionFailed(
                    f"Somebody created {', '.join(taken)} meanwhile.", hint="Look at the plan again."
                )
            for statement in plan.statements:
                connection.execute(sql.SQL(statement.text))
            differing = list(compare_roles(plan.statements, read_roles(connection), set(plan.missing)))
            if differing:
                raise VerificationFailed(
                    f"A new role is not as the set says: {differing[0]}.", hint="None was created."
                )
    return plan.missing


def read_roles(connection: psycopg.Connection) -> dict[str, RoleThere]:
    """Every role of a server, by name."""
    with translated("reading the roles"):
        rows = connection.execute(
            """
            SELECT r.rolname::text,
                   ARRAY[CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                         CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                         CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
                         CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                         CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                         CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                         CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END],
                   ARRAY(SELECT pg_catalog.pg_get_userbyid(m.roleid)::text
                         FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)
            FROM pg_catalog.pg_roles r
            """
        ).fetchall()
    return {name: RoleThere(frozenset(attributes), frozenset(member_of)) for name, attributes, member_of in rows}


def decode_script(script: bytes) -> str:
    """The script as text, in the encoding that it names: that of the database that pg_dumpall was connected to.

    Raises:
        PreconditionFailed: It is none that we know.
    """
    named = re.search(rb"^SET client_encoding = '([A-Za-z0-9_]+)';", script, re.MULTILINE)
    try:
        return script.decode(_CODECS.get(named[1].decode(), named[1].decode()) if named else "utf-8")
    except (UnicodeDecodeError, LookupError):
        raise PreconditionFailed(
            "The set's roles are written in an encoding that is not known here.",
            hint="Run globals.sql of the set by hand with psql.",
        ) from None


def judge_roles(
    statements: Sequence[RoleStatement], there: Mapping[str, RoleThere]
) -> tuple[tuple[str, ...], list[Finding]]:
    """Which roles are missing, and what is worth knowing of the others.

    Args:
        statements: Of the set.
        there: Roles of the server.
    """
    named = list(dict.fromkeys(one.role for one in statements if one.kind == "create"))
    missing = tuple(name for name in named if name not in there)
    differing = list(compare_roles(statements, there, set(named) & there.keys()))
    findings = [
        Finding(
            name="roles",
            verdict=Verdict.WARN,
            message=f"{told}; it stays as it is.",
            hint="Change it by hand where the set is right.",
        )
        for told in differing[:_NAMED]
    ]
    if len(differing) > _NAMED:
        findings.append(
            Finding(name="roles", verdict=Verdict.WARN, message=f"{len(differing) - _NAMED} more differences.")
        )
    return missing, findings


def compare_roles(
    statements: Iterable[RoleStatement], there: Mapping[str, RoleThere], names: set[str]
) -> Iterator[str]:
    """What some roles of a server are not that the set says of them, in words."""
    for one in statements:
        if one.role not in names:
            continue
        found = there.get(one.role)
        if found is None:
            yield f"{one.role} is not there"
        elif one.kind == "attributes" and not one.attributes <= found.attributes:
            yield f"{one.role} lacks {', '.join(sorted(one.attributes - found.attributes))}, which the set says of it"
        elif one.kind == "membership" and one.member_of not in found.member_of:
            yield f"{one.role} is no member of {one.member_of}, as in the set"


def choose_statements(
    statements: Iterable[RoleStatement], missing: set[str], there: set[str]
) -> Iterator[RoleStatement]:
    """What is run for the missing roles, in the set's order; of the others' statements none is."""
    for one in statements:
        reachable = one.kind != "membership" or one.member_of in missing | there
        if one.role in missing and reachable:
            yield one


def _require_power(connection: psycopg.Connection, platform: Platform) -> None:
    with translated("asking what we may do"):
        row = connection.execute(
            "SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user"
        ).fetchone()
    if row is None or not row[0]:
        raise AccessDenied(
            f"The role {platform.database.for_restoring.user} may not create roles.",
            hint="Set database.restoring_user to a superuser, or to a role with CREATEROLE, for this once.",
        )


def _keep_out_of_log(connection: psycopg.Connection) -> None:
    """The server's log gets no password's hash, where we may say so; a role that is no superuser may not."""
    connection.execute(
        """
        SELECT pg_catalog.set_config(name, value, true)
        FROM (VALUES ('log_statement', 'none'), ('log_min_duration_statement', '-1'),
                     ('log_min_error_statement', 'panic')) AS quiet (name, value)
        WHERE (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
        """
    )


def _silent(step: Step) -> None:
    """A few kilobytes take no steps."""
