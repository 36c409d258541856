"""Removing contents of uploaded files that no set needs any more; the caller holds the platform for an expiry.

No order of effects is needed: a content that goes is named by no set, so wherever a run is killed every set is whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from keepwell.backup import layout
from keepwell.backup.catalogue import read_manifest
from keepwell.backup.unneeded import Unneeded, find_content_key, find_oldest_kept, is_content, keep_all, plan_unneeded
from keepwell.backup.uploads_index import read_upload_objects
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store, StoredObject
from keepwell.quantities import describe_bytes
from keepwell.settings import RetentionSettings
from keepwell.verdict import Finding, Verdict

_HINT = "What the plan says of that set tells what to do; contents go once each set that stays can be read."


@dataclass(frozen=True)
class Collected:
    """What became of contents that were to go.

    Attributes:
        contents: How many are gone, as a listing shows.
        freed_bytes: Of those.
        findings: What was kept, and why.
    """

    contents: int = 0
    freed_bytes: int = 0
    findings: tuple[Finding, ...] = ()


NOTHING_COLLECTED = Collected()


def read_unneeded(store: Store, staying: Iterable[str], rules: RetentionSettings, now: datetime) -> Unneeded:
    """Read which contents no set needs; nothing is changed.

    One index is in memory at a time, and of all of them the keys.

    Args:
        store: The platform's folder in its bucket.
        staying: Ids of every set that stays, damaged ones too; not of those that are being written.
        rules: As `plan_unneeded` takes them.
        now: Aware.

    Returns:
        Nothing to remove, and why, where the manifest or the index of one of them cannot be read or believed.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    stored = list(store.list_objects(layout.UPLOADS))
    there = {content.key for content in stored}
    marks = [mark.key for mark in store.list_objects(layout.DAMAGED_UPLOADS)]
    orphaned = [mark for mark in marks if is_content(find_content_key(mark)) and find_content_key(mark) not in there]
    if not orphaned and not any(content.modified_at < find_oldest_kept(rules, now) for content in stored):
        return plan_unneeded(stored, frozenset(), rules, now)  # nothing may go, whatever is needed
    needed: set[str] = set()
    for backup_id in staying:
        try:
            needed |= _read_needed(store, backup_id)
        except (VerificationFailed, PreconditionFailed) as error:
            return keep_all(f"{backup_id}: {error.message}", _HINT)
    plan = plan_unneeded(stored, needed, rules, now)
    gone = tuple(mark for mark in orphaned if find_content_key(mark) not in needed)
    return Unneeded(plan.remove, gone, plan.findings)


def collect(store: Store, plan: Unneeded, staying: Iterable[str]) -> Collected:
    """Remove the contents of a plan, and look whether they are gone; the marks of their damage go with them.

    Args:
        store: The platform's folder in its bucket.
        plan: As it was approved.
        staying: Ids of sets that the plan took for gone and that are still there: what they need stays.

    Returns:
        What the store kept, or did not answer, is told and not raised: the sets are dealt with already.
    """
    if not (plan.remove or plan.marks):
        return NOTHING_COLLECTED
    try:
        needed: set[str] = set()
        for backup_id in staying:
            if store.find(layout.manifest_key(backup_id)) is not None:
                needed |= _read_needed(store, backup_id)
        return _remove(store, [one for one in plan.remove if one.key not in needed], plan.marks)
    except KeepwellError as error:
        return Collected(
            findings=(
                Finding(
                    name="uploads",
                    verdict=Verdict.UNKNOWN,
                    message=f"Not every content that no set needs was removed: {error.message}",
                    hint=error.hint or "The next run goes on.",
                ),
            )
        )


def _read_needed(store: Store, backup_id: str) -> frozenset[str]:
    return read_upload_objects(store, read_manifest(store, backup_id))


def _remove(store: Store, contents: list[StoredObject], marks: Iterable[str]) -> Collected:
    refusal = ""
    try:
        store.delete(content.key for content in contents)
    except KeepwellError as error:
        refusal = error.message  # what counts is what a listing shows
    there = {stored.key for stored in store.list_objects(layout.UPLOADS)} if contents else set()
    gone = [content for content in contents if content.key not in there]
    left = [content for content in contents if content.key in there]
    known = {mark.key for mark in store.list_objects(layout.DAMAGED_UPLOADS)}
    store.delete(sorted({*marks, *(layout.damaged_upload_key(content.key) for content in gone)} & known))
    findings = (_judge_left(store, left, refusal),) if left else ()
    return Collected(len(gone), sum(content.size_bytes for content in gone), findings)


def _judge_left(store: Store, left: list[StoredObject], refusal: str) -> Finding:
    """Contents that were to go and are still there; that is as it should be while they are locked."""
    said = f"{len(left):,} contents of uploaded files ({describe_bytes(sum(one.size_bytes for one in left))}) are kept"
    found = store.find(left[0].key)
    if found is not None and found.locked_until is not None:
        message = f"{said} by the store's lock, the first until {found.locked_until:%Y-%m-%d %H:%M} UTC."
        return Finding(name="uploads", verdict=Verdict.OK, message=message)
    message = f"{said} that no set needs. {refusal or 'The store said that it deleted them.'}"
    hint = "Has this machine the expiring key? The next run tries again."
    return Finding(name="uploads", verdict=Verdict.ALERT, message=message, hint=hint)
