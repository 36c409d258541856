"""Messages over real HTTP to receivers on loopback that take them, refuse them, or are not there."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keepwell.cli.main import app
from keepwell.errors import ConfigurationError, KeepwellError, PartialFailure, ServiceUnavailable
from keepwell.notify import Message, ping_dead_mans_switch, send
from keepwell.settings import NotifySettings, Platform
from keepwell.verdict import Verdict

MESSAGE = Message("esn: backup failed", "The store is full.", "Yesterday's backup is proven.", "keepwell doctor")
SECRET = "hush-token"


@dataclass
class Receiver:
    """What came in, and what to answer: one status after the other, the last one stays."""

    port: int = 0
    statuses: list[int] = field(default_factory=lambda: [200])
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def settings(self, *paths: str) -> NotifySettings:
        return NotifySettings.model_validate({"urls": [f"json://127.0.0.1:{self.port}/{path}" for path in paths]})

    def platform(self, **changes: object) -> Platform:
        notify = {"dead_mans_switch_url": f"http://127.0.0.1:{self.port}/{SECRET}"} | changes
        return Platform.model_construct(name="esn", notify=NotifySettings.model_validate(notify))


@contextmanager
def _receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            receiver.received.append((self.path, json.loads(body or b"{}")))
            status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    for method in ("GET", "POST"):
        setattr(Handler, f"do_{method}", Handler._take)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    receiver.port = server.server_port
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with _receiving() as made:
        yield made


def test_a_message_arrives_whole(receiver: Receiver) -> None:
    delivery = send(receiver.settings("a", "b"), MESSAGE)
    delivery.require()
    assert delivery.verdict is Verdict.OK
    assert [path for path, _ in receiver.received] == ["/a", "/b"]
    for _, document in receiver.received:
        assert document["title"] == MESSAGE.title
        assert document["type"] == "failure"
        for part in (MESSAGE.cause, MESSAGE.still_safe, MESSAGE.next_command):
            assert part in document["message"]


@pytest.mark.parametrize(("verdict", "kind"), [("ok", "success"), ("warn", "warning"), ("unknown", "failure")])
def test_channels_are_told_how_bad_it_is(receiver: Receiver, verdict: str, kind: str) -> None:
    send(receiver.settings("a"), Message("t", "c", "s", "n", verdict=Verdict(verdict)))
    assert receiver.received[0][1]["type"] == kind


def test_a_receiver_that_fails_turns_it_red_and_the_others_are_still_told(receiver: Receiver) -> None:
    receiver.statuses = [500, 200]
    delivery = send(receiver.settings("bad", "good"), MESSAGE)
    assert delivery.verdict is Verdict.ALERT
    assert [outcome.delivered for outcome in delivery.outcomes] == [False, True]
    with pytest.raises(PartialFailure, match=r"1 of 2 .* answered HTTP 500") as caught:
        delivery.require()
    assert list(caught.value.outcomes) == [delivery.outcomes[0].channel]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"json://user:{SECRET}@127.0.0.1:1/{SECRET}", "could not be reached"),
        (f"nonsense://{SECRET}", "does not understand"),
        (SECRET, "does not understand"),
    ],
)
def test_a_receiver_that_is_not_there_turns_it_red_without_telling_the_address(
    url: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    delivery = send(NotifySettings.model_validate({"urls": [url]}), MESSAGE)
    with pytest.raises(PartialFailure) as caught:
        delivery.require()
    assert reason in delivery.outcomes[0].reason
    assert SECRET not in repr(delivery) + str(caught.value)


def test_no_channel_at_all_is_never_a_success() -> None:
    delivery = send(NotifySettings(), MESSAGE)
    assert delivery.verdict is Verdict.WARN
    with pytest.raises(ConfigurationError):
        delivery.require()


def test_the_switch_is_asked_once_when_it_answers(receiver: Receiver) -> None:
    assert ping_dead_mans_switch(receiver.platform())
    assert [path for path, _ in receiver.received] == [f"/{SECRET}"]


def test_the_switch_is_asked_again_when_it_fails_for_a_moment(receiver: Receiver) -> None:
    receiver.statuses = [503, 429, 200]
    assert ping_dead_mans_switch(receiver.platform(), pause_seconds=0)
    assert len(receiver.received) == 3


@pytest.mark.parametrize(
    ("status", "asked", "error"), [(500, 3, ServiceUnavailable), (404, 1, KeepwellError), (403, 1, KeepwellError)]
)
def test_a_switch_that_refuses_is_an_error_without_its_address(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int, asked: int, error: type[KeepwellError]
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.statuses = [status]
    with pytest.raises(error, match=str(status)) as caught:
        ping_dead_mans_switch(receiver.platform(), pause_seconds=0)
    assert len(receiver.received) == asked
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__} {caplog.text}"


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/{SECRET}", f"file:///{SECRET}", SECRET])
def test_a_switch_that_is_not_there(receiver: Receiver, url: str) -> None:
    with pytest.raises(KeepwellError) as caught:
        ping_dead_mans_switch(receiver.platform(dead_mans_switch_url=url), pause_seconds=0)
    assert SECRET not in str(caught.value)


def test_no_switch_configured(receiver: Receiver) -> None:
    assert not ping_dead_mans_switch(receiver.platform(dead_mans_switch_url=None))


def test_the_command_shows_each_channel(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)
    urls = tmp_path / "urls"
    urls.write_text(f"json://127.0.0.1:{receiver.port}/{SECRET}\njson://127.0.0.1:{receiver.port}/other\n")
    (tmp_path / "keepwell.toml").write_text(
        f'name = "esn"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n[notify]\nurls_file = "{urls}"\n'
    )
    fine = CliRunner().invoke(app, ["notify", "test"])
    assert (fine.exit_code, fine.stdout.count("taken")) == (0, 2)
    assert receiver.received[0][1]["type"] == "success"
    receiver.statuses = [200, 500]
    red = CliRunner().invoke(app, ["notify", "test", "--json"])
    envelope = json.loads(red.stdout)
    assert (red.exit_code, envelope["verdict"]) == (1, "alert")
    assert [outcome["delivered"] for outcome in envelope["data"]["outcomes"]] == [True, False]
    assert SECRET not in fine.output + red.output
