"""A second destination on real servers: carried, proven by itself, caught up, and enough alone without the first."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_sets import back_up, failed_level, prove
from real_servers import Server, bucket_settings, build_platform, fresh_database
from typer.testing import CliRunner

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.carry import carry_set, read_carry_plan
from keepwell.backup.catalogue import read_entry, read_manifest_and_digest
from keepwell.backup.manifest import Manifest
from keepwell.backup.verify import verify_backup
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.destination import Destination
from keepwell.errors import ServiceUnavailable, VerificationFailed
from keepwell.objectstore.destinations import open_destination
from keepwell.objectstore.folder import prepare_folder
from keepwell.objectstore.store import Store, open_store
from keepwell.progress import silent
from keepwell.settings import Platform, RetentionSettings, SecondBucketSettings, SecondFolderSettings, UploadsSettings
from keepwell.verdict import Verdict

KINDS = ("folder", "bucket")


@dataclass(frozen=True)
class Case:
    """A platform with a proven set that has uploaded files."""

    platform: Platform
    first: Store
    manifest: Manifest
    folder: Path

    def with_second(self, kind: str, place: Path) -> tuple[Platform, Store]:
        """The same platform with a second destination that is empty."""
        bucket = self.platform.bucket.model_dump() | {"prefix": f"second-{place.name}"}
        place.mkdir(exist_ok=True)
        prepare_folder(place)
        changes = {
            "folder": {"second_folder": SecondFolderSettings(directory=place)},
            "bucket": {"second_bucket": SecondBucketSettings(**bucket)},
        }[kind]
        platform = self.platform.model_copy(update=changes)
        return platform, open_destination(platform, Destination.SECOND)


@pytest.fixture(scope="module")
def case(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    server, folder = servers(17), tmp_path_factory.mktemp("uploads")
    (folder / "a").write_bytes(b"a content")
    (folder / "large").write_bytes(os.urandom(9 * 1024 * 1024))  # takes more than one part
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 1000) n")
        platform = build_platform(
            server,
            database,
            bucket_settings(objectstore),
            tmp_path_factory.mktemp("spool"),
            uploads=UploadsSettings(directory=folder),
        )
        manifest = back_up(platform)
        assert prove(platform, manifest.backup_id).proves("equal")
        yield Case(platform, open_store(platform), manifest, folder)


def stored(store: Store, folder: str) -> dict[str, bytes]:
    return {one.key: store.get_bytes(one.key) for one in store.list_objects(folder)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_carried_byte_for_byte_and_proven_by_itself(case: Case, kind: str, tmp_path: Path) -> None:
    platform, second = case.with_second(kind, tmp_path)
    backup_id = case.manifest.backup_id
    carried = carry_set(case.first, second, backup_id, silent)
    assert (carried.sent_parts, carried.sent_contents) == (len(case.manifest.parts), 2)
    here, there = (stored(store, layout.set_folder(backup_id)) for store in (case.first, second))
    assert there == {key: content for key, content in here.items() if layout.PROOFS not in key}
    assert stored(second, layout.UPLOADS) == stored(case.first, layout.UPLOADS)
    assert read_manifest_and_digest(second, backup_id)[1] == read_manifest_and_digest(case.first, backup_id)[1]
    assert list(second.list_objects(layout.UNFINISHED)) == []
    assert not read_entry(second, backup_id).is_proven("equal"), "only a proof made there counts there"
    proof = verify_backup(platform, second, backup_id, silent)
    assert proof.proves("equal")
    assert read_entry(second, backup_id).is_proven("equal")
    assert read_carry_plan(platform, case.first, second, datetime.now(UTC)).carry == ()


def test_damage_in_the_second_is_found_by_its_own_proof_and_sent_anew(case: Case, tmp_path: Path) -> None:
    platform, second = case.with_second("folder", tmp_path)
    backup_id = case.manifest.backup_id
    carry_set(case.first, second, backup_id, silent)
    before = stored(second, layout.set_folder(backup_id))
    part = next(part for part in case.manifest.parts if part.name.endswith(".dat.zst.age"))
    key = layout.set_folder(backup_id) + part.name
    content = bytearray(second.get_bytes(key))
    content[len(content) // 2] ^= 1
    second.put_bytes(key, bytes(content))
    proof = verify_backup(platform, second, backup_id, silent)
    assert failed_level(proof).level == "readable"
    assert proof.damaged
    assert read_entry(case.first, backup_id).is_proven("equal")
    again = carry_set(case.first, second, backup_id, silent)
    assert (again.sent_parts, again.sent_contents) == (1, 0)
    after = stored(second, layout.set_folder(backup_id))
    assert {key: content for key, content in after.items() if layout.PROOFS not in key} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_byte_on_its_way_is_refused_and_nothing_is_published(case: Case, kind: str, tmp_path: Path) -> None:
    _, second = case.with_second(kind, tmp_path)
    backup_id = case.manifest.backup_id
    with pytest.raises(VerificationFailed, match="not what its manifest says"):
        carry_set(Flipping(case.first, case.manifest.parts[0].name), second, backup_id, silent)  # type: ignore[arg-type]
    content = next(one.key for one in case.first.list_objects(layout.UPLOADS) if one.size_bytes > 1_000_000)
    with pytest.raises(VerificationFailed, match="in the first destination"):
        carry_set(Flipping(case.first, content), second, backup_id, silent)  # type: ignore[arg-type]
    assert second.find(content) is None
    assert second.find(layout.manifest_key(backup_id)) is None
    # The next run goes on.
    carry_set(case.first, second, backup_id, silent)
    assert second.find(content) is not None


class Flipping:
    """A store whose objects of one name come with one wrong bit."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def open_reader(self, relative: str) -> object:
        if not relative.endswith(self._name):
            return self._store.open_reader(relative)
        from contextlib import nullcontext
        from io import BytesIO

        content = bytearray(self._store.get_bytes(relative))
        content[len(content) // 2] ^= 1
        return nullcontext(BytesIO(bytes(content)))


def run(platform: Platform, monkeypatch: pytest.MonkeyPatch, *argv: str, code: int = 0) -> dict[str, object]:
    """One command of the console, with its JSON document."""
    monkeypatch.setattr(console, "load_platform", lambda name: platform)
    result = CliRunner().invoke(app, [*argv, "--json"])
    assert result.exit_code == code, result.output + result.stderr
    return json.loads(result.stdout)


def test_with_the_first_destination_lost_everything_comes_back_from_the_second(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    place = tmp_path / "second"
    platform, second = case.with_second("folder", place)
    said = run(platform, monkeypatch, "backup", "copy")
    assert [copy["proven"] for copy in said["data"]["copies"]] == [True]  # type: ignore[index,call-overload]
    gone = platform.bucket.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    lost = platform.model_copy(update={"bucket": gone})
    assert run(lost, monkeypatch, "backup", "list", code=2)["verdict"] == "unknown"
    listed = run(lost, monkeypatch, "backup", "list", "--destination", "second")
    assert [one["state"] for one in listed["data"]["backups"]] == ["proven"]  # type: ignore[index,call-overload]
    name = f"{platform.database.name}_back"
    in_second = ("newest-proven", "--destination", "second")
    run(lost, monkeypatch, "backup", "restore", *in_second, "--into", name)
    try:
        with server.connect(name) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)
    finally:
        with server.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    run(lost, monkeypatch, "backup", "restore-uploads", *in_second, "--into", str(tmp_path / "files"))
    for name in ("a", "large"):
        assert (tmp_path / "files" / name).read_bytes() == (case.folder / name).read_bytes()
    run(lost, monkeypatch, "backup", "pin", *in_second, "--reason", "the last one")
    plan = run(lost, monkeypatch, "backup", "expire", "--plan", "--destination", "second")
    assert "pinned" in json.dumps(plan["data"])
    assert list(second.list_objects(layout.PINS))


def test_a_backup_with_the_second_away_is_proven_in_the_first_and_not_green(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "second"
    platform, second = case.with_second("folder", place)
    # So that the set of the other tests is none that would be kept there.
    only_newest = RetentionSettings(keep_days=0, keep_daily=1, keep_newest=2)
    platform = platform.model_copy(update={"retention": only_newest})
    mark = place / "keepwell-destination.json"
    mark.rename(tmp_path / "taken away")  # as if the disk were not mounted
    said = run(platform, monkeypatch, "backup", "create", code=2)
    assert said["data"]["proven"] is True  # type: ignore[index,call-overload]
    assert "the first has, and its backup is proven" in str(said["hint"])
    assert list(place.iterdir()) == [], "nothing may be written below an empty mount point"
    with pytest.raises(ServiceUnavailable, match="not mounted"):
        second.put_bytes("x", b"")
    (tmp_path / "taken away").rename(mark)
    caught_up = run(platform, monkeypatch, "backup", "create")
    newest, missed = caught_up["data"]["second"]["copies"]  # type: ignore[index,call-overload]
    assert newest["backup_id"] == caught_up["data"]["backup"]["backup_id"]  # type: ignore[index,call-overload]
    assert missed["backup_id"] == said["data"]["backup"]["backup_id"]  # type: ignore[index,call-overload]
    assert newest["proven"]
    assert missed["proven"]
    # The newest set's uploaded files were there already, so a night sends only what changed.
    assert missed["carried"]["sent_contents"] == 0
    shutil.rmtree(place)
    assert run(platform, monkeypatch, "backup", "copy", code=2)["verdict"] == Verdict.UNKNOWN
