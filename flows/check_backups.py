"""Is there a good backup, and does the next one start by itself? Guide items DAILY-5 and BK-5.

Safe to run at any time: it reads the bucket and the orchestrator, and writes nothing but evidence.
"""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks import check_steps, evidence_steps, notify_steps, schedule_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="check-backups", flow_run_name="check-backups/{platform}", persist_result=False)
@scrubbed
def check_backups(platform: PlatformName) -> State[Any]:
    """Check the newest proven backup's age, size and level, and look for late, missed and stopped runs.

    Args:
        platform: Name of the platform, as its platform file gives it.
    """
    # A schedule that never fired leaves no failed run behind, so ask when runs were due, not only how they ended.
    schedule = schedule_steps.read_schedule(platform)
    judgement = check_steps.judge(platform, schedule)

    # Once when it turns bad, again after a day, once when it is over; the last evidence remembers what was told.
    delivery = notify_steps.tell(platform, judgement.message) if judgement.message else None
    evidence = evidence_steps.record_check(platform, check_steps.note_delivery(judgement, delivery))
    notify_steps.require_delivered(delivery)
    return check_steps.as_state(evidence.verdict)
