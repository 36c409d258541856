"""One drill: from the bucket and the key alone, into a clean folder and onto a server of its own.

The platform's own server is not needed, and could not be reached by what restores: its address is taken away first.
Only how large the live databases are is asked of it, at the end, and a drill goes on without the answer.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.verify import climb_ladder, keep_proof
from keepwell.drill.checker import try_damages
from keepwell.drill.choosing import ChosenSets, choose_kind, choose_sets
from keepwell.drill.documents import (
    Chosen,
    DamageOutcome,
    Drill,
    Kind,
    Rehearsal,
    Stage,
    keep_drill,
    new_drill_id,
    read_first_moment,
    read_history,
    require_writing,
)
from keepwell.drill.offline_key import judge_offline_key, read_trials
from keepwell.drill.recovery import (
    describe_rehearsal,
    failed_rehearsal,
    judge_drill,
    judge_targets,
    measure_recovery,
    summarize,
)
from keepwell.drill.whole_platform import WholePlatform, rehearse_telling
from keepwell.errors import KeepwellError, TransientError, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.connection import connect, translated
from keepwell.progress import Progress
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

# A folder for sockets that nobody has.
_NOWHERE = "/nonexistent/no-live-server"


@dataclass(frozen=True)
class DrillPlan:
    """A drill that is about to begin.

    Attributes:
        drill_id: Its id.
        kind: What it covers.
        seed: Chose the set by lot, and will choose the damage.
        sets: Which sets are restored.
        find_seconds: How long it took to know them.
        started_at: The moment of the imagined disaster.
    """

    drill_id: str
    kind: Kind
    seed: int
    sets: ChosenSets
    find_seconds: float
    started_at: datetime

    @property
    def chosen(self) -> Mapping[Chosen, str]:
        """What to restore, in order."""
        found: dict[Chosen, str] = {"newest": self.sets.newest}
        return found | ({"by lot": self.sets.by_lot} if self.sets.by_lot else {})


def begin_drill(platform: Platform, *, kind: Kind | None, seed: int) -> DrillPlan:
    """Find out from the bucket what there is to restore, as after a disaster.

    Args:
        platform: Whose bucket.
        kind: What the drill covers; None makes it a full one when a quarter has passed without one that was good.
        seed: Chooses the set by lot, and the damage.

    Raises:
        PreconditionFailed: There is no proven set, or the drill could not be recorded.
        KeepwellError: The bucket cannot be read.
    """
    started_at, started = datetime.now(UTC), time.monotonic()
    store = open_store(platform)
    require_writing(store)
    entries = read_catalogue(store)
    sets = choose_sets(entries, proven_level=platform.backup.proven_level, seed=seed)
    find_seconds = time.monotonic() - started
    kind = kind or choose_kind(read_history(store).drills, started_at)
    return DrillPlan(new_drill_id(started_at), kind, seed, sets, find_seconds, started_at)


def rehearse(platform: Platform, store: Store, plan: DrillPlan, chosen: Chosen, progress: Progress) -> Rehearsal:
    """Restore one set from nothing, prove it, ask its application's questions, and say how long each took.

    The proof counts as any other, and is kept beside its set where this machine may write.

    Args:
        platform: Whose set; only its bucket and keys are used.
        store: Its folder in the bucket.
        plan: Of the drill.
        chosen: Which of its sets.
        progress: Told how far it is.

    Returns:
        What it showed; a set that is damaged or cannot be restored is told, not raised.

    Raises:
        TransientError: The store or the scratch server went away.
    """
    backup_id = plan.chosen[chosen]
    stages: list[Stage] = []
    gone = without_live_server(platform)
    whole = WholePlatform(gone, store, progress, stages).restore if _is_whole(plan, chosen) else None
    try:
        climb = climb_ladder(gone, store, backup_id, progress, while_up=whole)
        keep_proof(store, climb.proof)
    except TransientError:
        raise
    except KeepwellError as error:
        verdict = Verdict.ALERT if isinstance(error, VerificationFailed) else Verdict.UNKNOWN
        finding = Finding(name=backup_id, verdict=verdict, message=error.message, hint=error.hint)
        return failed_rehearsal(backup_id, chosen, finding)
    rehearsal = describe_rehearsal(climb, chosen, plan.find_seconds, platform.backup.proven_level)
    return rehearsal.model_copy(update={"stages": tuple(stages)})


def _is_whole(plan: DrillPlan, chosen: Chosen) -> bool:
    """Whether the rest of the platform is restored too: once, from the set that a disaster would be answered with."""
    return plan.kind == "full" and chosen == "newest"


def rehearse_communication(platform: Platform, plan: DrillPlan) -> Stage | None:
    """Tell every channel that this is a drill; by full drills alone."""
    return rehearse_telling(platform, plan.drill_id) if plan.kind == "full" else None


def check_checker(
    platform: Platform, store: Store, plan: DrillPlan, rehearsal: Rehearsal, progress: Progress
) -> tuple[DamageOutcome, ...]:
    """Damage copies of the set that was just restored; nothing is damaged of a set that is not proven.

    Raises:
        KeepwellError: The store or the scratch server went away.
    """
    if rehearsal.rto_seconds is None:
        return ()
    return try_damages(without_live_server(platform), store, rehearsal.backup_id, plan.seed, progress)


def conclude_drill(
    platform: Platform,
    store: Store,
    plan: DrillPlan,
    rehearsals: tuple[Rehearsal, ...],
    damages: tuple[DamageOutcome, ...],
    *,
    communication: Stage | None = None,
    flow_run: str | None = None,
) -> Drill:
    """Judge what was measured, and keep it in the bucket.

    Raises:
        KeepwellError: The bucket cannot be read or written.
    """
    main = next(one for one in rehearsals if one.chosen == "newest")
    live_bytes, asked = read_live_size(platform)
    recovery = measure_recovery(
        read_catalogue(store),
        rehearsals,
        proven_level=platform.backup.proven_level,
        settings=platform.drill,
        retention=platform.retention,
        live_bytes=live_bytes,
        now=plan.started_at,
    )
    targets = judge_targets(recovery, platform.drill, whole=main if plan.kind == "full" else None)
    findings = (*asked, look_at_offline_key(platform, store, plan.started_at))
    drill = Drill(
        drill_id=plan.drill_id,
        platform=platform.name,
        kind=plan.kind,
        seed=plan.seed,
        started_at=plan.started_at,
        finished_at=datetime.now(UTC),
        verdict=judge_drill(rehearsals, damages, targets, findings, communication=communication),
        summary=summarize(rehearsals, damages, recovery, targets),
        rehearsals=rehearsals,
        damages=damages,
        recovery=recovery,
        targets=targets,
        communication=communication,
        findings=findings,
        flow_run=flow_run,
    )
    return keep_drill(store, drill)


def look_at_offline_key(platform: Platform, store: Store, now: datetime) -> Finding:
    """How it stands with the key that lies elsewhere; its first quarter begins with the first drill.

    Raises:
        KeepwellError: The store cannot be read.
    """
    return judge_offline_key(
        read_trials(store),
        sealed=platform.sealing.mode == "age",
        recipients=tuple(map(str, store.seal.recipients)),
        since=read_first_moment(store) or now,
        now=now,
    )


def without_live_server(platform: Platform) -> Platform:
    """The platform as after a disaster: its server and its cache are nowhere, and nobody knows their passwords."""
    gone = {"host": _NOWHERE, "reach": "host", "password": None, "restoring_password": None}
    database = platform.database.model_copy(update=gone)
    redis = platform.redis and platform.redis.model_copy(update={"host": "", "reach": "host", "password": None})
    return platform.model_copy(update={"database": database, "redis": redis})


def read_live_size(platform: Platform) -> tuple[int | None, tuple[Finding, ...]]:
    """Bytes of the live databases that sets hold; None with the reason where they are not to be asked."""
    try:
        with connect(platform.database) as connection, translated("asking how large the live databases are"):
            row = connection.execute(
                "SELECT sum(pg_catalog.pg_database_size(oid))::bigint"
                " FROM pg_catalog.pg_database WHERE datname = ANY (%s)",
                (list(platform.database.names),),
            ).fetchone()
    except KeepwellError as error:
        message = f"How large the live databases are is not known, and so not the RTO at their size: {error.message}"
        return None, (Finding(name="live size", verdict=Verdict.UNKNOWN, message=message, hint=error.hint),)
    return (row[0] if row else None), ()
