import subprocess
import sys
from pathlib import Path

import pytest

from keepwell.errors import ConfigurationError, PartialFailure
from keepwell.notify import ChannelOutcome, Delivery, Message, channel_names, render_body
from keepwell.settings import NotifySettings
from keepwell.verdict import Verdict


def test_a_message_says_the_cause_what_is_safe_and_what_to_type() -> None:
    message = Message(
        "esn: backup failed", "The store is full.", "Yesterday's backup.", "keepwell doctor", details=("12 GB",)
    )
    assert render_body(message) == (
        "What happened: The store is full.\nStill safe: Yesterday's backup.\nNext: keepwell doctor\n\n12 GB"
    )


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ((), Verdict.WARN),
        ((True,), Verdict.OK),
        ((True, False), Verdict.ALERT),
        ((False,), Verdict.ALERT),
    ],
)
def test_one_channel_that_failed_is_an_alert(outcomes: tuple[bool, ...], verdict: Verdict) -> None:
    delivery = Delivery(
        tuple(ChannelOutcome(str(n), delivered, "" if delivered else "why") for n, delivered in enumerate(outcomes))
    )
    assert delivery.verdict is verdict
    if verdict is Verdict.OK:
        delivery.require()
    else:
        with pytest.raises((PartialFailure, ConfigurationError)):
            delivery.require()


def test_channels_are_named_without_their_addresses() -> None:
    settings = NotifySettings.model_validate(
        {"urls": ["slack://tokenA/tokenB/tokenC", "mailto://me:hush@example.org", "tgram://bot:hush/1", "no address"]}
    )
    names = channel_names(settings)
    assert [name.split("-")[0] for name in names] == ["1 slack", "2 mailto", "3 tgram", "4 no"]
    assert len(set(names)) == 4
    for secret in ("token", "hush", "example"):
        assert secret not in " ".join(names).casefold()


def test_channels_on_one_host_can_be_told_apart() -> None:
    settings = NotifySettings.model_validate({"urls": ["json://host/a", "json://host/b"]})
    assert len(set(channel_names(settings))) == 2


def test_what_apprise_logs_goes_no_further() -> None:
    """Asked by a program of its own, because pytest listens to every logger by itself."""
    script = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, level=0); import keepwell.notify;"
        "logging.getLogger('apprise').warning('https://hooks.example/hush'); logging.warning('others')"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "others" in said.stdout
    assert "hush" not in said.stdout + said.stderr


def test_settings_never_show_an_address(tmp_path: Path) -> None:
    settings = NotifySettings.model_validate({"urls": ["slack://hush"], "dead_mans_switch_url": "http://hush"})
    assert "hush" not in repr(settings)
