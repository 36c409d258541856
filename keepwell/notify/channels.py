"""Sending a message to every configured channel, by Apprise.

A channel's address holds its token, so it shows nowhere: not in an error, not in a log, not in an outcome. A channel
is known by its place in the list, its scheme and a short hash of its host.
"""

import hashlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import apprise

from keepwell.errors import ConfigurationError, PartialFailure
from keepwell.notify.message import Message, render_body
from keepwell.settings import NotifySettings
from keepwell.verdict import Verdict

_KINDS = {Verdict.OK: "success", Verdict.NOT_APPLICABLE: "info", Verdict.WARN: "warning"}

# Apprise's log lines may name hosts and tokens, so they end here; `_overheard` reads the reason out of them.
_LOG = logging.getLogger("apprise")
_LOG.propagate = False
_LOG.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class ChannelOutcome:
    """What became of a message on one channel.

    Attributes:
        channel: Place, scheme and hash of the host, such as `1 slack-4be1f0`.
        delivered: Whether the service took it.
        reason: Why not; empty when it did. Never holds the address.
    """

    channel: str
    delivered: bool
    reason: str = ""


@dataclass(frozen=True)
class Delivery:
    """What became of a message on every channel; none when none is configured."""

    outcomes: tuple[ChannelOutcome, ...]

    @property
    def verdict(self) -> Verdict:
        """Ok when every channel took it, warn when there is no channel, alert when one did not take it."""
        if not self.outcomes:
            return Verdict.WARN
        return Verdict.OK if all(outcome.delivered for outcome in self.outcomes) else Verdict.ALERT

    def require(self) -> None:
        """Go on only when every channel took the message.

        Raises:
            ConfigurationError: No channel is configured.
            PartialFailure: At least one channel did not take it; the outcomes are keyed by channel.
        """
        if not self.outcomes:
            raise ConfigurationError(
                "No notification channel is configured.", hint="Put Apprise addresses into notify.urls_file."
            )
        failed = {outcome.channel: outcome.reason for outcome in self.outcomes if not outcome.delivered}
        if failed:
            said = "; ".join(f"{channel} {reason}" for channel, reason in failed.items())
            raise PartialFailure(
                f"{len(failed)} of {len(self.outcomes)} notification channels did not take the message: {said}.",
                outcomes=failed,
                hint="Try each with `keepwell notify test`.",
            )


def send(settings: NotifySettings, message: Message) -> Delivery:
    """Send a message to every channel, one attempt each; a failing one never stops the others.

    Args:
        settings: The channels; may be none.
        message: What to say.

    Returns:
        One outcome per channel in the configured order. A failure is in there and never raised: `require` raises.
    """
    body = render_body(message)
    outcomes = (_send_one(name, url, message, body) for name, url in _channels(settings))
    return Delivery(tuple(outcomes))


def channel_names(settings: NotifySettings) -> tuple[str, ...]:
    """The configured channels by name; nothing is sent."""
    return tuple(name for name, _ in _channels(settings))


def _channels(settings: NotifySettings) -> Iterator[tuple[str, str]]:
    for place, secret in enumerate(settings.urls, start=1):
        url = secret.get_secret_value()
        yield f"{place} {_label(url)}", url


def _label(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "no-address"
    host = urlsplit(f"//{rest}").netloc.rpartition("@")[2]
    return f"{re.sub(r'[^a-z0-9]', '', scheme.lower())}-{hashlib.sha256(host.encode()).hexdigest()[:6]}"


def _send_one(name: str, url: str, message: Message, body: str) -> ChannelOutcome:
    with _overheard() as said:
        try:
            _load_plugins()
            channel = apprise.Apprise.instantiate(url, suppress_exceptions=True)
            if channel is None:
                return ChannelOutcome(name, delivered=False, reason="has an address that Apprise does not understand")
            kind = apprise.NotifyType(_KINDS.get(message.verdict, "failure"))
            delivered = channel.notify(body=body, title=message.title, notify_type=kind)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and the other channels must still be tried
            return ChannelOutcome(name, delivered=False, reason=f"failed in its plugin ({type(error).__name__})")
    return (
        ChannelOutcome(name, delivered=True) if delivered else ChannelOutcome(name, delivered=False, reason=_why(said))
    )


@cache
def _load_plugins() -> None:
    """Load Apprise's plugins, some of which import what Python has deprecated; nothing that we could act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        apprise.Apprise.instantiate("json://localhost")


def _why(said: list[str]) -> str:
    """The reason, taken from what Apprise logged by pattern only, because its lines may hold tokens."""
    text = "\n".join(said)
    status = re.search(r"error=(\d{3})\b", text)
    if status:
        return f"answered HTTP {status[1]}"
    if re.search(r"connection error|socket", text, re.IGNORECASE):
        return "could not be reached"
    return "refused the message"


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What Apprise logs from this thread."""
    said: list[str] = []
    listener = _Listener(said)
    _LOG.addHandler(listener)
    try:
        yield said
    finally:
        _LOG.removeHandler(listener)


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(level=logging.WARNING)
        self._said, self._thread = said, threading.get_ident()

    def emit(self, record: Any) -> None:
        if record.thread == self._thread:
            self._said.append(record.getMessage())
