"""Which set is restored, under which names, and what a plan says of the set itself."""

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from backup_documents import SNAPSHOT, a_database, a_manifest, a_part, backup_id
from memory_store import MemoryStore
from stored_sets import put_set

from keepwell.backup.catalogue import read_catalogue, read_entry
from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.restore.choice import Choice, choose_set
from keepwell.restore.judgement import judge_age, judge_set
from keepwell.restore.names import replaced_name, restored_name, undone_name
from keepwell.restore.plan import expect_seconds, parse_moment, size_class
from keepwell.settings import BackupSettings, Platform
from keepwell.verdict import Verdict

PLATFORM = Platform.model_construct(name="esn", backup=BackupSettings())


def store_with(*days: int, unproven: int | None = None) -> Store:
    store = MemoryStore()
    for day in days:
        put_set(store, SNAPSHOT + timedelta(days=day), proven=day != unproven)
    return cast("Store", store)


def chosen(store: Store, **choice: object) -> str:
    return choose_set(store, Choice(**choice), "equal").backup_id  # type: ignore[arg-type]


def day(number: int) -> str:
    return backup_id(SNAPSHOT + timedelta(days=number))


def test_the_newest_proven_set_is_the_default() -> None:
    store = store_with(0, 1, 2, unproven=2)
    assert chosen(store) == day(1)
    assert chosen(store, allow_unproven=True) == day(2)
    assert chosen(store, which=day(0)) == day(0)


def test_a_time_means_the_newest_one_from_before() -> None:
    store = store_with(0, 1, 2)
    assert chosen(store, before=SNAPSHOT + timedelta(days=1)) == day(1)
    assert chosen(store, before=SNAPSHOT + timedelta(days=1, seconds=-1)) == day(0)
    with pytest.raises(PreconditionFailed, match=r"no proven backup set from before 2026-03-02 01:59:59 UTC") as caught:
        chosen(store, before=SNAPSHOT - timedelta(seconds=1))
    assert caught.value.hint == "The oldest is of 2026-03-02 02:00:00 UTC."


def test_a_damaged_set_is_never_the_newest_even_where_unproven_ones_count() -> None:
    store = MemoryStore()
    put_set(store, SNAPSHOT)
    put_set(store, SNAPSHOT + timedelta(days=1), reached="complete", stopped_by=Verdict.ALERT)
    assert chosen(cast("Store", store), allow_unproven=True) == day(0)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({}, "None of 1 backup sets is proven"),
        ({"which": "yesterday's"}, '"yesterday\'s" is not the id of a backup set'),
        ({"which": day(3)}, "has no manifest"),
        ({"which": day(0), "before": SNAPSHOT}, "A set is named, and a time as well"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_words(choice: dict[str, object], says: str) -> None:
    with pytest.raises(PreconditionFailed, match=says):
        chosen(store_with(0, unproven=0), **choice)


def test_an_empty_bucket_is_told() -> None:
    with pytest.raises(PreconditionFailed, match="There is no backup set to restore"):
        chosen(store_with())


def test_an_unproven_set_turns_red_unless_it_is_asked_for_and_then_it_is_written_down() -> None:
    store = store_with(0, unproven=0)
    entry = read_entry(store, day(0))
    (refused,) = judge_set(PLATFORM, store, entry, Choice())
    (allowed,) = judge_set(PLATFORM, store, entry, Choice(allow_unproven=True))
    assert (refused.verdict, allowed.verdict) == (Verdict.ALERT, Verdict.WARN)
    assert "explicit demand" in allowed.message


def test_another_platforms_set_turns_red() -> None:
    store = store_with(0)
    other = PLATFORM.model_copy(update={"name": "other"})
    found = {one.name: one for one in judge_set(other, store, read_entry(store, day(0)), Choice())}
    assert found["set"].verdict is Verdict.ALERT
    assert "a set of the platform esn, not of other" in found["set"].message


def test_a_set_that_no_key_here_opens_turns_red() -> None:
    sealed = a_part().model_copy(update={"name": "database/1.dat.zst.age", "encryption": "age"})
    manifest = a_manifest().model_copy(update={"parts": (sealed,), "sealed_for": ("age1somebodyelse",)})
    store = MemoryStore()
    store.put_bytes(f"backups/{manifest.backup_id}/manifest.json", manifest.to_json())
    entry = read_entry(cast("Store", store), manifest.backup_id)
    found = {one.name: one for one in judge_set(PLATFORM, cast("Store", store), entry, Choice())}
    assert found["key"].verdict is Verdict.ALERT


def test_an_old_set_is_warned_about() -> None:
    database = a_database()
    (fresh,) = judge_age(PLATFORM, database, SNAPSHOT + timedelta(hours=2))
    (old,) = judge_age(PLATFORM, database, SNAPSHOT + timedelta(hours=30))
    assert (fresh.verdict, old.verdict) == (Verdict.OK, Verdict.WARN)
    assert "the 2.0 h since then" in fresh.message


def test_the_time_that_it_takes_is_told_from_proofs() -> None:
    store = store_with(0, 1)
    assert expect_seconds(read_catalogue(store), 24_000_000) == pytest.approx(25.0)
    assert expect_seconds([], 24_000_000) is None


def test_names_fit_whatever_the_live_one_is_called() -> None:
    assert restored_name("esn", SNAPSHOT) == "esn_restored_20260302T020000Z"
    assert replaced_name("esn", SNAPSHOT) == "esn_replaced_20260302T020000Z"
    long = replaced_name("ü" * 31, SNAPSHOT)
    assert len(long.encode()) <= 63
    assert long.endswith("_replaced_20260302T020000Z")
    assert undone_name("x" * 63, SNAPSHOT).endswith("_undone_20260302T020000Z")


def test_the_class_of_size_stays_while_a_database_grows_a_little() -> None:
    assert size_class(0) == "up to 1 MiB"
    assert size_class(20_000_000) == size_class(30_000_000) == "up to 64 MiB"
    assert size_class(100_000_000) != size_class(30_000_000)


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_moment("2026-11-23T14:30") == datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    assert parse_moment("2026-11-23T15:30+01:00") == datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    with pytest.raises(PreconditionFailed, match="is no time"):
        parse_moment("last night")
