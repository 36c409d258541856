"""Taking a platform's turn, as a step that shows who is in the way."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect import get_run_logger

from keepwell.destination import Destination
from keepwell.errors import KeepwellError
from keepwell.holding import Hold, hold_platform
from keepwell.interlock import Holder, Procedure
from keepwell.objectstore.destinations import open_destination
from tasks import platforms
from tasks.retries import HOUR_SECONDS, step


@contextmanager
def hold(
    platform: str, procedure: Procedure, destination: Destination = Destination.FIRST, *, lease_alone: bool = False
) -> Iterator[Hold]:
    """Keep a platform for one procedure on a destination; given back however the block ends.

    The lock belongs to a session of this process, so it also ends with a process that was killed. It ends with a
    restart of the database, too: a step that is tried again within the block calls `keep_turn` first.

    Args:
        platform: Its name.
        procedure: What is to be done.
        destination: Whose lease is taken.
        lease_alone: For a recovery: go on by the lease where the interlock's database does not answer.

    Raises:
        Busy: Somebody else was still at work when the time was over.
        ServiceUnavailable: The turn was lost on the way, and the block ended without an error all the same.
    """
    with ExitStack() as held:
        yield take_turn(platform, procedure, held, destination, lease_alone=lease_alone)


@step("wait for our turn: {procedure}", timeout_seconds=25 * HOUR_SECONDS)
def take_turn(
    platform: str,
    procedure: Procedure,
    held: ExitStack,
    destination: Destination = Destination.FIRST,
    *,
    lease_alone: bool = False,
) -> Hold:
    """Wait for our turn, bounded by the platform's settings, and leave it in `held`.

    Raises:
        Busy: Somebody else was still at work when the time was over.
        TransientError: Database or store did not answer.
    """
    logger = get_run_logger()

    def say(holder: Holder) -> None:
        since = f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC" if holder.since else ""
        logger.info("Waiting: %s is at work%s.", holder.procedure.named, since)

    def say_lease_alone(error: KeepwellError) -> None:
        logger.warning("By the store's lease alone: %s", error.message)

    loaded = platforms.load(platform)
    store = open_destination(loaded, destination)
    on_lease_alone = say_lease_alone if lease_alone else None
    return held.enter_context(hold_platform(loaded, store, procedure, on_wait=say, on_lease_alone=on_lease_alone))


def keep_turn(hold: Hold) -> None:
    """Go on only with the turn that was taken, or with a new one; for the beginning of each attempt of a step.

    Raises:
        Busy: It was lost, and somebody else is at work now.
        TransientError: Database or store did not answer.
    """
    if hold.renew():
        get_run_logger().warning("The interlock's session had been lost; our turn was taken again.")
