import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from memory_store import MemoryStore

from keepwell.backup import layout
from keepwell.backup.catalogue import BackupEntry, choose_backup, read_catalogue
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof
from keepwell.errors import PreconditionFailed
from keepwell.verdict import Verdict

GOLDEN = Manifest.from_json((Path(__file__).parent.parent / "cases" / "manifest-1.json").read_bytes())


def proof(*verdicts: Verdict) -> Proof:
    return Proof(
        backup_id=GOLDEN.backup_id,
        manifest_sha256="0" * 64,
        started_at=GOLDEN.finished_at,
        finished_at=GOLDEN.finished_at + timedelta(seconds=9),
        levels=tuple(
            LevelOutcome(level=level, verdict=verdict, summary="", seconds=0)
            for level, verdict in zip(LEVELS, verdicts, strict=False)
        ),
        server=None,
        same_major=None,
        isolation=None,
        restore_seconds=None,
    )


SERVING = proof(*[Verdict.OK] * 7)
RESTORED = proof(*[Verdict.OK] * 4, Verdict.UNKNOWN)
DAMAGED = proof(*[Verdict.OK] * 5, Verdict.ALERT)
APP_DEAD = proof(*[Verdict.OK] * 6, Verdict.ALERT)


def entry(number: int, found: Proof | None, *, manifest: Manifest | None = GOLDEN) -> BackupEntry:
    return BackupEntry(f"2026010{number}T000000Z-aaaaaa", manifest, "" if manifest else "gone", found, found)


@pytest.mark.parametrize(
    ("found", "proven", "damaged"),
    [
        (entry(1, None), False, False),
        (entry(1, SERVING), True, False),
        (entry(1, RESTORED), False, False),
        (entry(1, DAMAGED), False, True),
        (entry(1, APP_DEAD), True, False),
        (entry(1, SERVING, manifest=None), False, True),
    ],
)
def test_a_set_counts_only_when_it_was_proven_and_nothing_found_it_bad(
    found: BackupEntry, proven: bool, damaged: bool
) -> None:
    assert (found.is_proven("equal"), found.damaged) == (proven, damaged)


ENTRIES = [entry(5, None, manifest=None), entry(4, None), entry(3, DAMAGED), entry(2, SERVING), entry(1, SERVING)]


@pytest.mark.parametrize(("which", "number"), [("newest", 4), ("newest-proven", 2), ("20260103T000000Z-aaaaaa", 3)])
def test_a_set_is_chosen_by_what_it_is_worth(which: str, number: int) -> None:
    chosen = choose_backup(ENTRIES, which, proven_level="equal", dice=random.Random(1))
    assert chosen == f"2026010{number}T000000Z-aaaaaa"


def test_a_random_older_set_is_any_but_the_newest() -> None:
    dice = random.Random(1)
    chosen = {choose_backup(ENTRIES, "random-older", proven_level="equal", dice=dice)[7] for _ in range(50)}
    assert chosen == {"1", "2", "3"}


class ChangingStore(MemoryStore):
    """Something happens right before, or right after, the sets' folders are listed."""

    def __init__(self, *, before: Callable[[MemoryStore], None], after: Callable[[MemoryStore], None]) -> None:
        super().__init__()
        self.before, self.after = before, after

    def list_folders(self, folder: str) -> list[str]:
        self.before(self)
        found = super().list_folders(folder)
        self.after(self)
        return found


def begin(store: MemoryStore) -> None:
    store.put_bytes(layout.unfinished_key(GOLDEN.backup_id), b"mark")
    store.put_bytes(f"{layout.set_folder(GOLDEN.backup_id)}{layout.GLOBALS}", b"--")


def finish(store: MemoryStore) -> None:
    store.put_bytes(layout.manifest_key(GOLDEN.backup_id), GOLDEN.to_json())
    del store.objects[layout.unfinished_key(GOLDEN.backup_id)]


def sweep(store: MemoryStore) -> None:
    store.objects.clear()


def nothing(store: MemoryStore) -> None:
    pass


@pytest.mark.parametrize(("before", "after"), [(begin, nothing), (nothing, begin), (nothing, sweep)])
def test_a_set_that_is_begun_or_swept_while_we_list_is_not_taken_for_a_damaged_one(
    before: Callable[[MemoryStore], None], after: Callable[[MemoryStore], None]
) -> None:
    store = ChangingStore(before=before, after=after)
    if after is sweep:
        begin(store)
    assert read_catalogue(store) == []


@pytest.mark.parametrize(("before", "after"), [(finish, nothing), (nothing, finish)])
def test_a_set_that_is_finished_while_we_list_is_listed(
    before: Callable[[MemoryStore], None], after: Callable[[MemoryStore], None]
) -> None:
    store = ChangingStore(before=before, after=after)
    begin(store)
    assert [(entry.backup_id, entry.damaged) for entry in read_catalogue(store)] == [(GOLDEN.backup_id, False)]


def test_objects_without_a_mark_and_without_a_manifest_stay_in_sight() -> None:
    store = MemoryStore()
    begin(store)
    del store.objects[layout.unfinished_key(GOLDEN.backup_id)]
    assert [(entry.backup_id, entry.damaged) for entry in read_catalogue(store)] == [(GOLDEN.backup_id, True)]


@pytest.mark.parametrize("which", ["newest", "newest-proven", "random-older", "20260101T000000Z-bbbbbb", ""])
def test_where_there_is_no_such_set_nothing_is_chosen(which: str) -> None:
    entries = ENTRIES[:1] if which != "" else ENTRIES
    with pytest.raises(PreconditionFailed, match="no backup set"):
        choose_backup(entries, which, proven_level="equal", dice=random.Random(1))
