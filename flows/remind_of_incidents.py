"""Reminders of updates that people were promised in an incident; whoever promises one plans a run of this.

Safe to run at any time: without an open case, or before an update is due, it does nothing.
"""

from prefect import flow

from tasks import incident_steps, notify_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="remind-of-incidents", flow_run_name="remind-of-incidents/{platform}", persist_result=False)
@scrubbed
def remind_of_incidents(platform: PlatformName) -> None:
    """Remind the team of every update that is due, again and again until people were told or the case is over.

    Args:
        platform: Name of the platform, as its platform file gives it.
    """
    reminders = incident_steps.remind(platform)

    # Planned before anything can fail: a channel that is down today must not end the reminders.
    incident_steps.plan_next_reminder(platform)

    for reminder in reminders:
        notify_steps.require_delivered(reminder.delivery)
