"""pg_dumpall's script of roles, read statement by statement, and what of it is run where some roles exist."""

from keepwell.postgres.globals_script import parse_globals
from keepwell.restore.roles import RoleThere, choose_statements, judge_roles

SCRIPT = r"""
--
-- PostgreSQL database cluster dump; CREATE ROLE in_a_comment;
--
SET default_transaction_read_only = off;
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE LOGIN CONNECTION LIMIT 5 PASSWORD 'SCRAM-SHA-256$a;b''c';
COMMENT ON ROLE app IS 'one; two
CREATE ROLE in_a_text;';
CREATE ROLE "Odd "" Role; x";
ALTER ROLE "Odd "" Role; x" WITH SUPERUSER NOINHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
ALTER ROLE app SET work_mem TO E'5\'12;';
ALTER ROLE app IN DATABASE esn SET search_path TO 'a', 'b';
CREATE ROLE readers;
ALTER ROLE readers WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
GRANT readers TO app WITH ADMIN OPTION;
GRANT readers TO postgres;
"""
USUAL = frozenset({"NOSUPERUSER", "INHERIT", "NOCREATEROLE", "NOCREATEDB", "NOLOGIN", "NOREPLICATION", "NOBYPASSRLS"})


def test_each_statement_is_told_by_its_role_whatever_stands_in_its_texts() -> None:
    found = [(one.kind, one.role) for one in parse_globals(SCRIPT)]
    assert found == [
        ("create", "app"),
        ("attributes", "app"),
        ("comment", "app"),
        ("create", 'Odd " Role; x'),
        ("attributes", 'Odd " Role; x'),
        ("setting", "app"),
        ("setting", "app"),
        ("create", "readers"),
        ("attributes", "readers"),
        ("membership", "app"),
        ("membership", "postgres"),
    ]


def test_a_statement_never_shows_the_hash_that_it_holds() -> None:
    assert "SCRAM" not in repr(parse_globals(SCRIPT))


def test_only_statements_of_missing_roles_are_run() -> None:
    statements = parse_globals(SCRIPT)
    there = {"readers": RoleThere(USUAL, frozenset()), "postgres": RoleThere(frozenset(), frozenset())}
    missing, _ = judge_roles(statements, there)
    assert missing == ("app", 'Odd " Role; x')
    run = list(choose_statements(statements, set(missing), set(there)))
    assert {one.role for one in run} == set(missing)
    assert [one.member_of for one in run if one.kind == "membership"] == ["readers"]


def test_a_role_that_is_there_and_otherwise_is_told_and_left() -> None:
    statements = parse_globals(SCRIPT)
    there = {name: RoleThere(USUAL, frozenset()) for name in ("app", 'Odd " Role; x', "readers")}
    missing, findings = judge_roles(statements, there)
    assert (missing, list(choose_statements(statements, set(), set(there)))) == ((), [])
    told = [finding.message for finding in findings]
    assert told == [
        "app lacks LOGIN, which the set says of it; it stays as it is.",
        'Odd " Role; x lacks NOINHERIT, SUPERUSER, which the set says of it; it stays as it is.',
        "app is no member of readers, as in the set; it stays as it is.",
    ]
