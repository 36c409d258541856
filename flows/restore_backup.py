"""Restoring a backup set of one platform: guide "Restore specific backup", item BK-4.

Beside the live database by default, which touches nothing. In its place only once a person approved exactly this plan.
A run that was killed or that failed on the way goes on where it stopped: run it again with its case's id, which
`keepwell restore status` tells.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import AwareDatetime, Field

from keepwell.errors import Refused
from keepwell.interlock import Procedure
from keepwell.restore.choice import NEWEST, Choice
from keepwell.restore.pages import summarize_plan
from keepwell.restore.plan import Mode
from tasks import approval_steps, endings, interlock_steps, restore_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed

_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
Which = Annotated[str, Field(pattern=rf"^({NEWEST}|{_ID})$")]
CaseId = Annotated[str, Field(pattern=rf"^{_ID}$")]
DatabaseName = Annotated[str, Field(min_length=1, max_length=63)]


@flow(name="restore-backup", flow_run_name="restore-backup/{platform}", persist_result=False)
@scrubbed
def restore_backup(
    platform: PlatformName,
    *,
    which: Which = NEWEST,
    before: AwareDatetime | None = None,
    database: DatabaseName | None = None,
    mode: Mode = Mode.BESIDE,
    name: DatabaseName | None = None,
    case_id: CaseId | None = None,
    allow_unproven: bool = False,
    plan_only: bool = False,
) -> State[Any] | None:
    """Restore a backup set into a new database, prove it there, and swap it in where that is asked for and approved.

    Args:
        platform: Name of the platform, as its platform file gives it.
        which: `newest`, which is the newest proven set, or a set's id.
        before: Only sets of before this time; not with an id.
        database: Which of the set's databases; the main one by default.
        mode: `beside` touches nothing that is live; `swap` needs an approval, and can be undone.
        name: Of the new database; made of the live one's name and the set's moment by default.
        case_id: Of a case that goes on where it stopped; the other fields are left aside then.
        allow_unproven: Take even a set that was never proven; the evidence says so.
        plan_only: Show the plan, and stop.
    """
    # What comes back, what would be lost, what it costs, what stands in the way: nothing is changed by looking.
    choice = Choice(which=which, before=before, database=database, allow_unproven=allow_unproven)
    planned = restore_steps.plan(platform, choice, mode, name, case_id)
    if plan_only:
        return endings.completed(f"Planned, and nothing else. Plan {planned.digest}: {summarize_plan(planned)}")
    restore_steps.require_possible(planned, case_id)

    # The run is suspended and holds nothing meanwhile. Answered, it begins anew, and all of the above with it. A case
    # that goes on may have an approval that still counts.
    approval = None
    if planned.swaps and not restore_steps.is_approved(platform, planned, case_id):
        try:
            approval = approval_steps.obtain(platform, planned.subject, summarize_plan(planned))
        except Refused as refused:
            return endings.cancelled(refused.message)

    # Into a new database, proven there against the manifest. Then the names are exchanged in one transaction, and the
    # application is asked: if it does not serve, they are exchanged back.
    with interlock_steps.hold(platform, Procedure.SWAP if planned.swaps else Procedure.RESTORE) as hold:
        outcome = restore_steps.apply(platform, planned, approval, case_id, hold)

    restore_steps.show(platform, outcome)
    restore_steps.require_good(outcome)
    return None
