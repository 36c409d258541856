"""Makes the orchestrator what `prefect.yaml` says: work pool, queues, deployments, automations.

    python -m deployments.register [--platform esn]... [--json]

Safe to run again: everything is looked up by its name and brought up to date. What an operator switched off (a paused
deployment, a schedule, an automation) stays off, and a schedule that did not change stays the one it was. It speaks
with PREFECT_API_URL's server in this process: the same by `prefect deploy` takes a new interpreter for each command,
makes each schedule anew, and leaves pool, queues and automations to others.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentScheduleUpdate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from deployments.automations import build_automations, upsert_automations
from deployments.deployment_file import POOL, DeploymentSpec, ScheduleSpec, read_deployment_file
from keepwell.errors import KeepwellError, ServiceUnavailable

# Reports and checks have a queue of their own, so that no backup which takes hours is in their way.
_QUEUE_LIMITS = {"watch": 4, "procedures": 2}
_QUEUE_PRIORITIES = {"watch": 1, "procedures": 2}


@dataclass(frozen=True)
class Registered:
    """What there is after a registration, by count; the same after a second one."""

    work_pools: int
    work_queues: int
    deployments: int
    schedules: int
    automations: int


def register(platforms: Sequence[str] = ()) -> Registered:
    """Bring the orchestrator up to date.

    Args:
        platforms: The first is what a run by hand means unless told otherwise; each has its own schedules. None:
            as `prefect.yaml` says.

    Returns:
        How much of what there is now.

    Raises:
        ConfigurationError: `prefect.yaml` says something that is not understood.
        ServiceUnavailable: The orchestrator does not answer.
    """
    specs = read_deployment_file().deployments
    try:
        with get_client(sync_client=True) as client:
            _upsert_pool(client)
            ids = {spec.name: _upsert_deployment(client, spec, platforms) for spec in specs}
            automations = upsert_automations(client, build_automations(ids))
            schedules = sum(len(client.read_deployment(one).schedules) for one in ids.values())
    except (httpx.HTTPError, PrefectException) as error:
        raise ServiceUnavailable(
            f"The orchestrator did not take the registration: {type(error).__name__}: {error}",
            hint="Is PREFECT_API_URL right, and is the server up?",
        ) from error
    return Registered(1, len(_QUEUE_LIMITS), len(ids), schedules, automations)


def build_schedules(
    specs: Sequence[ScheduleSpec], platforms: Sequence[str], switched_off: frozenset[str]
) -> list[DeploymentScheduleCreate]:
    """Every schedule once for each platform; those that an operator switched off stay off.

    Args:
        specs: Of one deployment.
        platforms: Names, at least one.
        switched_off: Slugs.
    """
    made = []
    for spec in specs:
        for platform in platforms:
            slug = f"{spec.slug}-{platform}"
            made.append(
                DeploymentScheduleCreate(
                    schedule=CronSchedule(cron=spec.cron, timezone=spec.timezone),
                    parameters={"platform": platform},
                    slug=slug,
                    active=slug not in switched_off,
                )
            )
    return made


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


def _upsert_pool(client: SyncPrefectClient) -> None:
    try:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    except ObjectAlreadyExists:
        pass  # an operator may have given it limits or variables of their own
    for queue, limit in _QUEUE_LIMITS.items():
        priority = _QUEUE_PRIORITIES[queue]
        try:
            client.create_work_queue(queue, concurrency_limit=limit, priority=priority, work_pool_name=POOL)
        except ObjectAlreadyExists:
            path = {"work_pool_name": POOL, "name": queue}
            wanted = {"concurrency_limit": limit, "priority": priority}
            client.request("PATCH", "/work_pools/{work_pool_name}/queues/{name}", path_params=path, json=wanted)


def _upsert_deployment(client: SyncPrefectClient, spec: DeploymentSpec, platforms: Sequence[str]) -> UUID:
    # Not by Prefect's loader, which calls any error of an import a missing flow.
    flow: Flow[..., object] = getattr(import_module(f"flows.{spec.flow}"), spec.flow)
    parameters = dict(spec.parameters)
    if "platform" in parameters and platforms:
        parameters["platform"] = platforms[0]
    facts = _describe(spec, flow, parameters)
    existing = _find_deployment(client, spec)
    old = existing.schedules if existing else []
    switched_off = frozenset(schedule.slug for schedule in old if schedule.slug and not schedule.active)
    schedules = build_schedules(spec.schedules, platforms or [str(parameters.get("platform"))], switched_off)
    if existing is None:
        return client.create_deployment(client.create_flow(flow), spec.name, schedules=schedules, **facts)
    for outdated in find_outdated(old, schedules):
        client.delete_deployment_schedule(existing.id, outdated.id)
    # Known by their slugs, so that those which are there already stay.
    kept = [
        DeploymentScheduleUpdate(schedule=one.schedule, active=one.active, parameters=one.parameters, slug=one.slug)
        for one in schedules
    ]
    client.update_deployment(existing.id, DeploymentUpdate(schedules=kept, **facts))
    return existing.id


def _describe(spec: DeploymentSpec, flow: Flow[..., object], parameters: dict[str, Any]) -> dict[str, Any]:
    """A deployment as Prefect's client names its fields, but for its name and its schedules."""
    limit = spec.concurrency_limit
    options = limit and ConcurrencyOptions(
        collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy),
        grace_period_seconds=limit.grace_period_seconds,
    )
    return {
        "description": spec.description,
        "tags": list(spec.tags),
        "parameters": parameters,
        "parameter_openapi_schema": parameter_schema(flow.fn).model_dump_for_openapi(),
        "enforce_parameter_schema": spec.enforce_parameter_schema,
        "entrypoint": spec.entrypoint,
        # The project is installed where the worker is, so there is nothing to pull.
        "pull_steps": [],
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options,
        "work_pool_name": spec.work_pool.name,
        "work_queue_name": spec.work_pool.work_queue_name,
        "job_variables": spec.work_pool.job_variables.model_dump(),
    }


def _find_deployment(client: SyncPrefectClient, spec: DeploymentSpec) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{spec.name}/{spec.name}")
    except ObjectNotFound:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.register", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--platform", action="append", default=[], metavar="NAME", help="may be given several times")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        registered = register(options.platform)
    except KeepwellError as error:
        sys.stderr.write(f"register: {error.message}\n   hint: {error.hint}\n")
        return 2 if isinstance(error, ServiceUnavailable) else 1
    counts = asdict(registered)
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    sys.stdout.write((json.dumps(counts) if options.json else f"Registered: {words}.") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
