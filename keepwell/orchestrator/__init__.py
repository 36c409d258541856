"""The Prefect server, spoken to by its REST API: Prefect itself is never imported."""

from keepwell.orchestrator.client import (
    PLATFORM_TAG,
    REGISTER_COMMAND,
    REGISTER_HINT,
    WORK_POOL,
    Automation,
    Deployment,
    FlowRun,
    LogLine,
    Orchestrator,
    Progress,
    Queue,
    Schedule,
    TaskRun,
    Worker,
    connect,
)
from keepwell.orchestrator.questions import REJECTION, Question, answer_question, read_questions

__all__ = [
    "PLATFORM_TAG",
    "REGISTER_COMMAND",
    "REGISTER_HINT",
    "REJECTION",
    "WORK_POOL",
    "Automation",
    "Deployment",
    "FlowRun",
    "LogLine",
    "Orchestrator",
    "Progress",
    "Question",
    "Queue",
    "Schedule",
    "TaskRun",
    "Worker",
    "answer_question",
    "connect",
    "read_questions",
]
