"""Nightly backup of one platform: guide "Backup & Recovery", item BK-1, and the database's size, DB-6.

Safe to run again: each run writes a new backup set and alters no older one.
"""

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from keepwell.interlock import Procedure
from tasks import backup_steps, evidence_steps, interlock_steps, notify_steps, second_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="backup-and-verify", flow_run_name="backup-and-verify/{platform}", persist_result=False)
@scrubbed
def backup_and_verify(platform: PlatformName) -> State[Any]:
    """Dump a platform's data, prove that it restores equal, and only then count it as a backup.

    Args:
        platform: Name of the platform, as its platform file gives it.
    """
    started_at = datetime.now(UTC)
    with interlock_steps.hold(platform, Procedure.BACKUP) as hold:
        # Stop now if the run could not finish: versions, privileges, space.
        noticed = backup_steps.require_ready(platform)

        # Row counts and hashes come from the dump's own snapshot, so they are exact.
        # The manifest is written last: without one, there is no backup set.
        backup_id = backup_steps.write(platform, hold)

    # Read back from the store, never from what is still in memory. The source is not touched any more, so nobody waits.
    proof = backup_steps.prove(platform, backup_id)

    # Evidence first, good or bad: a run that fell short is the one that people will want to read about.
    evidence_steps.record_backup(platform, proof, started_at, noticed)
    backup_steps.require_proven(platform, {backup_id: proof})

    # The outside watcher hears of proven sets only, so that its silence means what it says.
    notify_steps.ping(platform)

    # People hear of the first one, once. From then on they hear of failures only.
    notify_steps.tell_first(platform, proof)

    # Carried as it is stored, so that the source is read once, and proven there by itself. The set that is proven by
    # now stays so, whatever becomes of its copy.
    second = second_steps.copy_and_prove(platform, backup_id)
    if second is not None:
        evidence_steps.record_second(platform, second, started_at)
    return second_steps.judge_end(platform, backup_id, second)
