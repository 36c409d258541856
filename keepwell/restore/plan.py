"""What a restore would do, before anything is changed: from which set, under which names, at what cost.

A plan only reads. What somebody approves of it (`subject`) is what it binds: the set, the names, the mode, and for a
swap the very database that is replaced, with its class of size. Ages, sessions and free space are shown, and change by
themselves.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from statistics import median

from keepwell.approval import Subject
from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.backup.database import Database
from keepwell.backup.restore import choose_database
from keepwell.backup.space import estimate_scratch_bytes
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.postgres.connection import connect
from keepwell.postgres.databases import NamedDatabase, SessionGroup
from keepwell.restore.choice import Choice, choose_set
from keepwell.restore.judgement import judge_age, judge_beside, judge_set, judge_swap, judge_target
from keepwell.restore.loss import Loss, judge_loss, measure_loss
from keepwell.restore.names import replaced_name, restored_name
from keepwell.restore.server import LiveFacts, TargetFacts, read_target
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst

# How many of the newest proofs tell how fast a restore is here.
_RECENT = 5
_MEBIBYTE = 1024 * 1024


class Mode(StrEnum):
    """What becomes of the restored database."""

    BESIDE = "beside"
    SWAP = "swap"


@dataclass(frozen=True)
class RestorePlan:
    """What a restore would do.

    Attributes:
        platform: Its name.
        mode: Whether the restored database takes the live one's place.
        choice: What was asked for, with the set's id in place of `newest`.
        backup_id: Of the set.
        database: Which of the set's databases.
        live: Name of the live database; nobody touches it unless the mode is a swap.
        name: Of the new database.
        live_database: The one that has that name now; None where there is none.
        snapshot_at: The moment that comes back.
        planned_at: Aware.
        level: Highest level of the set's newest proof; None when it has none.
        rows: Of all tables.
        size_bytes: Of the database, as its server counted it.
        needed_bytes: What it may take on the server's disk meanwhile.
        free_bytes: What is free there; None where that cannot be seen from here.
        expected_seconds: From what proofs of this platform's sets took; None when none tells.
        sessions: Who is in the live database now; a swap ends them.
        carried: What the new database takes over from the live one, in words.
        findings: What is wrong, unknown or worth knowing.
        loss: How the live database differs from what comes back; None where that was not asked, or cannot be known.
    """

    platform: str
    mode: Mode
    choice: Choice
    backup_id: str
    database: str
    live: str
    name: str
    live_database: NamedDatabase | None
    snapshot_at: datetime
    planned_at: datetime
    level: ProofLevel | None
    rows: int
    size_bytes: int
    needed_bytes: int
    free_bytes: int | None
    expected_seconds: float | None
    sessions: tuple[SessionGroup, ...]
    carried: tuple[str, ...]
    findings: tuple[Finding, ...]
    loss: Loss | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst finding's; with an alert nothing is restored."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])

    @property
    def age_seconds(self) -> float:
        """How much time would be lost."""
        return (self.planned_at - self.snapshot_at).total_seconds()

    @property
    def swaps(self) -> bool:
        """Whether the restored database takes the live one's place."""
        return self.mode is Mode.SWAP

    @property
    def live_is_there(self) -> bool:
        """Whether there is a live database at all."""
        return self.live_database is not None

    @property
    def replaced(self) -> str:
        """What the live database will be called, but for the moment in it; empty when nothing is replaced."""
        if not self.swaps or not self.live_is_there:
            return ""
        # The name's own pattern, so that a name that is cut to fit is shown as it will be.
        example = replaced_name(self.live, self.snapshot_at)
        return f"{example.rpartition('_')[0]}_<UTC>"

    @property
    def subject(self) -> Subject:
        """What somebody approves."""
        return Subject(
            procedure="restore",
            platform=self.platform,
            binds={
                "backup_id": self.backup_id,
                "database": self.database,
                "live": self.live,
                "name": self.name,
                "replaced": self.replaced,
                "mode": self.mode.value,
                "unproven": "allowed" if self.choice.allow_unproven else "refused",
                **(_bind_live(self.live_database) if self.swaps else {}),
            },
            typed=self.live,
        )

    @property
    def digest(self) -> str:
        """Of what is approved."""
        return self.subject.digest


def _bind_live(live: NamedDatabase | None) -> dict[str, str]:
    """What is replaced, by its number: the name alone would mean what another restore swapped in meanwhile, too."""
    if live is None:
        return {"replaces": "none"}
    return {"replaces": str(live.oid), "replaces_size": size_class(live.size_bytes)}


def size_class(size_bytes: int) -> str:
    """How large something is, so coarsely that it stays the same from one day to the next."""
    limit = _MEBIBYTE
    while limit < size_bytes:
        limit *= 4
    return f"up to {limit // _MEBIBYTE} MiB"


def plan_restore(
    platform: Platform,
    store: Store,
    choice: Choice,
    *,
    mode: Mode,
    name: str | None,
    now: datetime,
    measures_loss: bool = True,
) -> RestorePlan:
    """Plan a restore; nothing is changed.

    Args:
        platform: Whose set, and whose server.
        store: Its folder in the bucket.
        choice: Which set, and which of its databases.
        mode: Whether the restored database is to take the live one's place.
        name: Of the new database; a name made of the live one's and the set's moment by default.
        now: Aware.
        measures_loss: Look at the live database's tables too, for half a minute at most.

    Returns:
        The plan; one with an alert is not carried out.

    Raises:
        PreconditionFailed: There is no such set, or it holds no such database.
        ServiceUnavailable: The store or the server does not answer.
    """
    entry = choose_set(store, choice, platform.backup.proven_level)
    manifest = entry.manifest
    assert manifest is not None  # noqa: S101 - a set without one is never chosen
    database = choose_database(manifest, choice.database)
    live = live_name(platform, database)
    new = name or restored_name(live, database.snapshot_at)
    target = read_target(platform, manifest, database, live, new)
    needed_bytes = estimate_scratch_bytes(database.source.size_bytes)
    expected_seconds = expect_seconds(read_catalogue(store), database.source.size_bytes)
    loss, lost = _measure(platform, database, target) if measures_loss else (None, [])
    findings = [
        *judge_set(platform, store, entry, choice),
        *judge_age(platform, database, now),
        *lost,
        *judge_target(target, needed_bytes),
        *(judge_swap(platform, store, target, live, new) if mode is Mode.SWAP else judge_beside(database)),
    ]
    return RestorePlan(
        platform=platform.name,
        mode=mode,
        choice=replace(choice, which=entry.backup_id, before=None),
        backup_id=entry.backup_id,
        database=database.name,
        live=live,
        name=new,
        live_database=target.live.named if target.live else None,
        snapshot_at=database.snapshot_at,
        planned_at=now,
        level=entry.level,
        rows=database.rows,
        size_bytes=database.source.size_bytes,
        needed_bytes=needed_bytes,
        free_bytes=target.free_bytes,
        expected_seconds=expected_seconds,
        sessions=target.live.sessions if target.live else (),
        carried=tuple(_carried(target.live)) if target.live and mode is Mode.SWAP else (),
        findings=tuple(findings),
        loss=loss,
    )


def _measure(platform: Platform, database: Database, target: TargetFacts) -> tuple[Loss | None, list[Finding]]:
    """What would be lost; that it cannot be told is a finding, and stops nothing."""
    if target.live is None:
        return None, []
    try:
        settings = platform.database.of(target.live.named.name)
        with connect(settings, application_name="keepwell plan") as connection:
            loss = measure_loss(connection, database)
    except KeepwellError as error:
        message = f"It cannot be told: {error.message}"
        return None, [Finding(name="what would be lost", verdict=Verdict.UNKNOWN, message=message, hint=error.hint)]
    return loss, list(judge_loss(loss))


def live_name(platform: Platform, database: Database) -> str:
    """What the live counterpart of a set's database is called; the platform file knows the main one's."""
    return platform.database.name if database.is_main else database.name


def require_applicable(plan: RestorePlan, *, ignoring: Collection[str] = ()) -> None:
    """Go on only with a plan that nothing forbids.

    Args:
        plan: Made just now.
        ignoring: Names of findings that do not count.

    Raises:
        PreconditionFailed: Something does; nothing was changed.
    """
    wrong = [one for one in plan.findings if one.verdict is Verdict.ALERT and one.name not in ignoring]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise PreconditionFailed(f"{wrong[0].message}{more} Nothing was changed.", hint=wrong[0].hint)


def expect_seconds(entries: Sequence[BackupEntry], size_bytes: int) -> float | None:
    """How long a restore with its proof may take, by what the newest proofs took for their sets' sizes."""
    rates = [
        entry.proof.restore_seconds / entry.manifest.source_bytes
        for entry in sorted(entries, key=lambda entry: entry.backup_id, reverse=True)
        if entry.manifest is not None and entry.manifest.source_bytes
        if entry.proof is not None and entry.proof.restore_seconds is not None and not entry.proof.damaged
    ]
    return median(rates[:_RECENT]) * size_bytes if rates else None


def _carried(facts: LiveFacts) -> Iterator[str]:
    held = facts.properties
    yield f"owner {held.owner}"
    if held.grants is not None:
        yield f"{len(held.grants)} grants on the database"
    for one in held.settings:
        # By its name alone: applications keep keys in settings of their own.
        yield f"setting {one.name}" + (f" for {one.role}" if one.role else "")
    if held.connection_limit >= 0:
        yield f"connection limit {held.connection_limit}"
    if held.comment:
        yield "its comment"


def parse_moment(text: str) -> datetime:
    """A moment as an operator types it; without a zone it is UTC.

    Raises:
        PreconditionFailed: It is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PreconditionFailed(
            f"{text!r} is no time.", hint="Such as 2026-11-23T14:30 (UTC), or with a zone: 2026-11-23T15:30+01:00."
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
