"""Removing old backup sets of one platform: guide "Keep only last 30 days", item BK-2.

Started by a backup that was proven, as a run of its own, so that it can never make a backup fail. Safe to run at any
time: what goes is decided anew from what is proven now, and a killed run is finished by the next one.
"""

from datetime import UTC, datetime

from prefect import flow

from keepwell.interlock import Procedure
from tasks import interlock_steps, restore_steps, retention_steps, second_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="expire-backups", flow_run_name="expire-backups/{platform}", persist_result=False)
@scrubbed
def expire_backups(platform: PlatformName) -> None:
    """Remove the backup sets that no rule keeps, so long as there is a fresh proven one.

    Args:
        platform: Name of the platform, as its platform file gives it.
    """
    started_at = datetime.now(UTC)
    # Nobody writes, restores or verifies a set meanwhile.
    with interlock_steps.hold(platform, Procedure.EXPIRE) as hold:
        # Proven sets alone count, and no plan removes more than the platform file lets one run remove.
        planned = retention_steps.plan(platform)

        # Read and planned once more: what goes is exactly this plan. With an alert, nothing does.
        expiry = retention_steps.apply(platform, planned, hold)

    retention_steps.record(platform, expiry, started_at)

    # The second destination by itself: what goes there rests on what is proven there.
    second = second_steps.expire(platform, started_at)

    retention_steps.require_applied(expiry, second)

    # What a restore replaced, once the days are over that the platform file gives it: never by default, and never the
    # only copy of anything.
    for case_id in restore_steps.find_due(platform):
        with interlock_steps.hold(platform, Procedure.SWAP):
            restore_steps.purge(platform, case_id)
