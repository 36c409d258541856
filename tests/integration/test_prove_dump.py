"""Whole dumps in every form, of each major version: what each is, and that it is proven to the last row."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from dump_files import DATABASE, Dumps, pg_dump, pg_dumpall, run_guides_script, tool_environment
from real_servers import MAJORS, Server, fresh_database
from typer.testing import CliRunner
from zoo import create_zoo

from keepwell import disk_space
from keepwell.cli.main import app
from keepwell.dumps import prove, restoring
from keepwell.dumps.proof import DumpProof
from keepwell.dumps.prove import prove_dump
from keepwell.postgres import binaries, confinement
from keepwell.progress import Step, silent
from keepwell.verdict import Finding, Verdict

ROWS = 2523
LEVELS = ("readable", "complete", "restored", "sound")


def proven(path: Path) -> DumpProof:
    """A proof in which nothing is wrong and nothing unknown."""
    proof = prove_dump(path, silent)
    told = [(finding.verdict, finding.message) for finding in proof.findings]
    assert proof.verdict in (Verdict.OK, Verdict.WARN), told
    assert tuple(level.level for level in proof.levels) == LEVELS
    return proof


def warnings(proof: DumpProof) -> list[str]:
    return [finding.name for finding in proof.findings if finding.verdict is not Verdict.OK]


FORMS_OF_17 = ("plain.sql", "inserts.sql", "clean.sql", "create.sql", "custom.dump", "tar.tar", "folder")


@pytest.mark.parametrize(
    ("major", "form"),
    [*((17, form) for form in FORMS_OF_17), (15, "plain.sql"), (15, "custom.dump"), (15, "tar.tar"), (15, "folder")],
)
def test_every_form_is_proven_to_the_last_row_on_its_own_major(
    major: int, form: str, dumps: Callable[[int], Dumps]
) -> None:
    proof = proven(dumps(major).path(form))
    assert (proof.verdict, warnings(proof)) == (Verdict.OK, [])
    assert proof.rows_restored == ROWS
    assert (proof.same_major, proof.server.split(" (")[0].split(".")[0]) == (True, f"PostgreSQL {major}")
    assert {table.name: (table.rows_in_dump, table.rows_restored) for table in proof.tables}["users"] == (250, 250)
    assert len(proof.tables) == 9
    assert proof.restore_seconds is not None
    assert proof.dump is not None
    assert proof.dump.server_version.startswith(f"{major}.")
    assert proof.isolation.startswith("no files but its own")


@pytest.mark.parametrize(
    "form",
    [
        "rows_per_insert.sql",
        "custom_plain.dump",
        "custom_inserts.dump",
        "custom_zstd.dump",
        "custom_lz4.dump",
        "folder_zstd",
    ],
)
def test_less_usual_forms_are_proven_too(form: str, dumps: Callable[[int], Dumps]) -> None:
    proof = proven(dumps(17).path(form))
    assert (proof.verdict, proof.rows_restored) == (Verdict.OK, ROWS)
    assert all(table.rows_in_dump == table.rows_restored for table in proof.tables)


@pytest.mark.parametrize(
    ("form", "compress", "wrapping"),
    [
        ("plain.sql", bz2.compress, "bzip2"),
        ("plain.sql", lzma.compress, "xz"),
        ("plain.sql", zstandard.ZstdCompressor(write_checksum=True).compress, "zstd"),
        ("custom.dump", gzip.compress, "gzip"),
    ],
)
def test_whatever_compressed_it_is_told_by_its_content_and_never_by_its_name(
    form: str, compress: Callable[[bytes], bytes], wrapping: str, dumps: Callable[[int], Dumps], tmp_path: Path
) -> None:
    path = tmp_path / "misleading.zip"
    path.write_bytes(compress(dumps(17).read(form)))
    proof = proven(path)
    assert proof.dump is not None
    assert (proof.dump.wrapping, proof.rows_restored) == (wrapping, ROWS)
    assert proof.dump.format == {"plain.sql": "plain SQL", "custom.dump": "custom format"}[form]
    assert "checksums are right" in proof.levels[0].summary


def test_a_tar_archive_in_gzip_and_a_folder_in_a_tar_file_are_proven(
    dumps: Callable[[int], Dumps], tmp_path: Path
) -> None:
    compressed = tmp_path / "archive.tgz"
    compressed.write_bytes(gzip.compress(dumps(17).read("tar.tar")))
    assert proven(compressed).rows_restored == ROWS
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", dumps(17).folder, "folder")
    proof = proven(Path(packed))
    assert proof.dump is not None
    assert (proof.rows_restored, proof.dump.format) == (ROWS, "directory format")


@pytest.mark.parametrize("major", MAJORS)
def test_the_guides_own_dump_is_proven(major: int, dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    archive = run_guides_script(dumps(major).server, DATABASE, tmp_path / "backups")
    proof = proven(archive)
    assert (proof.verdict, proof.rows_restored) == (Verdict.OK, ROWS)


def test_the_guides_script_with_a_wrong_name_leaves_20_bytes_and_an_alert(
    dumps: Callable[[int], Dumps], tmp_path: Path
) -> None:
    archive = run_guides_script(dumps(17).server, "esn_db_typo", tmp_path / "backups")
    assert archive.stat().st_size == 20
    proof = prove_dump(archive, silent)
    assert proof.verdict is Verdict.ALERT
    assert "empty gzip archive: 20 bytes" in proof.levels[0].summary
    assert [level.verdict for level in proof.levels[1:]] == [Verdict.UNKNOWN] * 3


@pytest.mark.parametrize("major", MAJORS)
def test_a_dump_of_a_whole_server_brings_its_roles_and_each_database(
    major: int, servers: Callable[[int], Server], tmp_path: Path
) -> None:
    server = servers(major)
    odd = "an odd =name'\""
    with fresh_database(server) as zoo, fresh_database(server, odd) as other:
        create_zoo(server, zoo)
        with server.connect(other) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 7) AS a")
        pg_dumpall(server, "", tmp_path / "all.sql")
        proof = proven(tmp_path / "all.sql")
    assert proof.dump is not None
    assert (proof.dump.scope, proof.dump.roles_missing) == ("cluster", ())
    rows = {(table.database, table.name): table.rows_restored for table in proof.tables}
    assert rows[odd, "t"] == 7
    assert rows[zoo, "duplicates"] == 3
    assert [name for name in warnings(proof) if zoo not in name] == ["above_zero of public.unchecked"]


@pytest.mark.parametrize(("major", "form"), [(15, "-Fc"), (17, ""), (17, "--inserts"), (17, "-Fd"), (17, "-Ft")])
def test_a_zoo_of_every_kind_is_proven_and_its_roles_are_named(
    major: int, form: str, servers: Callable[[int], Server], tmp_path: Path
) -> None:
    with fresh_database(servers(major)) as zoo:
        create_zoo(servers(major), zoo)
        pg_dump(servers(major), zoo, form, tmp_path / "dump")
        proof = proven(tmp_path / "dump")
    assert warnings(proof) == ["roles", "above_zero of public.unchecked"]
    assert proof.dump is not None
    assert proof.dump.roles_missing == ("zoo Owner", "zoo_reader")
    assert all(table.rows_in_dump == table.rows_restored for table in proof.tables if table.rows_in_dump is not None)
    assert not [finding for finding in proof.findings if finding.verdict is Verdict.ALERT]


def test_a_dump_of_the_schema_only_says_so(dumps: Callable[[int], Dumps]) -> None:
    proof = proven(dumps(17).path("schema_only.sql"))
    assert (proof.verdict, warnings(proof), proof.rows_restored) == (Verdict.WARN, ["rows"], 0)
    assert "schema only" in proof.findings[0].message


def test_a_dump_of_rows_only_cannot_be_told_and_says_how_it_could(
    dumps: Callable[[int], Dumps], tmp_path: Path
) -> None:
    proof = prove_dump(dumps(17).path("data_only.sql"), silent)
    assert (proof.verdict, proof.levels[1].verdict, proof.levels[2].verdict) == ("unknown", "ok", "unknown")
    assert "cat schema.sql data.sql" in proof.findings[0].hint
    both = tmp_path / "both.sql"
    both.write_bytes(dumps(17).read("schema_only.sql") + dumps(17).read("data_only.sql"))
    assert "did not come back" not in str(prove_dump(both, silent).findings)


def test_roles_alone_are_no_backup(dumps: Callable[[int], Dumps]) -> None:
    proof = proven(dumps(17).path("globals.sql"))
    assert proof.verdict is Verdict.WARN
    assert "no tables" in proof.findings[0].message


def test_tables_that_were_left_out_and_empty_ones_are_named(server: Server, database: str, tmp_path: Path) -> None:
    with server.connect(database) as connection:
        connection.execute("CREATE TABLE log (a int); INSERT INTO log VALUES (1); CREATE TABLE queue (a int)")
    pg_dump(server, database, "--exclude-table-data=log", tmp_path / "d.sql")
    proof = proven(tmp_path / "d.sql")
    assert warnings(proof) == ["public.log"]
    (empty,) = [finding.message for finding in proof.findings if finding.name == "empty tables"]
    assert empty == "Empty in the dump, and so after a restore: public.queue."


def test_rows_that_come_through_their_partitioned_parent_are_counted_there(
    server: Server, database: str, tmp_path: Path
) -> None:
    with server.connect(database) as connection:
        connection.execute(
            "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)"
        )
        connection.execute("CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT 1 FROM generate_series(1, 9)")
    pg_dump(server, database, "--load-via-partition-root", tmp_path / "d.sql")
    proof = proven(tmp_path / "d.sql")
    assert warnings(proof) == []
    assert {table.name: table.rows_in_dump for table in proof.tables}["p"] == 9


def test_sequences_behind_their_columns_are_told(server: Server, database: str, tmp_path: Path) -> None:
    with server.connect(database) as connection:
        connection.execute("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t VALUES (41)")
    pg_dump(server, database, "", tmp_path / "d.sql")
    proof = proven(tmp_path / "d.sql")
    assert warnings(proof) == ["public.t_id_seq"]
    assert "41" in proof.findings[0].message


def test_a_tablespace_that_no_other_server_has_gets_a_placeholder(
    server: Server, database: str, tmp_path: Path
) -> None:
    with server.connect(database) as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE fast LOCATION ''")
        connection.execute("CREATE TABLE t (a int) TABLESPACE fast; INSERT INTO t VALUES (1)")
        for form, name in (("", "d.sql"), ("-Fc", "d.dump")):
            pg_dump(server, database, form, tmp_path / name)
            proof = proven(tmp_path / name)
            assert (warnings(proof), proof.rows_restored) == (["tablespaces"], 1)
        connection.execute("DROP TABLE t")
        connection.execute("DROP TABLESPACE fast")


@pytest.mark.parametrize(("encoding", "raw"), [("LATIN1", b"\xe9"), ("SQL_ASCII", b"\xff\xfe")])
def test_other_encodings_are_proven(encoding: str, raw: bytes, server: Server, tmp_path: Path) -> None:
    name = f"dump_{encoding.lower()}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with server.connect(name, client_encoding=encoding) as connection:
        table = b'"\xe9t\xe9"' if encoding == "LATIN1" else b"t"
        connection.execute(b"CREATE TABLE " + table + b" (a text)")
        connection.execute(b"INSERT INTO " + table + b" VALUES ('" + raw + b"')")
    pg_dump(server, name, "", tmp_path / "d.sql")
    with server.connect() as connection:
        connection.execute(f"DROP DATABASE {name}")
    assert proven(tmp_path / "d.sql").rows_restored == 1


def test_a_dump_for_which_no_server_is_new_enough_is_unknown(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    path = tmp_path / "future.sql"
    path.write_bytes(dumps(17).read("plain.sql").replace(b"database version 17.", b"database version 99."))
    proof = prove_dump(path, silent)
    assert proof.verdict is Verdict.UNKNOWN
    assert "No PostgreSQL server of version 99" in proof.levels[2].summary


def test_a_dump_from_15_is_proven_on_17_where_there_is_no_15_and_that_is_said(
    dumps: Callable[[int], Dumps], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_17 = [found for found in binaries.find_installations() if found.major == 17]
    monkeypatch.setattr(prove, "find_installations", lambda: only_17)
    proof = proven(dumps(15).path("custom.dump"))
    assert (proof.same_major, proof.rows_restored) == (False, ROWS)
    assert "the nearest to the dump's 15" in proof.levels[2].summary


def test_a_psql_that_is_too_old_for_restrict_lines_is_not_shown_them(
    dumps: Callable[[int], Dumps], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b"\n\\restrict " in dumps(17).read("plain.sql")
    monkeypatch.setattr(restoring, "knows_restrict", lambda binaries: False)
    assert proven(dumps(17).path("plain.sql")).rows_restored == ROWS


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ((17, 6), True),
        ((17, 5), False),
        ((15, 14), True),
        ((15, 13), False),
        ((18,), True),
        ((12, 22), False),
        ((13, 22), True),
    ],
)
def test_which_psql_knows_restrict(version: tuple[int, ...], knows: bool) -> None:
    assert restoring.knows_restrict(binaries.Binaries(Path("/pg"), version, "system")) is knows


def test_a_dump_that_only_its_owner_may_read_is_proven_by_root(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    """What is confined has none of root's privileges, so the file is handed to it and a folder is copied."""
    shutil.copytree(dumps(17).path("folder"), tmp_path / "folder")
    shutil.copy(dumps(17).path("custom.dump"), tmp_path / "custom.dump")
    for path in (tmp_path / "custom.dump", *(tmp_path / "folder").iterdir(), tmp_path / "folder"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
    assert proven(tmp_path / "custom.dump").rows_restored == ROWS
    assert proven(tmp_path / "folder").rows_restored == ROWS


def test_a_disk_without_space_is_told_before_anything_is_restored(
    dumps: Callable[[int], Dumps], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=300 * 2**20)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: usage)
    proof = prove_dump(dumps(17).path("plain.sql"), silent)
    assert proof.verdict is Verdict.UNKNOWN
    assert "--scratch-directory" in proof.findings[0].hint


def test_progress_is_told_and_nothing_is_left_behind(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    steps: list[Step] = []
    prove_dump(dumps(17).path("plain.sql"), steps.append, scratch_directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    stages = list(dict.fromkeys(step.stage for step in steps))
    for stage in ("reading the dump", "starting a scratch server", "restoring", "counting rows", "checking indexes"):
        assert stage in stages
    size = dumps(17).path("plain.sql").stat().st_size
    assert [(step.done, step.total) for step in steps if step.stage == "restoring"][-1] == (size, size)


def test_a_machine_that_cannot_confine_proves_too_and_says_so(
    dumps: Callable[[int], Dumps], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "_can_confine", lambda: False)
    for form in ("plain.sql", "custom.dump"):
        proof = proven(dumps(17).path(form))
        assert (warnings(proof), proof.rows_restored) == (["isolation"], ROWS)
        assert "no files but its own" not in proof.isolation


def test_what_a_killed_proof_left_is_swept_by_the_next(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    slow, place = tmp_path / "slow.sql", tmp_path / "place"
    place.mkdir()
    slow.write_bytes(dumps(17).read("plain.sql").replace(b"\nCREATE TYPE", b"\nSELECT pg_sleep(120);\nCREATE TYPE", 1))
    argv = [sys.executable, "-c", "from keepwell.cli.main import run; run()", "prove-dump", str(slow)]
    with subprocess.Popen([*argv, "--scratch-directory", str(place)], stderr=subprocess.PIPE) as killed:
        assert killed.stderr is not None
        while killed.stderr.readline() != b"restoring ...\n":
            assert killed.poll() is None
        killed.kill()
    assert len(list(place.iterdir())) == 1
    prove_dump(dumps(17).path("plain.sql"), silent, scratch_directory=place)
    assert list(place.iterdir()) == []


def test_a_dump_that_is_still_being_written_is_unknown(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    path = tmp_path / "growing.sql"
    path.write_bytes(dumps(17).read("plain.sql"))

    def append(step: Step) -> None:
        if step.stage == "starting a scratch server":
            with path.open("ab") as file:
                file.write(b"-- more\n")

    proof = prove_dump(path, append)
    assert proof.verdict is Verdict.UNKNOWN
    assert "changed while it was being proven" in proof.findings[0].message


# The command itself.


def run(*words: str | Path) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["prove-dump", *map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_needs_no_configuration_and_its_exit_code_tells(
    dumps: Callable[[int], Dumps], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    code, envelope = run(dumps(17).path("plain.sql"))
    assert (code, envelope["schema"], envelope["verdict"]) == (0, "keepwell.prove-dump/1", "ok")
    data = envelope["data"]
    assert isinstance(data, dict)
    assert (data["rows_restored"], len(data["tables"]), data["levels"][0]["level"]) == (ROWS, 9, "readable")
    assert run(dumps(17).path("data_only.sql"))[0] == 2
    (tmp_path / "empty").touch()
    assert run(tmp_path / "empty")[0] == 1
    assert run(tmp_path / "absent")[0] == 1


def test_the_command_says_it_in_three_plain_lines_first(dumps: Callable[[int], Dumps]) -> None:
    result = CliRunner().invoke(app, ["prove-dump", str(dumps(17).path("custom.dump"))])
    first, second, third = result.stdout.splitlines()[:3]
    assert first.startswith("custom.dump is a dump of the database esn_db on PostgreSQL 17.")
    assert "custom format" in first
    assert second.startswith("A restore brings back 9 tables with 2,523 rows (")
    assert third.startswith("ok: proven: it is whole, restores without an error")
    assert "public.registrations" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1].startswith("Next: ")


def test_what_gunzip_and_psql_pass_over_in_silence_is_an_alert(dumps: Callable[[int], Dumps], tmp_path: Path) -> None:
    """The guide's restore, with exit code 0, and the same dump proven."""
    server = dumps(17).server
    broken = (
        dumps(17).read("plain.sql").replace(b"CREATE INDEX ", b"CREATE INDEX nowhere ON absent (a);\nCREATE INDEX ", 1)
    )
    archive = tmp_path / "backup.sql.gz"
    archive.write_bytes(gzip.compress(broken))
    with fresh_database(server) as database:
        guide = f"gunzip -c {archive} | {server.binaries.program('psql')} -q {database} > /dev/null 2>&1"
        assert subprocess.run(["bash", "-c", guide], env=tool_environment(server), check=False).returncode == 0
    proof = prove_dump(archive, silent)
    (alert,) = [finding for finding in proof.findings if finding.verdict is Verdict.ALERT]
    assert isinstance(alert, Finding)
    assert alert.name == "errors"
    line = broken[: broken.index(b"nowhere")].count(b"\n") + 1
    assert alert.message == f'The restore met 1 error: line {line:,}: relation "absent" does not exist.'
