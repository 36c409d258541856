"""Carrying proven sets to the second destination: the source of the data was read once, for the first one.

What is carried are the stored objects, byte for byte, each compared with its hash while it passes; so the manifest is
the same document in both places, and a proof made in either is bound to it. The order is that of a backup: a mark, the
objects, the manifest last. A run that is killed leaves a marked set, which the next one goes on with or sweeps.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import TypeVar

from keepwell.backup import layout
from keepwell.backup.catalogue import read_manifest_and_digest
from keepwell.backup.expire import read_sets
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.read_back import check_uploaded
from keepwell.backup.retention import Rule, Standing, StoredSet, plan_retention
from keepwell.backup.sweep import require_unswept, sweep_unfinished
from keepwell.backup.transfer import Measured
from keepwell.backup.uploads_index import Content, list_contents, read_index
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.capabilities import require_keeping
from keepwell.objectstore.store import SIGNATURE_SUFFIX, ObjectMissing, Sink, Store
from keepwell.objectstore.uploads import Uploads
from keepwell.progress import Progress, Step
from keepwell.sealing import Readable
from keepwell.settings import Platform, RetentionSettings
from keepwell.verdict import Verdict

_CARRIERS = 4
_READ_BYTES = 1024 * 1024
_FIRST_HINT = (
    "Verify the set in the first destination: keepwell backup verify. Nothing of it was published in the second."
)
# A second destination that was away is caught up over some nights, so that one night does not take all day.
MOST_SETS = 5
# A set that stays for one of these alone is due, and would go again soon.
_DUE = (Rule.HELD_BACK, Rule.NOTHING_FRESH)
_BAD = (Standing.DAMAGED, Standing.UNREADABLE)

T = TypeVar("T")


@dataclass(frozen=True)
class Carried:
    """What it took to have a set in the second destination.

    Attributes:
        backup_id: Of the set.
        parts: How many objects the set has.
        sent_parts: How many of them were sent; the others were there, and were read and compared.
        contents: How many contents of uploaded files the set needs.
        sent_contents: How many of those were sent; the others were there, and its proof looks at them.
        sent_bytes: Of everything that was sent.
        seconds: How long it took.
    """

    backup_id: str
    parts: int
    sent_parts: int
    contents: int
    sent_contents: int
    sent_bytes: int
    seconds: float


@dataclass(frozen=True)
class CarryPlan:
    """What the second destination lacks.

    Attributes:
        carry: Ids of the sets to carry and prove there, newest first.
        prove: Ids of sets that were carried and are not proven there, newest first.
        waiting: How many more are due, and wait for another run.
        bad: Ids of sets that are proven in the first destination, and damaged or unreadable there; people decide.
        proven: Ids of the sets that are proven there already.
    """

    carry: tuple[str, ...] = ()
    prove: tuple[str, ...] = ()
    waiting: int = 0
    bad: tuple[str, ...] = ()
    proven: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Document:
    """A set's manifest as it is stored, to be stored again as it is."""

    manifest: Manifest
    sha256: str
    content: bytes
    signature: bytes | None


def read_carry_plan(platform: Platform, source: Store, target: Store, now: datetime) -> CarryPlan:
    """Read both destinations and choose what to carry and prove; nothing is changed.

    Raises:
        KeepwellError: One of them cannot be listed or read.
    """
    here, there = (read_sets(store, platform.backup.proven_level) for store in (source, target))
    max_age = timedelta(hours=platform.backup.max_age_hours)
    return plan_carrying(here, there, platform.retention, max_age=max_age, now=now)


def plan_carrying(
    here: Sequence[StoredSet],
    there: Sequence[StoredSet],
    rules: RetentionSettings,
    *,
    max_age: timedelta,
    now: datetime,
    most: int = MOST_SETS,
) -> CarryPlan:
    """Choose which sets to carry and which to prove: proven ones that the retention policy would keep there.

    Args:
        here: Every set of the first destination, any order.
        there: Every set of the second.
        rules: What is kept, in either of them.
        max_age: How old the newest proven set may be for anything to be removed.
        now: Aware.
        most: How many sets one run carries or proves at most.

    Returns:
        The newest come first. A set of which the second has anything but an unfinished copy is not carried: what is
        damaged there stays for people to look at.
    """
    known = {one.backup_id: one for one in there if one.standing is not Standing.UNFINISHED}
    # Pinned in one destination is not pinned in the other.
    missing = [replace(one, pin=None) for one in here if one.standing is Standing.PROVEN and one.backup_id not in known]
    after = plan_retention([*known.values(), *missing], rules, max_age=max_age, now=now)
    kept = [one.stored for one in after.keep if one.reasons[0].rule not in _DUE]
    carry = {one.backup_id for one in missing}
    proven_here = {one.backup_id for one in here if one.standing is Standing.PROVEN}
    wanted = [
        one.backup_id
        for one in kept
        if one.backup_id in carry or (one.standing is Standing.UNPROVEN and one.backup_id in proven_here)
    ]
    chosen = wanted[:most]
    return CarryPlan(
        carry=tuple(backup_id for backup_id in chosen if backup_id in carry),
        prove=tuple(backup_id for backup_id in chosen if backup_id not in carry),
        waiting=len(wanted) - len(chosen),
        bad=tuple(one.backup_id for one in kept if one.backup_id in proven_here and one.standing in _BAD),
        proven=frozenset(one.backup_id for one in known.values() if one.standing is Standing.PROVEN),
    )


def carry_set(source: Store, target: Store, backup_id: str, progress: Progress) -> Carried:
    """Carry one set to the second destination; the caller holds both for carrying.

    1. Sweep what dead runs left there, but go on with this very set.
    2. Mark the set there as unfinished.
    3. Its objects, each compared with the manifest while it passes.
    4. Contents of uploaded files that are not there, each opened and compared with its hash while it passes.
    5. Look whether all are there; then the manifest with its signature, as they are; read back; take the mark away.

    A set that is there already is compared object by object, and what is not as it should be is sent anew.

    Args:
        source: The first destination; only read.
        target: The second.
        backup_id: Which set.
        progress: Told how far it is.

    Raises:
        PreconditionFailed: There is no such set, it is being removed in the second destination, or that keeps no locks
            though it is asked to.
        VerificationFailed: An object is not what the manifest or the index says, or another set has the id there.
        KeepwellError: A destination failed; the next run goes on.
    """
    started = time.monotonic()
    require_keeping(target)
    document = _read_document(source, backup_id)
    sweep_unfinished(target, spare={backup_id})
    published = _is_published(target, document)
    for folder in (layout.set_folder(backup_id), layout.UPLOADS, layout.UNFINISHED):
        target.abort_uploads(folder)
    mark = secrets.token_bytes(16)
    target.put_bytes(layout.unfinished_key(backup_id), mark)
    with Uploads(_CARRIERS) as uploads:
        run = _Run(source, target, document.manifest, uploads, progress, published=published)
        run.carry_parts()
        contents = run.carry_contents()
    _publish(target, document, mark)
    return Carried(
        backup_id=backup_id,
        parts=len(document.manifest.parts),
        sent_parts=run.sent_parts,
        contents=contents,
        sent_contents=run.sent_contents,
        sent_bytes=run.sent_bytes,
        seconds=time.monotonic() - started,
    )


def _read_document(source: Store, backup_id: str) -> _Document:
    manifest, sha256 = read_manifest_and_digest(source, backup_id)
    key = layout.manifest_key(backup_id)
    content = source.get_bytes(key)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VerificationFailed(f"The manifest of {backup_id} changed while it was read.", hint=_FIRST_HINT)
    try:
        signature = source.get_bytes(key + SIGNATURE_SUFFIX)
    except ObjectMissing:
        signature = None
    return _Document(manifest, sha256, content, signature)


def _is_published(target: Store, document: _Document) -> bool:
    """Whether this very set is in the second destination; a manifest that nobody would believe is none.

    Raises:
        PreconditionFailed: It is being removed there.
        VerificationFailed: Another set has its id there.
    """
    backup_id = document.manifest.backup_id
    try:
        _, sha256 = read_manifest_and_digest(target, backup_id)
    except PreconditionFailed:
        if target.find(layout.expiring_key(backup_id)) is not None:
            raise PreconditionFailed(
                f"{backup_id} is being removed in the second destination.",
                hint="Let the removal end: keepwell backup expire --destination second",
            ) from None
        return False
    except VerificationFailed:
        return False
    if sha256 != document.sha256:
        raise VerificationFailed(
            f"The second destination holds another set under the id {backup_id}: its manifest differs.",
            hint="Compare both, and find out who wrote it; nothing of it was touched.",
        )
    return True


def _publish(target: Store, document: _Document, mark: bytes) -> None:
    """Make it a set there: the manifest last, and the mark away once it was read back."""
    backup_id = document.manifest.backup_id
    stored = list(target.list_objects(layout.set_folder(backup_id)))
    for finding in check_uploaded(document.manifest, stored):
        if finding.verdict is not Verdict.OK:
            raise VerificationFailed(
                f"{backup_id} is not whole in the second destination: {finding.message}",
                hint="Look at that destination; the set was not published there.",
            )
    require_unswept(target, backup_id, mark)
    key = layout.manifest_key(backup_id)
    if document.signature is not None:
        target.put_bytes(key + SIGNATURE_SUFFIX, document.signature)
    target.put_bytes(key, document.content)
    if target.get_signed(key) != document.content:
        raise VerificationFailed(
            f"The manifest of {backup_id} reads back differently from the second destination.",
            hint="Look at that destination.",
        )
    target.delete([layout.unfinished_key(backup_id)])


@dataclass
class _Run:
    """One set on its way, and what was sent of it."""

    source: Store
    target: Store
    manifest: Manifest
    uploads: Uploads
    progress: Progress
    published: bool
    sent_parts: int = 0
    sent_contents: int = 0
    sent_bytes: int = 0
    passed_bytes: int = 0
    lock: Lock = field(default_factory=Lock)

    def carry_parts(self) -> None:
        """The set's objects, in the manifest's order: what makes the others readable comes last."""
        self._each(self._carry_part, self.manifest.parts)

    def carry_contents(self) -> int:
        """Contents of uploaded files that are not there; how many the set needs."""
        contents = list_contents(read_index(self.source, self.manifest))
        if contents:
            missing = list(self._find_missing(contents))
            self._each(self._carry_content, missing)
            sent = {content.first.key for content in missing}
            self.target.keep_longer(one.first.key for one in contents if one.first.key not in sent)
        return len(contents)

    def _each(self, carry: Callable[[T], None], items: Sequence[T]) -> None:
        """Several at a time; with the first that fails the others are let go."""
        with ThreadPoolExecutor(_CARRIERS, "carrying") as carriers:
            waiting = [carriers.submit(carry, item) for item in items]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                self.uploads.abandon()
                carriers.shutdown(wait=True, cancel_futures=True)
                raise

    def _carry_part(self, part: Part) -> None:
        key = layout.set_folder(self.manifest.backup_id) + part.name
        sent = not self._is_there(key, part)
        if sent:
            with self._written(key) as writer, self.source.open_reader(key) as body:
                measured = _pass(body, writer.write)
                if (measured.size_bytes, measured.sha256) != (part.size_bytes, part.sha256):
                    raise VerificationFailed(
                        f"{key} is not what its manifest says, as it comes from the first destination.",
                        hint=_FIRST_HINT,
                    )
        with self.lock:
            self.sent_parts += sent
            self.sent_bytes += part.size_bytes if sent else 0
            self.passed_bytes += part.size_bytes
            passed_bytes = self.passed_bytes
        self.progress(Step("carrying to the second destination", passed_bytes, self.manifest.stored_bytes, "bytes"))

    def _is_there(self, key: str, part: Part) -> bool:
        """Whether the second destination holds a part, as far as it costs no more to know than to send it."""
        if not (self.target.is_local or self.published):
            return False
        found = self.target.find(key)
        if found is None or found.size_bytes != part.size_bytes:
            return False
        with self.target.open_reader(key) as body:
            return _pass(body, _nowhere).sha256 == part.sha256

    def _find_missing(self, contents: Sequence[Content]) -> Iterator[Content]:
        """Contents that are not there, have another size than in the first destination, or were found damaged there."""
        here, there = self._list(self.source), self._list(self.target)
        damaged = {found.key for found in self.target.list_objects(layout.DAMAGED_UPLOADS)}
        for content in contents:
            key = content.first.key
            if key not in there or there[key] != here.get(key, there[key]) or layout.damaged_upload_key(key) in damaged:
                yield content

    def _list(self, store: Store) -> dict[str, int]:
        return {found.key: found.size_bytes for found in store.list_objects(layout.UPLOADS)}

    def _carry_content(self, content: Content) -> None:
        key = content.first.key
        with self._written(key) as writer:
            passing = _Passing(self.source, writer)
            if fault := content.first.read_content(passing, _nowhere):
                raise VerificationFailed(f"{content.told} {fault} in the first destination ({key}).", hint=_FIRST_HINT)
        with self.lock:
            self.sent_contents += 1
            self.sent_bytes += passing.measured.size_bytes
            sent = self.sent_contents
        self.progress(Step("carrying uploaded files", sent, 0, "files"))

    @contextmanager
    def _written(self, key: str) -> Iterator[Sink]:
        """An object of the second destination; there is none unless the block ends well."""
        writer = self.target.open_writer(key, self.uploads)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abort()
            raise


class _Passing:
    """The first destination, as somebody reads it who opens an object to compare it, while it goes on as it is."""

    def __init__(self, source: Store, writer: Sink) -> None:
        self.seal = source.seal
        self.measured = Measured()
        self._source, self._writer = source, writer

    @contextmanager
    def open_reader(self, relative: str, /) -> Iterator[Readable]:
        """The object, whose bytes are written on as they are read."""
        with self._source.open_reader(relative) as body:
            self._body = body
            yield self

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        chunk = self._body.read(size)
        self.measured.update(chunk)
        self._writer.write(chunk)
        return chunk


def _pass(body: Readable, take: Callable[[bytes], object]) -> Measured:
    """Hand on everything that is read, measured."""
    measured = Measured()
    while chunk := body.read(_READ_BYTES):
        measured.update(chunk)
        take(chunk)
    return measured


def _nowhere(chunk: bytes) -> None:
    """Keep nothing."""
