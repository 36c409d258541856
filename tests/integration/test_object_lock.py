"""Locks and storage classes on a store that has them, and on stores that say so, or have none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from locking_store import LockingStore

from keepwell.errors import PreconditionFailed
from keepwell.objectstore.capabilities import Answer, probe_capabilities, require_keeping
from keepwell.objectstore.store import Store, open_store
from keepwell.objectstore.uploads import Uploads
from keepwell.settings import Platform

DAYS = 3
NOW = datetime.now(UTC).replace(microsecond=0)
SET = f"backups/{NOW:%Y%m%dT%H%M%SZ}-abcdef/"
CONTENT = f"uploads/ab/{'ab' * 32}.zst"
MODES = ["governance", "compliance"]


def write(store: Store, key: str, size: int) -> None:
    with Uploads(2) as uploads:
        writer = store.open_writer(key, uploads)
        writer.write(b"x" * size)
        writer.finish()


def lock_of(store: Store, key: str) -> tuple[str | None, timedelta | None]:
    head = store.reader.head_object(Bucket=store.bucket, Key=store.key(key))
    until = head.get("ObjectLockRetainUntilDate")
    return head.get("ObjectLockMode"), until - NOW if until else None


def version_of(store: Store, key: str) -> dict[str, str]:
    head = store.reader.head_object(Bucket=store.bucket, Key=store.key(key))
    return {"Bucket": store.bucket, "Key": store.key(key), "VersionId": head["VersionId"]}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_set_holds_is_locked_from_its_own_moment_and_nothing_else_is(
    mode: str, locking_store: LockingStore
) -> None:
    store = locking_store.open(locking_store.make_bucket(), lock_days=DAYS, lock_mode=mode)
    write(store, f"{SET}database/1.dat.zst", 10)
    write(store, f"{SET}database/2.dat.zst", 9 * 2**20)  # in parts: this store forgets their lock, and is asked again
    store.put_signed(f"{SET}manifest.json", b"{}")
    for name in ("database/1.dat.zst", "database/2.dat.zst", "manifest.json"):
        assert lock_of(store, SET + name) == (mode.upper(), timedelta(days=DAYS))
        with pytest.raises(Exception, match="AccessDenied"):
            store.client.delete_object(**version_of(store, SET + name))
    write(store, CONTENT, 10)
    found_mode, length = lock_of(store, CONTENT)
    assert found_mode == mode.upper()
    assert length is not None
    assert length >= timedelta(days=DAYS)
    for key in ("unfinished/x", "evidence/BK-1/x.json", "leases/x.json", "pins/x.json", "expiring/x", "backups/x"):
        store.put_bytes(key, b"x")
        assert lock_of(store, key) == (None, None)


def test_a_set_whose_time_is_over_gets_no_lock_and_one_from_the_future_none_from_there(
    locking_store: LockingStore,
) -> None:
    store = locking_store.open(locking_store.make_bucket(), lock_days=DAYS)
    old, ahead = f"backups/{NOW - timedelta(days=9):%Y%m%dT%H%M%SZ}-abcdef/", "backups/20990101T000000Z-abcdef/"
    store.put_bytes(f"{old}proofs/x.json", b"x")
    store.put_bytes(f"{ahead}manifest.json", b"x")
    assert lock_of(store, f"{old}proofs/x.json") == (None, None)
    _, length = lock_of(store, f"{ahead}manifest.json")
    assert length is not None
    assert length < timedelta(days=DAYS, minutes=10)


def test_a_content_that_is_used_again_is_locked_for_longer_and_never_for_less(locking_store: LockingStore) -> None:
    bucket = locking_store.make_bucket()
    week, year = (locking_store.open(bucket, lock_days=days) for days in (7, 365))
    write(week, CONTENT, 10)
    write(week, CONTENT.replace("ab", "cd"), 10)
    _, short = lock_of(week, CONTENT)
    assert week.keep_longer([CONTENT]) == 0  # it has days to spare
    assert year.keep_longer([CONTENT]) == 1
    _, long = lock_of(week, CONTENT)
    assert short is not None
    assert long is not None
    assert short < timedelta(days=365) <= long
    assert week.keep_longer([CONTENT]) == 0
    assert lock_of(week, CONTENT)[1] == long
    assert lock_of(week, CONTENT.replace("ab", "cd"))[1] == short


def test_a_content_from_before_locks_is_locked_when_it_is_used_again(locking_store: LockingStore) -> None:
    bucket = locking_store.make_bucket()
    unlocked, locked = locking_store.open(bucket), locking_store.open(bucket, lock_days=DAYS)
    write(unlocked, CONTENT, 10)
    assert unlocked.keep_longer([CONTENT]) == 0
    assert lock_of(unlocked, CONTENT) == (None, None)
    assert locked.keep_longer([CONTENT]) == 1
    assert lock_of(locked, CONTENT)[0] == "GOVERNANCE"


@pytest.mark.parametrize(("size", "calls"), [(10, ["PutObject"]), (9 * 2**20, ["UploadPart", "UploadPart"])])
def test_what_is_locked_is_sent_with_a_checksum_even_to_stores_that_know_only_the_old_one(
    size: int, calls: list[str], locking_store: LockingStore
) -> None:
    seen: list[str] = []
    store = locking_store.open(locking_store.make_bucket(), lock_days=DAYS, checksums="when_required")

    def look(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in ("PutObject", "UploadPart"):
            assert params["headers"]["Content-MD5"]
            seen.append(model.name)

    store.client.meta.events.register("before-call.s3", look)
    write(store, f"{SET}database/1.dat.zst", size)
    assert seen == calls
    assert lock_of(store, f"{SET}database/1.dat.zst")[0] == "GOVERNANCE"


def test_the_storage_class_is_of_what_is_large_and_of_no_document(locking_store: LockingStore) -> None:
    store = locking_store.open(locking_store.make_bucket(lock=False), storage_class="STANDARD_IA")
    write(store, f"{SET}database/1.dat.zst", 10)
    write(store, f"{SET}database/2.dat.zst", 9 * 2**20)
    write(store, CONTENT, 10)
    store.put_signed(f"{SET}manifest.json", b"{}")
    classes = {
        entry["Key"].rpartition("/")[2]: entry["StorageClass"]
        for entry in store.reader.list_objects_v2(Bucket=store.bucket)["Contents"]
    }
    assert classes == {
        "1.dat.zst": "STANDARD_IA",
        "2.dat.zst": "STANDARD_IA",
        CONTENT.rpartition("/")[2]: "STANDARD_IA",
        "manifest.json": "STANDARD",
    }


# What the store really does, before anything is written.


def test_a_store_that_keeps_locks_and_classes_is_found_to_and_nothing_current_is_left(
    locking_store: LockingStore,
) -> None:
    store = locking_store.open(locking_store.make_bucket(), lock_days=DAYS, storage_class="STANDARD_IA")
    for _ in range(3):
        require_keeping(store)
    left = store.reader.list_object_versions(Bucket=store.bucket)
    assert len(left.get("Versions", [])) + len(left.get("DeleteMarkers", [])) <= 1


def test_the_probe_tells_a_store_with_locks_from_one_without(locking_store: LockingStore) -> None:
    with_locks = probe_capabilities(locking_store.open(locking_store.make_bucket()))
    assert with_locks.retention_on_write is with_locks.refuses_locked_delete is with_locks.storage_class is Answer.YES
    assert with_locks.bypasses_retention is Answer.YES  # it has no policy here
    without = probe_capabilities(locking_store.open(locking_store.make_bucket(lock=False)))
    assert without.retention_on_write is without.refuses_locked_delete is Answer.NO


def test_a_bucket_without_locks_refuses_the_setting(locking_store: LockingStore) -> None:
    store = locking_store.open(locking_store.make_bucket(lock=False), lock_days=DAYS)
    with pytest.raises(PreconditionFailed, match="keeps no lock") as raised:
        require_keeping(store)
    assert "lock_days = 0" in raised.value.hint
    assert list(store.list_objects("")) == []


def test_a_class_that_the_store_does_not_know_is_refused(locking_store: LockingStore) -> None:
    store = locking_store.open(locking_store.make_bucket(), storage_class="IMAGINARY")
    with pytest.raises(PreconditionFailed, match="IMAGINARY, and the store does not keep it"):
        require_keeping(store)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"lock_days": DAYS}, "keeps no lock"), ({"storage_class": "STANDARD_IA"}, "does not keep it")],
)
def test_the_stack_s_own_store_has_neither_and_says_so(settings: dict[str, Any], says: str, platform: Platform) -> None:
    bucket = platform.bucket.model_copy(update=settings)
    store = open_store(platform.model_copy(update={"bucket": bucket}))
    with pytest.raises(PreconditionFailed, match=says):
        require_keeping(store)
    assert list(store.list_objects("")) == []
