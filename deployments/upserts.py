"""Bringing the orchestrator's pool, queues and deployments to what is wanted, and reading them back."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentScheduleUpdate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterState
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow
from prefect.states import Cancelled
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from deployments.deployment_file import POOL, DeploymentSpec, ScheduleSpec
from deployments.standing import Gone, Inherited, Standing, StandingDeployment
from deployments.wanted import WantedDeployment
from keepwell.errors import VerificationFailed


def build_schedules(specs: Sequence[ScheduleSpec], switched_off: frozenset[str]) -> list[DeploymentScheduleCreate]:
    """A deployment's schedules; those that an operator switched off stay off.

    Args:
        specs: Of one deployment.
        switched_off: Slugs.
    """
    return [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=spec.cron, timezone=spec.timezone),
            slug=spec.slug,
            active=spec.slug not in switched_off,
        )
        for spec in specs
    ]


def find_outdated(
    existing: Sequence[DeploymentSchedule], wanted: Sequence[DeploymentScheduleCreate]
) -> list[DeploymentSchedule]:
    """Schedules that are not wanted any more, or by another rule; the others are to stay the ones they are.

    Since when a schedule stands is how `check-backups` knows which nights it owes: one that is made anew for no reason
    would forget a missed one, and one that changed its rule would owe nights that were never meant.

    Args:
        existing: Of one deployment, as the orchestrator has them.
        wanted: Of the same.
    """
    rules = {one.slug: one.schedule for one in wanted}
    return [one for one in existing if rules.get(one.slug) != one.schedule]


def upsert_pool(client: SyncPrefectClient, limits: Mapping[str, int]) -> None:
    """The work pool and its queues.

    Args:
        client: Of the orchestrator.
        limits: How many runs at once each queue lets run, the most urgent queue first.
    """
    try:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    except ObjectAlreadyExists:
        pass  # an operator may have given it limits or variables of their own
    for priority, (queue, limit) in enumerate(limits.items(), start=1):
        try:
            client.create_work_queue(queue, concurrency_limit=limit, priority=priority, work_pool_name=POOL)
        except ObjectAlreadyExists:
            path = {"work_pool_name": POOL, "name": queue}
            wanted = {"concurrency_limit": limit, "priority": priority}
            client.request("PATCH", "/work_pools/{work_pool_name}/queues/{name}", path_params=path, json=wanted)


def upsert_deployment(client: SyncPrefectClient, wanted: WantedDeployment, inherited: Inherited) -> UUID:
    """One deployment with its schedules; its id.

    Args:
        client: Of the orchestrator.
        wanted: As it should be.
        inherited: What an operator switched off, of it or of what it replaces.
    """
    # Not by Prefect's loader, which calls any error of an import a missing flow.
    spec = wanted.spec
    flow: Flow[..., object] = getattr(import_module(f"flows.{spec.flow}"), spec.flow)
    facts = _describe(wanted, flow)
    schedules = build_schedules(wanted.schedules, inherited.switched_off)
    existing = _find_deployment(client, wanted)
    if existing is None:
        flow_id = client.create_flow(flow)
        return client.create_deployment(flow_id, wanted.name, schedules=schedules, paused=inherited.paused, **facts)
    for outdated in find_outdated(existing.schedules, schedules):
        client.delete_deployment_schedule(existing.id, outdated.id)
    # Known by their slugs, so that those which are there already stay.
    kept = [DeploymentScheduleUpdate(schedule=one.schedule, active=one.active, slug=one.slug) for one in schedules]
    client.update_deployment(existing.id, DeploymentUpdate(schedules=kept, **facts))
    return existing.id


def _describe(wanted: WantedDeployment, flow: Flow[..., object]) -> dict[str, Any]:
    """A deployment as Prefect's client names its fields, but for its name and its schedules."""
    spec: DeploymentSpec = wanted.spec
    limit = spec.concurrency_limit
    options = limit and ConcurrencyOptions(
        collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy),
        grace_period_seconds=limit.grace_period_seconds,
    )
    return {
        "description": spec.description,
        "tags": list(wanted.tags),
        "parameters": wanted.parameters,
        "parameter_openapi_schema": parameter_schema(flow.fn).model_dump_for_openapi(),
        "enforce_parameter_schema": spec.enforce_parameter_schema,
        "entrypoint": spec.entrypoint,
        # The project is installed where the worker is, so there is nothing to pull.
        "pull_steps": [],
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options,
        "work_pool_name": spec.work_pool.name,
        "work_queue_name": wanted.queue,
        "job_variables": spec.work_pool.job_variables.model_dump(),
    }


def _find_deployment(client: SyncPrefectClient, wanted: WantedDeployment) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        return None


def remove(client: SyncPrefectClient, gone: Gone, standing: Standing) -> None:
    """Remove what nobody wants any more: first what starts runs, then what they wait in.

    Runs that have begun go on, and all that ended stay to be seen.
    """
    for name in gone.automations:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
    for deployment in gone.deployments:
        _cancel_waiting(client, deployment)
        client.delete_deployment(deployment.id)
    for name in gone.queues:
        client.delete_work_queue_by_id(standing.queues[name])


def _cancel_waiting(client: SyncPrefectClient, deployment: StandingDeployment) -> None:
    """Prefect removes a deployment's runs that are to come, but not those that wait for one before them."""
    waiting = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
        state=FlowRunFilterState.model_validate({"name": {"any_": ["AwaitingConcurrencySlot"]}}),
    )
    for run in client.read_flow_runs(flow_run_filter=waiting):
        client.set_flow_run_state(run.id, Cancelled(message="Its deployment was removed."), force=True)


def require_registered(client: SyncPrefectClient, wanted: WantedDeployment) -> int:
    """Read a deployment back; the number of its schedules.

    Raises:
        VerificationFailed: It is not there, or not as it should be.
    """
    found = _find_deployment(client, wanted)
    rules = sorted((one.slug, one.cron, one.timezone) for one in wanted.schedules)
    had = sorted(
        (str(one.slug), one.schedule.cron, str(one.schedule.timezone))
        for one in (found.schedules if found else [])
        if isinstance(one.schedule, CronSchedule)
    )
    if found is None or found.work_queue_name != wanted.queue or had != rules:
        raise VerificationFailed(
            f"The orchestrator did not keep the deployment {wanted.full_name} as it was registered.",
            hint="Was it changed meanwhile? Register again.",
        )
    return len(had)
