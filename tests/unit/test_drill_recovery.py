from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_manifest, a_proof
from drills import a_damage, a_drill, a_recovery, a_rehearsal, some_phases
from memory_store import MemoryStore

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.verify import Climb
from keepwell.drill.choosing import choose_kind, choose_sets, new_seed
from keepwell.drill.documents import Drill, Recovery, Rehearsal, Stage, keep_drill, read_drill, read_history
from keepwell.drill.evidence import build_drill_evidence, describe_shortfall
from keepwell.drill.recovery import (
    describe_rehearsal,
    extrapolate_rto,
    judge_drill,
    judge_targets,
    measure_recovery,
    summarize,
)
from keepwell.errors import PreconditionFailed
from keepwell.settings import DrillSettings, RetentionSettings
from keepwell.verdict import Verdict

NOW = datetime(2026, 11, 1, 5, 0, tzinfo=UTC)


def entry(hours: float, *, proven: bool = True) -> BackupEntry:
    at = NOW - timedelta(hours=hours)
    proof = a_proof(at) if proven else None
    return BackupEntry(a_manifest(at).backup_id, a_manifest(at), "", proof, proof)


def recovery_of(*hours: float, **retention: int) -> tuple[float | None, float | None]:
    measured = measure_recovery(
        [entry(each) for each in hours],
        [a_rehearsal(snapshot_at=NOW - timedelta(hours=min(hours)))],
        proven_level="equal",
        settings=DrillSettings(),
        retention=RetentionSettings(**retention),
        live_bytes=None,
        now=NOW,
    )
    assert measured.rpo_seconds is not None
    assert measured.worst_gap_seconds is not None
    # A set is proven two minutes after its snapshot.
    return measured.rpo_seconds / 3600, round(measured.worst_gap_seconds / 3600 - 1 / 30, 6)


def test_the_newest_proven_set_and_another_by_the_seed() -> None:
    entries = [entry(1, proven=False), *(entry(hours) for hours in range(2, 40))]
    chosen = {choose_sets(entries, proven_level="equal", seed=seed) for seed in range(60)}
    assert {one.newest for one in chosen} == {entries[1].backup_id}
    others = {one.by_lot for one in chosen}
    assert len(others) > 20
    assert others <= {one.backup_id for one in entries[2:]}
    assert choose_sets(entries, proven_level="equal", seed=5) == choose_sets(entries, proven_level="equal", seed=5)


def test_one_proven_set_has_no_other_and_none_is_refused() -> None:
    assert choose_sets([entry(1)], proven_level="equal", seed=1).by_lot is None
    with pytest.raises(PreconditionFailed, match="no proven backup set"):
        choose_sets([entry(1, proven=False)], proven_level="equal", seed=1)


@pytest.mark.parametrize(
    ("days", "kind", "verdict", "due"),
    [
        (30, "full", Verdict.OK, "monthly"),
        (30, "full", Verdict.WARN, "monthly"),
        # One that failed is made up for, and one that restored the sets alone is none.
        (30, "full", Verdict.ALERT, "full"),
        (30, "monthly", Verdict.OK, "full"),
        (91, "full", Verdict.OK, "full"),
    ],
)
def test_once_a_quarter_a_drill_is_a_full_one(days: int, kind: str, verdict: Verdict, due: str) -> None:
    assert choose_kind([a_drill(NOW - timedelta(days=days), kind=kind, verdict=verdict)], NOW) == due
    assert choose_kind([], NOW) == "full"


def test_seeds_fit_into_json() -> None:
    assert all(0 <= new_seed() < 2**32 for _ in range(50))


def test_rpo_is_since_the_newest_and_the_worst_gap_between_neighbours() -> None:
    assert recovery_of(3, 27, 51) == (3, 24)
    assert recovery_of(3, 27, 27 + 70) == (3, 70)


def test_the_gap_up_to_now_counts() -> None:
    assert recovery_of(40, 64) == (40, round(40 - 1 / 30, 6))


def test_the_gap_in_which_the_period_begins_counts_and_what_was_before_does_not() -> None:
    assert recovery_of(3, 27, 24 * 40, 24 * 90) == (3, 24 * 40 - 27)


def test_what_an_expiry_thinned_out_is_no_gap() -> None:
    assert recovery_of(3, 27, 51, 24 * 9, 24 * 30, keep_days=2, keep_monthly=3) == (3, 24)


def test_sets_that_are_not_proven_close_no_gap() -> None:
    measured = measure_recovery(
        [entry(3), entry(27, proven=False), entry(51)],
        [a_rehearsal()],
        proven_level="equal",
        settings=DrillSettings(),
        retention=RetentionSettings(),
        live_bytes=None,
        now=NOW,
    )
    assert measured.worst_gap_seconds == 48 * 3600 + 120
    assert measured.worst_gap_to == NOW - timedelta(hours=3) + timedelta(minutes=2)


def measured_with(entries: list[BackupEntry], *rehearsals: Rehearsal) -> Recovery:
    return measure_recovery(
        entries,
        rehearsals,
        proven_level="equal",
        settings=DrillSettings(),
        retention=RetentionSettings(),
        live_bytes=None,
        now=NOW,
    )


def test_a_set_counts_from_when_it_was_first_proven() -> None:
    first = a_proof(NOW - timedelta(hours=3))
    late = first.model_copy(update={"finished_at": NOW - timedelta(hours=1)})
    again = first.model_copy(update={"finished_at": NOW})
    newest = replace(entry(3), proof=again, last_attempt=again, proofs=(late, again))
    measured = measured_with([newest, entry(27)], a_rehearsal(snapshot_at=NOW - timedelta(hours=3)))
    assert (measured.worst_gap_seconds, measured.worst_gap_to) == (26 * 3600, NOW - timedelta(hours=1))


def test_a_set_that_cannot_be_restored_has_no_rpo() -> None:
    newest, older = entry(3), entry(27)
    dead = a_rehearsal(backup_id=newest.backup_id, snapshot_at=NOW - timedelta(hours=3), rto_seconds=None)
    by_lot = a_rehearsal(backup_id=older.backup_id, chosen="by lot", snapshot_at=NOW - timedelta(hours=27))
    measured = measured_with([newest, older], dead, by_lot)
    assert (measured.rpo_seconds, measured.worst_gap_seconds, measured.rto_seconds) == (27 * 3600, 27 * 3600, None)
    assert measured_with([newest], dead).rpo_seconds is None


def test_phases_add_up_to_the_rto() -> None:
    climb = Climb(a_manifest(), a_proof(), index_seconds=0.2)
    rehearsal = describe_rehearsal(climb, "newest", 1.5, "equal")
    assert rehearsal.phases is not None
    assert rehearsal.phases.model_dump() == pytest.approx(
        {"find": 1.5, "fetch": 1.0, "restore": 0.3, "indexes": 0.2, "prove": 1.5, "smoke": 0.5}
    )
    assert rehearsal.rto_seconds == pytest.approx(5.0)
    assert rehearsal.verdict is Verdict.OK


def test_where_indexes_are_not_told_apart_the_restore_holds_them() -> None:
    phases = describe_rehearsal(Climb(a_manifest(), a_proof(), None), "newest", 0, "equal").phases
    assert phases is not None
    assert (phases.restore, phases.indexes) == (0.5, None)


@pytest.mark.parametrize(
    ("reached", "stopped_by", "verdict"),
    [
        ("complete", Verdict.ALERT, Verdict.ALERT),
        ("readable", Verdict.UNKNOWN, Verdict.UNKNOWN),
        # The data is fine, and the application would be dead all the same.
        ("sound", Verdict.ALERT, Verdict.ALERT),
    ],
)
def test_what_falls_short_has_no_rto(reached: str, stopped_by: Verdict, verdict: Verdict) -> None:
    proof = a_proof(reached=reached, stopped_by=stopped_by)  # type: ignore[arg-type]
    rehearsal = describe_rehearsal(Climb(a_manifest(), proof, 0), "newest", 0, "equal")
    assert (rehearsal.rto_seconds, rehearsal.bytes_per_second is None) == (None, reached != "sound")
    assert rehearsal.verdict is verdict


def test_without_smoke_queries_the_rto_ends_with_the_proof() -> None:
    proof = a_proof(reached="sound", stopped_by=Verdict.NOT_APPLICABLE)
    rehearsal = describe_rehearsal(Climb(a_manifest(), proof, 0), "newest", 0, "equal")
    assert rehearsal.rto_seconds is not None
    assert rehearsal.verdict is Verdict.OK


def test_what_grows_with_the_data_is_scaled_and_the_rest_is_not() -> None:
    rehearsal = a_rehearsal(phases=some_phases(), source_bytes=1000)
    assert extrapolate_rto(rehearsal, 3000) == pytest.approx(2 + 3 * 22)
    assert extrapolate_rto(rehearsal, None) is None
    assert extrapolate_rto(a_rehearsal(rto_seconds=None), 3000) is None


def test_each_target_has_a_verdict_and_what_was_not_measured_is_unknown() -> None:
    recovery = a_recovery(worst_gap_seconds=30 * 3600, rto_at_live_size_seconds=None)
    targets = {target.name: target for target in judge_targets(recovery, DrillSettings(rpo_hours=26, rto_minutes=1))}
    assert {name: target.verdict for name, target in targets.items()} == {
        "RPO now": Verdict.OK,
        "RPO at the worst moment": Verdict.ALERT,
        "RTO measured": Verdict.OK,
        "RTO at the live size": Verdict.UNKNOWN,
    }
    assert targets["RPO at the worst moment"].message == "30.0 h, beyond the target of 26.0 h."


def judged(**changes: object) -> Verdict:
    drill = a_drill(**changes)
    return judge_drill(drill.rehearsals, drill.damages, drill.targets, drill.findings)


def test_a_drill_is_as_good_as_its_worst_part() -> None:
    assert judged() is Verdict.OK
    assert judged(damages=(a_damage(), a_damage(detected_at=None, verdict=Verdict.ALERT))) is Verdict.ALERT
    assert judged(rehearsals=(a_rehearsal(verdict=Verdict.ALERT),)) is Verdict.ALERT
    assert judged(recovery=a_recovery(rpo_seconds=1e6)) is Verdict.ALERT


def test_a_drill_that_damaged_nothing_is_not_fine() -> None:
    assert judged(damages=()) is Verdict.UNKNOWN
    assert judged(damages=(a_damage(detected_at=None, verdict=Verdict.NOT_APPLICABLE),)) is Verdict.UNKNOWN


def test_what_says_nothing_of_the_checker_is_named_among_the_evidence() -> None:
    drill = a_drill(damages=(a_damage(detected_at=None, verdict=Verdict.NOT_APPLICABLE),), verdict=Verdict.UNKNOWN)
    assert "checker" in {finding.name for finding in build_drill_evidence(drill).findings}
    assert "checker: " in describe_shortfall(drill)


def a_stage(name: str = "application", verdict: Verdict = Verdict.OK) -> Stage:
    return Stage(name=name, verdict=verdict, message="It was so.", seconds=6)


def test_the_application_s_answer_has_a_target_where_it_was_asked_for_one() -> None:
    whole = a_rehearsal(stages=(a_stage("redis"), a_stage()))
    targets = judge_targets(a_recovery(), DrillSettings(), whole=whole)
    assert (targets[-1].name, targets[-1].measured_seconds) == ("RTO with the application", 24 + 12)
    dead = a_rehearsal(stages=(a_stage(verdict=Verdict.ALERT),))
    assert judge_targets(a_recovery(), DrillSettings(), whole=dead)[-1].verdict is Verdict.UNKNOWN
    unnamed = a_rehearsal(stages=(a_stage(verdict=Verdict.WARN),))
    assert judge_targets(a_recovery(), DrillSettings(), whole=unnamed)[-1].verdict is Verdict.WARN
    # A full drill that came to no application at all, and one that is none.
    assert judge_targets(a_recovery(), DrillSettings(), whole=a_rehearsal())[-1].verdict is Verdict.UNKNOWN
    assert len(judge_targets(a_recovery(), DrillSettings())) == 4


def test_an_application_that_is_dead_and_people_who_hear_nothing_fail_a_drill() -> None:
    drill = a_drill()
    dead = (a_rehearsal(stages=(a_stage(verdict=Verdict.ALERT),)),)
    assert judge_drill(dead, drill.damages, drill.targets, ()) is Verdict.ALERT
    silent = a_stage("communication", Verdict.ALERT)
    assert judge_drill(drill.rehearsals, drill.damages, drill.targets, (), communication=silent) is Verdict.ALERT


def test_a_drill_in_one_sentence() -> None:
    drill = a_drill(damages=(a_damage(), a_damage(verdict=Verdict.ALERT)))
    assert summarize(drill.rehearsals, drill.damages, drill.recovery, drill.targets) == (
        "2 of 2 sets restored and proven; RPO 3.0 h, RTO 24.0 s; 4 of 4 targets met; 1 of 2 injected damages detected."
    )


def test_a_drill_is_kept_and_read_back_with_those_before_it() -> None:
    store = MemoryStore()
    drills = [a_drill(NOW + timedelta(days=day)) for day in (2, 0, 1)]
    for drill in drills:
        assert keep_drill(store, drill) == drill  # type: ignore[arg-type]
    store.put_bytes("drills/20261105T050000Z-0d0d0d.json", b"{")
    store.put_bytes("drills/20261101T050000Z-0d0d0d.html", b"a report")
    history = read_history(store)  # type: ignore[arg-type]
    assert [drill.started_at.day for drill in history.drills] == [1, 2, 3]
    assert history.unreadable == ("drills/20261105T050000Z-0d0d0d.json",)
    assert len(read_history(store, newest=2).drills) == 1  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed, match="no drill"):
        read_drill(store, "20200101T000000Z-000000")  # type: ignore[arg-type]
    assert Drill.from_json(drills[0].to_json()) == drills[0]
