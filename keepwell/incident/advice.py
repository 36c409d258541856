"""What to type next in a case. Pure."""

from datetime import UTC, datetime

from keepwell.incident.documents import Step
from keepwell.incident.journal import Incident

_NEXT = {
    Step.IDENTIFY: "Gather the evidence before anything is changed: keepwell incident identify",
    Step.COMMUNICATE: "Tell people: keepwell incident update TEXT",
    Step.RESTORE: "Restore: keepwell restore plan --swap, then: keepwell incident done restore HOW; "
    "or leave it out: keepwell incident skip restore REASON",
    Step.VERIFY: "See whether it serves again: keepwell incident verify",
    Step.RESOLVE: "Tell people that it is over: keepwell incident resolve TEXT",
    Step.POST_MORTEM: "Write it up while it is fresh: keepwell incident post-mortem",
}


def advise(incident: Incident, now: datetime, *, several: str = "") -> str:
    """The next command of a case; empty when everything is done.

    Args:
        incident: As it stands.
        now: Aware.
        several: What each command needs beside its own words, such as ` --platform esn`.
    """
    standing = incident.standing
    if standing.next_update_at is not None and standing.is_overdue(now):
        due = standing.next_update_at.astimezone(UTC)
        return f"People were promised an update by {due:%H:%M} UTC: keepwell incident update TEXT{several}"
    step = standing.next_step
    return "" if step is None else f"{_NEXT[step]}{several}"
