import pytest

from keepwell.dumps.statements import (
    Copy,
    Insert,
    Made,
    Relation,
    Setting,
    drops_something,
    read_statement,
    roles_named,
    without_grantor,
)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ('COPY public.users (id, "userId") FROM stdin', Copy(Relation("public", "users"), one_line_each=True)),
        ('copy "A.b"."c""d" ("(", x) from STDIN', Copy(Relation("A.b", 'c"d'), one_line_each=True)),
        ("COPY Users FROM stdin WITH (FORMAT csv)", Copy(Relation("", "users"), one_line_each=False)),
        ("COPY t TO stdout", None),
        ("INSERT INTO public.t VALUES (1)", Insert(Relation("public", "t"), 0, countable=True)),
        (
            "INSERT INTO t (a, b) OVERRIDING SYSTEM VALUE VALUES (1, 'SELECT')",
            Insert(Relation("", "t"), 1, countable=True),
        ),
        ("INSERT INTO t SELECT * FROM u", Insert(Relation("", "t"), 0, countable=False)),
        ("SET client_encoding = 'LATIN1'", Setting("client_encoding", "LATIN1")),
        ("SELECT pg_catalog.set_config('search_path', 'it''s', false)", Setting("search_path", "it''s")),
        ("SET default_tablespace = fast", Setting("default_tablespace", "fast")),
        ('CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public', Made("extension", Relation("", "uuid-ossp"))),
        ("CREATE ROLE App", Made("role", Relation("", "app"))),
        ("CREATE USER MAPPING FOR app SERVER s", None),
        ("CREATE UNLOGGED TABLE a.b (c int)", Made("table", Relation("a", "b"))),
        ("REFRESH MATERIALIZED VIEW public.v", Made("refreshed", Relation("public", "v"))),
        ("CREATE INDEX i ON t (a)", None),
    ],
)
def test_what_a_statement_does(text: str, meaning: object) -> None:
    assert read_statement(text) == meaning


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("ALTER TABLE public.t OWNER TO app", {"app"}),
        ('ALTER FUNCTION public.f(n integer) OWNER TO "My Role"', {"My Role"}),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (a = 'OWNER TO x')", set()),
        ('GRANT SELECT ON TABLE public.t TO a, "b c" WITH GRANT OPTION', {"a", "b c"}),
        ("GRANT ALL ON SCHEMA public TO PUBLIC", set()),
        ('GRANT ALL ON SCHEMA public TO "PUBLIC"', {"PUBLIC"}),
        ("GRANT pg_read_all_data TO a WITH INHERIT TRUE GRANTED BY b", {"a", "b"}),
        ("REVOKE ALL ON TABLE t FROM app", {"app"}),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b", {"a", "b"}),
        ("CREATE POLICY p ON public.t FOR SELECT TO a, b USING (true)", {"a", "b"}),
        ("CREATE POLICY p ON public.t USING (true)", set()),
        ("CREATE USER MAPPING FOR app SERVER s", {"app"}),
        ("CREATE USER MAPPING FOR public SERVER s", set()),
        ("CREATE SCHEMA s AUTHORIZATION app", {"app"}),
        ("SET SESSION AUTHORIZATION 'it''s'", {"it's"}),
        ("SET SESSION AUTHORIZATION DEFAULT", set()),
        ("ALTER SUBSCRIPTION s OWNER TO pg_monitor", set()),
        ("INSERT INTO t VALUES ('GRANT x TO y')", set()),
    ],
)
def test_which_roles_a_statement_needs(text: str, roles: set[str]) -> None:
    assert set(roles_named(text)) == roles


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('GRANT a TO "b" WITH ADMIN OPTION GRANTED BY "c d"', 'GRANT a TO "b" WITH ADMIN OPTION'),
        ("GRANT a TO b", None),
        ("SELECT 'GRANT a TO b GRANTED BY c'", None),
    ],
)
def test_a_grant_without_its_grantor(text: str, plain: str | None) -> None:
    assert without_grantor(text) == plain


@pytest.mark.parametrize(
    ("text", "drops"),
    [
        ("DROP TABLE t", True),
        ("ALTER TABLE ONLY public.t DROP CONSTRAINT c", True),
        ("SELECT pg_catalog.lo_unlink('4242')", True),
        ("ALTER TABLE t ALTER COLUMN a DROP DEFAULT", True),
        ("ALTER TABLE t ADD COLUMN a int", False),
        ("INSERT INTO t VALUES ('DROP TABLE t')", False),
    ],
)
def test_what_drops(text: str, drops: bool) -> None:
    assert drops_something(text) is drops
