"""Drills as they lie in a bucket, for tests that need what they say."""

from datetime import UTC, datetime, timedelta
from typing import Any

from keepwell.drill.documents import DamageOutcome, Drill, Phases, Recovery, Rehearsal
from keepwell.drill.recovery import judge_targets
from keepwell.settings import DrillSettings
from keepwell.verdict import Verdict

STARTED = datetime(2026, 11, 1, 5, 0, tzinfo=UTC)


def some_phases(**changes: float | None) -> Phases:
    return Phases(find=1, fetch=2, restore=10, indexes=4, prove=6, smoke=1).model_copy(update=changes)


def a_rehearsal(**changes: Any) -> Rehearsal:
    phases = some_phases()
    rehearsal = Rehearsal(
        backup_id="20261101T020000Z-abcdef",
        chosen="newest",
        snapshot_at=STARTED - timedelta(hours=3),
        reached="serving",
        verdict=Verdict.OK,
        message="Restored and serving; its smoke queries are answered.",
        phases=phases,
        rto_seconds=phases.total,
        source_bytes=1_000_000,
        content_bytes=800_000,
        stored_bytes=200_000,
        rows=1000,
        bytes_per_second=50_000,
        server="PostgreSQL 17.10",
        isolation="another user",
    )
    return rehearsal.model_copy(update=changes)


def a_damage(**changes: Any) -> DamageOutcome:
    outcome = DamageOutcome(
        kind="bit flipped",
        what="bit 7 of database/1.dat.zst",
        expected_at="readable",
        detected_at="readable",
        verdict=Verdict.OK,
        message="database/1.dat.zst reads back with another SHA-256 than was stored.",
        seconds=1.0,
    )
    return outcome.model_copy(update=changes)


def a_recovery(**changes: Any) -> Recovery:
    recovery = Recovery(
        rpo_seconds=3 * 3600,
        worst_gap_seconds=25 * 3600,
        worst_gap_from=STARTED - timedelta(hours=28),
        worst_gap_to=STARTED - timedelta(hours=3),
        gap_since=STARTED - timedelta(days=30),
        proven_sets=30,
        rto_seconds=24,
        live_bytes=1_100_000,
        rto_at_live_size_seconds=26.2,
    )
    return recovery.model_copy(update=changes)


def a_drill(at: datetime = STARTED, **changes: Any) -> Drill:
    recovery = changes.pop("recovery", a_recovery())
    drill = Drill(
        drill_id=f"{at:%Y%m%dT%H%M%SZ}-0d0d0d",
        platform="esn",
        kind="monthly",
        seed=7,
        started_at=at,
        finished_at=at + timedelta(minutes=2),
        verdict=Verdict.OK,
        summary="2 of 2 sets restored and proven; RPO 3.0 h, RTO 24.0 s; 4 of 4 targets met; 1 of 1 injected damages "
        "detected.",
        rehearsals=(a_rehearsal(), a_rehearsal(backup_id="20261020T020000Z-abcdef", chosen="by lot")),
        damages=(a_damage(),),
        recovery=recovery,
        targets=judge_targets(recovery, DrillSettings()),
    )
    return drill.model_copy(update=changes)
