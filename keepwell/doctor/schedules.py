"""Whether what `schedules.toml` says is what the orchestrator goes by."""

from collections.abc import Sequence

from keepwell.orchestrator import Deployment
from keepwell.schedules import Registered, Rule, ScheduleFile, describe_difference, read_schedules
from keepwell.settings import SCHEDULES_FILE, config_folder, read_platform_names


def find_differences(deployments: Sequence[Deployment], platform: str) -> list[str]:
    """How a platform's registered schedules differ from `schedules.toml`, one sentence for each procedure.

    Raises:
        ConfigurationError: That file says something that is not understood.
    """
    own = {one.procedure: one for one in deployments if one.platform == platform}
    path = config_folder() / SCHEDULES_FILE
    file = read_schedules(path, platforms=read_platform_names(), procedures=own) if path.exists() else ScheduleFile()
    found = {
        name: describe_difference(
            file.rules_for(platform, name),
            [Registered(Rule(one.cron, one.timezone), one.slug or "", one.active) for one in deployment.schedules],
        )
        for name, deployment in own.items()
    }
    return [f"{name}: {difference}" for name, difference in found.items() if difference]
