"""A server whose scheduler is broken looks alive: only the runs that it makes tell."""

from datetime import datetime
from typing import TYPE_CHECKING

from runs import Api, wait_until

from deployments.deployment_file import read_deployment_file

if TYPE_CHECKING:
    from conftest import Stack


def scheduled(api: Api, deployment: str) -> list[datetime]:
    runs = [run for run in api.runs(deployment) if run["state"]["type"] == "SCHEDULED" and run["auto_scheduled"]]
    return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]


def test_a_cron_deployment_really_gets_its_runs(api: Api) -> None:
    wait_until(lambda: len(scheduled(api, "backup-and-verify")) >= 3, 90)
    first, second, *_ = scheduled(api, "backup-and-verify")
    assert (first.hour, first.minute) == (2, 0)
    assert (second - first).days == 1
    wait_until(lambda: bool(scheduled(api, "check-backups")), 90)
    assert scheduled(api, "check-backups")[0].minute == 15
    assert scheduled(api, "report-failure") == []


def test_registering_again_changes_nothing(stack: "Stack") -> None:
    import json
    import subprocess
    import sys

    argv = [sys.executable, "-m", "deployments.register", "--json"]
    counts = [
        json.loads(subprocess.run(argv, env=stack.environment, capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert counts[0] == counts[1]
    specs = read_deployment_file().deployments
    assert counts[0] == {
        "work_pools": 1,
        "work_queues": 2,
        "deployments": len(specs),
        "schedules": sum(len(spec.schedules) for spec in specs),
        "automations": 4,
        "platforms": ["esn"],
        "removed": [],
    }
