"""Ending a pause whose time is over."""

from datetime import UTC, datetime, timedelta

from prefect import get_run_logger

from keepwell import orchestrator, pausing
from keepwell.errors import ConfigurationError
from keepwell.pausing import Switched
from tasks import platforms
from tasks.retries import MINUTE_SECONDS, step

# A worker starts a run a little before its time.
_AHEAD = timedelta(minutes=1)


@step("resume", timeout_seconds=10 * MINUTE_SECONDS)
def resume_if_over(platform: str) -> Switched | None:
    """End a platform's pause if its time is over.

    Returns:
        None when there is no pause, or one that goes on.

    Raises:
        KeepwellError: Something of it could not be switched on again.
    """
    loaded, now = platforms.load(platform), datetime.now(UTC)
    client = orchestrator.connect(loaded.orchestrator)
    if client is None:
        raise ConfigurationError("No Prefect server is configured.", hint="PREFECT_API_URL names it to a worker.")
    with client:
        found = pausing.read_pause(client, platform)
        if not found.is_over(now + _AHEAD):
            get_run_logger().info("There is no pause whose time is over; the present one ends at %s.", found.until)
            return None
        resumed = pausing.resume(client, platform, now=now)
    get_run_logger().info("Resumed: %s.", ", ".join(resumed.switched) or "nothing was switched off by it")
    return resumed
