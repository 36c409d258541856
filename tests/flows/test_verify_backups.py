from datetime import datetime, timedelta

import pytest
from backup_documents import a_proof, backup_id
from engine_double import Engine
from prefect.client.schemas.objects import State

from flows.verify_backups import verify_backups
from keepwell.backup.proof import Proof
from keepwell.errors import PreconditionFailed
from keepwell.verdict import Verdict
from tasks import backup_steps
from tasks.backup_steps import Which


@pytest.fixture
def proved(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which sets were proven, in order."""
    asked: list[str] = []
    verify = engine.verify

    def note(platform: object, store: object, backup_id: str, progress: object, *, all_uploads: bool) -> object:
        asked.append(backup_id)
        assert all_uploads, "a monthly verification reads every uploaded file"
        return verify(platform, store, backup_id, progress, all_uploads=all_uploads)  # type: ignore[arg-type]

    monkeypatch.setattr(backup_steps, "verify_backup", note)
    return asked


def run(**parameters: object) -> State:
    return verify_backups("esn", return_state=True, **parameters)  # type: ignore[call-overload]


def test_proves_the_newest_and_an_older_one(engine: Engine, proved: list[str]) -> None:
    sets = [engine.add_set(timedelta(days=day)) for day in range(4)]
    assert run().is_completed()
    assert proved[0] == sets[0]
    assert proved[1] in sets[1:]
    assert len(proved) == 2
    evidence = engine.evidence("MONTHLY-6")
    assert evidence.verdict is Verdict.OK
    assert evidence.numbers[f"restore_seconds {sets[0]}"] == 12.5


def test_with_one_set_there_is_no_older_one(engine: Engine, proved: list[str]) -> None:
    only = engine.add_set()
    assert run().is_completed()
    assert proved == [only]


def test_proves_what_was_chosen(engine: Engine, proved: list[str]) -> None:
    sets = [engine.add_set(timedelta(days=day)) for day in range(3)]
    assert run(which=Which.NEWEST).is_completed()
    assert run(which="all").is_completed()
    assert run(which="one", backup_id=sets[2]).is_completed()
    assert proved == [sets[0], *sets, sets[2]]


def test_a_damaged_set_fails_the_run_but_not_the_others_turn(engine: Engine, proved: list[str]) -> None:
    sets = [engine.add_set(timedelta(days=day)) for day in range(3)]
    good = engine.proof

    def judge(at: datetime) -> Proof:
        damaged = backup_id(at) == sets[1]
        return a_proof(at, reached="complete", stopped_by=Verdict.ALERT) if damaged else good(at)

    engine.proof = judge
    state = run(which="all")
    assert proved == sets
    assert state.name == "Failed"
    assert sets[1] in (state.message or "")
    assert sets[0] not in (state.message or "")
    assert engine.evidence("MONTHLY-6").verdict is Verdict.ALERT


def test_a_set_that_cannot_be_verified_is_unknown_and_fails_the_run(engine: Engine, proved: list[str]) -> None:
    engine.add_set()

    def no_space(at: object) -> None:
        raise PreconditionFailed("The disk is too small.")

    engine.proof = no_space  # type: ignore[assignment]
    state = run()
    assert state.is_failed()
    assert "The disk is too small." in (state.message or "")
    assert engine.evidence("MONTHLY-6").verdict is Verdict.UNKNOWN


def test_testing_nothing_is_a_failure(engine: Engine, proved: list[str]) -> None:
    for which in Which:
        assert run(which=which).is_failed()
    assert proved == []


def test_an_unreadable_manifest_is_named(engine: Engine, proved: list[str]) -> None:
    engine.add_set()
    engine.store.objects["backups/20200101T000000Z-abcdef/manifest.json"] = b"{"
    assert run(which="all").is_completed()
    evidence = engine.evidence("MONTHLY-6")
    assert evidence.verdict is Verdict.WARN
    assert "20200101T000000Z-abcdef" in [finding.name for finding in evidence.findings]
