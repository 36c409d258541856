"""Tells people of a run that failed, crashed, took too long or never began; started by the automations.

It bears no tag that those automations watch, so its own failures start nothing.
"""

from uuid import UUID

from prefect import flow

from tasks import failure_steps, notify_steps
from tasks.redaction import scrubbed


@flow(name="report-failure", flow_run_name="report-failure/{flow_run_id}", persist_result=False)
@scrubbed
def report_failure(flow_run_id: UUID) -> None:
    """Say what happened, what is still safe, and what to type next.

    Args:
        flow_run_id: The run to tell people of.
    """
    failure = failure_steps.read_failure(flow_run_id)
    message = failure_steps.record_failure(flow_run_id, failure)
    notify_steps.require_delivered(notify_steps.tell(failure.platform, message))
