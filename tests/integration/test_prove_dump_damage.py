"""Damaged dumps: each is told, with what is lost and what could still be saved."""

import gzip
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dump_files import Dumps

from keepwell.dumps.proof import DumpProof, Table
from keepwell.dumps.prove import prove_dump
from keepwell.postgres.archive import TERMINATOR
from keepwell.progress import silent
from keepwell.verdict import Verdict

END = b"\n" + TERMINATOR


@pytest.fixture
def whole(dumps: Callable[[int], Dumps]) -> Dumps:
    return dumps(17)


def damaged(path: Path) -> DumpProof:
    proof = prove_dump(path, silent)
    assert proof.verdict is Verdict.ALERT, [(level.level, level.verdict, level.summary) for level in proof.levels]
    return proof


def written(folder: Path, content: bytes) -> Path:
    path = folder / "dump"
    path.write_bytes(content)
    return path


def level(proof: DumpProof, name: str) -> tuple[Verdict, str]:
    return next((found.verdict, found.summary) for found in proof.levels if found.level == name)


def alerts(proof: DumpProof) -> str:
    return "\n".join(finding.message for finding in proof.findings if finding.verdict is Verdict.ALERT)


def table(proof: DumpProof, name: str) -> Table:
    return next(table for table in proof.tables if table.name == name)


def rows_of(plain: bytes, name: str) -> tuple[int, int]:
    """Where a table's rows begin in a plain dump, and where its terminator ends."""
    start = plain.index(b"\n", plain.index(b"COPY public." + name.encode())) + 1
    return start, plain.index(END, start) + len(END)


# Plain dumps that psql restores without a word.


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_plain_dump_cut_at_a_row_restores_in_silence_and_is_an_alert(
    compress: Callable[[bytes], bytes], whole: Dumps, tmp_path: Path
) -> None:
    """Re-compressed, its checksum is right: only its missing end and its rows tell."""
    plain = whole.read("plain.sql")
    start, end = rows_of(plain, "registrations")
    cut = plain[: plain.index(b"\n", start + (end - start) // 2) + 1]
    proof = damaged(written(tmp_path, compress(cut)))
    rows = cut[start:].count(b"\n")
    assert level(proof, "readable")[0] is Verdict.OK
    assert f"ends in the rows of public.registrations, after {rows} of them" in alerts(proof)
    assert (table(proof, "registrations").rows_restored, table(proof, "payments").verdict) == (rows, "ok")
    assert table(proof, "users").remark == "the dump ends before its rows"
    assert "errors" not in [finding.name for finding in proof.findings]


def test_a_plain_dump_cut_within_a_row_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    plain = whole.read("plain.sql")
    start, _ = rows_of(plain, "registrations")
    proof = damaged(written(tmp_path, plain[: plain.index(b"\n", start + 5000) - 40]))
    assert "in the rows of public.registrations" in alerts(proof)
    assert "The restore met 1 error: line " in alerts(proof)


def test_a_plain_dump_cut_behind_a_tables_terminator_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    """psql ends with 0, every row in the file comes back, and indexes and keys are missing without a word."""
    plain = whole.read("plain.sql")
    _, end = rows_of(plain, "users")
    proof = damaged(written(tmp_path, plain[:end]))
    assert (level(proof, "restored")[0], level(proof, "complete")[0]) == (Verdict.OK, Verdict.ALERT)
    assert "between two statements: pg_dump's last line, “database dump complete”, is missing" in alerts(proof)
    assert proof.rows_restored == 2523


def test_a_plain_dump_that_lost_rows_in_its_middle_is_told_by_its_errors(whole: Dumps, tmp_path: Path) -> None:
    plain = whole.read("plain.sql")
    start, end = rows_of(plain, "users")
    proof = damaged(written(tmp_path, plain[:start] + plain[end - len(TERMINATOR) :]))
    assert level(proof, "complete")[0] is Verdict.OK
    assert "violates foreign key constraint" in alerts(proof)


def test_a_plain_dump_cut_within_a_statement_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    plain = whole.read("plain.sql")
    proof = damaged(written(tmp_path, plain[: plain.index(b"ADD CONSTRAINT") + 5]))
    assert "in the middle of the statement that begins with “ALTER TABLE ONLY”" in alerts(proof)


def test_a_dump_of_inserts_that_was_cut_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    inserts = whole.read("inserts.sql")
    place = inserts.index(b"INSERT INTO public.reviews")
    proof = damaged(written(tmp_path, inserts[: inserts.index(b";\n", place) + 2]))
    assert "“database dump complete”, is missing" in alerts(proof)
    assert table(proof, "reviews").rows_restored == 1


def test_many_errors_are_counted_and_the_first_are_told(whole: Dumps, tmp_path: Path) -> None:
    wrong = b"".join(b"SELECT * FROM absent%d;\n" % number for number in range(82))
    plain = whole.read("plain.sql").replace(b"\nCREATE TYPE", b"\n" + wrong + b"CREATE TYPE", 1)
    proof = damaged(written(tmp_path, plain))
    (errors,) = [finding for finding in proof.findings if finding.name == "errors"]
    assert errors.message.startswith("The restore met 82 errors: line ")
    assert 'relation "absent0" does not exist' in errors.message
    assert errors.message.endswith("; and 79 more.")
    assert proof.rows_restored == 2523


def test_a_flood_of_errors_ends_the_restore(whole: Dumps, tmp_path: Path) -> None:
    """Without its table, every row of a COPY is an error of its own."""
    plain = whole.read("plain.sql").replace(b"CREATE TABLE public.registrations", b"CREATE TABLE public.other", 1)
    proof = damaged(written(tmp_path, plain))
    assert "The restore met at least 200 errors, and was ended: line " in alerts(proof)


def test_lines_that_went_through_a_terminal_are_told(whole: Dumps, tmp_path: Path) -> None:
    proof = damaged(written(tmp_path, whole.read("plain.sql").replace(b"\n", b"\r\n")))
    assert "carriage returns" in alerts(proof)


# Compressed files.


def test_a_gzip_file_that_was_cut_is_an_alert_and_what_can_be_saved_is_counted(whole: Dumps, tmp_path: Path) -> None:
    compressed = gzip.compress(whole.read("plain.sql"))
    proof = damaged(written(tmp_path, compressed[: len(compressed) // 2]))
    assert level(proof, "readable") == (Verdict.ALERT, "The gzip file was cut: it ends within its data.")
    assert table(proof, "payments").verdict is Verdict.OK


@pytest.mark.parametrize("place", [0.5, -6])
def test_a_flipped_byte_of_a_gzip_file_is_an_alert(place: float, whole: Dumps, tmp_path: Path) -> None:
    content = bytearray(gzip.compress(whole.read("plain.sql")))
    content[int(len(content) * place) if 0 < place < 1 else int(place)] ^= 0x20
    proof = damaged(written(tmp_path, bytes(content)))
    assert level(proof, "readable")[0] is Verdict.ALERT
    assert "gzip data" in alerts(proof)


# Archives.


def test_a_custom_archive_that_was_cut_is_an_alert_although_its_contents_can_be_listed(
    whole: Dumps, tmp_path: Path
) -> None:
    content = whole.read("custom.dump")
    path = written(tmp_path, content[: len(content) * 6 // 10])
    listing = [whole.server.binaries.program("pg_restore"), "--list", str(path)]
    assert subprocess.run(listing, capture_output=True, check=False).returncode == 0
    proof = damaged(path)
    assert "the archive was cut there" in alerts(proof)
    assert "The contents name rows that the archive does not hold" in alerts(proof)
    # Parallel workers would have lost even what is whole.
    assert table(proof, "payments").rows_restored == 638


def test_a_custom_archive_cut_within_its_contents_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    proof = damaged(written(tmp_path, whole.read("custom.dump")[:5000]))
    assert "it ends within its table of contents" in alerts(proof)
    assert level(proof, "restored")[0] is Verdict.UNKNOWN


def test_a_custom_archive_cut_between_two_tables_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    """Each block begins with its kind and its entry's number, which pg_restore's listing names."""
    listing = [whole.server.binaries.program("pg_restore"), "--list", str(whole.path("custom_plain.dump"))]
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    (number,) = [line.partition(";")[0] for line in said.splitlines() if "TABLE DATA public reviews" in line]
    block = b"\x01\x00" + int(number).to_bytes(4, "little")
    content = whole.read("custom_plain.dump")
    proof = damaged(written(tmp_path, content[: content.rindex(block)]))
    assert "of public.reviews, public.user_preferences, public.users" in alerts(proof)
    assert table(proof, "registrations").verdict is Verdict.OK


def test_a_flipped_byte_of_a_custom_archive_is_an_alert_that_names_its_table(whole: Dumps, tmp_path: Path) -> None:
    content = bytearray(whole.read("custom.dump"))
    content[60_000] ^= 0x10
    proof = damaged(written(tmp_path, bytes(content)))
    assert "public.payments" in alerts(proof)


def test_a_custom_archive_that_was_cut_and_compressed_again_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    content = whole.read("custom.dump")
    proof = damaged(written(tmp_path, gzip.compress(content[: len(content) * 6 // 10])))
    assert level(proof, "readable")[0] is Verdict.OK
    assert "the archive was cut there" in alerts(proof)


def test_a_tar_archive_that_was_cut_is_an_alert_and_not_given_to_pg_restore(whole: Dumps, tmp_path: Path) -> None:
    """pg_restore reads the end of such a file for ever."""
    content = whole.read("tar.tar")
    proof = damaged(written(tmp_path, content[: len(content) // 2]))
    assert "The archive is damaged" in alerts(proof)
    assert level(proof, "restored") == (
        Verdict.UNKNOWN,
        "not tried: pg_restore never ends on a tar archive that was cut",
    )


def cut_at_a_row(path: Path) -> None:
    rows = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(rows[: rows.index(b"\n", len(rows) // 2) + 1]))


@pytest.mark.parametrize(
    ("damage", "said", "rows"),
    [
        (cut_at_a_row, "were cut after 565 of them", 565),
        (lambda path: path.write_bytes(gzip.compress(b"")), "nothing is there", 0),
        (lambda path: path.write_bytes(b""), "nothing is there", 0),
        (Path.unlink, "there is no file", None),
    ],
)
def test_a_folder_with_a_damaged_file_is_an_alert_that_names_its_table(
    damage: Callable[[Path], object], said: str, rows: int | None, whole: Dumps, tmp_path: Path
) -> None:
    """All but the last pass through pg_restore in silence where no foreign key notices."""
    folder = shutil.copytree(whole.path("folder"), tmp_path / "folder")
    largest = max(folder.glob("*.dat.gz"), key=lambda path: path.stat().st_size)
    damage(largest)
    proof = damaged(folder)
    assert "public.registrations" in alerts(proof)
    assert said in alerts(proof)
    if rows is not None:
        assert table(proof, "registrations").rows_restored == rows


def test_an_lz4_archive_that_was_cut_is_an_alert(whole: Dumps, tmp_path: Path) -> None:
    content = whole.read("custom_lz4.dump")
    proof = damaged(written(tmp_path, content[: len(content) * 6 // 10]))
    assert proof.rows_restored != 2523


# What this machine lacks says nothing of the dump.


def test_a_missing_extension_is_unknown_and_its_package_is_named(whole: Dumps, tmp_path: Path) -> None:
    plain = whole.read("plain.sql").replace(
        b"\nCREATE TYPE", b"\nCREATE EXTENSION IF NOT EXISTS postgis WITH SCHEMA public;\nCREATE TYPE", 1
    )
    proof = prove_dump(written(tmp_path, plain), silent)
    assert proof.verdict is Verdict.UNKNOWN
    (finding,) = [finding for finding in proof.findings if finding.name == "extension postgis"]
    assert "postgresql-17-postgis-3" in finding.hint
    assert proof.rows_restored == 2523


def test_what_a_missing_extension_takes_along_is_unknown_and_never_an_alert(whole: Dumps, tmp_path: Path) -> None:
    plain = (
        whole.read("plain.sql")
        .replace(
            b"\nCREATE TYPE", b"\nCREATE EXTENSION vector;\nCREATE TABLE public.v (e public.vector);\nCREATE TYPE", 1
        )
        .replace(b"\nCOPY public.comments", b"\nINSERT INTO public.v VALUES ('[1]');\n\nCOPY public.comments", 1)
    )
    proof = prove_dump(written(tmp_path, plain), silent)
    assert proof.verdict is Verdict.UNKNOWN
    assert table(proof, "v").verdict is Verdict.UNKNOWN


def test_a_collation_of_a_database_that_this_machine_lacks_is_a_warning(whole: Dumps, tmp_path: Path) -> None:
    plain = whole.read("create.sql").replace(b"LOCALE = 'C.UTF-8'", b"LOCALE = 'xx_YY.UTF-8'", 1)
    assert b"xx_YY" in plain
    proof = prove_dump(written(tmp_path, plain), silent)
    assert (proof.verdict, [finding.name for finding in proof.findings]) == (Verdict.WARN, ["collation"])
    assert proof.rows_restored == 2523


# What is no dump.


@pytest.mark.parametrize(
    ("content", "said", "verdict"),
    [
        (b"", "is empty: 0 bytes", "alert"),
        (b"hello\n", "no dump of PostgreSQL", "alert"),
        (bytes(range(256)) * 20, "no dump of PostgreSQL", "alert"),
        (b"-- MySQL dump 10.13  Distrib 8.0\n", "is a dump of MySQL", "alert"),
        ("SELECT 1;\n".encode("utf-16"), "is UTF-16 text", "alert"),
        (b"age-encryption.org/v1\n", "is encrypted with age", "unknown"),
        (gzip.compress(gzip.compress(b"x")), "compressed twice", "unknown"),
        (b"PGDMP\x01\x63\x00\x04\x08\x01", "its version is 1.99", "unknown"),
        (b"PGDMP\x01\x10\x00\x04\x08\x09", "its head makes no sense", "alert"),
    ],
)
def test_what_is_no_dump_is_told_for_what_it_is(content: bytes, said: str, verdict: str, tmp_path: Path) -> None:
    proof = prove_dump(written(tmp_path, content), silent)
    assert proof.verdict == verdict
    assert said in "\n".join(
        [level.summary for level in proof.levels] + [finding.message for finding in proof.findings]
    )


def test_sql_that_does_not_say_that_pg_dump_wrote_it_cannot_be_told_whole(tmp_path: Path) -> None:
    proof = prove_dump(written(tmp_path, b"CREATE TABLE t (a int);\nINSERT INTO t VALUES (1), (2);\n"), silent)
    assert (proof.verdict, proof.rows_restored) == (Verdict.UNKNOWN, 2)
    assert "nobody can tell whether its end is missing" in proof.findings[0].message


# The checks of what came back turn red as well.


def test_rows_that_did_not_come_back_are_an_alert_even_without_an_error(whole: Dumps, tmp_path: Path) -> None:
    """Something of the dump removes rows behind its own COPY: only counting both sides tells."""
    plain = whole.read("plain.sql")
    _, end = rows_of(plain, "feedbacks")
    proof = damaged(written(tmp_path, plain[:end] + b"\nDELETE FROM public.feedbacks;\n" + plain[end:]))
    assert "public.feedbacks: 0 rows came back, the dump holds 13" in alerts(proof)


def test_a_view_that_the_dump_fills_and_that_came_back_empty_is_an_alert(tmp_path: Path) -> None:
    sql = b"CREATE MATERIALIZED VIEW v AS SELECT 1 AS a WITH NO DATA;\nREFRESH MATERIALIZED VIEW v;\n"
    sql += b"REFRESH MATERIALIZED VIEW v WITH NO DATA;\nCREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n"
    proof = damaged(written(tmp_path, sql))
    assert "The materialized view public.v came back empty" in alerts(proof)


def test_an_index_that_is_damaged_is_an_alert(whole: Dumps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """amcheck is asked: an index that is missing rows stands for a bad disk under the scratch server."""
    sql = (
        b"CREATE TABLE t (a int, b int);\nINSERT INTO t VALUES (1, 1);\nCREATE INDEX i ON t (a);\n"
        b"UPDATE pg_index SET indisready = false WHERE indexrelid = 'i'::regclass;\nINSERT INTO t VALUES (11, 11);\n"
        b"UPDATE pg_index SET indisready = true WHERE indexrelid = 'i'::regclass;\n"
    )
    proof = damaged(written(tmp_path, sql))
    assert "lacks matching index tuple" in alerts(proof)
