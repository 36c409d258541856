"""kill -9 at every effect of a collection on a real store: no set lacks a content, and the next run finishes."""

import pickle
import secrets
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from memory_store import WatchedStore
from stored_sets import content_key, put_content, put_set

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import Expiry, apply_plan, read_plan
from keepwell.backup.uploads_index import read_upload_objects
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store
from keepwell.settings import Platform
from keepwell.verdict import Verdict

SCRIPT = Path(__file__).parent / "expire_then_die.py"
# No store lets a test say when an object was written, so the expiry is told that it is so many days later.
AHEAD = 10
SHARED, LEFT, NEW, STRAY = b"shared", b"of the old set alone", b"of the new set", b"of no set"
FOREIGN = f"{layout.UPLOADS}somebody's notes.txt"


def fill(platform: Platform) -> Platform:
    """A fresh folder with a set to keep, one to remove that shares a content, a stray content and marks of damage."""
    fresh = platform.bucket.model_copy(update={"prefix": f"t{secrets.token_hex(4)}"})
    patient = platform.backup.model_copy(update={"max_age_hours": 24 * (AHEAD + 2)})
    rules = platform.retention.model_copy(update={"keep_newest": 1})
    filled = platform.model_copy(update={"bucket": fresh, "backup": patient, "retention": rules})
    store, now = open_store(filled), datetime.now(UTC).replace(microsecond=0)
    put_set(store, now - timedelta(hours=1), uploads=[SHARED, NEW])
    put_set(store, now - timedelta(days=40), uploads=[SHARED, LEFT])
    put_content(store, STRAY)
    for content in (LEFT, STRAY):
        store.put_bytes(layout.damaged_upload_key(content_key(content)), b"")
    store.put_bytes(FOREIGN, b"not ours")
    return filled


def expire(platform: Platform, store: Store) -> Expiry:
    now = datetime.now(UTC) + timedelta(days=AHEAD)
    with hold_platform(platform, open_store(platform), Procedure.EXPIRE):
        return apply_plan(platform, store, read_plan(platform, store, now).digest, now)


def contents(store: Store) -> set[str]:
    return {stored.key for stored in store.list_objects(layout.UPLOADS)}


def assert_every_set_has_its_contents(store: Store) -> None:
    whole = [entry.manifest for entry in read_catalogue(store) if entry.manifest is not None]
    assert whole
    assert all(read_upload_objects(store, manifest) <= contents(store) for manifest in whole)


def assert_finished(store: Store) -> None:
    assert contents(store) == {content_key(SHARED), content_key(NEW), FOREIGN}
    assert list(store.list_objects(layout.DAMAGED_UPLOADS)) == []
    assert_every_set_has_its_contents(store)


@pytest.fixture
def effects(platform: Platform) -> list[str]:
    """What a run that nobody kills does to the store."""
    filled = fill(platform)
    recorded = WatchedStore(open_store(filled))
    expiry = expire(filled, cast("Store", recorded))
    assert (expiry.verdict, expiry.collected.contents) == (Verdict.WARN, 2)  # somebody's notes are told of
    assert_finished(open_store(filled))
    return recorded.effects


@pytest.mark.timeout(900)
def test_a_collection_killed_at_any_effect_is_finished_by_the_next(
    platform: Platform, effects: list[str], tmp_path: Path
) -> None:
    collecting = [number for number, effect in enumerate(effects) if "uploads/" in effect and "abort" not in effect]
    assert len(collecting) == 4
    for number in [collecting[0] - 1, *collecting]:
        for moment in ("before", "after"):
            filled = fill(platform)
            pickled = tmp_path / "platform.pickle"
            pickled.write_bytes(pickle.dumps(filled))
            call = [sys.executable, str(SCRIPT), str(pickled), str(number), moment, str(AHEAD)]
            ended = subprocess.run(call, capture_output=True, check=False, timeout=60, cwd=Path.cwd())
            assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
            store = open_store(filled)
            assert_every_set_has_its_contents(store)
            assert expire(filled, store).verdict is Verdict.WARN, f"{moment} {ended.stdout.decode()}"
            assert_finished(store)
