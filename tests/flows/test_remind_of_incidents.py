"""Reminders through the orchestrator: one planned run for all cases of a platform, and none while nothing is open."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from engine_double import Engine
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL

from deployments.register import register
from flows.remind_of_incidents import remind_of_incidents
from keepwell.errors import KeepwellError
from keepwell.incident.documents import Step
from keepwell.incident.journal import Incident, open_case, read_incident, skip_step
from keepwell.incident.reminding import plan_reminders
from keepwell.incident.telling import Phase, tell
from keepwell.notify import Delivery
from keepwell.orchestrator import Orchestrator
from tasks import incident_steps


@pytest.fixture(scope="module")
def _registered() -> None:
    register(["esn", "other"])


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch, engine: Engine, _registered: None) -> Iterator[SyncPrefectClient]:
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setattr(incident_steps, "open_store", lambda platform: engine.store)
    monkeypatch.setattr(incident_steps, "send", engine.send)
    with get_client(sync_client=True) as client:
        yield client
    with Orchestrator(str(PREFECT_API_URL.value()), None) as orchestrator:
        plan_reminders(orchestrator, "esn", None)


def planned(prefect: SyncPrefectClient, platform: str = "esn") -> list[datetime]:
    deployment = prefect.read_deployment_by_name(f"remind-of-incidents/{platform}")
    return [
        run.state.state_details.scheduled_time
        for run in prefect.read_flow_runs()
        if run.deployment_id == deployment.id and run.state is not None and run.state.is_scheduled()
        if run.state.state_details.scheduled_time is not None
    ]


def promised(engine: Engine, *, minutes_ago: int, due_in_minutes: int) -> Incident:
    now = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    opened = open_case(engine.platform, engine.store, "sign-in answers 500", now=now, another=True)  # type: ignore[arg-type]
    tell(
        engine.platform,
        engine.store,  # type: ignore[arg-type]
        opened,
        "We are on it.",
        phase=Phase.INVESTIGATING,
        next_update_at=datetime.now(UTC) + timedelta(minutes=due_in_minutes)
        if due_in_minutes > 0
        else now + timedelta(1),
        by="ann",
        now=now,
        sender=lambda settings, message: Delivery(()),
    )
    return opened


def test_without_a_case_nothing_is_sent_and_nothing_is_planned(engine: Engine, prefect: SyncPrefectClient) -> None:
    assert remind_of_incidents("esn", return_state=True).is_completed()
    assert (engine.sent, planned(prefect)) == ([], [])


def test_an_update_that_is_not_due_is_planned_for_once(engine: Engine, prefect: SyncPrefectClient) -> None:
    incident = promised(engine, minutes_ago=0, due_in_minutes=30)
    for _ in range(2):
        assert remind_of_incidents("esn", return_state=True).is_completed()
    due_at = read_incident(engine.store, incident.case.case_id).standing.next_update_at  # type: ignore[arg-type]
    assert (engine.sent, planned(prefect), planned(prefect, "other")) == ([], [due_at], [])


def test_one_that_is_due_is_sent_and_the_next_look_is_planned(engine: Engine, prefect: SyncPrefectClient) -> None:
    incident = promised(engine, minutes_ago=0, due_in_minutes=1)
    later = promised(engine, minutes_ago=0, due_in_minutes=90)
    before = datetime.now(UTC)
    assert remind_of_incidents("esn", return_state=True).is_completed()
    (message,) = engine.sent
    assert incident.case.case_id in message.next_command
    (at,) = planned(prefect)
    assert before + timedelta(minutes=15) <= at <= datetime.now(UTC) + timedelta(minutes=15)
    for one in (incident, later):
        skip_step(engine.store, one, Step.RESOLVE, "a test", by="ann", now=datetime.now(UTC))  # type: ignore[arg-type]
    assert remind_of_incidents("esn", return_state=True).is_completed()
    assert planned(prefect) == []


def test_a_channel_that_refuses_fails_the_run_and_the_next_look_is_planned_all_the_same(
    engine: Engine, prefect: SyncPrefectClient
) -> None:
    engine.channels = (False,)
    promised(engine, minutes_ago=0, due_in_minutes=1)
    state = remind_of_incidents("esn", return_state=True)
    assert state.is_failed()
    assert "notification" in (state.message or "")
    assert len(planned(prefect)) == 1


def test_where_nothing_is_registered_a_promise_is_not_said_to_be_watched(prefect: SyncPrefectClient) -> None:
    with Orchestrator(str(PREFECT_API_URL.value()), None) as orchestrator:
        with pytest.raises(KeepwellError, match="could remind anybody of a-third"):
            plan_reminders(orchestrator, "a-third", datetime.now(UTC))
        plan_reminders(orchestrator, "a-third", None)
