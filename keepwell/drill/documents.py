"""What a drill leaves in the bucket: `drills/<id>.json`, signed, and its report beside it.

A drill that was killed leaves nothing: the document is written last, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.backup.manifest import is_backup_id, new_backup_id
from keepwell.backup.proof import LEVELS
from keepwell.document import Document
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.settings import DamageKind, ProofLevel
from keepwell.verdict import Finding, Verdict

DRILLS = "drills/"
APPLICATION = "application"
_DOCUMENT = ".json"

Kind = Literal["monthly", "full"]
Chosen = Literal["newest", "by lot"]
# A forged manifest is refused before the first level.
DetectedAt = Literal["manifest", "uploaded", "readable", "complete", "restored", "equal", "sound", "serving"]


class Phases(Document):
    """How long each phase of one restore took, in order.

    Rows are restored as they come from the store, so their way is part of `restore`; `fetch` is everything else that
    is read back. They add up to the RTO.
    """

    find: float = Field(ge=0, description="From the start to knowing which set, and its manifest.")
    fetch: float = Field(ge=0, description="Roles, tables of contents, uploaded files, keys of Redis, read back.")
    restore: float = Field(ge=0, description="Scratch server, roles, and rows from the store into it.")
    indexes: float | None = Field(
        ge=0, description="The restore's rest after the last row; null where it could not be told from `restore`."
    )
    prove: float = Field(ge=0, description="Comparing every row with the source's hashes, and checking indexes.")
    smoke: float = Field(ge=0, description="The application's own questions.")

    @property
    def total(self) -> float:
        """From the start to the last answer."""
        return self.find + self.fetch + self.restore + (self.indexes or 0) + self.prove + self.smoke

    @property
    def growing(self) -> float:
        """The share that grows with the data."""
        return self.fetch + self.restore + (self.indexes or 0) + self.prove


class Stage(Document):
    """One part of a full drill beside the database."""

    name: str
    verdict: Verdict
    message: str
    seconds: float = Field(ge=0)


class Rehearsal(Document):
    """One set restored from nothing, and timed."""

    backup_id: str
    chosen: Chosen
    snapshot_at: AwareDatetime | None = Field(description="What it brings back; null where its manifest is unreadable.")
    reached: ProofLevel | None
    verdict: Verdict
    message: str = Field(description="How it went, one sentence.")
    phases: Phases | None = Field(description="Null where it did not come to an end.")
    rto_seconds: float | None = Field(description="Null unless everything that is asked of a restore was reached.")
    source_bytes: int | None = Field(description="Size of the databases when they were dumped.")
    content_bytes: int | None = Field(description="What was restored, decompressed.")
    stored_bytes: int | None
    rows: int | None
    bytes_per_second: float | None = Field(description="Decompressed bytes per second of fetch, restore and indexes.")
    server: str | None = None
    isolation: str | None = None
    findings: tuple[Finding, ...] = ()
    stages: tuple[Stage, ...] = Field(default=(), description="What a full drill restored beside it, in order.")

    @property
    def whole_seconds(self) -> float | None:
        """From the start to the application's last answer; None where it was not started, or something fell short."""
        served = any(stage.name == APPLICATION and stage.verdict is Verdict.OK for stage in self.stages)
        if self.rto_seconds is None or not served:
            return None
        return self.rto_seconds + sum(stage.seconds for stage in self.stages)


class DamageOutcome(Document):
    """One way in which a copy of a set was damaged, and whether the checker turned red."""

    kind: DamageKind
    what: str = Field(description="The object that was damaged, and how.")
    expected_at: DetectedAt = Field(description="The level that must find it, unless one before does.")
    detected_at: DetectedAt | None = Field(description="Null where nothing found it.")
    verdict: Verdict = Field(description="`ok` where it was found in time; `alert` where it was not.")
    message: str = Field(description="What the checker said, or why there is nothing to say.")
    seconds: float = Field(ge=0)


class Recovery(Document):
    """What a disaster at the time of the drill would have cost, measured."""

    rpo_seconds: float | None = Field(
        description="Now minus the snapshot of the newest set that was restored; null where none was."
    )
    worst_gap_seconds: float | None = Field(
        description="Longest time from a proven set's snapshot until the next one was proven."
    )
    worst_gap_from: AwareDatetime | None = None
    worst_gap_to: AwareDatetime | None = Field(default=None, description="The drill itself, for the gap up to now.")
    gap_since: AwareDatetime | None = Field(default=None, description="How far back sets were looked at.")
    proven_sets: int = Field(ge=0, description="In that period.")
    rto_seconds: float | None = Field(description="Of the newest proven set.")
    live_bytes: int | None = Field(description="Size of the live databases; null where they were not to be asked.")
    rto_at_live_size_seconds: float | None = Field(
        description="What grows with the data, scaled from the set's size to the live one; the rest as measured."
    )


class Target(Document):
    """One target of the platform file, and what was measured."""

    name: str
    limit_seconds: float = Field(gt=0)
    measured_seconds: float | None
    verdict: Verdict
    message: str


class Drill(Document):
    """One restore drill."""

    format_version: Literal[1] = 1
    drill_id: str
    platform: str
    kind: Kind
    seed: int = Field(ge=0, description="Chose the set by lot and where each copy was damaged; run it again with it.")
    started_at: AwareDatetime
    finished_at: AwareDatetime
    verdict: Verdict
    summary: str
    rehearsals: tuple[Rehearsal, ...]
    damages: tuple[DamageOutcome, ...]
    recovery: Recovery
    targets: tuple[Target, ...]
    communication: Stage | None = Field(default=None, description="How telling people was rehearsed; by full drills.")
    findings: tuple[Finding, ...] = Field(default=(), description="What else is wrong or worth knowing.")
    flow_run: str | None = Field(default=None, description="Id of the orchestrator's run; null without one.")

    @property
    def main(self) -> Rehearsal | None:
        """The rehearsal that RPO and RTO were measured by."""
        return next((one for one in self.rehearsals if one.chosen == "newest"), None)


@dataclass(frozen=True)
class History:
    """Drills of a platform, oldest first.

    Attributes:
        drills: Those that can be read.
        unreadable: Keys of those that cannot, or are signed by nobody who counts.
    """

    drills: tuple[Drill, ...]
    unreadable: tuple[str, ...]


def new_drill_id(now: datetime) -> str:
    """As a backup's: UTC time and a random end."""
    return new_backup_id(now)


def drill_key(drill_id: str) -> str:
    """Where a drill's document lies."""
    return f"{DRILLS}{drill_id}{_DOCUMENT}"


def report_key(drill_id: str, suffix: str) -> str:
    """Where a drill's report lies; the suffix is `md` or `html`."""
    return f"{DRILLS}{drill_id}.{suffix}"


def keep_drill(store: Store, drill: Drill) -> Drill:
    """Write a drill's document, and read it back.

    Raises:
        KeepwellError: The store did not take it.
    """
    key = drill_key(drill.drill_id)
    store.put_signed(key, drill.to_json())
    return Drill.from_json(store.get_signed(key))


def read_drill(store: Store, drill_id: str) -> Drill:
    """One drill.

    Raises:
        PreconditionFailed: There is none of that id.
        VerificationFailed: It is damaged, forged, or another one's.
    """
    try:
        drill = Drill.from_json(store.get_signed(drill_key(drill_id)))
    except ObjectMissing:
        raise PreconditionFailed(
            f"There is no drill {drill_id!r}.", hint="List what there is: keepwell drill list."
        ) from None
    if drill.drill_id != drill_id:
        raise VerificationFailed(f"The document of {drill_id} is that of {drill.drill_id}.", hint="Somebody moved it.")
    return drill


def read_history(store: Store, *, newest: int = 36) -> History:
    """The newest drills of a platform, oldest first.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    drills, unreadable = [], []
    for drill_id in sorted(_list_ids(store))[-newest:]:
        try:
            drills.append(read_drill(store, drill_id))
        except VerificationFailed:
            unreadable.append(drill_key(drill_id))
    return History(tuple(drills), tuple(unreadable))


def read_first_moment(store: Store) -> datetime | None:
    """When the first drill of all began, by its name; None where there was none.

    Raises:
        KeepwellError: The store cannot be listed.
    """
    return min(filter(None, map(_moment_of, _list_ids(store))), default=None)


def require_writing(store: Store) -> None:
    """Stop before a drill that nobody could read about afterwards.

    Raises:
        PreconditionFailed: This machine may not write there.
    """
    if not store.may_write:
        raise PreconditionFailed(
            "This machine has a key that only reads, so the drill could not be recorded.",
            hint="Run it where sets are written; `keepwell backup verify` needs a key that only reads.",
        )


def is_in_time(detected_at: DetectedAt, expected_at: DetectedAt) -> bool:
    """Whether damage was found where it had to be, or before."""
    order: list[str] = ["manifest", *LEVELS]
    return order.index(detected_at) <= order.index(expected_at)


def _moment_of(drill_id: str) -> datetime | None:
    """The time in an id; None where it is no time."""
    try:
        return datetime.strptime(drill_id.partition("-")[0], "%Y%m%dT%H%M%S%z")
    except ValueError:
        return None


def _list_ids(store: Store) -> Iterator[str]:
    for found in store.list_objects(DRILLS):
        name = found.key.removeprefix(DRILLS)
        if name.endswith(_DOCUMENT) and is_backup_id(name.removesuffix(_DOCUMENT)):
            yield name.removesuffix(_DOCUMENT)
