"""A status page's webhook: what it gets, and that its address shows nowhere."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from keepwell.errors import ConfigurationError, KeepwellError, ServiceUnavailable
from keepwell.notify.status_page import post_status

SECRET = "hush-token"


@contextmanager
def receiving(status: int) -> Iterator[tuple[SecretStr, list[Any]]]:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, self.headers["content-type"], json.loads(body)))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield SecretStr(f"http://127.0.0.1:{server.server_port}/{SECRET}"), received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_it_gets_the_document_once_as_json() -> None:
    with receiving(204) as (address, received):
        post_status(address, {"status": "investigating", "text": "Wir suchen die Ursache – später mehr."})
    assert received == [
        (
            f"/{SECRET}",
            "application/json; charset=utf-8",
            {"status": "investigating", "text": "Wir suchen die Ursache – später mehr."},
        )
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, ServiceUnavailable), (429, ServiceUnavailable), (403, KeepwellError), (302, KeepwellError)],
)
def test_one_that_refuses_is_an_error_without_its_address(status: int, error: type[KeepwellError]) -> None:
    with receiving(status) as (address, received), pytest.raises(error, match=str(status)) as caught:
        post_status(address, {})
    assert len(received) == 1
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    assert "copy the text" in caught.value.hint


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/{SECRET}", f"http://[/{SECRET}"])
def test_one_that_is_not_there(url: str) -> None:
    with pytest.raises(ServiceUnavailable) as caught:
        post_status(SecretStr(url), {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [f"file:///{SECRET}", SECRET])
def test_an_address_of_another_kind(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        post_status(SecretStr(url), {})
    assert SECRET not in str(caught.value)
