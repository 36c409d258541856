"""What a case leaves as evidence of the guide's four steps. Pure."""

from collections.abc import Iterator
from datetime import datetime

from keepwell.evidence import Evidence
from keepwell.incident.documents import Step, StepOutcome
from keepwell.incident.journal import Incident
from keepwell.incident.standing import StepState, measure_times
from keepwell.incident.telling import DRILL_MARK
from keepwell.verdict import Finding, Verdict, worst

ITEMS = ("DR-1", "DR-2", "DR-3", "DR-4")
_VERDICTS = {StepOutcome.DONE: Verdict.OK, StepOutcome.SKIPPED: Verdict.WARN, StepOutcome.FAILED: Verdict.ALERT}


def build_evidence(incident: Incident, *, finished_at: datetime, flow_run: str | None = None) -> Evidence:
    """One finding for each step, and what it cost.

    Args:
        incident: As it stands.
        finished_at: Aware.
        flow_run: Id of the orchestrator's run; None without one.

    Returns:
        Its verdict is the worst step's: one that was skipped is a warning, one that was not begun or not ended unknown.
    """
    case, standing = incident.case, incident.standing
    findings = tuple(_judge(incident))
    mark = f"{DRILL_MARK}: " if case.drill else ""
    end = "is open" if standing.is_open else "is resolved"
    return Evidence(
        items=ITEMS,
        platform=case.platform,
        verdict=worst(finding.verdict for finding in findings),
        summary=f"{mark}The case {case.case_id}, {case.title}, {end}.",
        findings=findings,
        numbers=measure_times(case, incident.entries, standing),
        started_at=case.opened_at,
        finished_at=max(finished_at, case.opened_at),
        flow_run=flow_run,
    )


def _judge(incident: Incident) -> Iterator[Finding]:
    for step, state in incident.standing.steps.items():
        yield Finding(
            name=step.value,
            verdict=_VERDICTS.get(state.outcome, Verdict.UNKNOWN) if state.outcome else Verdict.UNKNOWN,
            message=_describe(step, state),
        )


def _describe(step: Step, state: StepState) -> str:
    name = step.value.capitalize()
    if state.outcome is None:
        return f"{name} was not begun."
    words = {
        StepOutcome.BEGUN: "was begun and not ended",
        StepOutcome.DONE: "is done",
        StepOutcome.SKIPPED: "was skipped",
        StepOutcome.FAILED: "failed",
    }
    by = f" by {state.by}" if state.by else ""
    return f"{name} {words[state.outcome]}{by}{': ' + state.message if state.message else '.'}"
