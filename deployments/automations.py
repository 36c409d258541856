"""What the server does by itself when a run dies, fails or does not begin, and when a backup is proven.

Automations are told apart by their names: creating one twice makes two, so each is looked up first.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.deployment_file import BACKUP, EXPIRE, HEARTBEAT_SECONDS, REPORT, WATCHED
from keepwell.pausing import expiry_name
from tasks.endings import SECOND_FAILED

# What the names of all of ours begin with.
NAMESPACE = "keepwell: "
_RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
# Related resources match when any of them does, so "not tagged report" cannot be said: a tag of their own says it.
_WATCHED_RUNS = ResourceSpecification({"prefect.resource.id": f"prefect.tag.{WATCHED}", "prefect.resource.role": "tag"})
_EACH_RUN = {"prefect.resource.id"}
_HEARTBEAT = "prefect.flow-run.heartbeat"
# Two lost ones are forgiven.
_SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS)
# A run may wait this long for a worker, or for the run before it, before people are told.
_LATE = timedelta(minutes=10)
# By the state's name. `Alert` and `Unknown` are how a check ends that has told people itself.
# `SecondFailed`: a backup that is proven in the first destination alone.
_ENDED = {"Completed", "Warn", "Alert", "Unknown", "Failed", "Crashed", "TimedOut", "Cancelled", SECOND_FAILED}
_RESTING = {"Cancelling", "Paused", "Suspended", "Resuming", "AwaitingRetry", "Scheduled"}


def build_automations(deployments: Mapping[str, UUID], platforms: Sequence[str]) -> tuple[AutomationCore, ...]:
    """Every automation, as it should be.

    Args:
        deployments: Full name, such as `backup-and-verify/esn`, to id.
        platforms: Names of those that the deployments are for.
    """
    return (
        *_build_watch(deployments[f"{REPORT}/{REPORT}"]),
        *(
            _build_expiry(platform, deployments[f"{BACKUP}/{platform}"], deployments[f"{EXPIRE}/{platform}"])
            for platform in platforms
        ),
    )


def _build_watch(report_id: UUID) -> tuple[AutomationCore, ...]:
    """What notices runs that fail, fall silent or do not begin; the same for all platforms."""
    report = RunDeployment(
        source="selected",
        deployment_id=report_id,
        parameters={"flow_run_id": _template("{{ flow_run.id }}")},
    )
    return (
        AutomationCore(
            name=f"{NAMESPACE}a silent run is dead",
            description="A killed process says nothing: without a heartbeat, its run is marked as crashed.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match=_RUNS,
                match_related=_WATCHED_RUNS,
                for_each=_EACH_RUN,
                after={_HEARTBEAT},
                expect={_HEARTBEAT} | _events(_ENDED | _RESTING),
                threshold=1,
                within=_SILENCE,
            ),
            actions=[
                ChangeFlowRunState(
                    name="Crashed",
                    state=StateType.CRASHED,
                    message="The process fell silent: it was killed, or its machine is gone.",
                )
            ],
        ),
        AutomationCore(
            name=f"{NAMESPACE}tell of failed runs",
            description="Failed, crashed and timed out runs start report-failure, which tells people.",
            trigger=EventTrigger(
                posture=Posture.Reactive,
                match=_RUNS,
                match_related=_WATCHED_RUNS,
                for_each=_EACH_RUN,
                expect=_events({"Failed", "Crashed", "TimedOut", SECOND_FAILED}),
                threshold=1,
                within=timedelta(0),
            ),
            actions=[report],
        ),
        AutomationCore(
            name=f"{NAMESPACE}tell of runs that do not begin",
            description="A run that is late and does not begin within ten minutes starts report-failure.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match=_RUNS,
                match_related=_WATCHED_RUNS,
                for_each=_EACH_RUN,
                after=_events({"Late"}),
                expect=_events(_ENDED | {"Pending", "Running"}),
                threshold=1,
                within=_LATE,
            ),
            actions=[report],
        ),
    )


def _build_expiry(platform: str, backup_id: UUID, expire_id: UUID) -> AutomationCore:
    proven_backups = ResourceSpecification(
        {"prefect.resource.id": f"prefect.deployment.{backup_id}", "prefect.resource.role": "deployment"}
    )
    return AutomationCore(
        name=expiry_name(platform),
        description="Once a backup run's set is proven, whatever became of its copy, expire-backups has its turn.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match=_RUNS,
            match_related=proven_backups,
            for_each=_EACH_RUN,
            expect=_events({"Completed", SECOND_FAILED}),
            threshold=1,
            within=timedelta(0),
        ),
        actions=[RunDeployment(source="selected", deployment_id=expire_id, parameters={"platform": platform})],
    )


def upsert_automations(
    client: SyncPrefectClient, automations: Sequence[AutomationCore], switched_off: frozenset[str] = frozenset()
) -> int:
    """Create or update each by its name; a second one of the same name is removed.

    Whether one is switched off stays as the operator left it.

    Args:
        client: Of the orchestrator.
        automations: As they should be.
        switched_off: Names of those that begin switched off, because what they replace was.

    Returns:
        How many there are now.
    """
    for wanted in automations:
        existing = client.read_automations_by_name(wanted.name)
        if not existing:
            client.create_automation(wanted.model_copy(update={"enabled": wanted.name not in switched_off}))
            continue
        first, *surplus = existing
        client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
        for double in surplus:
            client.delete_automation(double.id)
    return sum(len(client.read_automations_by_name(wanted.name)) for wanted in automations)


def _events(states: set[str]) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


def _template(text: str) -> dict[str, str]:
    """A parameter that the server fills in when the automation fires."""
    return {"__prefect_kind": "jinja", "template": text}
