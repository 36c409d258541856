"""What a drill answers of the guide: MONTHLY-6 each month, and QUARTERLY-4 by the full one."""

from keepwell.drill.documents import Drill, Kind
from keepwell.evidence import Evidence
from keepwell.verdict import Finding, Verdict

ITEMS: dict[Kind, tuple[str, ...]] = {"monthly": ("MONTHLY-6",), "full": ("MONTHLY-6", "QUARTERLY-4")}


def build_drill_evidence(drill: Drill) -> Evidence:
    """A drill as evidence of the guide's items."""
    return Evidence(
        items=ITEMS[drill.kind],
        platform=drill.platform,
        verdict=drill.verdict,
        summary=drill.summary,
        findings=tuple(_find(drill)),
        numbers={
            "drill_id": drill.drill_id,
            "seed": drill.seed,
            "rpo_seconds": drill.recovery.rpo_seconds,
            "worst_gap_seconds": drill.recovery.worst_gap_seconds,
            "rto_seconds": drill.recovery.rto_seconds,
            "rto_at_live_size_seconds": drill.recovery.rto_at_live_size_seconds,
            "database_bytes": drill.main.source_bytes if drill.main else None,
            "damages_tried": sum(1 for one in drill.damages if one.verdict is not Verdict.NOT_APPLICABLE),
            "damages_found": sum(1 for one in drill.damages if one.verdict is Verdict.OK),
        },
        started_at=drill.started_at,
        finished_at=drill.finished_at,
        flow_run=drill.flow_run,
    )


def describe_shortfall(drill: Drill) -> str:
    """What made a drill fail, in words; empty where nothing did."""
    return " ".join(
        f"{one.name}: {one.message}" for one in _find(drill) if one.verdict in (Verdict.ALERT, Verdict.UNKNOWN)
    )


def _find(drill: Drill) -> list[Finding]:
    """Every part of the drill as a finding."""
    found = [Finding(name=one.backup_id, verdict=one.verdict, message=one.message) for one in drill.rehearsals]
    if all(one.verdict is Verdict.NOT_APPLICABLE for one in drill.damages):
        message = "Nothing was damaged, so whether the checker sees damage is not known."
        found.append(Finding(name="checker", verdict=Verdict.UNKNOWN, message=message))
    found += [
        Finding(name=f"damage: {one.kind}", verdict=one.verdict, message=f"{one.what}: {one.message}")
        for one in drill.damages
    ]
    stages = [stage for rehearsal in drill.rehearsals for stage in rehearsal.stages]
    stages += [drill.communication] if drill.communication else []
    found += [Finding(name=one.name, verdict=one.verdict, message=one.message) for one in stages]
    found += [Finding(name=one.name, verdict=one.verdict, message=one.message) for one in drill.targets]
    return [*found, *drill.findings]
