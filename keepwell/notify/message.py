"""What a message says: the cause, what is still safe, and the next command. Pure."""

from dataclasses import dataclass

from keepwell.verdict import Verdict


@dataclass(frozen=True)
class Message:
    """One message to the people who keep the platform alive.

    Attributes:
        title: One line, with the platform's name; never a secret.
        cause: What happened, one or two sentences.
        still_safe: What has not been harmed, so that nobody acts in haste.
        next_command: What to type next.
        since: Since when, in words; empty where that goes without saying.
        verdict: How bad it is; channels colour by it.
        details: Further lines, such as numbers or the address of the run.
    """

    title: str
    cause: str
    still_safe: str
    next_command: str
    verdict: Verdict = Verdict.ALERT
    since: str = ""
    details: tuple[str, ...] = ()


def render_body(message: Message) -> str:
    """The message as plain text, without its title."""
    lines = [
        f"What happened: {message.cause}",
        *([f"Since: {message.since}"] if message.since else []),
        f"Still safe: {message.still_safe}",
        f"Next: {message.next_command}",
    ]
    if message.details:
        lines += ["", *message.details]
    return "\n".join(lines)
