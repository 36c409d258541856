"""Carrying sets: what is chosen, what is sent, and what is left wherever a run is killed."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backup_documents import SNAPSHOT, a_manifest, a_proof
from carried_sets import DATA, put_real_set
from memory_store import MemoryStore, WatchedStore

from keepwell.backup import layout
from keepwell.backup.carry import Carried, CarryPlan, carry_set, plan_carrying
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.read_back import check_uploaded
from keepwell.backup.retention import Standing, StoredSet
from keepwell.backup.second_copies import SecondCopy, copy_each, describe_plan, find_forgotten
from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.objectstore.folder import UNFINISHED_PREFIX, FolderStore, prepare_folder
from keepwell.progress import silent
from keepwell.settings import RetentionSettings
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)


def everything(store: Any) -> dict[str, bytes]:
    return {one.key: store.get_bytes(one.key) for one in store.list_objects("")}


def folder_store(place: Path) -> FolderStore:
    place.mkdir(exist_ok=True)
    prepare_folder(place)
    return FolderStore(place, "esn")


@pytest.fixture
def source() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=["memory", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryStore() if request.param == "memory" else folder_store(tmp_path / "second")


def carry(source: Any, target: Any, manifest: Manifest) -> Carried:
    return carry_set(source, target, manifest.backup_id, silent)


def assert_nothing_false(target: Any, manifest: Manifest) -> None:
    """What must hold wherever a run was killed: a listed set has every object, as the manifest says it."""
    for entry in read_catalogue(target):
        assert entry.manifest == manifest
        assert list(check_uploaded(manifest, list(target.list_objects(layout.set_folder(entry.backup_id))))) == []
        for part in manifest.parts:
            stored = target.get_bytes(layout.set_folder(entry.backup_id) + part.name)
            assert hashlib.sha256(stored).hexdigest() == part.sha256


def test_what_is_there_afterwards_is_what_was_there_before(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    before = everything(source)
    carried = carry(source, target, manifest)
    assert everything(target) == before == everything(source)
    assert (carried.parts, carried.sent_parts, carried.contents, carried.sent_contents) == (4, 4, 2, 2)
    assert carried.sent_bytes == sum(len(content) for key, content in before.items() if layout.MANIFEST not in key)


def test_proofs_and_pins_stay_where_they_were_made(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    source.put_bytes(layout.proofs_folder(manifest.backup_id) + "1.json", b"{}")
    source.put_bytes(layout.pin_key(manifest.backup_id), b"{}")
    carry(source, target, manifest)
    assert not any(layout.PROOFS in key or key.startswith(layout.PINS) for key in everything(target))


def test_a_second_set_sends_only_contents_that_are_not_there(source: MemoryStore, target: Any) -> None:
    carry(source, target, put_real_set(source))
    carried = carry(source, target, put_real_set(source, SNAPSHOT + timedelta(days=1)))
    assert (carried.sent_parts, carried.contents, carried.sent_contents) == (4, 2, 0)


@pytest.mark.parametrize("how", ["marked", "cut"])
def test_a_content_that_is_damaged_there_is_sent_anew(source: MemoryStore, target: Any, how: str) -> None:
    carry(source, target, put_real_set(source))
    key = next(key for key in everything(target) if key.startswith(layout.UPLOADS))
    good = target.get_bytes(key)
    if how == "marked":
        target.put_bytes(key, bytes(len(good)))
        target.put_bytes(layout.damaged_upload_key(key), b"")
    else:
        target.put_bytes(key, good[:-1])
    assert carry(source, target, put_real_set(source, SNAPSHOT + timedelta(days=1))).sent_contents == 1
    assert target.get_bytes(key) == good


def test_a_set_that_is_there_is_compared_and_only_what_differs_is_sent(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    carry(source, target, manifest)
    assert carry(source, target, manifest).sent_parts == 0
    key = layout.set_folder(manifest.backup_id) + manifest.parts[0].name
    target.put_bytes(key, bytes(manifest.parts[0].size_bytes))
    target.delete([layout.set_folder(manifest.backup_id) + manifest.parts[1].name])
    assert carry(source, target, manifest).sent_parts == 2
    assert everything(target) == everything(source)


def test_a_manifest_that_nobody_would_believe_is_written_anew(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    carry(source, target, manifest)
    target.put_bytes(layout.manifest_key(manifest.backup_id), b"{ rot")
    carry(source, target, manifest)
    assert everything(target) == everything(source)


def test_another_set_under_the_id_is_not_touched(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    other = manifest.model_copy(update={"role_passwords": False})
    target.put_signed(layout.manifest_key(manifest.backup_id), other.to_json())
    before = everything(target)
    with pytest.raises(VerificationFailed, match="another set"):
        carry(source, target, manifest)
    assert everything(target) == before


def test_a_set_that_is_being_removed_there_is_not_carried(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    target.put_bytes(layout.expiring_key(manifest.backup_id), b"{}")
    with pytest.raises(PreconditionFailed, match="is being removed"):
        carry(source, target, manifest)


@pytest.mark.parametrize("which", [*DATA, layout.UPLOADS_INDEX, layout.UPLOADS])
def test_a_wrong_byte_is_refused(source: MemoryStore, target: Any, which: str) -> None:
    manifest = put_real_set(source)
    before = everything(source)
    key = next(key for key in before if which in key)
    damaged = bytearray(before[key])
    damaged[-1] ^= 1
    source.objects[key] = bytes(damaged)
    with pytest.raises(VerificationFailed):
        carry(source, target, manifest)
    assert target.find(key) is None
    assert target.find(layout.manifest_key(manifest.backup_id)) is None
    assert read_catalogue(target) == []
    source.objects[key] = before[key]
    carry(source, target, manifest)
    assert everything(target) == before


def test_a_stray_object_there_keeps_the_set_from_being_published(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)
    target.put_bytes(layout.set_folder(manifest.backup_id) + "stray", b"x")
    with pytest.raises(VerificationFailed, match="not whole in the second"):
        carry(source, target, manifest)
    assert target.find(layout.manifest_key(manifest.backup_id)) is None


def test_a_run_that_was_taken_for_dead_publishes_nothing(source: MemoryStore, target: Any) -> None:
    manifest = put_real_set(source)

    def sweep(effect: str, number: int, when: str) -> None:
        if effect.startswith("put uploads/"):
            target.delete([layout.unfinished_key(manifest.backup_id)])

    with pytest.raises(ServiceUnavailable, match="swept it"):
        carry(source, WatchedStore(target, sweep), manifest)
    assert target.find(layout.manifest_key(manifest.backup_id)) is None


class Killed(BaseException):
    """Ends a run where it stands."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_ends_at_any_effect_is_gone_on_with(source: MemoryStore, when: str) -> None:
    manifest = put_real_set(source)
    before = everything(source)
    older = SNAPSHOT - timedelta(days=1)
    struck = True
    at = 0
    while struck:
        struck, target = False, MemoryStore()
        # What another dead run left is swept by whichever comes next.
        target.put_bytes(layout.unfinished_key(a_manifest(older).backup_id), b"mark")
        target.put_bytes(layout.set_folder(a_manifest(older).backup_id) + "database/1.dat.zst", b"half")

        def strike(effect: str, number: int, moment: str, at: int = at) -> None:
            nonlocal struck
            if (number, moment) == (at, when):
                struck = True
                raise Killed(effect)

        try:
            carry(source, WatchedStore(target, strike), manifest)
        except Killed:
            assert_nothing_false(target, manifest)
            carry(source, target, manifest)
        assert everything(target) == before
        at += 1
    assert at > 15, "there were effects to strike at"
    assert everything(source) == before


CALLS = ("mkdir", "fsync", "replace", "unlink", "rmdir", "write")


def die_at(number: int) -> None:
    """End this process before that call of the system that changes something."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > number:
                os._exit(9)
            return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def killed_carries(source: Any, place: Path, manifest: Manifest) -> Iterator[FolderStore]:
    """The folder as a process left it that was killed before each of its calls of the system, each time a new one."""
    for number in range(1000):
        target = folder_store(place / str(number))
        child = os.fork()
        if child == 0:
            try:
                die_at(number)
                carry(source, target, manifest)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        if code == 0:
            assert number > 30, "there were calls to strike at"
            return
        yield target


def test_a_process_that_is_killed_at_any_call_of_the_system_leaves_nothing_false(
    source: MemoryStore, tmp_path: Path
) -> None:
    manifest = put_real_set(source)
    before = everything(source)
    for target in killed_carries(source, tmp_path, manifest):
        assert_nothing_false(target, manifest)
        carry(source, target, manifest)
        assert everything(target) == before
        assert list(target.directory.rglob(f"{UNFINISHED_PREFIX}*")) == []


def a_set(age_days: float, standing: Standing = Standing.PROVEN, **changes: Any) -> StoredSet:
    at = NOW - timedelta(days=age_days)
    return StoredSet(
        backup_id=f"{at:%Y%m%dT%H%M%SZ}-abcdef",
        standing=standing,
        level="equal" if standing is Standing.PROVEN else None,
        snapshot_at=at,
        stored_at=at,
        **changes,
    )


def plan(here: list[StoredSet], there: list[StoredSet], most: int = 5, **rules: int) -> CarryPlan:
    made = plan_carrying(here, there, RetentionSettings(**rules), max_age=timedelta(hours=26), now=NOW, most=most)
    assert made.proven == {one.backup_id for one in there if one.standing is Standing.PROVEN}
    return replace(made, proven=frozenset())


def ids(*sets: StoredSet) -> tuple[str, ...]:
    return tuple(one.backup_id for one in sets)


def test_the_newest_of_what_is_missing_is_carried_first_and_the_rest_waits() -> None:
    here = [a_set(day) for day in (0.1, 1, 2, 3, 4)]
    assert plan(here, []) == CarryPlan(ids(*here), (), 0)
    assert plan(here[::-1], [], most=2) == CarryPlan(ids(*here[:2]), (), 3)
    assert plan(here, [here[0], here[3]]) == CarryPlan(ids(here[1], here[2], here[4]), (), 0)
    assert plan([], []) == CarryPlan((), (), 0)


@pytest.mark.parametrize("standing", [Standing.UNPROVEN, Standing.DAMAGED, Standing.UNREADABLE, Standing.UNFINISHED])
def test_only_proven_sets_are_carried(standing: Standing) -> None:
    fresh = a_set(0.1)
    assert plan([fresh, a_set(1, standing)], []).carry == ids(fresh)


def test_what_the_rules_would_not_keep_there_is_not_carried() -> None:
    sets = [a_set(day) for day in (0.1, 1, 2, 31, 32)]
    assert plan(sets, []).carry == ids(*sets[:3])
    assert plan(sets, [], keep_newest=4).carry == ids(*sets[:4])
    # A pin holds where it was set, and nowhere else.
    assert plan([*sets[:3], a_set(40, pin="pinned")], []).carry == ids(*sets[:3])


def test_without_a_fresh_set_what_would_be_kept_is_carried_all_the_same() -> None:
    stale = [a_set(day) for day in (3, 4, 31, 32, 33)]
    assert plan(stale, []).carry == ids(*stale[:3])


def test_an_unfinished_copy_is_gone_on_with_and_any_other_stays() -> None:
    here = [a_set(day) for day in (0.1, 1, 2, 3)]
    there = [
        a_set(0.1, Standing.UNFINISHED),
        a_set(1, Standing.DAMAGED, damaged_at=NOW),
        a_set(2, Standing.UNREADABLE),
    ]
    assert plan(here, there) == CarryPlan(ids(here[0], here[3]), (), 0, bad=ids(here[1], here[2]))


def test_a_copy_that_was_never_proven_there_is_proven_and_not_carried() -> None:
    here = [a_set(day) for day in (0.1, 1)]
    assert plan(here, [a_set(1, Standing.UNPROVEN)]) == CarryPlan(ids(here[0]), ids(here[1]), 0)
    # What is not proven in the first has no business to be proven in the second.
    assert plan([here[0]], [a_set(1, Standing.UNPROVEN)]).prove == ()


def test_a_set_that_no_plan_names_and_that_is_not_proven_there_is_an_alert() -> None:
    for settled in (CarryPlan(carry=("a",)), CarryPlan(prove=("a",)), CarryPlan(proven=frozenset({"a"}))):
        assert list(find_forgotten(settled, "a")) == []
    (forgotten,) = find_forgotten(CarryPlan(bad=("a",)), "a")
    assert forgotten.judge("equal").verdict is Verdict.ALERT


def test_what_a_plan_leaves_as_it_is_is_told() -> None:
    assert list(describe_plan(CarryPlan(carry=("a",)))) == []
    waiting, bad = describe_plan(CarryPlan(waiting=2, bad=("a", "b")))
    assert (waiting.verdict, bad.verdict) == (Verdict.WARN, Verdict.WARN)
    assert bad.hint.endswith("keepwell backup copy a")


def test_a_folder_is_sent_only_what_a_killed_run_did_not_bring(source: MemoryStore, tmp_path: Path) -> None:
    manifest, target = put_real_set(source), folder_store(tmp_path / "second")

    def strike(effect: str, number: int, when: str) -> None:
        if effect.startswith("put uploads/"):
            raise Killed(effect)

    with pytest.raises(Killed):
        carry(source, WatchedStore(target, strike), manifest)
    assert carry(source, target, manifest).sent_parts == 0
    assert everything(target) == everything(source)


class TestCopyingEach:
    PLAN = CarryPlan(("a", "b"), ("c",), 0)

    def copy(self, failing: dict[str, KeepwellError]) -> list[SecondCopy]:
        def carried(backup_id: str) -> Carried:
            if backup_id in failing:
                raise failing[backup_id]
            return Carried(backup_id, 1, 1, 0, 0, 1000, 0.1)

        def proven(backup_id: str) -> Proof:
            if backup_id in failing:
                raise failing[backup_id]
            return a_proof()

        return list(copy_each(self.PLAN, carried, proven))

    def test_all_are_proven(self) -> None:
        copies = self.copy({})
        assert [(one.backup_id, one.is_proven("equal"), one.carried is not None) for one in copies] == [
            ("a", True, True),
            ("b", True, True),
            ("c", True, False),
        ]
        assert {one.judge("equal").verdict for one in copies} == {Verdict.OK}

    def test_one_that_is_wrong_does_not_keep_the_next_from_its_turn(self) -> None:
        copies = self.copy({"a": VerificationFailed("It is damaged.", hint="Look.")})
        assert [one.is_proven("equal") for one in copies] == [False, True, True]
        finding = copies[0].judge("equal")
        assert (finding.verdict, finding.message, finding.hint) == (Verdict.ALERT, "It is damaged.", "Look.")
        assert finding.name == "a in the second destination"

    def test_a_destination_that_fell_silent_is_not_asked_again(self) -> None:
        copies = self.copy({"a": ServiceUnavailable("Away.")})
        assert [one.judge("equal").verdict for one in copies] == [Verdict.UNKNOWN] * 3
        assert "fell silent" in copies[1].judge("equal").message

    @pytest.mark.parametrize("stopped_by", [Verdict.ALERT, Verdict.UNKNOWN])
    def test_a_proof_that_fell_short_is_never_ok(self, stopped_by: Verdict) -> None:
        copy = SecondCopy("a", proof=a_proof(reached="complete", stopped_by=stopped_by))
        finding = copy.judge("equal")
        assert finding.verdict is stopped_by
        assert finding.hint == "Sends anew what is damaged: keepwell backup copy a"
        assert SecondCopy("a", proof=a_proof(reached="restored")).judge("equal").verdict is Verdict.UNKNOWN
