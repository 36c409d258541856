"""Which deployments there should be: pure decisions over `prefect.yaml`, the platforms' names and `schedules.toml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.deployment_file import DeploymentSpec, ScheduleSpec
from keepwell.orchestrator import PLATFORM_TAG
from keepwell.schedules import OWN_SLUG, ScheduleFile

# Checks and reports have a queue of their own, so that no backup which takes hours is in their way; each platform has
# one of its own, so that none waits for another.
WATCH_QUEUE, WATCH_LIMIT, PLATFORM_LIMIT = "watch", 4, 2
_PLATFORM_QUEUE = "platform-"


@dataclass(frozen=True)
class WantedDeployment:
    """One deployment as it should be.

    Attributes:
        spec: What `prefect.yaml` says of its procedure.
        platform: Whose it is; None for the one that serves all.
        schedules: When it starts by itself.
    """

    spec: DeploymentSpec
    platform: str | None
    schedules: tuple[ScheduleSpec, ...]

    @property
    def name(self) -> str:
        """Its own name, within its flow."""
        return self.platform or self.spec.name

    @property
    def full_name(self) -> str:
        """As Prefect writes it: flow and deployment."""
        return f"{self.spec.name}/{self.name}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Those of its procedure, and the platform's."""
        return self.spec.tags if self.platform is None else (*self.spec.tags, f"{PLATFORM_TAG}{self.platform}")

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of its procedure, and the platform's name."""
        return dict(self.spec.parameters) | ({} if self.platform is None else {"platform": self.platform})

    @property
    def queue(self) -> str:
        """The queue that its runs wait in."""
        named = self.spec.work_pool.work_queue_name
        return platform_queue(self.platform) if named == "platform" and self.platform is not None else named


def platform_queue(platform: str) -> str:
    """Name of a platform's own queue."""
    return f"{_PLATFORM_QUEUE}{platform}"


def queue_limits(platforms: Sequence[str]) -> Mapping[str, int]:
    """How many runs each queue lets run at once, the most urgent first."""
    return {WATCH_QUEUE: WATCH_LIMIT} | {platform_queue(platform): PLATFORM_LIMIT for platform in platforms}


def plan_deployments(
    specs: Sequence[DeploymentSpec], platforms: Sequence[str], schedules: ScheduleFile
) -> tuple[WantedDeployment, ...]:
    """Each procedure once for each platform, and once where it serves all.

    Args:
        specs: Of `prefect.yaml`.
        platforms: Names, each once.
        schedules: What the operator wants other than the release.
    """
    return tuple(
        WantedDeployment(spec, platform, _choose_schedules(spec, platform, schedules))
        for spec in specs
        for platform in (platforms if spec.per_platform else [None])
    )


def _choose_schedules(spec: DeploymentSpec, platform: str | None, file: ScheduleFile) -> tuple[ScheduleSpec, ...]:
    rules = None if platform is None else file.rules_for(platform, spec.name)
    if rules is None:
        return spec.schedules
    slugs = [OWN_SLUG, *(f"{OWN_SLUG}-{number}" for number in range(2, len(rules) + 1))]
    return tuple(
        ScheduleSpec(cron=rule.cron, timezone=rule.timezone, slug=slug)
        # In an order of their own, so that one which moved within the file stays the one it is.
        for slug, rule in zip(slugs, sorted(rules, key=str), strict=False)
    )
