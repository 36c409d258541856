"""RPO and RTO out of what was measured, against the targets of the platform file. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.proof import Proof
from keepwell.backup.verify import Climb
from keepwell.drill.documents import APPLICATION, Chosen, DamageOutcome, Phases, Recovery, Rehearsal, Stage, Target
from keepwell.quantities import describe_seconds
from keepwell.settings import DrillSettings, ProofLevel, RetentionSettings
from keepwell.verdict import Finding, Verdict, worst

_HOUR_SECONDS = 3600
_MINUTE_SECONDS = 60


def measure_phases(climb: Climb, find_seconds: float) -> Phases:
    """Put the time of each level of a proof down to a phase of the restore.

    Args:
        climb: How the set was proven; a level that was not tried took no time.
        find_seconds: What it took to know which set.
    """
    seconds = {outcome.level: outcome.seconds for outcome in climb.proof.levels}

    def took(*levels: ProofLevel) -> float:
        return sum(seconds.get(level, 0) for level in levels)

    restored, indexes = took("restored"), climb.index_seconds
    return Phases(
        find=find_seconds,
        fetch=took("uploaded", "readable"),
        restore=max(restored - (indexes or 0), 0),
        indexes=indexes,
        prove=took("complete", "equal", "sound"),
        smoke=took("serving"),
    )


def describe_rehearsal(climb: Climb, chosen: Chosen, find_seconds: float, wanted: ProofLevel) -> Rehearsal:
    """What one restore showed.

    Args:
        climb: How the set was proven.
        chosen: Why this set.
        find_seconds: What it took to know which set.
        wanted: From which level a set counts as proven.
    """
    manifest, proof = climb.manifest, climb.proof
    phases = measure_phases(climb, find_seconds)
    moved_seconds = phases.fetch + phases.restore + (phases.indexes or 0)
    proven = proof.proves(wanted)
    return Rehearsal(
        backup_id=manifest.backup_id,
        chosen=chosen,
        snapshot_at=manifest.snapshot_at,
        reached=proof.reached,
        verdict=judge_proof(proof, wanted),
        message=_tell_proof(proof, wanted),
        phases=phases,
        rto_seconds=phases.total if proven and _answers(proof) else None,
        source_bytes=manifest.source_bytes,
        content_bytes=manifest.content_bytes,
        stored_bytes=manifest.stored_bytes,
        rows=manifest.rows,
        bytes_per_second=manifest.content_bytes / moved_seconds if proven and moved_seconds > 0 else None,
        server=proof.server,
        isolation=proof.isolation,
        findings=proof.findings,
    )


def failed_rehearsal(backup_id: str, chosen: Chosen, finding: Finding) -> Rehearsal:
    """What is told of a set that could not be restored at all."""
    return Rehearsal(
        backup_id=backup_id,
        chosen=chosen,
        snapshot_at=None,
        reached=None,
        verdict=finding.verdict,
        message=finding.message,
        phases=None,
        rto_seconds=None,
        source_bytes=None,
        content_bytes=None,
        stored_bytes=None,
        rows=None,
        bytes_per_second=None,
        findings=(finding,),
    )


def judge_proof(proof: Proof, wanted: ProofLevel) -> Verdict:
    """How a drill sees a proof: a restored database that does not answer its application is no success either."""
    if proof.proves(wanted) and _answers(proof):
        return Verdict.WARN if proof.verdict is Verdict.WARN else Verdict.OK
    # A proof that ends early without an alert was not able to tell.
    return worst([Verdict.UNKNOWN, proof.verdict])


def _answers(proof: Proof) -> bool:
    """Whether the last level was passed, or is asked of nobody."""
    last = proof.levels[-1]
    return last.level == "serving" and (last.passed or last.verdict is Verdict.NOT_APPLICABLE)


def _tell_proof(proof: Proof, wanted: ProofLevel) -> str:
    last = proof.levels[-1]
    if proof.proves(wanted) and _answers(proof):
        asked = "its smoke queries are answered" if last.passed else "the platform file asks no smoke queries"
        return f"Restored and {proof.reached}; {asked}."
    return f"It reached {proof.reached or 'no level'}; {last.level}: {last.summary}"


def measure_recovery(
    entries: Sequence[BackupEntry],
    rehearsals: Sequence[Rehearsal],
    *,
    proven_level: ProofLevel,
    settings: DrillSettings,
    retention: RetentionSettings,
    live_bytes: int | None,
    now: datetime,
) -> Recovery:
    """What a disaster would cost now, and would have cost at the worst moment of the period.

    Just before a set is proven, a disaster costs everything since the snapshot of the one before. That is looked for as
    far back as every proven set is still there: an expiry thins out what is older.

    Args:
        entries: The catalogue, in any order.
        rehearsals: What the drill restored, the newest proven set among it. What did not come back brings nothing
            back in a disaster either, and is left out.
        proven_level: From which level a set counts as proven.
        settings: The period.
        retention: How long every proven set stays.
        live_bytes: Size of the live databases; None where they were not to be asked.
        now: The moment of the disaster.
    """
    period_days = min(settings.period_days, retention.keep_days or settings.period_days)
    since = now - timedelta(days=period_days)
    main = next(one for one in rehearsals if one.chosen == "newest")
    fallen_short = {one.backup_id for one in rehearsals if one.rto_seconds is None}
    dated = sorted(
        (entry.snapshot_at, proven_at)
        for entry in entries
        if entry.backup_id not in fallen_short
        and entry.snapshot_at is not None
        and (proven_at := entry.proven_at(proven_level)) is not None
    )
    # The gap that the period begins in belongs to it.
    older = [one for one in dated if one[0] < since]
    looked_at = [*older[-1:], *(one for one in dated if one[0] >= since)]
    worst_gap = max(_gaps(looked_at, now), default=None)
    brought_back = [one.snapshot_at for one in rehearsals if one.rto_seconds is not None and one.snapshot_at]
    return Recovery(
        rpo_seconds=(now - max(brought_back)).total_seconds() if brought_back else None,
        worst_gap_seconds=worst_gap[0].total_seconds() if worst_gap else None,
        worst_gap_from=worst_gap[1] if worst_gap else None,
        worst_gap_to=worst_gap[2] if worst_gap else None,
        gap_since=max(since, looked_at[0][0]) if looked_at else since,
        proven_sets=len(looked_at),
        rto_seconds=main.rto_seconds,
        live_bytes=live_bytes,
        rto_at_live_size_seconds=extrapolate_rto(main, live_bytes),
    )


def _gaps(dated: Sequence[tuple[datetime, datetime]], now: datetime) -> Iterator[tuple[timedelta, datetime, datetime]]:
    """What was at stake just before each set counted, and now: how long, from which snapshot, until when."""
    newest: datetime | None = None
    for counts_at, snapshot_at in sorted((proven_at, snapshot_at) for snapshot_at, proven_at in dated):
        if newest is not None:
            yield counts_at - newest, newest, counts_at
        newest = max(newest or snapshot_at, snapshot_at)
    if newest is not None:
        yield now - newest, newest, now


def extrapolate_rto(main: Rehearsal, live_bytes: int | None) -> float | None:
    """The RTO at another size: what grows with the data is scaled, the rest stays; None where something is not known.

    Args:
        main: What was measured.
        live_bytes: The other size.
    """
    if main.rto_seconds is None or main.phases is None or not main.source_bytes or live_bytes is None:
        return None
    fixed = main.phases.total - main.phases.growing
    return fixed + main.phases.growing * live_bytes / main.source_bytes


def judge_targets(recovery: Recovery, settings: DrillSettings, *, whole: Rehearsal | None = None) -> tuple[Target, ...]:
    """Each target of the platform file with what was measured; what was not measured is unknown, never met.

    Args:
        recovery: What was measured.
        settings: The targets.
        whole: The restore of a full drill, whose application was to answer too; None for any other drill.
    """
    rpo, rto = settings.rpo_hours * _HOUR_SECONDS, settings.rto_minutes * _MINUTE_SECONDS
    measured: tuple[tuple[str, float, float | None], ...] = (
        ("RPO now", rpo, recovery.rpo_seconds),
        ("RPO at the worst moment", rpo, recovery.worst_gap_seconds),
        ("RTO measured", rto, recovery.rto_seconds),
        ("RTO at the live size", rto, recovery.rto_at_live_size_seconds),
    )
    targets = tuple(_judge_target(name, limit, seconds) for name, limit, seconds in measured)
    return targets if whole is None else (*targets, _judge_whole(whole, rto))


def _judge_whole(whole: Rehearsal, rto: float) -> Target:
    """A full drill without the application's answer is never fine; that none is named is known, and a warning."""
    target = _judge_target("RTO with the application", rto, whole.whole_seconds)
    unnamed = any(one.name == APPLICATION and one.verdict is Verdict.WARN for one in whole.stages)
    if target.measured_seconds is not None or not unnamed:
        return target
    message = f"Not measured, since no application is named; the target is {describe_seconds(rto)}."
    return target.model_copy(update={"verdict": Verdict.WARN, "message": message})


def _judge_target(name: str, limit: float, measured: float | None) -> Target:
    if measured is None:
        verdict, told = Verdict.UNKNOWN, "Not measured, against the target"
    else:
        verdict = Verdict.OK if measured <= limit else Verdict.ALERT
        told = f"{describe_seconds(measured)}, {'within' if verdict is Verdict.OK else 'beyond'} the target"
    return Target(
        name=name,
        limit_seconds=limit,
        measured_seconds=measured,
        verdict=verdict,
        message=f"{told} of {describe_seconds(limit)}.",
    )


def judge_drill(
    rehearsals: Sequence[Rehearsal],
    damages: Sequence[DamageOutcome],
    targets: Sequence[Target],
    findings: Sequence[Finding],
    *,
    communication: Stage | None = None,
) -> Verdict:
    """The worst of everything. A drill that damaged nothing shows nothing of the checker, and is not fine."""
    verdicts = [rehearsal.verdict for rehearsal in rehearsals] + [outcome.verdict for outcome in damages]
    verdicts += [stage.verdict for rehearsal in rehearsals for stage in rehearsal.stages]
    verdicts += [communication.verdict] if communication else []
    verdicts += [target.verdict for target in targets] + [finding.verdict for finding in findings]
    tried = any(outcome.verdict is not Verdict.NOT_APPLICABLE for outcome in damages)
    return worst([Verdict.OK if tried else Verdict.UNKNOWN, *verdicts])


def summarize(
    rehearsals: Sequence[Rehearsal], damages: Sequence[DamageOutcome], recovery: Recovery, targets: Sequence[Target]
) -> str:
    """A drill in one sentence."""
    return "; ".join(_tell(rehearsals, damages, recovery, targets)) + "."


def _tell(
    rehearsals: Sequence[Rehearsal], damages: Sequence[DamageOutcome], recovery: Recovery, targets: Sequence[Target]
) -> Iterator[str]:
    good = sum(1 for one in rehearsals if one.verdict in (Verdict.OK, Verdict.WARN))
    yield f"{good} of {len(rehearsals)} sets restored and proven"
    yield f"RPO {_known(recovery.rpo_seconds)}, RTO {_known(recovery.rto_seconds)}"
    met = sum(1 for target in targets if target.verdict is Verdict.OK)
    yield f"{met} of {len(targets)} targets met"
    tried = [outcome for outcome in damages if outcome.verdict is not Verdict.NOT_APPLICABLE]
    found = sum(1 for outcome in tried if outcome.verdict is Verdict.OK)
    yield f"{found} of {len(tried)} injected damages detected"


def _known(seconds: float | None) -> str:
    return "not known" if seconds is None else describe_seconds(seconds)
