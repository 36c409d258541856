"""Reading a plain dump as psql would: whose rows, where it ends, and what psql is shown of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.dumps.content import Content
from keepwell.dumps.restoring import shown_to_psql
from keepwell.dumps.script import Edit, Part, Script, ScriptReader

HEAD = """--
-- PostgreSQL database dump
--

\\restrict key

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 17.10

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

"""
TAIL = """
--
-- PostgreSQL database dump complete
--

\\unrestrict key
"""
ROWS = "COPY public.t (a, b) FROM stdin;\n1\tx\n2\t\\\\.\n\\\\.\ty\n\\.\n\n"


def read(text: str | bytes, size: int = 1 << 20) -> Script:
    content = text.encode() if isinstance(text, str) else text
    reader = ScriptReader()
    for start in range(0, len(content), size):
        reader.feed(content[start : start + size])
    return reader.close()


def rows(script: Script) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for held in script.content.rows:
        name = ".".join(filter(None, (held.database, held.schema, held.table)))
        found[name] = None if held.rows is None else held.rows + (found.get(name) or 0)
    return found


def faults(content: Content) -> list[str]:
    return [fault.message for fault in content.faults]


def test_a_whole_dump_says_where_it_comes_from_and_what_it_holds() -> None:
    script = read(HEAD + "CREATE TABLE public.t (a int, b text);\n" + ROWS + TAIL)
    content = script.content
    assert (content.origin.server_major, content.origin.tool_major) == (15, 17)
    assert (rows(script), content.tables, content.encoding) == ({"public.t": 3}, 1, "UTF8")
    assert (content.faults, content.by_pg_dump, content.recognized, script.refused) == ((), True, True, False)
    assert content.rows[0].whole


STATEMENTS = """
CREATE FUNCTION public.f() RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
COPY public.nothing FROM stdin;
\\! ls
-- PostgreSQL database dump complete
RETURN 'it''s $tag$ ';
END $body$;
CREATE FUNCTION public.g(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC
 SELECT CASE WHEN n > 1 THEN 1 ELSE 2 END;
 INSERT INTO public.s VALUES (1);
END;
CREATE RULE r AS ON INSERT TO public.s DO ALSO (INSERT INTO public.s VALUES (1); INSERT INTO public.s VALUES (2));
COMMENT ON TABLE public.s IS 'a; -- \\connect x
\\restrict';
SELECT E'\\' ; COPY public.s FROM stdin; \\\\';
/* a /* nested */ ; \\! */
CREATE TABLE public."odd ""; name" (a int);
INSERT INTO public.s (a, b) VALUES (1, '(2), ''('), (3, E'\\'(');
INSERT INTO public.s DEFAULT VALUES;
INSERT INTO public."odd ""; name" VALUES (1);
ALTER TABLE public.s OWNER-- a comment within
TO somebody;
SELECT a$b$c FROM public.s;
SELECT E'it''s \\'; COPY public.s FROM stdin;', date'2020-01-01', e'a'' \\\\ '';';
"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 129, 1 << 20])
def test_nothing_inside_of_strings_bodies_and_comments_counts_whatever_the_pieces(size: int) -> None:
    script = read(HEAD + STATEMENTS + ROWS + TAIL, size)
    assert rows(script) == {"public.t": 3, "public.s": 3, 'public.odd "; name': 1}
    assert (faults(script.content), script.refused) == ([], False)
    assert script.content.roles_needed == {"somebody"}
    assert [edit.line for edit in script.edits] == [5, read(HEAD + STATEMENTS + ROWS + TAIL).edits[-1].line]


@given(cuts=st.lists(st.integers(0, 3000), max_size=12))
def test_where_the_pieces_end_changes_nothing(cuts: list[int]) -> None:
    content = (HEAD + STATEMENTS + ROWS + TAIL).encode()
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    reader = ScriptReader()
    for start, stop in pairwise(places):
        reader.feed(content[start:stop])
    assert reader.close() == read(content)


row = st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"\\n").replace(b"\\.", b"x"))


@given(held=st.lists(row), size=st.integers(1, 50))
def test_every_row_is_counted_and_the_terminator_found(held: list[bytes], size: int) -> None:
    block = b"COPY public.t (a) FROM stdin;\n" + b"".join(line + b"\n" for line in held) + b"\\.\n"
    script = read(HEAD.encode() + block + TAIL.encode(), size)
    assert (rows(script), script.content.rows[0].whole) == ({"public.t": len(held)}, True)
    assert not any("ends" in message and "missing" in message for message in faults(script.content))


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ("2\t\\\\.\n", "ends in the rows of public.t, after 2 of them"),
        ("\\.\n\n", "between two statements"),
        ("CREATE TABLE public.t (a", "in the middle of the statement that begins with “CREATE TABLE public.t”"),
        ("2\t", "ends in the rows of public.t, after 1 of them"),
    ],
)
def test_a_dump_that_ends_too_early_says_where(cut: str, said: str) -> None:
    whole = HEAD + "CREATE TABLE public.t (a int, b text);\n" + ROWS + TAIL
    (message,) = faults(read(whole[: whole.index(cut) + len(cut)]).content)
    assert said in message
    assert "“database dump complete”, is missing" in message


def test_two_dumps_of_which_one_is_cut_are_not_whole() -> None:
    whole = HEAD + ROWS + TAIL
    assert faults(read(whole + whole).content) == []
    assert len(faults(read(whole + whole[: -len(TAIL)]).content)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "\\! ls",
        "\\i file",
        "SELECT 1 \\gexec",
        "\\copy t from program 'x'",
        "\\",
        "  \\restrict key",
        "SELECT 1; \\connect x",
        "\\connect 'host=elsewhere'",
        "\\connect postgresql://elsewhere/x",
        "\\connect -reuse-previous=on \"host='elsewhere'\"",
        "COPY public.t TO PROGRAM 'ls';",
        "copy public.t from program 'ls';",
    ],
)
def test_what_psql_or_the_server_would_run_is_refused_with_its_line(line: str) -> None:
    script = read(HEAD + line + "\n" + ROWS + TAIL)
    assert script.refused
    assert faults(script.content)[0].startswith("Line 14 ")


def test_strings_of_old_dumps_may_be_escaped_by_backslashes() -> None:
    old = "SET standard_conforming_strings = off;\nINSERT INTO t VALUES ('it\\'s; \\\\! ls');\n"
    script = read(HEAD + 'SET search_path = "My Schema", pg_catalog;\n' + old + TAIL)
    assert (rows(script), script.refused) == ({"My Schema.t": 1}, False)


def test_the_databases_of_a_server_are_parts_and_what_creates_them_is_cut_out() -> None:
    text = (
        "--\n-- PostgreSQL database cluster dump\n--\n\nCREATE ROLE app;\nGRANT a TO app GRANTED BY postgres;\n"
        "CREATE DATABASE app\n WITH TEMPLATE = template0;\n\\connect app\n" + HEAD + ROWS + TAIL
        + "\\encoding SQL_ASCII\n\\connect -reuse-previous=on \"dbname='od\\'d \"\"x'\"\n" + HEAD + ROWS + TAIL
        + "--\n-- PostgreSQL database cluster dump complete\n--\n"
    )  # fmt: skip
    script = read(text)
    assert [part.database for part in script.parts] == ["", "app", "od'd \"x"]
    assert (script.content.cluster, script.content.roles_made) == (True, frozenset({"app"}))
    assert rows(script) == {"app.public.t": 3, "od'd \"x.public.t": 3}
    assert (faults(script.content), script.refused) == ([], False)
    assert [edit.create for edit in script.edits if edit.create] == ["CREATE DATABASE app\n WITH TEMPLATE = template0"]


@pytest.mark.parametrize("size", [1, 5, 100, 1 << 20])
def test_psql_is_shown_everything_else_byte_by_byte_and_on_the_same_lines(size: int) -> None:
    text = HEAD + "GRANT a TO b GRANTED BY c;\nCREATE TABLESPACE fast\n LOCATION '/x';\n" + ROWS + TAIL
    script = read(text)
    content = text.encode()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    turns = list(shown_to_psql(script, pieces))
    assert isinstance(turns[0], Part)
    assert [turn.create for turn in turns if isinstance(turn, Edit)] == ["CREATE TABLESPACE fast\n LOCATION '/x'"]
    shown = b"".join(turn for turn in turns if isinstance(turn, bytes)).decode()
    expected = text.replace("\\restrict key", "").replace("\\unrestrict key", "").replace(" GRANTED BY c", "")
    assert shown == expected.replace("CREATE TABLESPACE fast\n LOCATION '/x';", "\n")
    assert shown.count("\n") == text.count("\n")


def test_statements_that_drop_are_known_by_their_lines() -> None:
    script = read(HEAD + "DROP TABLE a;\nDROP\n TABLE b;\nSELECT 1;\nALTER TABLE ONLY c DROP CONSTRAINT d;\n" + TAIL)
    lines = sorted({line for stretch in script.drops for line in stretch})
    assert lines == [14, 16, 18]


@pytest.mark.parametrize(
    ("options", "counted"),
    [("", 1), (" WITH (FREEZE)", 1), (" WITH (FORMAT csv)", None), (" CSV", None), (" WITH (FORMAT binary)", None)],
)
def test_rows_of_other_formats_than_copys_own_are_not_counted_by_lines(options: str, counted: int | None) -> None:
    assert rows(read(f"COPY t (a) FROM STDIN{options};\n1\n\\.\n")) == {"public.t": counted}


def test_a_text_that_is_no_dump_is_not_recognized() -> None:
    assert not read("Dear diary,\ntoday I made a backup; it's fine.\n").content.recognized
    assert read("CREATE TABLE t (a int);").content.recognized


def test_lines_longer_than_any_buffer_are_followed() -> None:
    comment = "-- " + "x; ' \\! " * 20_000
    text = HEAD + comment + "\nCOPY t (a) FROM stdin; " + comment + "\n" + "y" * 200_000 + "\n\\.\n" + TAIL
    for size in (1000, 70_000, 1 << 22):
        script = read(text, size)
        assert (rows(script), faults(script.content), script.refused) == ({"public.t": 1}, [], False)


def test_windows_line_ends_and_zero_bytes_are_faults() -> None:
    assert "carriage returns" in faults(read((HEAD + ROWS + TAIL).replace("\n", "\r\n")).content)[0]
    assert any("zero bytes" in said for said in faults(read((HEAD + ROWS + TAIL).encode() + b"\0").content))
