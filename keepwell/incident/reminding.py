"""Reminders of updates that were promised, until they are told or the case is over.

Nothing ticks while no case is open: whoever promises an update plans one run of `remind-of-incidents` for that time,
and a run that reminds plans the next. Without the orchestrator, `keepwell incident remind` does it from a crontab.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keepwell.errors import KeepwellError
from keepwell.incident.documents import Entry, Kind
from keepwell.incident.journal import Incident, append, read_incidents
from keepwell.incident.standing import Standing
from keepwell.incident.telling import Sender, build_reminder
from keepwell.notify import Delivery, send
from keepwell.objectstore.store import Store
from keepwell.orchestrator import REGISTER_HINT, Orchestrator
from keepwell.pausing import REMIND
from keepwell.settings import Platform


@dataclass(frozen=True)
class Reminder:
    """One reminder that was sent.

    Attributes:
        case_id: Of what.
        delivery: What became of it on each channel.
    """

    case_id: str
    delivery: Delivery


def remind(
    platform: Platform, store: Store, *, now: datetime, ahead: timedelta = timedelta(0), sender: Sender = send
) -> tuple[Reminder, ...]:
    """Remind the team of every promised update that is due.

    Args:
        platform: Whose cases, and whose channels.
        store: Its folder in the bucket.
        now: Aware.
        ahead: How much too early whoever asks may be.
        sender: Sends to every channel.

    Returns:
        One for each case that somebody was to be reminded of. One that no channel took is not written down as sent, so
        that the next look sends it again.

    Raises:
        KeepwellError: The store does not answer.
    """
    repeat_after = timedelta(minutes=platform.incident.remind_minutes)
    sent = []
    for incident in read_incidents(store):
        due_at = incident.standing.next_update_at
        if due_at is None or not incident.standing.is_reminder_due(now + ahead, repeat_after):
            continue
        delivery = sender(platform.notify, build_reminder(incident.case, due_at))
        sent.append(Reminder(incident.case.case_id, delivery))
        if any(outcome.delivered for outcome in delivery.outcomes):
            said = "The team was reminded of the update that is due."
            append(store, Entry(case_id=incident.case.case_id, kind=Kind.REMINDER, at=now, message=said))
    return tuple(sent)


def find_next_reminder(incidents: Sequence[Incident], *, now: datetime, repeat_after: timedelta) -> datetime | None:
    """When somebody has to be reminded next, of any case; None when nothing is promised.

    Args:
        incidents: In any order; may be empty.
        now: Aware.
        repeat_after: Between two reminders of the same promise.
    """
    moments = [_next(incident.standing, now, repeat_after) for incident in incidents]
    return min((moment for moment in moments if moment is not None), default=None)


def _next(standing: Standing, now: datetime, repeat_after: timedelta) -> datetime | None:
    due_at = standing.next_update_at
    if due_at is None:
        return None
    if standing.last_reminded_at is not None:
        return standing.last_reminded_at + repeat_after
    # One that is overdue, and that no channel took, is tried again as soon as one that was sent.
    return due_at if due_at > now else now + repeat_after


def plan_reminders(client: Orchestrator, platform: str, at: datetime | None) -> None:
    """Plan the next look, in place of one that was planned before.

    Args:
        client: Of the orchestrator.
        platform: Whose cases.
        at: From `find_next_reminder`; None plans none.

    Raises:
        KeepwellError: Nothing that could remind is registered, or the orchestrator does not answer.
    """
    found = [one for one in client.read_deployments() if (one.platform, one.procedure) == (platform, REMIND)]
    if not found and at is not None:
        raise KeepwellError(
            f"Nothing is registered that could remind anybody of {platform}'s updates.",
            hint=f"Register it: {REGISTER_HINT}.",
        )
    for deployment in found:
        for run in client.read_open_runs(deployment):
            if run.state_type == "SCHEDULED":
                client.delete_run(run)
        if at is not None:
            client.create_run(deployment, {"platform": platform}, at=at)
