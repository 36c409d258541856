from datetime import timedelta
from typing import Any

import pytest
from drills import a_damage, a_rehearsal
from engine_double import Engine
from prefect.client.schemas.objects import State

from flows.restore_drill import restore_drill
from keepwell.drill.documents import Stage, read_history
from keepwell.drill.rehearsing import DrillPlan
from keepwell.errors import ServiceUnavailable
from keepwell.verdict import Finding, Verdict
from tasks import drill_steps


class DrillEngine:
    """What the drill's steps call, recorded."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rehearsals: dict[str, dict[str, Any]] = {}
        self.damages = (a_damage(),)
        self.fails: list[Exception] = []

    def rehearse(self, platform: object, store: object, plan: DrillPlan, chosen: str, progress: object) -> Any:
        self.calls.append(f"restore {chosen}")
        if self.fails:
            raise self.fails.pop()
        stage = Stage(name="application", verdict=Verdict.OK, message="Answered.", seconds=1)
        return a_rehearsal(
            stages=(stage,) if plan.kind == "full" else (),
            backup_id=plan.sets.newest,
            chosen=chosen,
            snapshot_at=plan.started_at,
            **self.rehearsals.get(chosen, {}),
        )

    def check(self, platform: object, store: object, plan: DrillPlan, rehearsal: Any, progress: object) -> Any:
        self.calls.append(f"damage {rehearsal.chosen}")
        return self.damages


@pytest.fixture
def drill(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> DrillEngine:
    made = DrillEngine()
    monkeypatch.setattr(drill_steps, "open_store", lambda platform: engine.store)
    monkeypatch.setattr("keepwell.drill.rehearsing.open_store", lambda platform: engine.store)
    monkeypatch.setattr("keepwell.drill.rehearsing.read_live_size", lambda platform: (1_200_000, ()))
    monkeypatch.setattr(drill_steps, "engine_rehearse", made.rehearse)
    monkeypatch.setattr(drill_steps, "check_checker", made.check)
    monkeypatch.setattr(drill_steps, "hold_sets", engine.hold_sets)
    monkeypatch.setattr(drill_steps.restore, "retry_delay_seconds", [0.0, 0.0])
    engine.add_set()
    return made


@pytest.fixture(autouse=True)
def _nobody_is_told(drill: DrillEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwell.drill.whole_platform.send", engine.send)


def run(**parameters: object) -> State[Any]:
    return restore_drill("esn", return_state=True, **parameters)  # type: ignore[call-overload,no-any-return]


def test_restores_damages_records_and_passes(engine: Engine, drill: DrillEngine) -> None:
    assert run(seed=5, kind="monthly").is_completed()
    assert drill.calls == ["restore newest", "damage newest"]
    (kept,) = read_history(engine.store).drills  # type: ignore[arg-type]
    assert (kept.seed, kept.verdict, kept.kind) == (5, Verdict.OK, "monthly")
    assert {f"drills/{kept.drill_id}.{suffix}" for suffix in ("json", "md", "html")} <= set(engine.store.objects)
    evidence = engine.evidence("MONTHLY-6")
    assert evidence.verdict is Verdict.OK
    assert evidence.numbers["damages_found"] == 1


def test_the_newest_and_another_by_lot(engine: Engine, drill: DrillEngine) -> None:
    engine.add_set(timedelta(hours=31))
    assert run().is_completed()
    assert drill.calls == ["restore newest", "restore by lot", "damage newest"]


def test_without_a_good_full_drill_it_is_one_and_people_are_told_that_it_is_a_drill(
    engine: Engine, drill: DrillEngine
) -> None:
    assert run().is_completed()
    assert [message.title for message in engine.sent] == ["DRILL: esn is NOT down"]
    assert engine.evidence("QUARTERLY-4").verdict is Verdict.OK
    assert run().is_completed()
    assert len(engine.sent) == 1
    assert [one.kind for one in read_history(engine.store).drills] == ["full", "monthly"]  # type: ignore[arg-type]
    engine.channels = (False,)
    state = run(kind="full")
    assert state.is_failed()
    assert "took no message" in (state.message or "")


def test_whoever_has_the_offline_key_is_asked_once_a_quarter_has_passed(
    engine: Engine, drill: DrillEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = Finding(name="offline key", verdict=Verdict.WARN, message="The offline key was never tried.")
    monkeypatch.setattr("keepwell.drill.rehearsing.look_at_offline_key", lambda *_: due)
    assert run(kind="monthly").is_completed()
    assert [message.title for message in engine.sent] == ["esn: the offline key is due to be tried"]


def test_damage_that_nothing_found_fails_the_drill_once_it_is_recorded(engine: Engine, drill: DrillEngine) -> None:
    drill.damages = (a_damage(detected_at=None, verdict=Verdict.ALERT, message="NOT FOUND: bit 7 passed."),)
    state = run()
    assert state.is_failed()
    assert "NOT FOUND" in (state.message or "")
    assert engine.evidence("MONTHLY-6").verdict is Verdict.ALERT
    assert read_history(engine.store).drills[0].verdict is Verdict.ALERT  # type: ignore[arg-type]


def test_a_set_that_does_not_restore_fails_the_drill(engine: Engine, drill: DrillEngine) -> None:
    finding = Finding(name="public.t", verdict=Verdict.ALERT, message="public.t: 3 rows restored, 4 in the source.")
    drill.rehearsals["newest"] = {
        "verdict": Verdict.ALERT,
        "message": finding.message,
        "rto_seconds": None,
        "findings": (finding,),
    }
    drill.damages = ()
    state = run()
    assert state.is_failed()
    assert "3 rows restored" in (state.message or "")


def test_a_target_that_is_missed_fails_the_drill(engine: Engine, drill: DrillEngine) -> None:
    drill.rehearsals["newest"] = {"rto_seconds": 5 * 3600.0}
    state = run()
    assert state.is_failed()
    assert "RTO measured" in (state.message or "")


def test_without_a_proven_set_there_is_nothing_to_drill(engine: Engine, drill: DrillEngine) -> None:
    engine.store.objects.clear()
    state = run()
    assert state.is_failed()
    assert "no proven backup set" in (state.message or "")
    assert drill.calls == []


def test_where_it_could_not_be_recorded_nothing_is_begun(
    engine: Engine, drill: DrillEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.store, "may_write", False)
    state = run()
    assert state.is_failed()
    assert "only reads" in (state.message or "")
    assert drill.calls == []


def test_a_store_that_was_away_for_a_moment_is_asked_again(engine: Engine, drill: DrillEngine) -> None:
    drill.fails = [ServiceUnavailable("The store does not answer.")]
    assert run().is_completed()
    assert drill.calls == ["restore newest", "restore newest", "damage newest"]
