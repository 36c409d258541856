"""A restored table's COPY stream, hashed as a server of ours writes it into a FIFO."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from real_servers import installation, reachable_folder

from keepwell.errors import KeepwellError
from keepwell.postgres.connection import connect_to
from keepwell.postgres.fingerprint import digest_copy_stream, read_copy_stream
from keepwell.postgres.isolation import isolate
from keepwell.postgres.server import throwaway_server

TRAILER = b"\\.\n\n\n"
# More than a pipe holds.
ROWS = "CREATE TABLE public.t AS SELECT n, repeat(md5(n::text), 20) AS body FROM generate_series(1, 20000) n"


@pytest.fixture(scope="module")
def scratch() -> Iterator[tuple[psycopg.Connection, Path]]:
    """A session of a scratch server, kept apart as a proof's is, and a folder that is the server's and ours."""
    with reachable_folder() as place:
        folder = place / "scratch"
        folder.mkdir(mode=0o700)
        isolation = isolate(installation(17), folder)
        shared = folder / "shared"
        shared.mkdir(mode=0o700)
        isolation.hand_over(shared)
        with (
            throwaway_server(installation(17), folder, isolation) as server,
            connect_to(server) as connection,
        ):
            connection.execute(f"{ROWS}; CREATE TABLE public.empty (n int); CREATE TABLE public.bare ()")
            yield connection, shared


@pytest.mark.parametrize(("table", "columns"), [("t", ["n", "body"]), ("empty", ["n"]), ("bare", [])])
def test_it_is_the_digest_of_what_a_client_reads(
    table: str, columns: list[str], scratch: tuple[psycopg.Connection, Path]
) -> None:
    connection, folder = scratch
    read = b"".join(read_copy_stream(connection, "public", table, columns))
    found = digest_copy_stream(connection, "public", table, columns, trailer=TRAILER, file=folder / "stream")
    assert found == hashlib.sha256(read + TRAILER).hexdigest()
    assert list(folder.iterdir()) == []


def test_one_changed_row_gives_another(scratch: tuple[psycopg.Connection, Path]) -> None:
    connection, folder = scratch

    def digest() -> str | None:
        return digest_copy_stream(connection, "public", "t", ["n", "body"], trailer=TRAILER, file=folder / "stream")

    before = digest()
    with connection.transaction(force_rollback=True):
        connection.execute("UPDATE public.t SET body = '' WHERE n = 12345")
        assert digest() != before
    assert digest() == before


def test_where_the_server_gets_to_no_file_nothing_is_said_of_the_rows(
    scratch: tuple[psycopg.Connection, Path], tmp_path: Path
) -> None:
    connection, _ = scratch
    connection.execute("CREATE ROLE reader; GRANT SELECT ON public.t TO reader; SET ROLE reader")
    try:
        assert digest_copy_stream(connection, "public", "t", ["n"], trailer=TRAILER, file=tmp_path / "stream") is None
    finally:
        connection.execute("RESET ROLE; DROP OWNED BY reader; DROP ROLE reader")
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_read_is_an_error(scratch: tuple[psycopg.Connection, Path]) -> None:
    connection, folder = scratch
    with pytest.raises(KeepwellError, match=r"hashing the rows of public\.missing"):
        digest_copy_stream(connection, "public", "missing", ["n"], trailer=TRAILER, file=folder / "stream")
    assert list(folder.iterdir()) == []
