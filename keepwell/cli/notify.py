"""`keepwell notify`: try the channels before they are needed."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from typing import TYPE_CHECKING

from keepwell.cli import console
from keepwell.cli.console import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.notify import Delivery

app = console.group("Try the notification channels.")


@app.callback()
def notify() -> None:
    """Try the notification channels."""


@app.command("test")
@console.command("notify.test")
def send_test(platform: console.PlatformName = None) -> Outcome:
    """Send a test message to each channel. The dead-man's switch is left alone: a test is no proven backup."""
    from keepwell.notify import Message, send
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    message = Message(
        title=f"{settings.name}: a test by keepwell notify test",
        cause="Somebody tried whether messages arrive.",
        still_safe="Everything; nothing has happened.",
        next_command="nothing to do",
        verdict=Verdict.OK,
    )
    with console.working(f"Sending to {len(settings.notify.urls)} channels"):
        delivery = send(settings.notify, message)
    hint = "" if delivery.outcomes else "No channel is configured: put Apprise addresses into notify.urls_file."
    return Outcome(delivery.verdict, data=delivery, hint=hint, show=lambda screen: _show(screen, delivery))


def _show(screen: "Console", delivery: "Delivery") -> None:
    if not delivery.outcomes:
        return
    shown = console.table("verdict", "channel", "result")
    for outcome in delivery.outcomes:
        verdict, said = ("ok", "taken") if outcome.delivered else ("alert", outcome.reason)
        shown.add_row(console.styled(verdict), outcome.channel, said)
    screen.print(shown)
