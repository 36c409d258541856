"""Removing contents that no set needs, on a store in memory: what is believed, what is kept, and kills anywhere."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from memory_store import MemoryStore, WatchedStore
from stored_sets import content_key, put_content, put_set

from keepwell.backup import layout
from keepwell.backup.expire import Expiry, apply_plan, read_plan
from keepwell.backup.manifest import Manifest
from keepwell.backup.uploads_index import read_upload_objects
from keepwell.errors import PreconditionFailed, ServiceUnavailable
from keepwell.settings import BackupSettings, Platform, RetentionSettings
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)
SHARED, LEFT, NEW, STRAY = b"shared", b"of the old set alone", b"of the new set", b"of no set"
MARK = layout.damaged_upload_key(content_key(LEFT))


@pytest.fixture
def platform() -> Platform:
    return Platform.model_construct(name="esn", backup=BackupSettings(), retention=RetentionSettings(keep_newest=1))


@pytest.fixture
def store() -> MemoryStore:
    return filled()


def filled() -> MemoryStore:
    """A new set and one that is due, which share a content; one content of a run that died; a mark and a stranger."""
    store = MemoryStore()
    put_set(store, NOW - timedelta(hours=1), uploads=[SHARED, NEW])
    put_set(store, NOW - timedelta(days=40), uploads=[SHARED, LEFT])
    put_content(store, STRAY)
    store.put_bytes(MARK, b"")
    store.modified = dict.fromkeys(contents(store), NOW - timedelta(days=20))
    return store


def expire(platform: Platform, store: object) -> Expiry:
    return apply_plan(platform, store, read_plan(platform, store, NOW).digest, NOW)  # type: ignore[arg-type]


def contents(store: MemoryStore) -> set[str]:
    return {key for key in store.objects if key.startswith(layout.UPLOADS)}


def assert_every_set_has_its_contents(store: MemoryStore) -> None:
    for key in [key for key in store.objects if key.endswith(layout.MANIFEST)]:
        needed = read_upload_objects(store, Manifest.from_json(store.objects[key]))  # type: ignore[arg-type]
        assert needed <= contents(store), f"{key} lacks contents"


def test_what_no_remaining_set_names_goes_with_its_marks_and_is_part_of_the_plan(
    platform: Platform, store: MemoryStore
) -> None:
    plan = read_plan(platform, store, NOW)  # type: ignore[arg-type]
    assert {one.key for one in plan.unneeded.remove} == {content_key(LEFT), content_key(STRAY)}
    assert plan.unneeded.size_bytes == len(LEFT) + len(STRAY)
    expiry = expire(platform, store)
    assert contents(store) == {content_key(SHARED), content_key(NEW)}
    assert MARK not in store.objects
    assert (expiry.verdict, expiry.collected.contents) == (Verdict.OK, 2)
    assert expiry.collected.freed_bytes == len(LEFT) + len(STRAY)
    assert expire(platform, store).collected.contents == 0


def test_an_approval_is_for_these_contents(platform: Platform, store: MemoryStore) -> None:
    approved = read_plan(platform, store, NOW).digest  # type: ignore[arg-type]
    more = put_content(store, b"another")
    store.modified[more] = NOW - timedelta(days=20)
    before = dict(store.objects)
    with pytest.raises(PreconditionFailed, match="nothing was removed"):
        apply_plan(platform, store, approved, NOW)  # type: ignore[arg-type]
    assert store.objects == before


def spoil_manifest(store: MemoryStore, folder: str) -> None:
    store.put_bytes(f"{folder}{layout.MANIFEST}", b'{"format_version": 99}')


def remove_manifest(store: MemoryStore, folder: str) -> None:
    del store.objects[f"{folder}{layout.MANIFEST}"]


def spoil_index(store: MemoryStore, folder: str) -> None:
    store.objects[f"{folder}{layout.UPLOADS_INDEX}"] += b"\n"


def cut_index(store: MemoryStore, folder: str) -> None:
    store.objects[f"{folder}{layout.UPLOADS_INDEX}"] = store.objects[f"{folder}{layout.UPLOADS_INDEX}"][:-20]


def remove_index(store: MemoryStore, folder: str) -> None:
    del store.objects[f"{folder}{layout.UPLOADS_INDEX}"]


@pytest.mark.parametrize("spoil", [spoil_manifest, remove_manifest, spoil_index, cut_index, remove_index])
def test_with_one_set_that_cannot_tell_what_it_needs_nothing_is_collected(
    spoil: Callable[[MemoryStore, str], None], platform: Platform, store: MemoryStore
) -> None:
    other = put_set(store, NOW - timedelta(days=2), uploads=[b"of another set"])
    spoil(store, layout.set_folder(other))
    store.modified = dict.fromkeys(contents(store), NOW - timedelta(days=20))
    before = contents(store)
    expiry = expire(platform, store)
    assert contents(store) == before
    assert MARK in store.objects
    told = [finding for finding in expiry.findings if finding.name == "uploads"]
    assert [(finding.verdict, other in finding.message) for finding in told] == [(Verdict.WARN, True)]


def test_a_set_that_the_store_keeps_keeps_its_contents(platform: Platform, store: MemoryStore) -> None:
    old = next(key for key in store.objects if "20260219" in key and key.endswith(layout.MANIFEST))
    store.locked = {old}
    expiry = expire(platform, store)
    assert contents(store) == {content_key(SHARED), content_key(NEW), content_key(LEFT)}
    assert MARK in store.objects
    assert (expiry.verdict, expiry.collected.contents) == (Verdict.ALERT, 1)
    assert_every_set_has_its_contents(store)


def test_what_a_dead_run_sent_lately_waits_for_the_next_one(platform: Platform, store: MemoryStore) -> None:
    store.modified[content_key(STRAY)] = NOW - timedelta(days=2)
    expire(platform, store)
    assert content_key(STRAY) in store.objects
    assert content_key(LEFT) not in store.objects


def test_without_a_fresh_proven_set_no_content_goes_either(platform: Platform, store: MemoryStore) -> None:
    later = NOW + timedelta(days=3)
    plan = read_plan(platform, store, later)  # type: ignore[arg-type]
    assert (plan.verdict, plan.unneeded.remove) == (Verdict.ALERT, ())
    before = dict(store.objects)
    apply_plan(platform, store, plan.digest, later)  # type: ignore[arg-type]
    assert store.objects == before


@pytest.mark.parametrize("until", [None, NOW + timedelta(days=5)])
def test_a_content_that_the_store_keeps_is_an_alert_unless_its_lock_explains_it(
    until: datetime | None, platform: Platform, store: MemoryStore
) -> None:
    store.locked = {content_key(LEFT)}
    if until:
        store.retained = {content_key(LEFT): until}
    expiry = expire(platform, store)
    (told,) = expiry.collected.findings
    assert told.verdict is (Verdict.OK if until else Verdict.ALERT)
    assert ("until 2026-04-05 03:00 UTC" in told.message) is bool(until)
    assert content_key(STRAY) not in store.objects
    assert MARK in store.objects  # its content is still there


def test_a_store_that_says_yes_and_keeps_a_content_is_not_believed(platform: Platform, store: MemoryStore) -> None:
    store.sticky = {content_key(LEFT)}
    expiry = expire(platform, store)
    assert (expiry.verdict, expiry.collected.contents) == (Verdict.ALERT, 1)
    assert "said that it deleted" in expiry.collected.findings[0].message


def test_a_store_that_falls_silent_meanwhile_is_unknown_and_the_next_run_goes_on(
    platform: Platform, store: MemoryStore
) -> None:
    def strike(effect: str, number: int, when: str) -> None:
        if effect == f"delete {MARK}" and when == "before":
            raise ServiceUnavailable("The object store did not answer.")

    expiry = expire(platform, WatchedStore(store, strike))
    assert expiry.collected.findings[0].verdict is Verdict.UNKNOWN
    assert MARK in store.objects
    assert expire(platform, store).verdict is Verdict.OK
    assert MARK not in store.objects


def test_a_mark_of_a_content_that_a_set_needs_stays_though_the_content_is_lost(
    platform: Platform, store: MemoryStore
) -> None:
    lost = layout.damaged_upload_key(content_key(NEW))
    store.put_bytes(lost, b"")
    del store.objects[content_key(NEW)]
    expire(platform, store)
    assert lost in store.objects


class Killed(BaseException):
    pass


def test_a_kill_before_or_after_any_effect_leaves_every_set_whole_and_the_next_run_finishes(
    platform: Platform,
) -> None:
    recorded = WatchedStore(filled())
    expire(platform, recorded)
    assert sum(layout.UPLOADS in effect for effect in recorded.effects) >= 3
    for at in range(len(recorded.effects)):
        for moment in ("before", "after"):

            def strike(effect: str, number: int, when: str, at: int = at, moment: str = moment) -> None:
                if (number, when) == (at, moment):
                    raise Killed

            store = filled()
            with pytest.raises(Killed):
                expire(platform, WatchedStore(store, strike))
            assert_every_set_has_its_contents(store)
            assert expire(platform, store).verdict is Verdict.OK
            assert contents(store) == {content_key(SHARED), content_key(NEW)}
            assert MARK not in store.objects
            assert_every_set_has_its_contents(store)


def test_a_machine_without_a_key_that_may_delete_sets_removes_nothing_and_says_so(
    platform: Platform, store: MemoryStore
) -> None:
    store.may_expire = False
    before = dict(store.objects)
    plan = read_plan(platform, store, NOW)  # type: ignore[arg-type]
    assert plan.remove
    with pytest.raises(PreconditionFailed, match="no key that may delete backup sets"):
        apply_plan(platform, store, plan.digest, NOW)  # type: ignore[arg-type]
    assert store.objects == before
