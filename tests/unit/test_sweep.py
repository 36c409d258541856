"""Sweeping what a dead run left, where the store gives it up, and where it does not."""

from datetime import UTC, datetime
from typing import Any

import pytest
from memory_store import MemoryStore, WatchedStore
from stored_sets import keys_of, put_set

from keepwell.backup import layout
from keepwell.backup.sweep import judge_left_over, read_left_over, sweep_unfinished
from keepwell.errors import ServiceUnavailable
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)


@pytest.fixture
def store() -> Any:
    return MemoryStore()


def a_dead_run(store: Any) -> str:
    backup_id = put_set(store, NOW, proven=False)
    del store.objects[layout.manifest_key(backup_id)]
    store.put_bytes(layout.unfinished_key(backup_id), b"mark")
    return backup_id


def test_what_the_store_gives_up_is_gone_with_its_mark(store: Any) -> None:
    dead = a_dead_run(store)
    assert read_left_over(store) == {}  # nobody has tried yet
    assert sweep_unfinished(store) == [dead]
    assert store.objects == {}


@pytest.mark.parametrize("why", ["locked", "sticky", "may_expire"])
def test_what_it_keeps_stays_marked_is_told_and_goes_once_it_may(why: str, store: Any) -> None:
    dead = a_dead_run(store)
    kept = keys_of(store, dead) if why == "may_expire" else keys_of(store, dead)[:1]
    setattr(store, why, False if why == "may_expire" else set(kept))
    for _ in range(2):
        assert sweep_unfinished(store) == []
        assert keys_of(store, dead) == kept
        (told,) = judge_left_over(store)
        assert (told.name, told.verdict) == (dead, Verdict.WARN)
        assert f"{len(kept)} objects" in told.message
    setattr(store, why, True if why == "may_expire" else set())
    assert sweep_unfinished(store) == [dead]
    assert (store.objects, judge_left_over(store)) == ({}, [])


def test_a_store_that_does_not_answer_is_no_refusal(store: Any) -> None:
    a_dead_run(store)

    def strike(effect: str, number: int, when: str) -> None:
        if effect.startswith("delete backups/"):
            raise ServiceUnavailable("The object store did not answer.")

    with pytest.raises(ServiceUnavailable):
        sweep_unfinished(WatchedStore(store, strike))  # type: ignore[arg-type]


def test_a_set_that_got_its_manifest_is_no_leftover(store: Any) -> None:
    whole = put_set(store, NOW)
    store.put_bytes(layout.unfinished_key(whole), b"mark")
    assert sweep_unfinished(store) == []
    assert len(keys_of(store, whole)) > 2
    assert judge_left_over(store) == []
