"""A disaster from the first look to the post-mortem: guide "Disaster Recovery Plan", items DR-1 to DR-4.

Safe to run again: what is done stays done. A run that was killed, that failed on the way, or whose approval nobody gave
in time goes on where it stopped: run it again with its case's id, which `keepwell incident status` tells.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import AwareDatetime, Field

from keepwell.errors import Refused
from keepwell.incident.documents import Case, Step
from keepwell.interlock import Procedure
from keepwell.restore.choice import NEWEST, Choice
from keepwell.restore.pages import summarize_plan
from keepwell.restore.plan import Mode
from tasks import approval_steps, endings, incident_steps, interlock_steps, restore_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed

_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
Which = Annotated[str, Field(pattern=rf"^({NEWEST}|{_ID})$")]
CaseId = Annotated[str, Field(pattern=rf"^{_ID}$")]
Words = Annotated[str, Field(min_length=1, max_length=1000)]


@flow(name="recover-from-disaster", flow_run_name="recover-from-disaster/{platform}", persist_result=False)
@scrubbed
def recover_from_disaster(
    platform: PlatformName,
    *,
    title: Annotated[str, Field(min_length=1, max_length=200)] = "The platform does not serve",
    impact: Annotated[str, Field(max_length=1000)] = "",
    since: AwareDatetime | None = None,
    words: Words = "We are looking into it and are preparing a restore.",
    resolved_words: Words = "It is working again. We are sorry for the interruption.",
    which: Which = NEWEST,
    before: AwareDatetime | None = None,
    skip: tuple[Step, ...] = (),
    skip_reason: Annotated[str, Field(max_length=1000)] = "",
    case_id: CaseId | None = None,
    drill: bool = False,
) -> State[Any]:
    """Gather evidence, tell people, restore what a person approves, see that it serves, and write it up.

    Args:
        platform: Name of the platform, as its platform file gives it.
        title: What is wrong, a few words for the team.
        impact: What people notice of it; the public reads it as it is.
        since: Since when; now by default.
        words: What people are told at the beginning; the public reads it as it is.
        resolved_words: What people are told at the end; the public reads it as it is.
        which: Which set is restored: `newest`, which is the newest proven one, or a set's id.
        before: Only sets of before this time; not with an id.
        skip: Steps to leave out.
        skip_reason: Why they are left out; the post-mortem tells it.
        case_id: Of a case that goes on; a new one by default.
        drill: An exercise: all texts say so, the public reads none, and the restore touches nothing that is live.
    """
    case = incident_steps.open_or_go_on(
        platform, case_id, title=title, impact=impact, since=since, drill=drill, skip=skip, skip_reason=skip_reason
    )

    def is_to_do(step: Step) -> bool:
        return incident_steps.is_to_do(platform, case, step, skip, skip_reason)

    # Identify: before anything is changed, everything that can still be seen is written down.
    if is_to_do(Step.IDENTIFY):
        incident_steps.identify(platform, case)

    # Communicate: who does not hear stops nothing, and stands in the case. The next update is promised and reminded of;
    # that is planned again by every run, since an earlier one may have been killed before it did.
    if is_to_do(Step.COMMUNICATE):
        incident_steps.communicate(platform, case, words)
    incident_steps.try_to_plan_next_reminder(platform)

    # Restore: in the live one's place, once a person approved exactly this plan.
    if is_to_do(Step.RESTORE):
        try:
            _restore(platform, case, Choice(which=which, before=before))
        except Refused as refused:
            incident_steps.note_refusal(platform, case, refused.message)
            return endings.cancelled(refused.message)

    # Verify: the application's pages, the database with its smoke queries, Redis.
    if is_to_do(Step.VERIFY):
        incident_steps.require_serving(case, incident_steps.verify(platform, case))

    if is_to_do(Step.RESOLVE):
        incident_steps.resolve(platform, case, resolved_words)
    incident_steps.try_to_plan_next_reminder(platform)

    # Post-mortem: out of the journal, with places for what only people know.
    if is_to_do(Step.POST_MORTEM):
        incident_steps.write_up(platform, case)
    else:
        incident_steps.leave_evidence(platform, case)
    return incident_steps.judge_end(platform, case)


def _restore(platform: str, case: Case, choice: Choice) -> None:
    """Restore what a person approves. The run is suspended and holds nothing meanwhile.

    Answered, it begins anew, finds its case, and comes here again. A restore of the same set that an earlier run of
    this case began is gone on with; one that somebody did by hand since the case was opened counts.

    Raises:
        Refused: The person said no.
    """
    with incident_steps.failure_noted(platform, case, Step.RESTORE):
        begun = incident_steps.find_restore(platform, case, choice)
        if not begun.is_done:
            mode = Mode.BESIDE if case.drill else Mode.SWAP
            planned = restore_steps.plan(platform, choice, mode, None, begun.restore_case)
            restore_steps.require_possible(planned, begun.restore_case)
            approval = None
            if planned.swaps and not restore_steps.is_approved(platform, planned, begun.restore_case):
                approval = approval_steps.obtain(platform, planned.subject, summarize_plan(planned))
            as_case = incident_steps.begin_restore(platform, case, planned, begun.restore_case)
            procedure = Procedure.SWAP if planned.swaps else Procedure.RESTORE
            # The interlock's own login may be a part of the disaster: then the store's lease holds by itself.
            with interlock_steps.hold(platform, procedure, lease_alone=True) as hold:
                outcome = restore_steps.apply(platform, planned, approval, begun.restore_case, hold, as_case=as_case)
            restore_steps.show(platform, outcome)
        incident_steps.record_restore(platform, case, choice)
