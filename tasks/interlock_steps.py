"""Taking a platform's turn, as a step that shows who is in the way."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect import get_run_logger

from keepwell.holding import hold_platform
from keepwell.interlock import Holder, Procedure
from keepwell.objectstore.store import open_store
from tasks import platforms
from tasks.retries import HOUR_SECONDS, step


@contextmanager
def hold(platform: str, procedure: Procedure) -> Iterator[None]:
    """Keep a platform for one procedure; given back however the block ends.

    The lock belongs to a session of this process, so it also ends with a process that was killed.

    Raises:
        Busy: Somebody else was still at work when the time was over.
    """
    with ExitStack() as held:
        take_turn(platform, procedure, held)
        yield


@step("wait for our turn: {procedure}", timeout_seconds=25 * HOUR_SECONDS)
def take_turn(platform: str, procedure: Procedure, held: ExitStack) -> None:
    """Wait for our turn, bounded by the platform's settings, and leave it in `held`.

    Raises:
        Busy: Somebody else was still at work when the time was over.
        TransientError: Database or store did not answer.
    """
    logger = get_run_logger()

    def say(holder: Holder) -> None:
        since = f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC" if holder.since else ""
        logger.info("Waiting: %s is at work%s.", holder.procedure.named, since)

    loaded = platforms.load(platform)
    held.enter_context(hold_platform(loaded, open_store(loaded), procedure, on_wait=say))
