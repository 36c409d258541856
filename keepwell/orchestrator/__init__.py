"""The Prefect server, spoken to by its REST API: Prefect itself is never imported."""

from keepwell.orchestrator.client import (
    REGISTER_COMMAND,
    WORK_POOL,
    Deployment,
    FlowRun,
    LogLine,
    Orchestrator,
    Progress,
    Queue,
    TaskRun,
    Worker,
    connect,
)

__all__ = [
    "REGISTER_COMMAND",
    "WORK_POOL",
    "Deployment",
    "FlowRun",
    "LogLine",
    "Orchestrator",
    "Progress",
    "Queue",
    "TaskRun",
    "Worker",
    "connect",
]
