"""One proven set, copied and damaged: each level must see the damage that is fit for it, and name it.

Where a test says "the manifest agrees", sizes and hashes were made to fit, so that only a deeper look can notice.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard
from backup_documents import change_main
from backup_sets import (
    back_up,
    change_table,
    copy_set,
    download_archive,
    failed_level,
    part_of,
    proof_of,
    prove,
    read_content,
    replace_content,
    seal,
    write_manifest,
)
from real_servers import Server, bucket_settings, build_platform, fresh_database, installation

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue, read_entry, read_manifest
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.source_image import SCRATCH_IMAGE
from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.objectstore.bucket import BucketStore, open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.binaries import Binaries
from keepwell.settings import Platform, SmokeQuery
from keepwell.verdict import Verdict

ROWS = 2000
SOURCE = f"""
CREATE TABLE people (id serial PRIMARY KEY, name text);
INSERT INTO people (name) SELECT 'person ' || n FROM generate_series(1, {ROWS}) n;
CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person int REFERENCES people, note text);
INSERT INTO visits (person, note) SELECT n % {ROWS} + 1, md5(n::text) FROM generate_series(1, 300) n;
CREATE TABLE notes (note text);
INSERT INTO notes SELECT 'note ' || n FROM generate_series(1, 50) n;
CREATE TABLE twins (a text);
INSERT INTO twins VALUES ('x'), ('x');
CREATE TABLE empty (a int);
SELECT lo_from_bytea(77, 'a large object');
"""


@dataclass(frozen=True)
class Proven:
    """A set that reached the last level."""

    platform: Platform
    store: Store
    manifest: Manifest
    proof: Proof


@pytest.fixture(scope="module")
def proven(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proven]:
    server = servers(17)
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute(SOURCE)
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        manifest = back_up(platform)
        yield Proven(platform, open_store(platform), manifest, prove(platform, manifest.backup_id))


@pytest.fixture
def copied(proven: Proven) -> Manifest:
    """A copy of the proven set, for one test to damage."""
    return copy_set(proven.store, proven.manifest.backup_id)


def folder_of(manifest: Manifest) -> str:
    return layout.set_folder(manifest.backup_id)


def cut_at_a_row(content: bytes) -> bytes:
    """Half of the rows and no terminator, as a crash between two writes leaves them."""
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: len(lines) // 2])


def cut_and_terminated(content: bytes) -> bytes:
    return cut_at_a_row(content) + b"\\.\n\n\n"


def nothing(content: bytes) -> bytes:
    return b""


def test_the_set_that_is_damaged_below_was_proven_to_the_last_level(proven: Proven) -> None:
    assert proven.proof.reached == "serving"
    assert proven.proof.verdict is Verdict.OK


def test_an_untouched_copy_is_proven_too(proven: Proven, copied: Manifest) -> None:
    assert prove(proven.platform, copied.backup_id).reached == "serving"


# What stock tools say.


@pytest.mark.parametrize(("damage", "rows_left"), [(cut_at_a_row, ROWS // 2 + 1), (nothing, 0)])
def test_stock_pg_restore_exits_0_on_a_cut_archive_and_loses_rows_in_silence(
    proven: Proven, server: Server, tmp_path: Path, damage: Callable[[bytes], bytes], rows_left: int
) -> None:
    folder = download_archive(proven.store, proven.manifest, tmp_path)
    stream = folder / Path(part_of(proven.manifest, "public.visits").content_name).name
    stream.write_bytes(damage(stream.read_bytes()))
    people = folder / Path(part_of(proven.manifest, "public.people").content_name).name
    people.write_bytes(people.read_bytes())
    with fresh_database(server) as database:
        restore = [server.binaries.program("pg_restore"), "--exit-on-error", "--dbname", server.url(database), folder]
        ended = subprocess.run(restore, capture_output=True, check=False)
        with server.connect(database) as connection:
            row = connection.execute("SELECT count(*) FROM visits").fetchone()
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert row is not None
    assert row[0] < 300


def test_stock_pg_restore_lists_a_truncated_dump_without_complaint(
    proven: Proven, server: Server, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.dump", tmp_path / "cut.dump"
    database = server.url(proven.manifest.main.source.database)
    subprocess.run([server.binaries.program("pg_dump"), "-Fc", "-Z0", "-f", whole, "-d", database], check=True)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    listing = subprocess.run([server.binaries.program("pg_restore"), "--list", cut], capture_output=True, check=False)
    assert listing.returncode == 0
    assert b"TABLE DATA" in listing.stdout


# uploaded: the store's listing against the manifest.


def test_a_missing_object_is_not_uploaded(proven: Proven, copied: Manifest) -> None:
    lost = part_of(copied, "public.notes").name
    proven.store.delete([folder_of(copied) + lost])
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("uploaded", Verdict.ALERT)
    assert failed.findings[0].message == f"{lost} (rows of public.notes) is missing from the store."


def test_an_object_that_the_manifest_does_not_know_is_found(proven: Proven, copied: Manifest) -> None:
    proven.store.put_bytes(f"{folder_of(copied)}database/9999.dat.zst", b"?")
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("uploaded", "database/9999.dat.zst")


def test_an_object_of_another_size_is_found(proven: Proven, copied: Manifest) -> None:
    replace_content(proven.store, copied, part_of(copied, "public.notes"), cut_at_a_row, rebuild=False)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("uploaded", Verdict.ALERT)
    assert "bytes instead of" in failed.findings[0].message


# readable: hashes of what comes back.


def flip(stored: bytes, place: int) -> bytes:
    return stored[:place] + bytes([stored[place] ^ 0b100]) + stored[place + 1 :]


@pytest.mark.parametrize("name", ["public.people", "globals.sql", "schema.jsonl", "database/toc.dat"])
def test_one_flipped_bit_in_a_stored_object_is_found(proven: Proven, copied: Manifest, name: str) -> None:
    part = part_of(copied, name)
    key = folder_of(copied) + part.name
    proven.store.put_bytes(key, flip(proven.store.get_bytes(key), part.size_bytes // 2))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("readable", Verdict.ALERT)
    assert [finding.name for finding in failed.findings] == [part.name]


def test_two_objects_of_one_size_that_were_swapped_are_found(proven: Proven, copied: Manifest) -> None:
    first, second = part_of(copied, "public.people"), part_of(copied, "public.notes")
    one, other = (proven.store.get_bytes(folder_of(copied) + part.name) for part in (first, second))
    proven.store.put_bytes(folder_of(copied) + first.name, other)
    proven.store.put_bytes(folder_of(copied) + second.name, one)
    sizes = {first.name: second.size_bytes, second.name: first.size_bytes}
    agreeing = tuple(p.model_copy(update={"size_bytes": sizes.get(p.name, p.size_bytes)}) for p in copied.parts)
    write_manifest(proven.store, copied.model_copy(update={"parts": agreeing}))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert failed.level == "readable"
    assert {finding.name for finding in failed.findings} == {first.name, second.name}


def test_right_bytes_with_a_wrong_hash_in_the_manifest_are_not_called_readable(
    proven: Proven, copied: Manifest
) -> None:
    wrong = tuple(part.model_copy(update={"content_sha256": "0" * 64}) for part in copied.parts)
    write_manifest(proven.store, copied.model_copy(update={"parts": wrong}))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, len(failed.findings)) == ("readable", len(copied.parts))


@pytest.mark.parametrize("extra", [b"more", zstandard.ZstdCompressor().compress(b"more rows\n")])
def test_bytes_behind_a_compressed_stream_are_found_though_the_manifest_agrees(
    proven: Proven, copied: Manifest, extra: bytes
) -> None:
    part = part_of(copied, "public.notes")
    compressed = zstandard.ZstdCompressor().compress(read_content(proven.store, copied, part))
    stored = seal(proven.store, compressed + extra)
    proven.store.put_bytes(folder_of(copied) + part.name, stored)
    agreeing = part.model_copy(update={"size_bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()})
    parts = tuple(agreeing if known.name == part.name else known for known in copied.parts)
    write_manifest(proven.store, copied.model_copy(update={"parts": parts}))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert failed.level == "readable"
    assert "more bytes follow" in failed.findings[0].message


# complete: the archive's own contents, terminators and counts. The manifest agrees with each damage.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_at_a_row, "The stream of public.people ends early, after 1001 rows."),
        (nothing, "The stream of public.people ends early, after 0 rows."),
        (cut_and_terminated, "The stream of public.people has 1001 rows, the source 2000."),
    ],
)
def test_a_truncated_stream_is_incomplete_though_its_compression_is_valid_and_the_manifest_agrees(
    proven: Proven, copied: Manifest, damage: Callable[[bytes], bytes], message: str
) -> None:
    replace_content(proven.store, copied, part_of(copied, "public.people"), damage, rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("complete", Verdict.ALERT)
    assert [finding.message for finding in failed.findings] == [message]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_table_of_contents_is_incomplete_though_the_manifest_agrees(
    proven: Proven, copied: Manifest, share: float
) -> None:
    part = part_of(copied, "database/toc.dat")
    replace_content(proven.store, copied, part, lambda content: content[: int(len(content) * share)], rebuild=True)
    proof = prove(proven.platform, copied.backup_id)
    assert (failed_level(proof).level, proof.damaged) == ("complete", True)


def without_closing_lines(content: bytes) -> bytes:
    """All roles are there, and nothing else tells that more was to come."""
    return content[: content.index(b"--\n-- User Configurations")]


def cut_in_its_last_line(content: bytes) -> bytes:
    return content[: content.rindex(b" complete")]


@pytest.mark.parametrize("damage", [cut_at_a_row, without_closing_lines, cut_in_its_last_line, nothing])
def test_roles_that_end_early_are_incomplete_though_the_manifest_agrees(
    proven: Proven, copied: Manifest, damage: Callable[[bytes], bytes]
) -> None:
    """psql would run what is there and exit with 0."""
    replace_content(proven.store, copied, part_of(copied, layout.GLOBALS), damage, rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("complete", Verdict.ALERT)
    assert [finding.name for finding in failed.findings] == [layout.GLOBALS]


def test_a_table_that_the_manifest_forgot_is_found_by_the_archives_contents(proven: Proven, copied: Manifest) -> None:
    tables = tuple(table for table in copied.tables if table.qualified != "public.notes")
    write_manifest(proven.store, change_main(copied, tables=tables))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, "does not know" in failed.findings[0].message) == ("complete", True)


def test_a_stream_that_was_dropped_from_set_and_manifest_is_incomplete(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, "public.notes")
    proven.store.delete([folder_of(copied) + part.name])
    without = copied.model_copy(update={"parts": tuple(known for known in copied.parts if known != part)})
    write_manifest(proven.store, without)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("complete", "public.notes")


def test_another_schema_in_the_set_is_found_though_its_own_hash_agrees(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, layout.SCHEMA)
    replace_content(proven.store, copied, part, lambda content: content.split(b"\n", 1)[1], rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("complete", layout.SCHEMA)


def test_without_server_programs_a_set_is_unknown_and_neither_good_nor_damaged(
    proven: Proven, copied: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_only = [replace(installation(17), version=(15, 1))]
    monkeypatch.setattr("keepwell.backup.scratch_restore.find_installations", lambda configured: older_only)
    proof = prove(proven.platform, copied.backup_id)
    assert (failed_level(proof).level, proof.verdict, proof.damaged) == ("complete", Verdict.UNKNOWN, False)
    entry = read_entry(proven.store, copied.backup_id)
    assert (entry.level, entry.is_proven("equal"), entry.damaged) == (None, False, False)


def test_a_scratch_server_that_does_not_start_makes_a_set_unknown_and_not_damaged(
    proven: Proven, copied: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = installation(17)
    for program in ("pg_dump", "pg_restore", "psql", "postgres"):
        (tmp_path / program).symlink_to(whole.program(program))
    (tmp_path / "initdb").write_text("#!/bin/sh\necho no locale here >&2; exit 1\n")
    (tmp_path / "initdb").chmod(0o755)
    broken = Binaries(tmp_path, whole.version, "configured")
    monkeypatch.setattr("keepwell.backup.scratch_restore.find_installations", lambda configured: [broken])
    proof = prove(proven.platform, copied.backup_id)
    assert (failed_level(proof).level, proof.verdict, proof.damaged) == ("restored", Verdict.UNKNOWN, False)
    assert "no locale here" in failed_level(proof).summary


class _NoRoom:
    """Stands for containers that cannot be run."""

    def prefix(self, **asked: object) -> tuple[str, ...]:
        return ("sh", "-c", "echo no room for it >&2; exit 125")


def test_where_no_server_starts_from_the_sources_image_this_machine_proves_and_it_is_said(
    proven: Proven, copied: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Binaries(Path("/in/the/image"), installation(17).version, "image postgres:17", _NoRoom())
    monkeypatch.setattr("keepwell.backup.source_image.find_image_programs", lambda platform, folder: image)
    database = proven.platform.database.model_copy(update={"container": "postgres"})
    proof = prove(proven.platform.model_copy(update={"database": database}), copied.backup_id)
    assert (proof.reached, proof.verdict, proof.server) == ("serving", Verdict.WARN, str(installation(17)))
    (finding,) = (found for found in proof.findings if found.name == SCRATCH_IMAGE)
    assert "initdb ended with exit code 125: no room for it" in finding.message


# restored: roles and schema.


def test_a_set_whose_roles_are_missing_is_not_restored(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, layout.GLOBALS)
    proven.store.delete([folder_of(copied) + part.name])
    without = copied.model_copy(update={"parts": tuple(known for known in copied.parts if known != part)})
    write_manifest(proven.store, without)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("restored", layout.GLOBALS)


def test_roles_that_are_missing_from_a_whole_file_fail_the_restore(proven: Proven, copied: Manifest) -> None:
    """The manifest agrees, and so does pg_dumpall's closing line."""

    def lose_roles(content: bytes) -> bytes:
        return b"".join(line for line in content.splitlines(keepends=True) if b" ROLE " not in line)

    replace_content(proven.store, copied, part_of(copied, layout.GLOBALS), lose_roles, rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("restored", Verdict.ALERT)
    assert "role" in failed.findings[0].message


@pytest.mark.parametrize("program", ["\\! touch {}", "\\o {}\nSELECT 1;\n\\o"])
def test_a_roles_file_that_would_run_programs_of_ours_runs_none(
    proven: Proven, copied: Manifest, tmp_path: Path, program: str
) -> None:
    """psql, which runs as we do, obeys its own commands in a file; and whoever may write the bucket may add some."""
    written = tmp_path / "written"
    line = program.format(written).encode() + b"\n"

    def forge(content: bytes) -> bytes:
        lines = [
            line for line in content.splitlines(keepends=True) if not line.startswith((b"\\restrict", b"\\unrestrict"))
        ]
        return lines[0] + line + b"".join(lines[1:])

    replace_content(proven.store, copied, part_of(copied, layout.GLOBALS), forge, rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("restored", "roles")
    assert not written.exists()


@pytest.mark.parametrize("lines", [2, 0])
def test_roles_restore_with_and_without_the_lines_that_newer_versions_write_for_psql(
    proven: Proven, copied: Manifest, lines: int
) -> None:
    """A psql that does not know `\\restrict` stops at it."""

    def adapt(content: bytes) -> bytes:
        adapted = re.sub(rb"(?m)^\\(un)?restrict \w+\n", b"", content) if lines == 0 else content
        assert adapted.count(b"restrict ") == lines
        return adapted

    replace_content(proven.store, copied, part_of(copied, layout.GLOBALS), adapt, rebuild=True)
    assert prove(proven.platform, copied.backup_id).reached == "serving"


def test_a_schema_that_differs_from_the_source_is_named_object_by_object(proven: Proven, copied: Manifest) -> None:
    """The manifest agrees in everything: only the restored database can tell."""

    def forge(content: bytes) -> bytes:
        return content.replace(b"public.people.name", b"public.people.nickname")

    rebuilt = replace_content(proven.store, copied, part_of(copied, layout.SCHEMA), forge, rebuild=True)
    digest = part_of(rebuilt, layout.SCHEMA).content_sha256
    write_manifest(proven.store, change_main(rebuilt, schema_digest=digest))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert failed.level == "restored"
    messages = " ".join(finding.message for finding in failed.findings)
    assert "public.people.nickname is missing" in messages
    assert "public.people.name was not in the source" in messages


def test_a_schema_that_cannot_be_read_fails_the_level_and_not_the_verification(
    proven: Proven, copied: Manifest
) -> None:
    rebuilt = replace_content(proven.store, copied, part_of(copied, layout.SCHEMA), lambda content: b"{", rebuild=True)
    digest = part_of(rebuilt, layout.SCHEMA).content_sha256
    write_manifest(proven.store, change_main(rebuilt, schema_digest=digest))
    proof = prove(proven.platform, copied.backup_id)
    assert (failed_level(proof).level, proof.damaged) == ("restored", True)


# equal: rows against the source's own counts and hashes. The archive is consistent in itself.


def change_one_row(content: bytes) -> bytes:
    return content.replace(b"note 17\n", b"note 71\n", 1)


def lose_one_row(content: bytes) -> bytes:
    return content.replace(b"note 17\n", b"", 1)


def add_one_row(content: bytes) -> bytes:
    return b"note 0\n" + content


@pytest.mark.parametrize(("damage", "rows"), [(change_one_row, 50), (lose_one_row, 49), (add_one_row, 51)], ids=str)
def test_a_row_changed_lost_or_added_consistently_is_not_equal_and_its_table_is_named(
    proven: Proven, copied: Manifest, damage: Callable[[bytes], bytes], rows: int
) -> None:
    """Archive, hashes and count all agree: only the hash that was taken at the source differs."""
    rebuilt = replace_content(proven.store, copied, part_of(copied, "public.notes"), damage, rebuild=True)
    write_manifest(proven.store, change_table(rebuilt, "public.notes", rows=rows))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.verdict) == ("equal", Verdict.ALERT)
    assert [finding.name for finding in failed.findings] == ["public.notes"]


def test_a_pair_of_equal_rows_is_told_from_another_pair(proven: Proven, copied: Manifest) -> None:
    """An exclusive-or of row hashes would be 0 for both."""
    part = part_of(copied, "public.twins")
    replace_content(proven.store, copied, part, lambda content: content.replace(b"x", b"y"), rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, [finding.name for finding in failed.findings]) == ("equal", ["public.twins"])


def test_a_large_object_that_was_changed_is_not_equal(proven: Proven, copied: Manifest) -> None:
    part = next(part for part in copied.parts if part.name.startswith("database/blob_"))
    replace_content(proven.store, copied, part, lambda content: content.upper(), rebuild=True)
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, [finding.name for finding in failed.findings]) == ("equal", ["large objects"])


# sound and serving.


def test_a_sequence_that_comes_back_behind_its_source_is_not_sound(proven: Proven, copied: Manifest) -> None:
    ahead = tuple(
        sequence.model_copy(update={"last_value": ROWS + 1}) if sequence.name == "people_id_seq" else sequence
        for sequence in copied.main.sequences
    )
    write_manifest(proven.store, change_main(copied, sequences=ahead))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, failed.findings[0].name) == ("sound", "public.people_id_seq")


def test_a_failing_smoke_query_raises_an_alert_and_does_not_call_the_set_damaged(
    proven: Proven, copied: Manifest
) -> None:
    queries = (
        SmokeQuery(name="people there", sql="SELECT count(*) FROM people", at_least=ROWS),
        SmokeQuery(name="more people", sql="SELECT count(*) FROM people", at_least=ROWS + 1),
        SmokeQuery(name="no such table", sql="SELECT 1 FROM absent"),
        SmokeQuery(name="writes", sql="DELETE FROM people RETURNING 1"),
    )
    backup = proven.platform.backup.model_copy(update={"smoke_queries": queries})
    proof = prove(proven.platform.model_copy(update={"backup": backup}), copied.backup_id)
    failed = failed_level(proof)
    assert (failed.level, proof.reached, proof.verdict, proof.damaged) == ("serving", "sound", Verdict.ALERT, False)
    assert [finding.name for finding in failed.findings] == ["more people", "no such table", "writes"]
    assert read_entry(proven.store, copied.backup_id).is_proven("equal")


# Documents.


def test_a_damaged_manifest_makes_a_faulty_entry_and_stops_a_verification(proven: Proven, copied: Manifest) -> None:
    proven.store.put_signed(layout.manifest_key(copied.backup_id), copied.to_json()[:-40])
    entry = read_entry(proven.store, copied.backup_id)
    assert (entry.manifest, entry.damaged, entry.is_proven("equal")) == (None, True, False)
    with pytest.raises(VerificationFailed, match="manifest is damaged"):
        prove(proven.platform, copied.backup_id)


def test_another_sets_manifest_is_refused(proven: Proven, copied: Manifest) -> None:
    proven.store.put_signed(layout.manifest_key(copied.backup_id), proven.manifest.to_json())
    with pytest.raises(VerificationFailed, match=f"is that of {proven.manifest.backup_id}"):
        read_manifest(proven.store, copied.backup_id)


def test_a_set_without_a_manifest_is_not_a_backup_set(proven: Proven, copied: Manifest) -> None:
    proven.store.delete([layout.manifest_key(copied.backup_id)])
    with pytest.raises(PreconditionFailed, match="not a backup set"):
        prove(proven.platform, copied.backup_id)
    listed = {entry.backup_id: entry for entry in read_catalogue(proven.store)}
    assert listed[copied.backup_id].damaged


@pytest.mark.parametrize("name", ["../../../escaped", "database/../../x", "/etc/x", "database/a/b", ".hidden"])
def test_a_manifest_whose_part_would_be_read_back_elsewhere_is_refused(
    proven: Proven, copied: Manifest, name: str
) -> None:
    document = json.loads(copied.to_json())
    document["parts"][0]["name"] = name
    proven.store.put_signed(layout.manifest_key(copied.backup_id), json.dumps(document).encode())
    with pytest.raises(VerificationFailed, match=r"parts\.0\.name"):
        prove(proven.platform, copied.backup_id)


def test_bytes_behind_a_sealed_stream_are_found_though_the_manifest_agrees(proven: Proven, copied: Manifest) -> None:
    part = part_of(copied, "public.notes")
    stored = proven.store.get_bytes(folder_of(copied) + part.name) + b"more"
    proven.store.put_bytes(folder_of(copied) + part.name, stored)
    agreeing = part.model_copy(update={"size_bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()})
    parts = tuple(agreeing if known.name == part.name else known for known in copied.parts)
    write_manifest(proven.store, copied.model_copy(update={"parts": parts}))
    failed = failed_level(prove(proven.platform, copied.backup_id))
    assert (failed.level, "cannot be opened" in failed.findings[0].message) == ("readable", True)


def test_a_damaged_proof_record_proves_nothing(proven: Proven, copied: Manifest) -> None:
    genuine = proof_of(proven.store, copied, proven.proof)
    proofs = layout.proofs_folder(copied.backup_id)
    proven.store.put_signed(f"{proofs}1.json", genuine.to_json()[:-30])
    document = json.loads(genuine.to_json())
    document["levels"] = document["levels"][3:]  # as if the levels below had never been asked
    proven.store.put_signed(f"{proofs}2.json", json.dumps(document).encode())
    entry = read_entry(proven.store, copied.backup_id)
    assert (entry.proof, entry.is_proven("equal"), entry.damaged) == (None, False, False)
    proven.store.put_signed(f"{proofs}3.json", genuine.to_json())
    assert read_entry(proven.store, copied.backup_id).is_proven("serving")


def test_another_sets_proof_proves_nothing(proven: Proven, copied: Manifest) -> None:
    proven.store.put_signed(f"{layout.proofs_folder(copied.backup_id)}1.json", proven.proof.to_json())
    assert read_entry(proven.store, copied.backup_id).proof is None


def test_damage_found_later_counts_more_than_an_earlier_proof(proven: Proven, copied: Manifest) -> None:
    made = proof_of(proven.store, copied, proven.proof)
    earlier = made.model_copy(update={"finished_at": made.finished_at - timedelta(hours=1)})
    proven.store.put_signed(f"{layout.proofs_folder(copied.backup_id)}1.json", earlier.to_json())
    assert read_entry(proven.store, copied.backup_id).is_proven("serving")
    proven.store.delete([folder_of(copied) + part_of(copied, "public.notes").name])
    prove(proven.platform, copied.backup_id)
    entry = read_entry(proven.store, copied.backup_id)
    assert (entry.damaged, entry.is_proven("equal")) == (True, False)


def test_a_store_that_goes_away_during_a_verification_leaves_the_set_unjudged(
    proven: Proven, copied: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ServiceUnavailable("the store went away")

    monkeypatch.setattr(BucketStore, "open_reader", gone)
    with pytest.raises(ServiceUnavailable):
        prove(proven.platform, copied.backup_id)
    monkeypatch.undo()
    assert read_entry(proven.store, copied.backup_id).last_attempt is None


def test_a_scratch_server_that_dies_during_the_comparison_leaves_the_set_unjudged(
    proven: Proven, copied: Manifest
) -> None:
    from keepwell.backup.verify import verify_backup
    from keepwell.postgres.server import end_orphan
    from keepwell.progress import Step

    def kill(step: Step) -> None:
        if step.stage == "proving: equal":
            (data,) = (proven.platform.backup.spool_directory or Path()).glob("keepwell-scratch-*/data")
            end_orphan(data)

    with pytest.raises(KeepwellError) as raised:
        verify_backup(proven.platform, proven.store, copied.backup_id, kill)
    assert isinstance(raised.value, ServiceUnavailable)
    assert read_entry(proven.store, copied.backup_id).last_attempt is None
