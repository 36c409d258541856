"""Carrying into a second bucket that locks: what is carried is locked there, and what it uses again for longer."""

from datetime import UTC, datetime, timedelta

import pytest
from carried_sets import put_real_set
from locking_store import LockingStore
from memory_store import MemoryStore

from keepwell.backup import layout
from keepwell.backup.carry import carry_set
from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.progress import silent

DAYS = 3
NOW = datetime.now(UTC).replace(microsecond=0)


def locks_below(store: Store, folder: str) -> list[datetime | None]:
    found = [store.find(one.key) for one in store.list_objects(folder)]
    return [one.locked_until for one in found if one is not None]


def test_sets_and_contents_are_locked_there_and_contents_of_a_later_set_for_longer(locking_store: LockingStore) -> None:
    bucket = locking_store.make_bucket()
    first, source = locking_store.open(bucket, lock_days=1), MemoryStore()
    manifest = put_real_set(source, NOW)
    carry_set(source, first, manifest.backup_id, silent)  # type: ignore[arg-type]
    assert set(locks_below(first, layout.set_folder(manifest.backup_id))) == {NOW + timedelta(days=1)}
    before = locks_below(first, layout.UPLOADS)
    # As if a month had gone by: the same contents are needed again, for longer than they are locked.
    later = locking_store.open(bucket, lock_days=30)
    again = put_real_set(source, NOW + timedelta(seconds=1))
    assert carry_set(source, later, again.backup_id, silent).sent_contents == 0  # type: ignore[arg-type]
    after = locks_below(later, layout.UPLOADS)
    assert len(before) == len(after) == 2
    for until, longer in zip(before, after, strict=True):
        assert until is not None
        assert longer is not None
        assert longer >= NOW + timedelta(days=30) > until
    assert list(later.list_objects(layout.UNFINISHED)) == []


def test_a_bucket_that_keeps_no_lock_though_it_is_asked_to_gets_nothing(locking_store: LockingStore) -> None:
    target, source = locking_store.open(locking_store.make_bucket(lock=False), lock_days=DAYS), MemoryStore()
    manifest = put_real_set(source, NOW)
    with pytest.raises(PreconditionFailed, match="keeps no lock"):
        carry_set(source, target, manifest.backup_id, silent)  # type: ignore[arg-type]
    assert list(target.list_objects("")) == []
