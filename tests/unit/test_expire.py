"""Removing sets by plan, on a store in memory: what is read of the bucket, what goes, and what a store may refuse."""

from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_manifest
from memory_store import MemoryStore, WatchedStore
from stored_sets import DATA, assert_whole_or_unlisted, keys_of, put_history, put_set

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import Expiring, Expiry, Result, apply_plan, read_expiring, read_plan, read_sets
from keepwell.backup.pins import pin_set, read_pins, unpin_set
from keepwell.backup.retention import Standing
from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.settings import BackupSettings, Platform, RetentionSettings
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def platform() -> Platform:
    return Platform.model_construct(name="esn", backup=BackupSettings(), retention=RetentionSettings(keep_newest=2))


def expire(platform: Platform, store: object) -> Expiry:
    return apply_plan(platform, store, read_plan(platform, store, NOW).digest, NOW)  # type: ignore[arg-type]


def listed(store: MemoryStore) -> list[str]:
    return [entry.backup_id for entry in read_catalogue(store)]  # type: ignore[arg-type]


def results(expiry: Expiry) -> dict[str, Result]:
    return {removal.backup_id: removal.result for removal in expiry.removals}


def test_what_is_read_of_the_bucket(store: MemoryStore) -> None:
    proven, damaged, unproven = (
        put_set(store, NOW - timedelta(days=1)),
        put_set(store, NOW - timedelta(days=2), reached="complete", stopped_by=Verdict.ALERT),
        put_set(store, NOW - timedelta(days=3), proven=False),
    )
    judged = put_set(store, NOW - timedelta(days=4), reached="restored", stopped_by=Verdict.UNKNOWN)
    manifestless = put_set(store, NOW - timedelta(days=5))
    del store.objects[layout.manifest_key(manifestless)]
    writing = put_set(store, NOW - timedelta(days=6), proven=False)
    del store.objects[layout.manifest_key(writing)]
    store.put_bytes(layout.unfinished_key(writing), b"mark")
    store.modified = dict.fromkeys(store.objects, NOW)
    pin_set(store, unproven, "the one before the migration", NOW)  # type: ignore[arg-type]
    read = {one.backup_id: one for one in read_sets(store, "equal")}  # type: ignore[arg-type]
    assert {name: one.standing for name, one in read.items()} == {
        proven: Standing.PROVEN,
        damaged: Standing.DAMAGED,
        unproven: Standing.UNPROVEN,
        judged: Standing.UNPROVEN,
        manifestless: Standing.DAMAGED,
        writing: Standing.UNFINISHED,
    }
    assert read[proven].size_bytes == sum(len(store.objects[key]) for key in keys_of(store, proven))
    assert (read[proven].level, read[damaged].level, read[judged].level) == ("serving", "complete", None)
    assert read[damaged].damaged_at == NOW - timedelta(days=2) + timedelta(minutes=2)
    assert read[manifestless].damaged_at is None
    assert (read[manifestless].snapshot_at, read[manifestless].stored_at) == (None, NOW)
    assert read[unproven].pin == "pinned since 2026-03-31 03:00 UTC: the one before the migration"


@pytest.mark.parametrize("document", ["manifest.json", "proofs/0.json"])
def test_what_is_there_and_cannot_be_believed_is_told_from_what_is_damaged_and_stays(
    document: str, platform: Platform, store: MemoryStore
) -> None:
    fresh, kept, *old = put_history(store, NOW, 0.1, 20, 400, 401, 402)
    for backup_id in old:
        store.put_bytes(layout.set_folder(backup_id) + document, b'{"format_version": 99}')
    store.modified = dict.fromkeys(store.objects, NOW)
    read = {one.backup_id: one.standing for one in read_sets(store, "equal")}  # type: ignore[arg-type]
    assert read == {fresh: Standing.PROVEN, kept: Standing.PROVEN} | dict.fromkeys(old, Standing.UNREADABLE)
    expiry = expire(platform, store)
    assert (results(expiry), expiry.verdict) == ({}, Verdict.WARN)
    assert all(backup_id in expiry.plan.findings[1].message for backup_id in old)


def test_an_older_proof_that_cannot_be_read_takes_nothing_from_a_newer_one(
    platform: Platform, store: MemoryStore
) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    store.put_bytes(f"{layout.proofs_folder(old)}-.json", b"torn")  # sorts before the other
    assert results(expire(platform, store)) == {old: Result.REMOVED}


def test_a_set_was_stored_when_its_manifest_was_however_often_it_was_verified_since(store: MemoryStore) -> None:
    backup_id = put_set(store, NOW - timedelta(days=9))
    store.modified = dict.fromkeys(store.objects, NOW)
    store.modified[layout.manifest_key(backup_id)] = NOW - timedelta(days=9)
    (read,) = read_sets(store, "equal")  # type: ignore[arg-type]
    assert read.stored_at == NOW - timedelta(days=9)


def test_old_sets_go_and_everything_else_stays(platform: Platform, store: MemoryStore) -> None:
    fresh, older, old, oldest = put_history(store, NOW, 0.1, 20, 31, 400)
    store.put_bytes("evidence/BK-1/x.json", b"kept")
    before = dict(store.objects)
    expiry = expire(platform, store)
    assert results(expiry) == {oldest: Result.REMOVED, old: Result.REMOVED}
    assert [removal.backup_id for removal in expiry.removals] == [oldest, old]
    assert expiry.verdict is Verdict.OK
    assert store.objects == {key: content for key, content in before.items() if old not in key and oldest not in key}
    assert listed(store) == [fresh, older]
    assert expiry.freed_bytes == sum(len(content) for key, content in before.items() if key not in store.objects)
    assert results(expire(platform, store)) == {}


def test_the_manifest_goes_before_and_the_mark_after_everything_else(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    watched = WatchedStore(store)
    expire(platform, watched)
    folder = layout.set_folder(old)
    assert watched.effects[:2] == [f"put expiring/{old}", f"delete {folder}manifest.json"]
    assert watched.effects[-1] == f"delete expiring/{old}"
    assert {f"delete {folder}{name}" for name in DATA} < set(watched.effects[2:-1])


def test_only_the_plan_that_was_approved_is_applied(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    approved = read_plan(platform, store, NOW).digest  # type: ignore[arg-type]
    put_set(store, NOW - timedelta(days=50))
    before = dict(store.objects)
    with pytest.raises(PreconditionFailed, match=f"not {approved}: nothing was removed") as raised:
        apply_plan(platform, store, approved, NOW)  # type: ignore[arg-type]
    assert "--plan" in raised.value.hint
    assert store.objects == before
    assert old in listed(store)


def test_a_newer_backup_meanwhile_does_not_spoil_an_approval(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.5, 20, 31)
    approved = read_plan(platform, store, NOW).digest  # type: ignore[arg-type]
    put_set(store, NOW - timedelta(minutes=5))
    later = NOW + timedelta(minutes=20)
    assert results(apply_plan(platform, store, approved, later)) == {old: Result.REMOVED}  # type: ignore[arg-type]


def test_without_a_fresh_proven_set_nothing_at_all_is_removed(platform: Platform, store: MemoryStore) -> None:
    """The loss that the guide's own script causes: after weeks of failed backups the last good one goes."""
    put_history(store, NOW, 31, 32, 33, 34)
    for day in range(1, 31):
        put_set(store, NOW - timedelta(days=day), proven=False)
    dead = a_manifest(NOW - timedelta(days=36)).backup_id
    store.put_bytes(layout.unfinished_key(dead), b"mark")
    half_gone = put_set(store, NOW - timedelta(days=35))
    del store.objects[layout.manifest_key(half_gone)]
    store.put_bytes(layout.expiring_key(half_gone), b"mark")
    before = dict(store.objects)
    expiry = expire(platform, store)
    assert (expiry.verdict, expiry.removals, expiry.swept) == (Verdict.ALERT, (), ())
    assert store.objects == before


def test_an_empty_dump_that_was_stored_as_a_success_evicts_nothing(platform: Platform, store: MemoryStore) -> None:
    good = put_history(store, NOW, 0.2, 40, 41)
    for hour in range(1, 20):
        empty = put_set(store, NOW - timedelta(hours=hour), proven=False)
        for name in DATA:
            store.objects[layout.set_folder(empty) + name] = b""
    assert results(expire(platform, store)) == {good[2]: Result.REMOVED}
    assert set(good[:2]) < set(listed(store))


def test_what_dead_runs_left_is_swept_under_the_same_hold(platform: Platform, store: MemoryStore) -> None:
    put_history(store, NOW, 0.1, 20)
    dead = put_set(store, NOW - timedelta(days=2), proven=False)
    del store.objects[layout.manifest_key(dead)]
    store.put_bytes(layout.unfinished_key(dead), b"mark")
    expiry = expire(platform, store)
    assert (expiry.swept, expiry.removals, expiry.verdict) == ((dead,), (), Verdict.OK)
    assert keys_of(store, dead) == []
    assert list(store.list_objects(layout.UNFINISHED)) == []


# A store that refuses.


def test_a_set_whose_manifest_the_store_keeps_stays_whole_and_listed(platform: Platform, store: MemoryStore) -> None:
    *_, old, oldest = put_history(store, NOW, 0.1, 20, 31, 32)
    store.locked = {layout.manifest_key(oldest)}
    before = keys_of(store, oldest)
    expiry = expire(platform, store)
    assert results(expiry) == {oldest: Result.REFUSED, old: Result.REMOVED}
    assert expiry.verdict is Verdict.ALERT
    assert "AccessDenied" in expiry.removals[0].why
    assert keys_of(store, oldest) == before
    assert oldest in listed(store)
    assert list(store.list_objects(layout.EXPIRING)) == []


def test_a_row_is_kept_until_the_last_object_is_gone(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    stuck = f"{layout.set_folder(old)}{DATA[1]}"
    store.locked = {stuck}
    expiry = expire(platform, store)
    assert results(expiry) == {old: Result.REFUSED}
    assert expiry.removals[0].freed_bytes == 0
    assert "1 objects of it are left" in expiry.removals[0].why
    assert keys_of(store, old) == [stuck]
    assert old not in listed(store)  # no set any more,
    assert read_expiring(store) == {old: 1}  # type: ignore[arg-type]  # but told of,
    assert results(expire(platform, store)) == {old: Result.REFUSED}  # and tried again
    store.locked = set()
    finished = expire(platform, store)
    assert results(finished) == {old: Result.REMOVED}
    assert finished.freed_bytes > 0
    assert read_expiring(store) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [layout.MANIFEST, DATA[0]])
def test_a_store_that_says_yes_and_keeps_the_object_is_not_believed(
    name: str, platform: Platform, store: MemoryStore
) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    store.sticky = {layout.set_folder(old) + name}
    expiry = expire(platform, store)
    assert results(expiry) == {old: Result.REFUSED}
    assert "kept" in expiry.removals[0].why
    assert (old in listed(store)) is (name == layout.MANIFEST)
    assert_whole_or_unlisted(store)


def test_a_mark_that_is_not_kept_stops_the_removal(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)

    class Forgetful(WatchedStore):
        def put_bytes(self, relative: str, content: bytes) -> None:
            store.put_bytes(relative, content[:-1])

    expiry = expire(platform, Forgetful(store))
    assert results(expiry) == {old: Result.REFUSED}
    assert old in listed(store)
    assert_whole_or_unlisted(store)


def falling_silent(store: MemoryStore, at: str) -> WatchedStore:
    """A store that answers no more, from an effect on, until it is asked by another name."""
    silent = False

    class Silent(WatchedStore):
        def __getattribute__(self, name: str) -> object:
            if silent and name in ("find", "list_objects", "put_bytes", "delete", "get_bytes"):
                raise ServiceUnavailable("The object store did not answer.")
            return super().__getattribute__(name)

    def strike(effect: str, number: int, when: str) -> None:
        nonlocal silent
        if effect.startswith(at) and when == "before":
            silent = True
            raise ServiceUnavailable("The object store did not answer.")

    return Silent(store, strike)


def test_a_store_that_falls_silent_ends_the_run_and_the_next_one_goes_on(
    platform: Platform, store: MemoryStore
) -> None:
    *_, old, older, oldest = put_history(store, NOW, 0.1, 20, 31, 32, 33)
    expiry = expire(platform, falling_silent(store, f"delete {layout.set_folder(older)}{DATA[1]}"))
    assert results(expiry) == {oldest: Result.REMOVED, older: Result.REFUSED, old: Result.REFUSED}
    assert "not tried" in expiry.removals[2].why
    assert expiry.looks[0].verdict is Verdict.UNKNOWN
    assert_whole_or_unlisted(store)
    finished = expire(platform, store)
    assert results(finished) == {older: Result.REMOVED, old: Result.REMOVED}
    assert finished.verdict is Verdict.OK


def test_a_deletion_that_was_done_although_the_answer_was_lost_is_a_deletion(
    platform: Platform, store: MemoryStore
) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)

    def strike(effect: str, number: int, when: str) -> None:
        if effect.startswith(f"delete {layout.set_folder(old)}") and when == "after":
            raise ServiceUnavailable("The connection broke.")

    class WholeBatches(WatchedStore):
        def delete(self, relatives: object) -> None:
            keys = list(relatives)  # type: ignore[call-overload]
            store.delete(keys)
            strike(f"delete {keys[0]}", 0, "after")

    assert results(expire(platform, WholeBatches(store))) == {old: Result.REMOVED}
    assert keys_of(store, old) == []


def test_a_set_that_was_to_stay_and_is_gone_is_an_alert(platform: Platform, store: MemoryStore) -> None:
    fresh, kept, old = put_history(store, NOW, 0.1, 20, 31)

    def strike(effect: str, number: int, when: str) -> None:
        if effect == f"delete expiring/{old}" and when == "after":
            del store.objects[layout.manifest_key(kept)]

    expiry = expire(platform, WatchedStore(store, strike))
    assert expiry.verdict is Verdict.ALERT
    assert kept in expiry.looks[0].message
    assert fresh not in expiry.looks[0].message


def test_a_bucket_that_keeps_versions_is_said_to_free_nothing_yet(
    platform: Platform, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_history(store, NOW, 0.1, 20, 31)
    monkeypatch.setattr(store, "keeps_versions", lambda: True)
    expiry = expire(platform, store)
    assert [finding.name for finding in expiry.looks] == ["sets that stay", "old versions"]


# Marks of ours, and marks that are not.


def test_a_set_that_is_marked_and_whole_is_a_set_and_the_plan_decides_anew(
    platform: Platform, store: MemoryStore
) -> None:
    fresh, kept = put_history(store, NOW, 0.1, 20)
    store.put_bytes(layout.expiring_key(kept), b"mark of a run that was killed at once")
    assert kept in listed(store)
    assert read_expiring(store) == {}  # type: ignore[arg-type]
    assert results(expire(platform, store)) == {}
    assert listed(store) == [fresh, kept]
    assert list(store.list_objects(layout.EXPIRING)) == []


def test_a_mark_that_the_store_keeps_is_told_and_keeps_no_other_removal(platform: Platform, store: MemoryStore) -> None:
    _, kept, old = put_history(store, NOW, 0.1, 20, 31)
    store.put_bytes(layout.expiring_key(kept), b"mark")
    store.locked = {layout.expiring_key(kept)}
    assert results(expire(platform, store)) == {kept: Result.REFUSED, old: Result.REMOVED}
    assert kept in listed(store)


def test_a_mark_with_the_name_of_no_set_is_left_alone(platform: Platform, store: MemoryStore) -> None:
    put_history(store, NOW, 0.1, 20)
    for name in ("", "..", "20260301T020000Z"):
        store.put_bytes(f"{layout.EXPIRING}{name}", b"?")
    store.put_bytes("backups/20260301T020000Z/x", b"somebody else's")
    before = dict(store.objects)
    assert results(expire(platform, store)) == {}
    assert store.objects == before


def test_objects_without_manifest_and_mark_are_shown_as_damaged_and_not_swept(
    platform: Platform, store: MemoryStore
) -> None:
    put_history(store, NOW, 0.1, 20)
    broken = put_set(store, NOW - timedelta(days=3))
    del store.objects[layout.manifest_key(broken)]
    assert results(expire(platform, store)) == {}
    assert len(keys_of(store, broken)) == len(DATA) + 1


def test_the_mark_says_what_the_set_was_and_why_it_goes(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    seen: list[Expiring] = []

    def strike(effect: str, number: int, when: str) -> None:
        if effect.endswith("manifest.json"):
            seen.append(Expiring.from_json(store.get_bytes(layout.expiring_key(old))))

    expire(platform, WatchedStore(store, strike))
    assert seen[0].model_dump(mode="json") == {
        "format_version": 1,
        "backup_id": old,
        "snapshot_at": "2026-02-28T03:00:00Z",
        "standing": "proven",
        "reason": "proven, 31 d old, and no rule keeps it",
        "begun_at": "2026-03-31T03:00:00Z",
    }


# Pins.


def test_a_pinned_set_stays_until_it_is_unpinned(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    pin = pin_set(store, old, " before the\nmigration", NOW)  # type: ignore[arg-type]
    assert pin.reason == "before the migration"
    assert read_pins(store) == {old: pin}  # type: ignore[arg-type]
    assert results(expire(platform, store)) == {}
    unpin_set(store, old)  # type: ignore[arg-type]
    assert results(expire(platform, store)) == {old: Result.REMOVED}


def test_a_pin_lies_beside_the_set_and_not_among_its_objects(store: MemoryStore) -> None:
    (only,) = put_history(store, NOW, 0.1)
    before = keys_of(store, only)
    pin_set(store, only, "", NOW)  # type: ignore[arg-type]
    assert keys_of(store, only) == before


def test_a_pin_that_cannot_be_read_pins(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)
    store.put_bytes(layout.pin_key(old), b"{")
    assert results(expire(platform, store)) == {}
    assert read_plan(platform, store, NOW).keep[-1].words == "pinned, by a document that cannot be read"  # type: ignore[arg-type]


def test_a_set_that_is_pinned_at_the_last_moment_stays(platform: Platform, store: MemoryStore) -> None:
    *_, old = put_history(store, NOW, 0.1, 20, 31)

    def strike(effect: str, number: int, when: str) -> None:
        if effect == f"put expiring/{old}" and when == "after":
            pin_set(store, old, "wait", NOW)  # type: ignore[arg-type]

    expiry = expire(platform, WatchedStore(store, strike))
    assert (results(expiry), expiry.verdict) == ({old: Result.KEPT}, Verdict.OK)
    assert old in listed(store)
    assert_whole_or_unlisted(store)


def test_what_cannot_be_pinned_is_refused(store: MemoryStore) -> None:
    (only,) = put_history(store, NOW, 0.1)
    with pytest.raises(PreconditionFailed, match="no backup set"):
        pin_set(store, a_manifest(NOW).backup_id, "", NOW)  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed, match="501 signs"):
        pin_set(store, only, "x" * 501, NOW)  # type: ignore[arg-type]
    del store.objects[layout.manifest_key(only)]
    store.put_bytes(layout.expiring_key(only), b"mark")
    with pytest.raises(PreconditionFailed, match="being removed"):
        pin_set(store, only, "", NOW)  # type: ignore[arg-type]
    assert read_pins(store) == {}  # type: ignore[arg-type]


def test_unpinning_what_is_not_pinned_or_stays_pinned_is_refused(store: MemoryStore) -> None:
    (only,) = put_history(store, NOW, 0.1)
    with pytest.raises(PreconditionFailed, match="is not pinned"):
        unpin_set(store, only)  # type: ignore[arg-type]
    pin_set(store, only, "", NOW)  # type: ignore[arg-type]
    store.sticky = {layout.pin_key(only)}
    with pytest.raises(KeepwellError, match="kept the pin"):
        unpin_set(store, only)  # type: ignore[arg-type]


# A kill at every effect.


class Killed(BaseException):
    """As `kill -9`: nothing may catch it."""


def a_bucket() -> MemoryStore:
    """Everything that a run has to do with: sets to keep, to remove and damaged ones, and what dead runs left."""
    store = MemoryStore()
    put_history(store, NOW, 0.1, 20, 31, 32)
    put_set(store, NOW - timedelta(days=21), reached="complete", stopped_by=Verdict.ALERT)
    dead = put_set(store, NOW - timedelta(days=2), proven=False)
    del store.objects[layout.manifest_key(dead)]
    store.put_bytes(layout.unfinished_key(dead), b"mark")
    half_gone = put_set(store, NOW - timedelta(days=40))
    del store.objects[layout.manifest_key(half_gone)]
    store.put_bytes(layout.expiring_key(half_gone), b"mark")
    return store


def test_a_kill_before_or_after_any_effect_leaves_whole_sets_and_the_next_run_finishes(platform: Platform) -> None:
    healthy = a_bucket()
    recorded = WatchedStore(healthy)
    assert expire(platform, recorded).verdict is Verdict.OK
    assert len(recorded.effects) > 25
    for number, effect in enumerate(recorded.effects):
        for when in ("before", "after"):
            store = a_bucket()

            def strike(done: str, at: int, moment: str, number: int = number, when: str = when) -> None:
                if (at, moment) == (number, when):
                    raise Killed

            watched = WatchedStore(store, strike)
            with pytest.raises(Killed):
                expire(platform, watched)
            assert watched.effects[-1] == effect
            assert_whole_or_unlisted_among_dead(store)
            assert expire(platform, store).verdict is Verdict.OK, f"killed {when} {effect}"
            assert store.objects == healthy.objects, f"killed {when} {effect}"


def assert_whole_or_unlisted_among_dead(store: MemoryStore) -> None:
    """As `assert_whole_or_unlisted`, where a dead backup's objects may lie as well."""
    rest = MemoryStore()
    dead = {key.removeprefix(layout.UNFINISHED) for key in store.objects if key.startswith(layout.UNFINISHED)}
    rest.objects = {
        key: content for key, content in store.objects.items() if not any(backup_id in key for backup_id in dead)
    }
    assert_whole_or_unlisted(rest)
