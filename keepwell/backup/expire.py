"""Removing backup sets by plan: guide "Keep only last 30 days", item BK-2.

The order is the safety. A set is marked as expiring, then its manifest goes, then everything else, and the mark last,
once the set's folder was listed again and is empty. So wherever a run is killed, a set is either whole, and a set like
any other, or it has no manifest, a mark, and the next run to finish it. It never is a listed set with missing objects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.backup import layout
from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.backup.collect import NOTHING_COLLECTED, Collected, collect, read_unneeded
from keepwell.backup.manifest import is_backup_id
from keepwell.backup.pins import describe_pin, read_pins
from keepwell.backup.retention import Decision, RetentionPlan, Standing, StoredSet, plan_retention
from keepwell.backup.sweep import owned_objects, sweep_unfinished
from keepwell.document import Document
from keepwell.errors import KeepwellError, PreconditionFailed, TransientError, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst

_REFUSED = "A lock or a policy of the bucket forbids it: has this machine the expiring key? Until when is it locked?"


class Expiring(Document):
    """The mark of a set that is being removed: what it was and why it goes, until its last object is gone."""

    format_version: Literal[1] = 1
    backup_id: str
    snapshot_at: AwareDatetime | None
    standing: str = Field(description="Proven, not proven or damaged, when the removal began.")
    reason: str
    begun_at: AwareDatetime


class Result(StrEnum):
    """What became of a removal."""

    REMOVED = "removed"
    KEPT = "kept"
    REFUSED = "refused"


@dataclass(frozen=True)
class Removal:
    """What became of one set that was to go.

    Attributes:
        backup_id: Of the set.
        result: `removed` only when its folder was listed again and is empty.
        why: The plan's reason, or why it is still there.
        freed_bytes: 0 unless it is removed.
        hint: What to do about it; empty when nothing is to be done.
    """

    backup_id: str
    result: Result
    why: str
    freed_bytes: int = 0
    hint: str = ""


@dataclass(frozen=True)
class Expiry:
    """What a plan and its application came to.

    Attributes:
        plan: As it was applied.
        removals: In order; first those that an earlier run had begun.
        swept: Ids of the sets that dead runs had left unfinished, and that are gone.
        looks: What a look at the bucket found afterwards; none where nothing was touched.
        collected: What became of contents of uploaded files that no set needs any more.
    """

    plan: RetentionPlan
    removals: tuple[Removal, ...] = ()
    swept: tuple[str, ...] = ()
    looks: tuple[Finding, ...] = ()
    collected: Collected = NOTHING_COLLECTED

    def count(self, result: Result) -> int:
        """How many removals came to that."""
        return sum(1 for removal in self.removals if removal.result is result)

    @property
    def freed_bytes(self) -> int:
        """Bytes of all sets that were removed."""
        return sum(removal.freed_bytes for removal in self.removals)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The plan's, and what is wrong with its application."""
        refused = (
            Finding(name=one.backup_id, verdict=Verdict.ALERT, message=f"Not removed: {one.why}", hint=one.hint)
            for one in self.removals
            if one.result is Result.REFUSED
        )
        return (*self.plan.findings, *refused, *self.collected.findings, *self.looks)

    @property
    def verdict(self) -> Verdict:
        """The worst finding's."""
        return worst(finding.verdict for finding in self.findings)


@dataclass
class _Stored:
    """What lies in the folder of one set."""

    size_bytes: int
    newest_at: datetime
    manifest_at: datetime | None = None


def read_plan(platform: Platform, store: Store, now: datetime) -> RetentionPlan:
    """Read the bucket and decide what stays and what goes; nothing is changed.

    Args:
        platform: Whose sets, and whose rules.
        store: Its folder in the bucket.
        now: Aware.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    sets = read_sets(store, platform.backup.proven_level)
    max_age = timedelta(hours=platform.backup.max_age_hours)
    plan = plan_retention(sets, platform.retention, max_age=max_age, now=now)
    if plan.verdict is Verdict.ALERT:
        return plan
    staying = (one.stored for one in plan.keep)
    written = [stored.backup_id for stored in staying if stored.standing is not Standing.UNFINISHED]
    unneeded = read_unneeded(store, written, platform.retention, now)
    return replace(plan, unneeded=unneeded, findings=(*plan.findings, *unneeded.findings))


def apply_plan(platform: Platform, store: Store, approved: str, now: datetime) -> Expiry:
    """Remove what a plan removes; the caller holds the platform for an expiry.

    1. Read and plan anew: only what was approved goes.
    2. With an alert, stop: nothing is removed.
    3. Sweep what dead runs left, of backups and of removals.
    4. Remove set by set, the oldest first; one that the store keeps does not keep the others.
    5. Remove the contents of uploaded files that no set needs any more.
    6. Look whether everything else is still there.

    Args:
        platform: Whose sets.
        store: Its folder in the bucket.
        approved: The digest of the plan that somebody saw and approved.
        now: Aware.

    Raises:
        PreconditionFailed: The plan is another one now, or no key here may delete sets; nothing was removed.
        KeepwellError: The store cannot be read; no set was removed.
    """
    if not store.may_expire:
        raise PreconditionFailed(
            "This machine has no key that may delete backup sets, so nothing was removed.",
            hint="Run it where bucket.expiring_access_key_id_file is set; the plan shows here as well.",
        )
    plan = read_plan(platform, store, now)
    if plan.digest != approved:
        raise PreconditionFailed(
            f"The plan is {plan.digest} by now, not {approved}: nothing was removed.",
            hint="Look at it again: keepwell backup expire --plan.",
        )
    if plan.verdict is Verdict.ALERT:
        return Expiry(plan)
    swept = sweep_unfinished(store)
    removals = (*_finish_removals(store), *_remove_all(store, plan, now))
    staying = [one.backup_id for one in removals if one.result is not Result.REMOVED]
    collected = collect(store, plan.unneeded, staying)
    return Expiry(plan, removals, tuple(swept), tuple(_look(store, plan, removals)), collected)


def read_sets(store: Store, proven_level: ProofLevel) -> list[StoredSet]:
    """Every set of the bucket with what the retention policy must know of it, newest name first.

    One that is being removed is none of them; one that is being written is, without anything known of it.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    entries = read_catalogue(store)
    listed = {entry.backup_id for entry in entries}
    unfinished = {marker.key.removeprefix(layout.UNFINISHED) for marker in store.list_objects(layout.UNFINISHED)}
    pins = {backup_id: describe_pin(pin) for backup_id, pin in read_pins(store).items()}
    stored = _measure_sets(store)
    sets = [
        _describe(store, entry, stored[entry.backup_id], proven_level, pins.get(entry.backup_id))
        for entry in entries
        if entry.backup_id in stored
    ]
    sets += [
        StoredSet(
            backup_id=backup_id,
            standing=Standing.UNFINISHED,
            level=None,
            snapshot_at=None,
            stored_at=stored[backup_id].newest_at,
            size_bytes=stored[backup_id].size_bytes,
            pin=pins.get(backup_id),
        )
        for backup_id in unfinished - listed
        if backup_id in stored
    ]
    return sets


def read_expiring(store: Store) -> dict[str, int]:
    """Sets whose removal was begun and is not confirmed, with how many objects of each are still there.

    Raises:
        KeepwellError: The store cannot be listed.
    """
    begun = [marker.key.removeprefix(layout.EXPIRING) for marker in store.list_objects(layout.EXPIRING)]
    return {
        backup_id: sum(1 for _ in owned_objects(store, backup_id))
        for backup_id in begun
        if is_backup_id(backup_id) and store.find(layout.manifest_key(backup_id)) is None
    }


def _measure_sets(store: Store) -> dict[str, _Stored]:
    """What lies in each set's folder, by the set's id."""
    found: dict[str, _Stored] = {}
    for stored in store.list_objects(layout.BACKUPS):
        backup_id, _, name = stored.key.removeprefix(layout.BACKUPS).partition("/")
        one = found.setdefault(backup_id, _Stored(0, stored.modified_at))
        one.size_bytes += stored.size_bytes
        one.newest_at = max(one.newest_at, stored.modified_at)
        if name == layout.MANIFEST:
            one.manifest_at = stored.modified_at
    return found


def _describe(
    store: Store, entry: BackupEntry, stored: _Stored, proven_level: ProofLevel, pin: str | None
) -> StoredSet:
    manifest = store.find(layout.manifest_key(entry.backup_id)) if stored.manifest_at else None
    return StoredSet(
        backup_id=entry.backup_id,
        standing=_judge_standing(entry, stored, proven_level),
        level=entry.level,
        snapshot_at=entry.snapshot_at,
        stored_at=stored.manifest_at or stored.newest_at,
        damaged_at=entry.proof.finished_at if entry.proof and entry.proof.damaged else None,
        pin=pin,
        locked_until=manifest.locked_until if manifest else None,
        size_bytes=stored.size_bytes,
    )


def _judge_standing(entry: BackupEntry, stored: _Stored, proven_level: ProofLevel) -> Standing:
    """What a set counts for.

    One whose documents are there and cannot be believed may be as good as ever, under a key that was rotated away or in
    the format of another release. That is told from damage that was found.
    """
    if entry.manifest is None:
        return Standing.UNREADABLE if stored.manifest_at is not None else Standing.DAMAGED
    if entry.proof is None and entry.unreadable_proofs:
        return Standing.UNREADABLE
    if entry.damaged:
        return Standing.DAMAGED
    return Standing.PROVEN if entry.is_proven(proven_level) else Standing.UNPROVEN


def _remove_all(store: Store, plan: RetentionPlan, now: datetime) -> Iterator[Removal]:
    for place, decision in enumerate(plan.remove):
        try:
            yield _remove(store, decision, now)
        except TransientError as error:
            yield _refusal(decision.stored.backup_id, error)
            # Whatever ails the store would ail it for each of them, for minutes at a time.
            for waiting in plan.remove[place + 1 :]:
                yield Removal(waiting.stored.backup_id, Result.REFUSED, "not tried, since the store fell silent.")
            return


def _remove(store: Store, decision: Decision, now: datetime) -> Removal:
    """Remove one set.

    Raises:
        TransientError: The store does not answer; the next run goes on.
    """
    backup_id = decision.stored.backup_id
    try:
        _mark(store, decision, now)
        # The interlock keeps pins out meanwhile. A second look costs little, and this one cannot be taken back.
        if store.find(layout.pin_key(backup_id)) is not None:
            store.delete([layout.expiring_key(backup_id)])
            return Removal(backup_id, Result.KEPT, "it was pinned meanwhile.")
        _remove_manifest(store, backup_id)
        _remove_rest(store, backup_id)
    except TransientError:
        raise
    except KeepwellError as error:
        return _refusal(backup_id, error)
    return Removal(backup_id, Result.REMOVED, decision.words, decision.stored.size_bytes)


def _finish_removals(store: Store) -> Iterator[Removal]:
    """Finish what an earlier run began; a set that still has its manifest is a set, and the plan decides anew."""
    for marker in list(store.list_objects(layout.EXPIRING)):
        backup_id = marker.key.removeprefix(layout.EXPIRING)
        if not is_backup_id(backup_id):
            continue  # no mark of ours
        try:
            if store.find(layout.manifest_key(backup_id)) is not None:
                store.delete([marker.key])
                continue
            freed_bytes = sum(stored.size_bytes for stored in owned_objects(store, backup_id))
            _remove_rest(store, backup_id)
        except KeepwellError as error:
            yield _refusal(backup_id, error)
        else:
            yield Removal(backup_id, Result.REMOVED, "an earlier run had begun to remove it", freed_bytes)


def _mark(store: Store, decision: Decision, now: datetime) -> None:
    """Say that a set goes, and why, before anything of it does."""
    one = decision.stored
    mark = Expiring(
        backup_id=one.backup_id,
        snapshot_at=one.snapshot_at,
        standing=one.standing,
        reason=decision.words,
        begun_at=now,
    )
    key = layout.expiring_key(one.backup_id)
    store.put_bytes(key, mark.to_json())
    if store.get_bytes(key) != mark.to_json():
        raise VerificationFailed(f"The mark of {one.backup_id} reads back differently.", hint="Look at the store.")


def _remove_manifest(store: Store, backup_id: str) -> None:
    """From here on it is no backup set, and there is no way back. One whose manifest stays is whole, and stays a set.

    Raises:
        KeepwellError: The manifest is still there, or it cannot be told whether it is; then the next run can tell.
    """
    key = layout.manifest_key(backup_id)
    refusal = _try_to_delete(store, [key])
    if store.find(key) is None:
        return
    store.delete([layout.expiring_key(backup_id)])
    raise refusal or KeepwellError("The store said that it deleted the manifest, and kept it.", hint=_REFUSED)


def _remove_rest(store: Store, backup_id: str) -> None:
    """Everything that a set without a manifest still has; its mark only when a listing shows that nothing is left.

    Raises:
        KeepwellError: Something is left; the mark stays, and the next run tries again.
    """
    store.abort_uploads(layout.set_folder(backup_id))
    refusal = _try_to_delete(store, [stored.key for stored in owned_objects(store, backup_id)])
    left = sum(1 for _ in owned_objects(store, backup_id))
    if left:
        said = refusal.message if refusal else "The store said that it deleted them, and kept them."
        kind = type(refusal) if isinstance(refusal, TransientError) else KeepwellError
        raise kind(f"{left} objects of it are left. {said}", hint=_REFUSED)
    store.delete([layout.expiring_key(backup_id)])


def _try_to_delete(store: Store, keys: list[str]) -> KeepwellError | None:
    """Delete, and tell why not instead of raising: what counts is what a look afterwards shows."""
    try:
        store.delete(keys)
    except KeepwellError as error:
        return error
    return None


def _refusal(backup_id: str, error: KeepwellError) -> Removal:
    return Removal(backup_id, Result.REFUSED, error.message, hint=error.hint)


def _look(store: Store, plan: RetentionPlan, removals: Sequence[Removal]) -> Iterator[Finding]:
    """Look at the bucket once more; what cannot be looked at is unknown, and no error: too much has happened."""
    try:
        yield _judge_rest(plan, [stored.key for stored in store.list_objects(layout.BACKUPS)])
        if any(removal.freed_bytes for removal in removals) and store.keeps_versions():
            yield Finding(
                name="old versions",
                verdict=Verdict.OK,
                message="The bucket keeps versions: what was removed is hidden, and takes its space until they expire.",
                hint="Let a lifecycle rule of the bucket remove old versions.",
            )
    except KeepwellError as error:
        yield Finding(name="sets that stay", verdict=Verdict.UNKNOWN, message=f"Not looked at: {error.message}")


def _judge_rest(plan: RetentionPlan, keys: Sequence[str]) -> Finding:
    """Whether every set that was to stay is still there: its manifest, or its folder where it had none."""
    there = set(keys) | {layout.set_folder(key.split("/")[1]) for key in keys}
    wanted = {
        one.backup_id: layout.manifest_key(one.backup_id) if one.snapshot_at else layout.set_folder(one.backup_id)
        for one in (decision.stored for decision in plan.keep)
        if one.standing is not Standing.UNFINISHED
    }
    gone = [backup_id for backup_id, key in wanted.items() if key not in there]
    if gone:
        return Finding(
            name="sets that stay",
            verdict=Verdict.ALERT,
            message=f"{len(gone)} of {len(wanted)} are gone that were to stay: {', '.join(gone)}.",
            hint="Somebody else removes objects of this bucket: look at its lifecycle rules, and at who has its keys.",
        )
    return Finding(name="sets that stay", verdict=Verdict.OK, message=f"All {len(wanted)} are still there.")
