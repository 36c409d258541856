from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from deployed_runs import DeployedRun
from engine_double import SECRET, URL_TOKEN, Engine
from prefect.exceptions import PrefectException

from flows.report_failure import report_failure
from flows.restore_backup import restore_backup
from keepwell.approval import Approval, require_approval
from keepwell.errors import Busy, PreconditionFailed, ServiceUnavailable
from keepwell.holding import Hold
from keepwell.interlock import Procedure
from keepwell.postgres.databases import NamedDatabase, SessionGroup
from keepwell.restore import apply as applying
from keepwell.restore.apply import RestoreOutcome
from keepwell.restore.choice import Choice
from keepwell.restore.plan import Mode, RestorePlan
from keepwell.verdict import Finding, Verdict
from tasks import interlock_steps, restore_steps

SNAPSHOT_AT = datetime(2026, 11, 29, 2, 0, tzinfo=UTC)
BACKUP_ID, CASE_ID = "20261129T020000Z-abcdef", "20261129T030000Z-fedcba"
WRONG = Finding(name="target", verdict=Verdict.ALERT, message="There is no space for it.", hint="Make some.")


def a_plan(mode: Mode, **changes: Any) -> RestorePlan:
    plan = RestorePlan(
        platform="esn",
        mode=mode,
        choice=Choice(which=BACKUP_ID),
        backup_id=BACKUP_ID,
        database="esn_db",
        live="esn_db",
        name="esn_db_restored_20261129T020000Z",
        live_database=NamedDatabase(16385, "esn_db", open=True, size_bytes=40_000_000),
        snapshot_at=SNAPSHOT_AT,
        planned_at=datetime.now(UTC),
        level="equal",
        rows=1000,
        size_bytes=12_000_000,
        needed_bytes=80_000_000,
        free_bytes=None,
        expected_seconds=16.0,
        sessions=(SessionGroup("backend", "esn", 7, out_of_reach=False),),
        carried=("owner esn",),
        findings=(),
    )
    return replace(plan, **changes)


@dataclass
class Restores:
    """What the flow calls of a restore, recorded."""

    engine: Engine
    changes: dict[str, Any] = field(default_factory=dict)
    still_counts: bool = True
    asked_for: list[tuple[Choice, Mode, str | None]] = field(default_factory=list)
    held: list[Procedure] = field(default_factory=list)
    applied: list[tuple[Approval | None, str | None]] = field(default_factory=list)
    failure: Exception | None = None
    busy: bool = False
    findings: tuple[Finding, ...] = ()

    def plan(
        self, platform: object, store: object, choice: Choice, *, mode: Mode, name: str | None, now: datetime
    ) -> RestorePlan:
        self.asked_for.append((choice, mode, name))
        return a_plan(mode, **self.changes)

    def plan_case(self, platform: object, store: object, case_id: str, now: datetime) -> RestorePlan:
        # What the case made stands in the way of its own plan.
        return a_plan(Mode.SWAP, findings=(WRONG,))

    def is_approved(self, platform: object, store: object, plan: RestorePlan, case_id: str, now: datetime) -> bool:
        return self.still_counts

    @contextmanager
    def hold(self, platform: object, store: object, procedure: Procedure, **_: object) -> Iterator[Engine]:
        if self.busy:
            raise Busy("A swap cannot start: a swap is at work on this platform.")
        self.held.append(procedure)
        with self.engine.hold() as hold:
            yield hold

    def apply(
        self,
        platform: object,
        store: object,
        plan: RestorePlan,
        approval: Approval | None,
        progress: object,
        *,
        case_id: str | None,
        as_case: str | None,
        hold: object,
    ) -> RestoreOutcome:
        assert hold is not None
        assert self.engine.held
        self.applied.append((approval, case_id))
        if plan.swaps and case_id is None:
            require_approval(plan.subject, approval)
        if self.failure is not None:
            raise self.failure
        database, replaced = (plan.live, "esn_db_replaced_20261129T030000Z") if plan.swaps else (plan.name, None)
        phases = {"restore": 10.0, "swap": 1.0}
        return RestoreOutcome(CASE_ID, plan, database, replaced, 1000, phases, self.findings)


@pytest.fixture
def restores(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Restores:
    made = Restores(engine)
    monkeypatch.setattr(restore_steps, "open_store", lambda platform: engine.store)
    monkeypatch.setattr(restore_steps, "plan_restore", made.plan)
    monkeypatch.setattr(restore_steps, "plan_case", made.plan_case)
    monkeypatch.setattr(restore_steps, "apply_restore", made.apply)
    monkeypatch.setattr(applying, "is_approved", made.is_approved)
    hold: Any = made.hold
    held: AbstractContextManager[Hold] = hold
    monkeypatch.setattr(interlock_steps, "hold_platform", held)
    return made


def start(**parameters: Any) -> DeployedRun:
    return DeployedRun(restore_backup, platform="esn", **parameters)


def ask_for_swap(**parameters: Any) -> DeployedRun:
    run = start(mode="swap", **parameters)
    assert run.go_on().name == "Suspended"
    return run


def test_beside_the_live_database_nobody_is_asked_and_nobody_is_told(restores: Restores) -> None:
    run = start(which=BACKUP_ID, name="looked_at")
    assert run.go_on().is_completed()
    assert restores.asked_for == [(Choice(which=BACKUP_ID), Mode.BESIDE, "looked_at")]
    assert restores.held == [Procedure.RESTORE]
    assert restores.applied == [(None, None)]
    assert restores.engine.sent == []
    shown = run.artifacts()
    assert shown["esn-restore-plan"].startswith("# ✓ ok: restore of esn")
    assert "12.0 MB" in shown["esn-restore-plan"]
    assert CASE_ID in shown["esn-restore-evidence"]
    assert float(shown["esn-restore-progress"]) == 100


def test_a_swap_holds_nothing_while_it_waits_and_goes_on_with_the_approval(restores: Restores) -> None:
    run = ask_for_swap()
    assert restores.held == []
    assert restores.applied == []
    assert run.artifacts()["esn-restore-plan"].count("| sessions that are ended | 7 |") == 1
    assert run.answer()["status"] == "ACCEPT"
    assert run.go_on().is_completed()
    assert restores.held == [Procedure.SWAP]
    ((approval, case_id),) = restores.applied
    assert approval is not None
    assert (approval.approver, approval.digest, case_id) == ("Ada", a_plan(Mode.SWAP).digest, None)
    assert len(restores.asked_for) == 2  # looked at anew, once it was answered


def test_who_was_asked_is_told_how_it_ended(restores: Restores) -> None:
    run = ask_for_swap()
    run.answer()
    run.go_on()
    waits, done = restores.engine.sent
    assert waits.title == "esn: a restore waits for approval"
    assert done.title == f"esn: restored from {BACKUP_ID}"
    assert f"keepwell restore undo {CASE_ID} --platform esn" in done.next_command
    assert "esn_db_replaced_20261129T030000Z" in done.still_safe


def test_a_plan_is_all_that_somebody_may_want(restores: Restores) -> None:
    run = start(mode="swap", plan_only=True)
    state = run.go_on()
    assert state.is_completed()
    assert f"Plan {a_plan(Mode.SWAP).digest}" in (state.message or "")
    assert (restores.held, restores.applied, restores.engine.sent) == ([], [], [])


def test_nobody_is_asked_to_approve_what_would_be_refused(restores: Restores) -> None:
    restores.changes = {"findings": (WRONG,)}
    state = start(mode="swap").go_on()
    assert state.is_failed()
    assert "There is no space for it. Nothing was changed." in (state.message or "")
    assert (restores.applied, restores.engine.sent) == ([], [])


def test_a_rejected_run_is_cancelled_with_who_and_why_and_nothing_is_done(restores: Restores) -> None:
    run = ask_for_swap()
    assert run.answer(typed="REJECT", reason="the other team is at it")["status"] == "ACCEPT"
    state = run.go_on()
    assert (state.type.value, state.name) == ("CANCELLED", "Cancelled")
    assert "refused by Ada (self-declared)" in (state.message or "")
    assert "the other team is at it" in (state.message or "")
    assert (restores.held, restores.applied) == ([], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"backup_id": "20261130T020000Z-fedcba"},
        # What the first of two restores swapped in: the same name, and another database.
        {"live_database": NamedDatabase(20001, "esn_db", open=True, size_bytes=40_000_000)},
        {"live_database": NamedDatabase(16385, "esn_db", open=True, size_bytes=900_000_000)},
        {"live_database": None},
    ],
)
def test_an_approval_for_an_older_plan_is_void(restores: Restores, changes: dict[str, Any]) -> None:
    run = ask_for_swap()
    assert run.answer()["status"] == "ACCEPT"
    restores.changes = changes
    state = run.go_on()
    assert state.is_failed()
    assert "The approval is void" in (state.message or "")
    assert (restores.held, restores.applied) == ([], [])


def test_what_only_passes_by_makes_no_approval_void(restores: Restores) -> None:
    run = ask_for_swap()
    run.answer()
    grown = NamedDatabase(16385, "esn_db", open=True, size_bytes=40_000_001)
    restores.changes = {"sessions": (), "live_database": grown, "expected_seconds": 99.0}
    assert run.go_on().is_completed()


def test_the_second_of_two_restores_changes_nothing(restores: Restores) -> None:
    first, second = ask_for_swap(), ask_for_swap()
    assert first.answer()["status"] == second.answer()["status"] == "ACCEPT"
    assert first.go_on().is_completed()
    restores.busy = True
    state = second.go_on()
    assert state.is_failed()
    assert "a swap is at work" in (state.message or "")
    assert len(restores.applied) == 1


def test_a_case_goes_on_with_the_approval_that_it_has(restores: Restores) -> None:
    assert start(case_id=CASE_ID).go_on().is_completed()
    assert restores.asked_for == []
    assert (restores.held, restores.applied) == ([Procedure.SWAP], [(None, CASE_ID)])


def test_a_case_whose_approval_counts_no_more_is_asked_about_anew(restores: Restores) -> None:
    restores.still_counts = False
    run = start(case_id=CASE_ID)
    assert run.go_on().name == "Suspended"
    run.answer()
    assert run.go_on().is_completed()
    ((approval, case_id),) = restores.applied
    assert (approval is not None, case_id) == (True, CASE_ID)


@pytest.mark.parametrize("failure", [ServiceUnavailable("The store is away."), PreconditionFailed("Nothing changed.")])
def test_what_stopped_on_the_way_is_not_begun_again_by_itself(restores: Restores, failure: Exception) -> None:
    restores.failure = failure
    assert start().go_on().is_failed()
    assert len(restores.applied) == 1


def test_people_are_told_where_a_failed_one_stands(restores: Restores) -> None:
    restores.failure = ServiceUnavailable("The store is away.")
    run = start()
    assert run.go_on().is_failed()
    assert report_failure(run.id, return_state=True).is_completed()
    (message,) = restores.engine.sent
    assert message.title == "esn: restore-backup failed"
    assert message.next_command == "keepwell restore status --platform esn"


def test_restored_data_with_something_wrong_are_there_and_the_run_is_red(restores: Restores) -> None:
    restores.findings = (Finding(name="payments", verdict=Verdict.ALERT, message="It answered 0."),)
    run = start()
    state = run.go_on()
    assert state.is_failed()
    assert "is restored beside esn_db" in (state.message or "")
    assert "It answered 0." in (state.message or "")
    assert run.artifacts()["esn-restore-evidence"].startswith("# ✗ ALERT")


@pytest.mark.parametrize(
    "parameters",
    [
        {"which": "latest"},
        {"which": "../20261129T020000Z-abcdef"},
        {"mode": "replace"},
        {"before": "2026-11-29T02:00:00"},
        {"case_id": "restores/1"},
        {"database": ""},
        {"password": "x"},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_bad_parameters_are_refused_before_anything_is_looked_at(parameters: dict[str, Any]) -> None:
    with pytest.raises((PrefectException, TypeError)):
        restore_backup.validate_parameters({"platform": "esn"} | parameters)


def test_no_secret_is_in_what_the_server_keeps_of_a_run(restores: Restores) -> None:
    restores.failure = PreconditionFailed(f"The password {SECRET} and {URL_TOKEN} were refused.")
    run = ask_for_swap()
    run.answer(reason=f"my password is {SECRET}")
    assert run.go_on().is_failed()
    kept = f"{run.read().model_dump_json()} {run.artifacts()}"
    assert SECRET not in kept
    assert URL_TOKEN not in kept
