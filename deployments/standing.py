"""What of ours an orchestrator has by now, what of it is not wanted any more, and what the new inherits from it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from deployments.automations import NAMESPACE
from deployments.deployment_file import POOL
from deployments.wanted import WantedDeployment, platform_queue
from keepwell.orchestrator import PLATFORM_TAG
from keepwell.pausing import BACKUP, CHECK, RESUME, expiry_name, parse_pause, variable_name

# Every deployment of ours bears it.
_OURS = "keepwell"
_PAGE = 200
# Of the first release, which had one deployment of each procedure for all platforms, in one queue.
_EARLIER_QUEUE, _EARLIER_EXPIRY = "procedures", f"{NAMESPACE}expire old sets after a proven backup"


@dataclass(frozen=True)
class StandingDeployment:
    """A deployment of ours.

    Attributes:
        id: Its own.
        procedure: Name of its flow.
        name: Its own, within its flow.
        platform: Whose it is; None where its tags do not say.
        paused: Whether its schedules make no runs.
        switched_off: Slugs of those schedules that an operator switched off.
    """

    id: UUID
    procedure: str
    name: str
    platform: str | None = None
    paused: bool = False
    switched_off: frozenset[str] = frozenset()

    @property
    def full_name(self) -> str:
        """As Prefect writes it: flow and deployment."""
        return f"{self.procedure}/{self.name}"

    @property
    def is_of_first_release(self) -> bool:
        """Whether it bears its flow's name, as all did then; one for all platforms still does."""
        return self.platform is None and self.name == self.procedure


@dataclass(frozen=True)
class Standing:
    """All of ours that an orchestrator has.

    Attributes:
        deployments: By any order.
        queues: Name to id, of our pool.
        automations: Name to whether it is switched on; those that bear our namespace.
        paused_platforms: Names of those that `keepwell pause` paused, and nobody resumed in Prefect's own pages.
    """

    deployments: tuple[StandingDeployment, ...] = ()
    queues: dict[str, UUID] = field(default_factory=dict)
    automations: dict[str, bool] = field(default_factory=dict)
    paused_platforms: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gone:
    """What is not wanted any more.

    Attributes:
        deployments: Of platforms that are gone, and of earlier releases.
        queues: Names, likewise.
        automations: Names, likewise.
    """

    deployments: tuple[StandingDeployment, ...] = ()
    queues: tuple[str, ...] = ()
    automations: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Each in words, deployments first."""
        return (
            *(one.full_name for one in self.deployments),
            *(f"queue {name}" for name in self.queues),
            *(f"automation “{name.removeprefix(NAMESPACE)}”" for name in self.automations),
        )


@dataclass(frozen=True)
class Inherited:
    """How a deployment begins that there was not yet.

    Attributes:
        paused: As the one that it replaces was.
        switched_off: Slugs of its schedules that begin switched off, likewise.
    """

    paused: bool = False
    switched_off: frozenset[str] = frozenset()


def read_standing(client: SyncPrefectClient, platforms: Sequence[str]) -> Standing:
    """What the orchestrator has of ours: known by its tag, our pool, and the automations' namespace.

    Args:
        client: Of the orchestrator.
        platforms: Whose pauses are asked for.
    """
    ours = DeploymentFilter(tags=DeploymentFilterTags.model_validate({"all_": [_OURS]}))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=ours, limit=_PAGE, offset=len(found)):
        found += page
    flows = {flow_id: client.read_flow(flow_id).name for flow_id in {one.flow_id for one in found}}
    try:
        queues = {queue.name: queue.id for queue in client.read_work_queues(work_pool_name=POOL, limit=_PAGE)}
    except ObjectNotFound:
        queues = {}
    automations = {one.name: one.enabled for one in client.read_automations() if one.name.startswith(NAMESPACE)}
    deployments = tuple(_describe(one, flows[one.flow_id]) for one in found)
    resumed = {one.platform for one in deployments if one.procedure == BACKUP and not one.paused}
    paused = frozenset(name for name in platforms if name not in resumed and _is_paused(client, name))
    return Standing(deployments, queues, automations, paused)


def find_gone(standing: Standing, wanted: Sequence[WantedDeployment], wanted_automations: Collection[str]) -> Gone:
    """What of ours nobody wants any more; what others made is not looked at.

    Args:
        standing: As read.
        wanted: Every deployment that there should be, of all platforms.
        wanted_automations: Names, likewise.
    """
    names = {one.full_name for one in wanted}
    platforms = {one.platform for one in wanted if one.platform is not None}
    kept_queues = set(map(platform_queue, platforms))
    # Another queue of our pool may be somebody's own.
    our_queues = {name for name in standing.queues if name.startswith(platform_queue("")) or name == _EARLIER_QUEUE}
    return Gone(
        tuple(
            sorted(
                (
                    one
                    for one in standing.deployments
                    if (one.platform is not None or one.is_of_first_release) and one.full_name not in names
                ),
                key=lambda one: one.full_name,
            )
        ),
        tuple(sorted(our_queues - kept_queues)),
        tuple(sorted(name for name in standing.automations if name not in wanted_automations and _is_expiry(name))),
    )


def inherit(wanted: WantedDeployment, standing: Standing) -> Inherited:
    """What a deployment takes over: its own past, or that of the first release's one for all platforms."""
    own = [one for one in standing.deployments if one.full_name == wanted.full_name]
    if own:
        return Inherited(own[0].paused, own[0].switched_off)
    earlier = [one for one in standing.deployments if one.procedure == wanted.spec.name and one.is_of_first_release]
    if not earlier:
        # One that comes new into a pause begins with it.
        new = wanted.platform in standing.paused_platforms and wanted.spec.name not in (CHECK, RESUME)
        return Inherited(paused=new)
    suffix = f"-{wanted.platform}"
    return Inherited(
        earlier[0].paused,
        frozenset(slug.removesuffix(suffix) for slug in earlier[0].switched_off if slug.endswith(suffix)),
    )


def inherit_switched_off(standing: Standing, platforms: Sequence[str]) -> frozenset[str]:
    """Names of automations that begin switched off: the first release had one for all platforms."""
    if standing.automations.get(_EARLIER_EXPIRY, True):
        return frozenset()
    return frozenset(map(expiry_name, platforms))


def _is_paused(client: SyncPrefectClient, platform: str) -> bool:
    found = client.read_variable_by_name(variable_name(platform))
    return parse_pause(found.value if found else None).is_on


def _is_expiry(name: str) -> bool:
    before, after = expiry_name("\0").split("\0")
    return name == _EARLIER_EXPIRY or (name.startswith(before) and name.endswith(after))


def _describe(found: DeploymentResponse, procedure: str) -> StandingDeployment:
    tags = [tag.removeprefix(PLATFORM_TAG) for tag in found.tags if tag.startswith(PLATFORM_TAG)]
    return StandingDeployment(
        id=found.id,
        procedure=procedure,
        name=found.name,
        platform=tags[0] if tags else None,
        paused=found.paused,
        switched_off=frozenset(one.slug for one in found.schedules if one.slug and not one.active),
    )
