"""Leading an incident: thin steps around `keepwell.incident`."""

from datetime import UTC, datetime, timedelta

from prefect import get_run_logger

from keepwell import orchestrator
from keepwell.errors import ConfigurationError
from keepwell.incident import reminding
from keepwell.incident.journal import read_incidents
from keepwell.incident.reminding import Reminder, find_next_reminder, plan_reminders
from keepwell.notify import send
from keepwell.objectstore.bucket import open_store
from tasks import platforms
from tasks.notify_steps import clean
from tasks.retries import MINUTE_SECONDS, step

# A worker starts a run a little before its time.
_AHEAD = timedelta(minutes=1)


@step("remind", timeout_seconds=10 * MINUTE_SECONDS)
def remind(platform: str) -> tuple[Reminder, ...]:
    """Remind the team of every promised update that is due.

    Returns:
        One for each case that somebody was to be reminded of; a channel that fails is in there and never raised.
    """
    loaded = platforms.load(platform)
    sent = reminding.remind(
        loaded,
        open_store(loaded),
        now=datetime.now(UTC),
        ahead=_AHEAD,
        sender=lambda settings, message: send(settings, clean(message)),
    )
    for one in sent:
        get_run_logger().info("Reminded of the case %s.", one.case_id)
    if not sent:
        get_run_logger().info("No update is due.")
    return sent


@step("plan the next reminder", timeout_seconds=10 * MINUTE_SECONDS)
def plan_next_reminder(platform: str) -> datetime | None:
    """Plan the next run that reminds; None when nothing is promised.

    Raises:
        KeepwellError: The store or the orchestrator does not answer.
    """
    loaded, now = platforms.load(platform), datetime.now(UTC)
    repeat_after = timedelta(minutes=loaded.incident.remind_minutes)
    at = find_next_reminder(read_incidents(open_store(loaded)), now=now, repeat_after=repeat_after)
    client = orchestrator.connect(loaded.orchestrator)
    if client is None:
        raise ConfigurationError("No Prefect server is configured.", hint="PREFECT_API_URL names it to a worker.")
    with client:
        plan_reminders(client, platform, at)
    get_run_logger().info("The next reminder is planned for %s.", at or "no time: nothing is promised")
    return at
