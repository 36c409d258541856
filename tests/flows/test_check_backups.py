from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from engine_double import Engine
from prefect.client.schemas.objects import State

from flows.check_backups import check_backups
from keepwell.backup.freshness import RunFacts, ScheduleFacts, Unanswered
from keepwell.errors import ServiceUnavailable
from keepwell.verdict import Verdict
from tasks import check_steps, schedule_steps


@pytest.fixture(autouse=True)
def schedule(monkeypatch: pytest.MonkeyPatch) -> list[ScheduleFacts | Unanswered]:
    """What the orchestrator says: the last one counts."""
    now = datetime.now(UTC)
    due = now - timedelta(hours=7)
    up = ScheduleFacts(
        deployed=True,
        active=True,
        expected=(due,),
        next_at=now + timedelta(hours=17),
        runs=(RunFacts(due, due, "COMPLETED"),),
    )
    said: list[ScheduleFacts | Unanswered] = [up]
    monkeypatch.setattr(schedule_steps, "read_schedule", lambda platform: said[-1])
    return said


def run() -> State:
    return check_backups("esn", return_state=True)


def test_all_is_well(engine: Engine) -> None:
    engine.add_set()
    state = run()
    assert (state.name, state.type) == ("Completed", "COMPLETED")
    assert engine.sent == []
    assert engine.evidence("DAILY-5").verdict is Verdict.OK
    assert engine.evidence("BK-5").verdict is Verdict.OK


def test_a_backup_that_is_too_old_is_red_and_told_once(engine: Engine) -> None:
    engine.add_set(timedelta(hours=30))
    for _ in range(3):
        state = run()
        # Red, but not `Failed`, which the automation would report again every hour.
        assert (state.name, state.type) == ("Alert", "FAILED")
    (message,) = engine.sent
    assert "too old" in message.cause
    assert "backup-and-verify" in message.next_command
    assert engine.evidence("DAILY-5").told_at is not None


def test_told_again_after_a_day_and_once_when_it_is_over(engine: Engine) -> None:
    run()
    told = engine.evidence("DAILY-5")
    (key,) = [key for key in engine.store.objects if key.startswith("evidence/DAILY-5/")]
    yesterday = {"told_at": datetime.now(UTC) - timedelta(hours=25)}
    engine.store.objects[key] = told.model_copy(update=yesterday).to_json()
    run()
    engine.add_set()
    run()
    run()
    titles = [message.title for message in engine.sent]
    assert len(titles) == 3
    assert "still need you" in titles[1]
    assert "fine again" in titles[2]


def test_a_message_that_nobody_took_is_sent_again(engine: Engine) -> None:
    engine.channels = (False,)
    state = run()
    assert state.name == "Failed"
    assert "notification" in (state.message or "")
    engine.channels = (True,)
    assert run().name == "Alert"
    run()
    assert len(engine.sent) == 2


def test_one_channel_of_two_is_enough_to_have_told_but_the_other_is_a_failure(engine: Engine) -> None:
    engine.channels = (True, False)
    assert run().name == "Failed"
    assert engine.evidence("DAILY-5").told_at is not None


def test_an_orchestrator_that_does_not_answer_is_unknown(engine: Engine, schedule: list[object]) -> None:
    engine.add_set()
    schedule.append(Unanswered("ConnectError."))
    assert run().name == "Unknown"
    assert engine.evidence("BK-5").verdict is Verdict.UNKNOWN
    assert len(engine.sent) == 1


def test_a_missed_run_is_red(engine: Engine, schedule: list[object]) -> None:
    engine.add_set()
    due = datetime.now(UTC) - timedelta(hours=7)
    schedule.append(ScheduleFacts(deployed=True, active=True, expected=(due,), next_at=datetime.now(UTC)))
    assert run().name == "Alert"
    assert "never created" in engine.sent[0].cause


def test_a_damaged_newest_set_is_red(engine: Engine) -> None:
    engine.add_set(timedelta(hours=25))
    engine.add_set(timedelta(hours=1), reached="complete", stopped_by=Verdict.ALERT)
    assert run().name == "Alert"
    assert "damaged" in engine.sent[0].cause


def test_a_store_that_cannot_be_read_fails_the_check_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(store: object) -> None:
        raise ServiceUnavailable("The store is away.")

    monkeypatch.setattr(check_steps, "read_catalogue", away)
    monkeypatch.setattr(check_steps.judge, "retry_delay_seconds", [0.0, 0.0])
    assert run().name == "Failed"


class TestTheScheduleOfARealServer:
    """`read_schedule` against the test server, without its double."""

    def test_a_deployment_that_is_missing_paused_and_up(
        self, engine: Engine, schedule: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from prefect.client.orchestration import get_client

        from deployments.deployment_file import read_deployment_file
        from deployments.register import register

        monkeypatch.undo()
        from tasks import platforms

        monkeypatch.setattr(platforms, "load_platform", lambda name: None)
        monkeypatch.setattr(platforms.redaction, "hide", lambda platform: None)
        read = schedule_steps.read_schedule.fn
        assert read("a-third") == ScheduleFacts(deployed=False)

        first = register(["esn", "other"])
        assert register(["esn", "other"]) == first
        specs = read_deployment_file().deployments
        deployed = sum(2 if spec.per_platform else 1 for spec in specs)
        scheduled = sum(2 * len(spec.schedules) for spec in specs)
        assert (first.deployments, first.schedules, first.automations) == (deployed, scheduled, 5)
        for platform in ("esn", "other"):
            facts = read(platform)
            assert isinstance(facts, ScheduleFacts)
            assert facts.active
            assert facts.next_at is not None
            assert (facts.next_at.hour, facts.next_at.minute) == (2, 0)

        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("backup-and-verify/esn")
            client.pause_deployment(deployment.id)
            paused = read("esn")
            assert isinstance(paused, ScheduleFacts)
            assert not paused.active
            # A registration does not undo what an operator switched off.
            register(["esn", "other"])
            assert client.read_deployment_by_name("backup-and-verify/esn").paused
            client.resume_deployment(deployment.id)

    def test_a_registration_forgets_no_night_that_a_schedule_owes(
        self, schedule: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Since when a schedule stands is kept, unless its rule changes: a new rule owes nothing for the past."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.objects import DeploymentSchedule

        from deployments import register as registration
        from deployments.standing import inherit
        from deployments.upserts import upsert_deployment

        def schedules() -> dict[str, DeploymentSchedule]:
            with get_client(sync_client=True) as client:
                found = client.read_deployment_by_name("backup-and-verify/esn").schedules
            return {str(one.slug): one for one in found}

        monkeypatch.undo()
        registration.register(["esn", "other"])
        with get_client(sync_client=True) as client:
            mine = schedules()["nightly"]
            assert mine.deployment_id is not None
            client.update_deployment_schedule(mine.deployment_id, mine.id, active=False)
        before = schedules()
        registration.register(["esn", "other"])
        assert {slug: (one.id, one.created) for slug, one in schedules().items()} == {
            slug: (one.id, one.created) for slug, one in before.items()
        }
        mine = schedules()["nightly"]
        assert not mine.active

        planned = registration.plan(["esn"])
        (backup,) = [one for one in planned.wanted if one.full_name == "backup-and-verify/esn"]
        later = replace(backup, schedules=(backup.schedules[0].model_copy(update={"cron": "0 3 * * *"}),))
        with get_client(sync_client=True) as client:
            upsert_deployment(client, later, inherit(later, planned.standing))
        moved = schedules()["nightly"]
        assert moved.schedule.cron == "0 3 * * *"  # type: ignore[union-attr]
        assert moved.created > before["nightly"].created  # type: ignore[operator]
        assert not moved.active
        with get_client(sync_client=True) as client:
            client.update_deployment_schedule(mine.deployment_id, moved.id, active=True)
        registration.register(["esn", "other"])

    def test_nights_are_owed_since_a_schedule_stands(self) -> None:
        from uuid import uuid4

        from prefect.client.schemas.objects import DeploymentSchedule
        from prefect.client.schemas.schedules import CronSchedule

        now = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

        def owed(stands: timedelta) -> list[datetime]:
            rule = CronSchedule(cron="0 2 * * *", timezone="UTC")
            stood = DeploymentSchedule(deployment_id=uuid4(), schedule=rule, created=now - stands)
            return [moment for moment in schedule_steps._due(stood, now) if moment <= now]

        nights = [datetime(2026, 3, day, 2, 0, tzinfo=UTC) for day in (9, 10)]
        assert owed(timedelta(days=90)) == nights
        assert owed(timedelta(hours=20)) == nights[1:]
        assert owed(timedelta(hours=1)) == []

    def test_a_run_counts_for_its_own_platform(self, schedule: object, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect.client.orchestration import get_client

        from deployments.register import register

        monkeypatch.undo()
        from tasks import platforms

        monkeypatch.setattr(platforms, "load_platform", lambda name: None)
        monkeypatch.setattr(platforms.redaction, "hide", lambda platform: None)
        register(["esn", "other"])

        def count(platform: str) -> int:
            facts = schedule_steps.read_schedule.fn(platform)
            assert isinstance(facts, ScheduleFacts)
            return len(facts.runs)

        before = count("esn"), count("other")
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("backup-and-verify/other")
            client.create_flow_run_from_deployment(deployment.id)
        assert (count("esn"), count("other")) == (before[0], before[1] + 1)

    def test_that_a_run_ended_is_known_for_long(self, schedule: object, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect.client.orchestration import get_client
        from prefect.states import Failed

        from deployments.register import register

        monkeypatch.undo()
        register(["esn", "other"])
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("backup-and-verify/other")
            run = client.create_flow_run_from_deployment(deployment.id)
            later = datetime.now(UTC) + timedelta(days=3)
            another_s = schedule_steps._read(client, "esn", later).ever_ended
            assert not schedule_steps._read(client, "other", later).ever_ended
            client.set_flow_run_state(run.id, Failed(), force=True)
            facts = schedule_steps._read(client, "other", later)
            assert facts.ever_ended
            # What the scheduler has planned by now, if it came to that, has not ended.
            assert {run.state for run in facts.runs} <= {"SCHEDULED"}
            assert schedule_steps._read(client, "esn", later).ever_ended is another_s
            client.delete_flow_run(run.id)

    def test_a_server_that_is_away_is_an_answer_too(self, schedule: object, monkeypatch: pytest.MonkeyPatch) -> None:
        import httpx

        monkeypatch.undo()
        from tasks import platforms

        monkeypatch.setattr(platforms, "load_platform", lambda name: None)
        monkeypatch.setattr(platforms.redaction, "hide", lambda platform: None)

        def away(*_: object, **__: object) -> None:
            raise httpx.ConnectError("x")

        monkeypatch.setattr(schedule_steps, "_read", away)
        assert schedule_steps.read_schedule.fn("esn") == Unanswered("ConnectError.")
