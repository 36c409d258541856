"""What the orchestrator says about the backup's schedule, as facts for `keepwell.backup.freshness`."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from pydantic import TypeAdapter

from keepwell.backup.freshness import ENDED_STATES, RunFacts, ScheduleFacts, Unanswered
from keepwell.errors import KeepwellError
from keepwell.orchestrator import PLATFORM_TAG
from keepwell.pausing import parse_pause, variable_name
from tasks import platforms
from tasks.retries import MINUTE_SECONDS, step

PROCEDURE = "backup-and-verify"
# Two nights, so that one missed run stays visible for a day after it was due.
_WINDOW = timedelta(hours=50)
_AHEAD = timedelta(days=40)
_PAGE = 200
_SCHEDULES: TypeAdapter[Any] = TypeAdapter(SCHEDULE_TYPES)


@step("ask for late and missed runs", timeout_seconds=5 * MINUTE_SECONDS)
def read_schedule(platform: str) -> ScheduleFacts | Unanswered:
    """Read when backups were due and what came of it.

    The client repeats what may pass by itself, so there is no second retry here.

    Returns:
        `Unanswered` when the orchestrator did not answer: that is a finding, not a failed check.
    """
    platforms.load(platform)
    try:
        with get_client(sync_client=True) as client:
            return _read(client, platform, datetime.now(UTC))
    except ObjectNotFound:
        return ScheduleFacts(deployed=False)
    except KeepwellError as error:
        return Unanswered(error.message)
    except (httpx.HTTPError, PrefectException) as error:
        return Unanswered(f"{type(error).__name__}.")


def _read(client: SyncPrefectClient, platform: str, now: datetime) -> ScheduleFacts:
    deployment = client.read_deployment_by_name(f"{PROCEDURE}/{platform}")
    active = [schedule for schedule in deployment.schedules if schedule.active and not deployment.paused]
    kept = client.read_variable_by_name(variable_name(platform))
    pause = parse_pause(kept.value if kept else None)
    # What was due in a pause was not missed.
    due = sorted(at for schedule in active for at in _due(schedule, now) if at > now or not pause.covers(at))
    return ScheduleFacts(
        deployed=True,
        active=bool(active),
        # Somebody may have ended it in Prefect's own pages.
        paused=pause if pause.is_on and not active else None,
        expected=tuple(moment for moment in due if moment <= now),
        next_at=next((moment for moment in due if moment > now), None),
        runs=tuple(_describe(run) for run in _read_runs(client, now) if _concerns(run, platform)),
        ever_ended=_has_ended(client, platform),
    )


def _read_runs(client: SyncPrefectClient, now: datetime) -> Iterator[FlowRun]:
    """By their flow, so that what ran under an earlier release's deployment counts on."""
    window = FlowRunFilterExpectedStartTime.model_validate({"after_": now - _WINDOW, "before_": now})
    filters, flow = FlowRunFilter(expected_start_time=window), FlowFilter(name=FlowFilterName(any_=[PROCEDURE]))
    offset = 0
    while True:
        page = client.read_flow_runs(flow_filter=flow, flow_run_filter=filters, limit=_PAGE, offset=offset)
        yield from page
        if len(page) < _PAGE:
            return
        offset += _PAGE


def _has_ended(client: SyncPrefectClient, platform: str) -> bool:
    """Whether a run ever ended; a run bears its deployment's tags, also once that deployment is gone."""
    ended = FlowRunFilter(
        tags=FlowRunFilterTags.model_validate({"all_": [f"{PLATFORM_TAG}{platform}"]}),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(state) for state in ENDED_STATES])),
    )
    flow = FlowFilter(name=FlowFilterName(any_=[PROCEDURE]))
    return bool(client.read_flow_runs(flow_filter=flow, flow_run_filter=ended, limit=1))


def _due(schedule: DeploymentSchedule, now: datetime) -> Iterator[datetime]:
    """When a schedule's runs were and will be due; nothing was due before the schedule existed.

    A registration makes a schedule anew only where its rule changed, and then the nights before owe nothing to it.
    """
    begin = now - _WINDOW
    if schedule.created is not None:
        begin = max(begin, schedule.created)
    rule = _SCHEDULES.validate_python(schedule.schedule.model_dump(mode="json"))
    for moment in asyncio.run(rule.get_dates(n=5000, start=begin, end=now + _AHEAD)):
        yield moment.astimezone(UTC)
        if moment > now:
            return


def _concerns(run: FlowRun, platform: str) -> bool:
    return bool((run.parameters or {}).get("platform") == platform)


def _describe(run: FlowRun) -> RunFacts:
    expected_at = run.expected_start_time or run.created or datetime.now(UTC)
    state = run.state_type.value if run.state_type else "UNKNOWN"
    return RunFacts(expected_at=expected_at.astimezone(UTC), started_at=run.start_time, state=state)
