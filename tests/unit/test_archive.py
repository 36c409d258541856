from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from keepwell.errors import CommandFailed, LockTimeout, ServiceUnavailable
from keepwell.postgres import archive
from keepwell.postgres.archive import DataEntry, StreamCheck, parse_data_entries, without_grantors
from keepwell.postgres.binaries import Binaries
from keepwell.settings import DatabaseSettings

DATABASE = DatabaseSettings(name="we\"ird'; DROP --", user="backup", password=SecretStr("marked-secret"))
PROGRAMS = Binaries(Path("/pg/bin"), (17, 2), "system")


def check(*chunks: bytes) -> StreamCheck:
    followed = StreamCheck()
    for chunk in chunks:
        followed.update(chunk)
    return followed


@pytest.mark.parametrize(
    ("stream", "terminated", "rows"),
    [
        (b"\\.\n\n\n", True, 0),
        (b"\\.\n", True, 0),
        (b"a\n\\.\n\n\n", True, 1),
        (b"a\nb\n\\.\n", True, 2),
        (b"\n\n\\.\n\n\n", True, 2),
        (b"", False, 0),
        (b"a\nb\n", False, 2),
        (b"a\nb", False, 1),
        (b"a\n\\.", False, 1),
        (b"a\n\\.\nb\n", False, 3),
        (b"a\\.\n", False, 1),
        (b"\\\\.\n", False, 1),
        (b"a\n\\\\.\n\n\n", False, 4),
        (b"a\t\\.\n", False, 1),
        (b"\n\n\n", False, 3),
        (b"x\\." + b"\n" * 62, False, 62),
        (b"\n" * 200 + b"\\.\n\n\n", True, 200),
    ],
)
def test_a_stream_counts_as_whole_only_when_its_terminator_stands_alone_at_its_end(
    stream: bytes, terminated: bool, rows: int
) -> None:
    followed = check(stream)
    assert followed.terminated is terminated
    if terminated:
        assert followed.rows == rows


rows_of_text = st.lists(st.binary(max_size=80).map(lambda row: row.replace(b"\n", b"\\n").replace(b"\\.", b"x")))


@given(rows=rows_of_text, ending=st.sampled_from([b"\\.\n", b"\\.\n\n\n", b""]), cuts=st.lists(st.integers(0, 400)))
def test_how_a_stream_is_cut_into_chunks_never_matters(rows: list[bytes], ending: bytes, cuts: list[int]) -> None:
    stream = b"".join(row + b"\n" for row in rows) + ending
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    whole, chunked = check(stream), check(*chunks)
    assert (whole.terminated, whole.rows, whole.trailer) == (chunked.terminated, chunked.rows, chunked.trailer)
    assert whole.terminated is bool(ending)
    if ending:
        assert (whole.rows, whole.trailer) == (len(rows), ending)


@given(rows=rows_of_text.filter(bool), share=st.floats(0, 1, exclude_max=True))
def test_no_beginning_of_a_stream_passes_for_the_whole(rows: list[bytes], share: float) -> None:
    body = b"".join(row + b"\n" for row in rows)
    cut = body[: int(len(body) * share)]
    assert not check(cut).terminated


def test_data_entries_are_known_by_number_whatever_their_names_say() -> None:
    listing = """
;     Dumped by pg_dump version: 17.2
3411; 0 16390 TABLE DATA public plain owner
3412; 0 16391 TABLE DATA Ünï code with "quotes"; 3; 0 16 TABLE DATA x owner with spaces
3413; 0 16392 TABLE DATA public 3414; 0 1 TABLE DATA owner
3415; 1259 16393 TABLE public TABLE DATA owner
3416; 0 0 SEQUENCE SET public 1; 0 2 TABLE DATA owner
; 9; 0 9 TABLE DATA commented out
3417; 0 16394 MATERIALIZED VIEW DATA public m owner
3418; 0 0 BLOBS - BLOBS
"""
    assert list(parse_data_entries(listing.splitlines())) == [
        DataEntry(16390, "3411.dat"),
        DataEntry(16391, "3412.dat"),
        DataEntry(16392, "3413.dat"),
    ]


@pytest.mark.parametrize(
    ("name", "holds"),
    [("17.dat", True), ("toc.dat", False), ("blob_17.dat", False), ("17.dat.zst", False), ("blobs_1.toc", False)],
)
def test_only_numbered_files_hold_rows(name: str, holds: bool) -> None:
    assert archive.is_table_data(name) is holds


def test_no_command_line_holds_the_password_and_the_database_name_stays_one_argument() -> None:
    calls = [
        archive.build_dump_command(
            PROGRAMS,
            DATABASE,
            Path("/spool/database"),
            snapshot_id="00-1",
            encoding="UTF8",
            jobs=2,
            lock_wait_seconds=3,
        ),
        archive.build_globals_command(PROGRAMS, DATABASE, Path("/spool/globals.sql"), passwords=False),
    ]
    for call in calls:
        assert "marked-secret" not in str(call) + repr(call)
        assert call.environment["PGPASSWORD"] == "marked-secret"
        assert sum("DROP" in argument for argument in call.argv) >= 1
        assert not any(argument.startswith("DROP") for argument in call.argv)


@pytest.mark.parametrize(
    ("ending", "whole"),
    [
        (b"--\n-- PostgreSQL database cluster dump complete\n--\n\n", True),
        (b"\\unrestrict kEy\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n", True),
        (b"--\n-- PostgreSQL database cluster dump complete\n--\n\n\\unrestrict kEy\n", True),
        (b"--\r\n-- PostgreSQL database cluster dump complete\r\n--\r\n", True),
        (b"--\n-- PostgreSQL database cluster dump comp", False),
        (b"--\n-- PostgreSQL database cluster dump complete\n--\nCREATE ROLE more;\n", False),
        (b"--\n-- PostgreSQL database cluster dump complete\n--\n\\! sh\n", False),
        (b"\\unrestrict kEy\n\n", False),
        (b"CREATE ROLE b;\n", False),
        (b"--\n\n", False),
    ],
)
def test_a_globals_file_is_whole_when_nothing_follows_its_closing_line(ending: bytes, whole: bool) -> None:
    beginning = b"--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict kEy\n\nCREATE ROLE a;\n"
    assert archive.ends_as_globals(beginning + ending) is whole
    assert not archive.ends_as_globals(b"")


RESTRICTED = b"--\n\n\\restrict kEy9\n\nCREATE ROLE a;\n%s\\unrestrict kEy9\n\n-- end\n"


@pytest.mark.parametrize("between", [b"", b"COMMENT ON ROLE a IS '\n\\restrict other\n';\n", b"\\! sh\n"])
def test_only_the_pair_of_lines_that_guards_psql_is_left_out(between: bytes) -> None:
    stated = b"--\n\n\nCREATE ROLE a;\n%s\n-- end\n" % between
    assert archive.without_restriction(RESTRICTED % between) == stated
    assert archive.without_restriction(stated.replace(b"\\restrict other\n", b"")) == stated.replace(
        b"\\restrict other\n", b""
    )


def test_no_limit_of_a_role_or_a_database_ends_pg_dumpall() -> None:
    call = archive.build_globals_command(PROGRAMS, DATABASE, Path("g"), passwords=False)
    assert "-c statement_timeout=0" in call.environment["PGOPTIONS"]


def test_passwords_of_roles_are_asked_for_only_where_we_may_read_them() -> None:
    refused = archive.build_globals_command(PROGRAMS, DATABASE, Path("g"), passwords=False)
    granted = archive.build_globals_command(PROGRAMS, DATABASE, Path("g"), passwords=True)
    assert "--no-role-passwords" in refused.argv
    assert "--no-role-passwords" not in granted.argv


@pytest.mark.parametrize(
    ("stated", "adapted"),
    [
        (b"GRANT a TO b WITH INHERIT TRUE GRANTED BY postgres;", b"GRANT a TO b WITH INHERIT TRUE;"),
        (b'GRANT "A b" TO c GRANTED BY "GRANTED BY ""x""; y";', b'GRANT "A b" TO c;'),
        (b"GRANT a TO b;", b"GRANT a TO b;"),
        (b"COMMENT ON ROLE a IS ' GRANTED BY postgres;", b"COMMENT ON ROLE a IS ' GRANTED BY postgres;"),
        (b'GRANT "a GRANTED BY b" TO c;', b'GRANT "a GRANTED BY b" TO c;'),
    ],
)
def test_memberships_lose_their_grantor_and_nothing_else_changes(stated: bytes, adapted: bytes) -> None:
    around = b"CREATE ROLE x;\n%s\n-- end\n"
    assert without_grantors(around % stated) == around % adapted


COPY_FAILED = (
    'pg_dump: error: Dumping the contents of table "t" failed: PQgetCopyData() failed.\n'
    "pg_dump: detail: Error message from server: "
)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ERROR:  could not obtain lock on relation", LockTimeout),
        ("canceling statement due to lock timeout", LockTimeout),
        ("canceling statement due to statement timeout", LockTimeout),
        ("server closed the connection unexpectedly", ServiceUnavailable),
        ("FATAL:  the database system is shutting down", ServiceUnavailable),
        ("permission denied for table t", CommandFailed),
        ("No space left on device", CommandFailed),
        (f"{COPY_FAILED}server closed the connection unexpectedly", ServiceUnavailable),
        (f"{COPY_FAILED}ERROR:  canceling statement due to lock timeout", LockTimeout),
        (f"{COPY_FAILED}ERROR:  invalid page in block 3 of relation base/5/16", CommandFailed),
        ("pg_restore: error: no\nDETAIL:  a row: server closed the connection", CommandFailed),
    ],
)
def test_a_programs_words_tell_passing_troubles_from_lasting_ones(said: str, kind: type[Exception]) -> None:
    from keepwell.command import Command

    with pytest.raises(kind) as raised:
        archive.run_tool(Command(("sh", "-c", f"printf '%s\\n' '{said}' >&2; exit 1")))
    assert type(raised.value) is kind


def test_rows_and_passwords_that_a_program_quotes_go_no_further() -> None:
    said = (
        'pg_restore: error: COPY failed for table "people": ERROR:  invalid input syntax for type integer\n'
        'CONTEXT:  COPY people, line 7, column id: "anna@example.org"\n'
        "DETAIL:  Key (email)=(anna@example.org) already exists.\n"
        "STATEMENT:  ALTER ROLE anna PASSWORD 'anna@example.org'\n"
        "pg_restore: error: a worker process died unexpectedly\n"
    )
    kept = archive.without_rows(said)
    assert "anna" not in kept
    assert kept.splitlines()[0].endswith("invalid input syntax for type integer")
    assert kept.splitlines()[-1] == "pg_restore: error: a worker process died unexpectedly"
