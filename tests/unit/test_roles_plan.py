"""What is planned for a server, and what its script says: facts in, SQL out."""

from dataclasses import replace
from typing import Any

import pytest

from keepwell.errors import ConfigurationError
from keepwell.postgres.role_facts import DatabaseReach, HeldMembership, Ownership, RoleFacts, read_mark, render_mark
from keepwell.postgres.roles import Purpose, RolePlan, plan_roles, render_role_script, render_undo_script

BACKUP, VACUUM, RESTORE = "keepwell_backup_esn", "keepwell_vacuum_esn", "keepwell_restore_esn"


def facts(**changes: Any) -> RoleFacts:
    usual: dict[str, Any] = {
        "server_major": 17,
        "superusers": frozenset({"postgres"}),
        "logins": ("app",),
        "roles": frozenset({"postgres", "app"}),
        "databases": (DatabaseReach("esn_db", "app", True), DatabaseReach("postgres", "postgres", True)),
        "ownerships": (Ownership("esn_db", ("app",), 0, (), ()),),
        "closed": {},
        "memberships": (),
    }
    return RoleFacts(**usual | changes)


def plan(found: RoleFacts, *purposes: Purpose) -> RolePlan:
    return plan_roles(found, platform="esn", maintenance="postgres", jobs=2, purposes=purposes or tuple(Purpose))


def owned_by(*owners: str, **changes: Any) -> RoleFacts:
    return facts(ownerships=(Ownership("esn_db", owners, 0, (), ()),), **changes)


def test_a_backup_reads_everything_past_row_security_and_holds_no_other_power() -> None:
    (role,) = plan(facts(), Purpose.BACKUP).roles
    assert [membership.role for membership in role.memberships] == ["pg_read_all_data"]
    assert set(role.attributes) == {
        *("LOGIN", "INHERIT", "NOSUPERUSER", "NOCREATEDB", "NOCREATEROLE", "NOREPLICATION", "BYPASSRLS"),
        "CONNECTION LIMIT 14",
    }


@pytest.mark.parametrize(
    ("server_major", "memberships"),
    [(15, [("app", "")]), (16, [("app", "INHERIT TRUE, SET FALSE")]), (17, [("pg_maintain", "")])],
)
def test_a_vacuum_acts_for_the_owners_only_where_the_server_knows_nothing_less(
    server_major: int, memberships: list[tuple[str, str]]
) -> None:
    (role,) = plan(facts(server_major=server_major), Purpose.VACUUM).roles
    assert [(membership.role, membership.options) for membership in role.memberships] == memberships


@pytest.mark.parametrize("purpose", [Purpose.VACUUM, Purpose.RESTORE])
def test_no_role_becomes_a_member_of_a_superuser(purpose: Purpose) -> None:
    planned = plan(owned_by("app", "postgres", server_major=15), purpose)
    assert (planned.roles, list(planned.impossible)) == ((), [purpose])
    assert "GRANT" not in render_role_script(planned)
    assert f"-- No role for {purpose}:" in render_role_script(planned)


def test_databases_of_others_are_closed_but_to_whoever_could_log_in_and_opened_again_by_the_undo() -> None:
    databases = (*facts().databases, DatabaseReach("shop", "app", True), DatabaseReach("shut", "app", False))
    first = plan(facts(databases=databases, logins=("app", "other", BACKUP)))
    assert first.closing == {"shop": ("other",)}  # the owner has the right anyway, and so has nobody of ours
    applied = facts(
        databases=(*facts().databases, DatabaseReach("shop", "app", False)),
        roles=frozenset({"app", "other", BACKUP, VACUUM, RESTORE}),
        closed={BACKUP: {"shop": ("other", "gone since"), "dropped since": ("other",)}},
    )
    second = plan(applied)
    assert (second.closing, second.closed) == ({}, {"shop": ("other",)})
    undo = render_undo_script(second)
    assert 'GRANT CONNECT ON DATABASE "shop" TO PUBLIC;\nREVOKE CONNECT ON DATABASE "shop" FROM "other";' in undo
    assert undo.count("DROP ROLE") == 3


def test_the_undo_opens_what_no_other_platforms_role_needs_closed_and_the_last_one_opens_the_rest() -> None:
    theirs = "keepwell_backup_shop"
    names = ("esn_db", "shop", "wiki", "notes")
    databases = tuple(DatabaseReach(name, "app", open_to_all=False) for name in names)
    marks = {BACKUP: {"shop": ("other",), "wiki": ("other",)}, theirs: {"wiki": ("other",), "notes": ("other",)}}
    both = facts(databases=databases, roles=frozenset({"app", "other", BACKUP, theirs}), closed=marks)
    undo = render_undo_script(plan(both))
    assert 'GRANT CONNECT ON DATABASE "shop" TO PUBLIC;\nREVOKE CONNECT ON DATABASE "shop" FROM "other";' in undo
    assert ('"wiki"' in undo, '"notes"' in undo) == (False, False)
    alone = facts(databases=databases, roles=both.roles - {theirs}, closed={BACKUP: marks[BACKUP]})
    assert 'GRANT CONNECT ON DATABASE "wiki" TO PUBLIC;' in render_undo_script(plan(alone))


def test_a_role_remembers_what_it_needs_closed_whoever_closed_it() -> None:
    """Or another platform's undo would open it to this one's role."""
    theirs = {"keepwell_backup_shop": {"wiki": ("other",), "esn_db": ("other",)}}
    databases = (DatabaseReach("esn_db", "app", False), DatabaseReach("wiki", "app", False))
    found = plan(facts(databases=databases, roles=frozenset({"app", "other"}), closed=theirs))
    assert (found.closing, found.closed, found.opening) == ({}, {"wiki": ("other",)}, {})


def test_what_was_never_closed_and_who_was_let_in_by_somebody_else_is_left_alone() -> None:
    shop = DatabaseReach("shop", "app", open_to_all=True, let_in=("granted",))
    roles = frozenset({"app", "other", "granted", BACKUP})
    found = facts(databases=(*facts().databases, shop), logins=("app", "granted", "other"), roles=roles)
    assert '"shop"' not in render_undo_script(plan(found))
    assert plan(found).closing == {"shop": ("other",)}  # the undo takes no right away that was there before
    reopened = replace(found, closed={BACKUP: {"shop": ("granted",)}})  # it was ours, before somebody opened the door
    assert plan(reopened).closed == {"shop": ("granted", "other")}


def test_the_role_that_restores_alone_closes_nothing_and_opens_nothing() -> None:
    databases = (*facts().databases, DatabaseReach("shop", "app", True))
    assert plan(facts(databases=databases), Purpose.RESTORE).closing == {}
    undone = plan(facts(roles=frozenset({RESTORE}), closed={BACKUP: {"postgres": ("app",)}}), Purpose.RESTORE)
    assert "TO PUBLIC" not in render_undo_script(undone)


def test_a_role_is_let_into_a_database_by_name_only_where_not_every_role_is() -> None:
    databases = (DatabaseReach("esn_db", "app", False), DatabaseReach("postgres", "postgres", True))
    (role,) = plan(facts(databases=databases), Purpose.BACKUP).roles
    assert role.login_to == ("esn_db",)  # a grant would show up in every set, as one that a restore does not bring back
    (role,) = plan(facts(), Purpose.BACKUP).roles
    assert role.login_to == ()


def test_a_role_that_is_there_is_put_right_and_not_made_again() -> None:
    script = render_role_script(plan(facts(roles=frozenset({BACKUP})), Purpose.BACKUP))
    assert f'ALTER ROLE "{BACKUP}" WITH LOGIN' in script
    assert "CREATE ROLE" not in script


def test_a_role_that_is_there_loses_what_it_is_not_to_be_a_member_of_before_it_is_given_the_rest() -> None:
    held = (
        HeldMembership(VACUUM, "app"),  # as it was made on 15
        HeldMembership(VACUUM, 'wr"iter', "po stgres"),
        HeldMembership(VACUUM, "pg_maintain"),
        HeldMembership("app", "wheel"),
    )
    script = render_role_script(plan(facts(roles=frozenset({VACUUM, "app"}), memberships=held), Purpose.VACUUM))
    lines = [line for line in script.splitlines() if line.startswith(("REVOKE", "GRANT"))]
    assert lines == [
        f'REVOKE "app" FROM "{VACUUM}";',
        f'REVOKE "wr""iter" FROM "{VACUUM}" GRANTED BY "po stgres";',
        f'GRANT "pg_maintain" TO "{VACUUM}";',
    ]


def test_names_are_quoted_and_never_end_a_comment() -> None:
    evil = 'ow"ner; DROP TABLE x\n--'
    script = render_role_script(plan(owned_by(evil), Purpose.RESTORE))
    assert 'GRANT "ow""ner; DROP TABLE x\n--" TO' in script
    impossible = render_role_script(plan(owned_by(evil, superusers=frozenset({evil})), Purpose.RESTORE))
    assert all(line.startswith("--") for line in impossible.splitlines() if line)


def test_large_objects_are_granted_one_by_one_in_their_own_database() -> None:
    held = (Ownership("we'ird \"db", ("app",), 3, (), ()),)
    planned = plan(facts(ownerships=held), Purpose.BACKUP)
    script = render_role_script(planned)
    assert '\\connect -reuse-previous=on "dbname=\'we\\\\\'ird ""db\'"' in script.replace("\\'", "\\\\'")
    assert "pg_largeobject_metadata" in script
    assert any("3 large objects" in note for note in planned.notes)
    with pytest.raises(ConfigurationError, match="several lines"):
        render_role_script(plan(facts(ownerships=(Ownership("a\nb", ("app",), 3, (), ()),)), Purpose.BACKUP))


def test_a_password_is_asked_for_or_stands_there_as_its_verifier() -> None:
    planned = plan(facts(), Purpose.BACKUP)
    assert render_role_script(planned).endswith(f'\\password "{BACKUP}"\n')
    set_already = render_role_script(planned, verifiers={BACKUP: "SCRAM-SHA-256$4096:x$y:z"})
    assert f"ALTER ROLE \"{BACKUP}\" PASSWORD 'SCRAM-SHA-256$4096:x$y:z';" in set_already
    assert "\\password" not in set_already


def test_extensions_that_only_a_superuser_creates_are_named_before_a_restore_stops_at_them() -> None:
    held = (Ownership("esn_db", ("app",), 0, ("postgres_fdw",), ()),)
    assert any("postgres_fdw" in note for note in plan(facts(ownerships=held)).notes)


def test_a_mark_reads_back_and_somebody_elses_comment_is_none() -> None:
    closed = {"sh\"op'": ("a", "b")}
    assert read_mark(render_mark(closed).removeprefix("keepwell: ")) == closed
    assert read_mark("hello") == read_mark("[1]") == {}
