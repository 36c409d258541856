"""Telling people, and the watcher that watches us."""

from dataclasses import replace

from prefect import get_run_logger

from keepwell.backup.first_proven import tell_first_proven
from keepwell.backup.proof import Proof
from keepwell.errors import KeepwellError
from keepwell.notify import Delivery, Message, ping_dead_mans_switch, send
from keepwell.objectstore.bucket import open_store
from tasks import platforms
from tasks.redaction import redact
from tasks.retries import MINUTE_SECONDS, step


@step("tell: {message.title}", timeout_seconds=10 * MINUTE_SECONDS)
def tell(platform: str, message: Message) -> Delivery:
    """Send a message to every channel of the platform.

    Returns:
        What became of it on each channel; never raises for a channel, so that none is told twice by a retry.
    """
    loaded = platforms.load(platform)
    delivery = send(loaded.notify, clean(message))
    if not delivery.outcomes:
        get_run_logger().warning("No notification channel is configured, so nobody was told: %s", message.title)
    for outcome in delivery.outcomes:
        level = "info" if outcome.delivered else "error"
        said = "took the message" if outcome.delivered else outcome.reason
        getattr(get_run_logger(), level)("Channel %s %s.", outcome.channel, said)
    return delivery


@step("require delivery", timeout_seconds=MINUTE_SECONDS)
def require_delivered(delivery: Delivery | None) -> None:
    """Go on only when no channel refused the message; without any channel there is nothing to require.

    Args:
        delivery: Of `tell`; None when there was nothing to tell.

    Raises:
        PartialFailure: A channel did not take it.
    """
    if delivery is not None and delivery.outcomes:
        delivery.require()


@step("tell of the first proven backup", timeout_seconds=10 * MINUTE_SECONDS)
def tell_first(platform: str, proof: Proof) -> Delivery | None:
    """Say once that backups are proven, so that silence has a meaning from then on.

    Returns:
        What became of it on each channel; None when people know already, or cannot be asked for. A store or a channel
        that fails here makes no proven backup a failed one: the next one tells it.
    """
    loaded = platforms.load(platform)
    try:
        delivery = tell_first_proven(
            loaded, open_store(loaded), proof, sender=lambda settings, message: send(settings, clean(message))
        )
    except KeepwellError as error:
        get_run_logger().warning("Whether people were told of the first proven backup is not known: %s", error)
        return None
    for outcome in delivery.outcomes if delivery else ():
        said = "took the message" if outcome.delivered else outcome.reason
        get_run_logger().info("Channel %s %s.", outcome.channel, said)
    return delivery


@step("ping the dead-man's switch", timeout_seconds=10 * MINUTE_SECONDS)
def ping(platform: str) -> bool:
    """Tell the outside watcher that a proven backup exists: it alerts when we fall silent.

    Returns:
        False when no switch is configured.

    Raises:
        KeepwellError: The watcher was not reached, or refused.
    """
    pinged = ping_dead_mans_switch(platforms.load(platform))
    if not pinged:
        get_run_logger().warning("No dead-man's switch is configured: nobody notices when all of this stops.")
    return pinged


def clean(message: Message) -> Message:
    """A message without secrets; a field that a message gains later comes along, rather than being lost on the way."""
    return replace(
        message,
        title=redact(message.title),
        cause=redact(message.cause),
        still_safe=redact(message.still_safe),
        next_command=redact(message.next_command),
        since=redact(message.since),
        details=tuple(map(redact, message.details)),
    )
