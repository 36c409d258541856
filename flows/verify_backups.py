"""Monthly restore of stored backup sets: guide "Monthly Tasks", item MONTHLY-6.

Safe to run at any time: it reads the store, restores on scratch servers of its own, and adds a proof to each set.
"""

from datetime import UTC, datetime

from prefect import flow

from keepwell.destination import Destination
from tasks import backup_steps, evidence_steps, second_steps
from tasks.backup_steps import Which
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="verify-backups", flow_run_name="verify-backups/{platform}", persist_result=False)
@scrubbed
def verify_backups(
    platform: PlatformName,
    which: Which = Which.NEWEST_AND_RANDOM_OLDER,
    backup_id: str | None = None,
) -> None:
    """Restore stored backup sets and prove them equal to their source: the newest, and an older one by lot.

    Args:
        platform: Name of the platform, as its platform file gives it.
        which: Which sets to restore and prove.
        backup_id: The set's id, where `which` is `one`.
    """
    started_at = datetime.now(UTC)
    chosen = backup_steps.choose(platform, which, backup_id)

    # One after the other: each restore wants the machine for itself. A bad set does not keep the next from its turn.
    outcomes = {chosen_id: backup_steps.try_to_prove(platform, chosen_id) for chosen_id in chosen}

    evidence_steps.record_verification(platform, outcomes, started_at)

    # A copy is proven by itself: what was good when it was carried may be damaged where it lies.
    copies = second_steps.verify(platform, which, backup_id)
    if copies:
        evidence_steps.record_verification(platform, copies, started_at, Destination.SECOND)

    backup_steps.require_proven(platform, outcomes | second_steps.named(copies))
