"""Whole backups into a bucket with Object Lock: written, proven, swept after a death, and kept by an expiry."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_sets import back_up, prove
from locking_store import LockingStore
from real_servers import Server
from stored_sets import keys_of, put_set

from keepwell.backup import layout
from keepwell.backup.catalogue import read_entry
from keepwell.backup.expire import apply_plan, read_plan
from keepwell.backup.locks import judge_lock
from keepwell.backup.policies import build_policies
from keepwell.backup.restore import restore_into
from keepwell.backup.sweep import judge_left_over, sweep_unfinished
from keepwell.backup.uploads_index import read_upload_objects
from keepwell.errors import PreconditionFailed
from keepwell.holding import hold_platform, hold_sets
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, folder_of, open_store
from keepwell.progress import silent
from keepwell.settings import Platform, UploadsSettings
from keepwell.verdict import Verdict

DAYS = 5


@dataclass(frozen=True)
class Locked:
    """A platform with a small database and two uploaded files, whose bucket locks."""

    platform: Platform
    server: LockingStore

    @property
    def store(self) -> Store:
        return open_store(self.platform)

    def with_bucket(self, **settings: object) -> Platform:
        bucket = self.platform.bucket.model_copy(update=settings)
        return self.platform.model_copy(update={"bucket": bucket})


@pytest.fixture
def locked(platform: Platform, locking_store: LockingStore, tmp_path: Path, server: Server) -> Locked:
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "small").write_text("a small file")
    (folder / "large").write_bytes(os.urandom(9 * 1024 * 1024))  # goes in parts
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i")
    settings = {"lock_days": DAYS, "lock_mode": "compliance", "storage_class": "STANDARD_IA"}
    bucket = locking_store.platform(locking_store.make_bucket(), **settings).bucket
    changes = {"bucket": bucket, "redis": None, "uploads": UploadsSettings(directory=folder)}
    return Locked(platform.model_copy(update=changes), locking_store)


def locks_of(store: Store, folder: str) -> dict[str, datetime | None]:
    found = {stored.key: store.find(stored.key) for stored in store.list_objects(folder)}
    return {key: one.locked_until if one else None for key, one in found.items()}


def test_a_set_its_proofs_and_its_contents_are_locked_and_the_proof_says_so(locked: Locked) -> None:
    manifest = back_up(locked.platform)
    proof = prove(locked.platform, manifest.backup_id)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    (told,) = [finding for finding in proof.findings if finding.name == "lock"]
    wanted = datetime.strptime(manifest.backup_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(days=DAYS)
    assert f"locked until {wanted:%Y-%m-%d %H:%M} UTC" in told.message
    of_set = locks_of(locked.store, layout.set_folder(manifest.backup_id))
    assert set(of_set.values()) == {wanted}
    assert any(key.startswith(layout.proofs_folder(manifest.backup_id)) for key in of_set)
    contents = locks_of(locked.store, layout.UPLOADS)
    assert len(contents) == 2
    assert all(until is not None and until >= wanted for until in contents.values())
    beside = [stored.key for stored in locked.store.list_objects("") if not stored.key.startswith(("backups", "uplo"))]
    assert all(until is None for key in beside for until in locks_of(locked.store, key).values())
    assert list(locked.store.list_objects(layout.UNFINISHED)) == []


def test_a_content_is_locked_for_as_long_as_the_newest_set_that_names_it(locked: Locked) -> None:
    back_up(locked.platform)
    before = locks_of(locked.store, layout.UPLOADS)
    longer = locked.with_bucket(lock_days=60)
    second = back_up(longer)
    assert second.uploads is not None
    assert second.uploads.sent_contents == 0
    after = locks_of(locked.store, layout.UPLOADS)
    for key in read_upload_objects(open_store(longer), second):
        old, new = before[key], after[key]
        assert old is not None
        assert new is not None
        assert new - old > timedelta(days=50)
    back_up(locked.platform)  # asks for less again
    assert locks_of(locked.store, layout.UPLOADS) == after


def test_a_set_from_before_the_lock_is_said_to_be_unlocked_and_one_of_a_shorter_lock_too(locked: Locked) -> None:
    manifest = back_up(locked.with_bucket(lock_days=0))
    (told,) = judge_lock(locked.store, manifest)
    assert told.verdict is Verdict.WARN
    assert "is not locked, and bucket.lock_days asks" in told.message
    (told,) = judge_lock(open_store(locked.with_bucket(lock_days=60)), back_up(locked.platform))
    assert (told.verdict, "UTC at the longest" in told.message) == (Verdict.WARN, True)


def test_a_bucket_that_cannot_lock_stops_a_backup_before_anything_is_touched(locked: Locked) -> None:
    lacking = locked.with_bucket(name=locked.server.make_bucket(lock=False))
    store = open_store(lacking)
    store.put_bytes(layout.unfinished_key("20260301T000000Z-abcdef"), b"mark of a dead run")
    with pytest.raises(PreconditionFailed, match="keeps no lock"):
        back_up(lacking)
    assert [stored.key for stored in store.list_objects("")] == ["unfinished/20260301T000000Z-abcdef"]


def test_a_dead_run_s_locked_objects_are_hidden_once_and_stop_nothing(locked: Locked) -> None:
    manifest = back_up(locked.platform)
    dead, store = manifest.backup_id, locked.store
    store.delete([layout.manifest_key(dead)])
    store.put_bytes(layout.unfinished_key(dead), b"mark")
    versions = len(_versions(store, dead))
    assert sweep_unfinished(store) == [dead]
    assert (keys_of(store, dead), judge_left_over(store), sweep_unfinished(store)) == ([], [], [])
    assert len(_versions(store, dead)) == versions  # hidden, and there until their locks are over
    assert back_up(locked.platform).backup_id in store.list_folders(layout.BACKUPS)


def _versions(store: Store, backup_id: str) -> list[object]:
    prefix = store.key(layout.set_folder(backup_id))
    return list(store.reader.list_object_versions(Bucket=store.bucket, Prefix=prefix).get("Versions", []))


def test_an_expiry_keeps_what_is_locked_with_its_date_and_is_not_alarmed(locked: Locked) -> None:
    platform, store = locked.platform, locked.store
    now = datetime.now(UTC).replace(microsecond=0)
    keep = [put_set(store, now - timedelta(days=day)) for day in (0, 1, 2)]
    held, old = put_set(store, now - timedelta(days=3)), put_set(store, now - timedelta(days=9))
    rules = platform.retention.model_copy(update={"keep_days": 2, "keep_newest": 1})
    strict = platform.model_copy(update={"retention": rules})
    plan = read_plan(strict, store, now)
    reasons = {one.stored.backup_id: one.words for one in plan.keep}
    assert reasons[held] == f"locked until {now + timedelta(days=DAYS - 3):%Y-%m-%d %H:%M} UTC by the store"
    assert [one.stored.backup_id for one in plan.remove] == [old]
    expiry = apply_plan(strict, store, plan.digest, now)
    assert expiry.verdict is Verdict.OK
    assert all(keys_of(store, backup_id) for backup_id in (*keep, held))
    assert keys_of(store, old) == []
    assert "old versions" in {finding.name for finding in expiry.looks}


def test_a_machine_with_the_reading_key_alone_proves_and_restores_and_keeps_no_proof(
    locked: Locked, locking_store: LockingStore
) -> None:
    backup_id = back_up(locked.platform).backup_id
    policies = build_policies(locked.platform.bucket.name, folder_of(locked.platform.name, locked.platform.bucket))
    key = locking_store.make_key(policies["reading"])
    reading = locked.with_bucket(
        access_key_id=None,
        secret_access_key=None,
        reading_access_key_id=key["access_key_id"],
        reading_secret_access_key=key["secret_access_key"],
    )
    store, into = open_store(reading), f"{reading.database.name}_copy"
    with locking_store.enforcing():
        before = keys_of(store, backup_id)
        with hold_sets(reading, store):
            assert prove(reading, backup_id).reached == "serving"
        with hold_platform(reading, store, Procedure.RESTORE):
            restored = restore_into(reading, store, backup_id, into, silent, allow_unproven=True)
            assert restored.database == into
        assert keys_of(store, backup_id) == before
        assert list(store.list_objects("leases/")) == []
    assert read_entry(locked.store, backup_id).last_attempt is None


def test_a_backup_with_the_writing_key_alone_works_and_leaves_what_it_cannot_sweep(
    locked: Locked, locking_store: LockingStore
) -> None:
    policies = build_policies(locked.platform.bucket.name, folder_of(locked.platform.name, locked.platform.bucket))
    writing = locked.with_bucket(deletes_forbidden=True, **locking_store.make_key(policies["writing"]))
    dead = put_set(locked.store, datetime.now(UTC).replace(microsecond=0) - timedelta(days=1), proven=False)
    locked.store.delete([layout.manifest_key(dead)])
    locked.store.put_bytes(layout.unfinished_key(dead), b"mark")
    with locking_store.enforcing():
        proof = prove(writing, back_up(writing).backup_id)
        assert proof.reached == "serving"
        (left,) = judge_left_over(open_store(writing))
    assert left.name == dead
    assert sweep_unfinished(locked.store) == [dead]
