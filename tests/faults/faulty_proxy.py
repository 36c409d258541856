"""A loopback proxy in front of an object store, which can be told to misbehave."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>injected</Message></Error>"
_TIMEOUT_SECONDS = 60
_HOP_BY_HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}


@dataclass(frozen=True)
class Request:
    """What a fault is decided by: the method, the path with its query, and how many came before."""

    method: str
    path: str
    number: int


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Attributes:
        status: Answer with this and an S3 error code, asking the store nothing.
        code: The error's code.
        reset: Close the connection without an answer.
        delay_seconds: Wait before anything else.
        cut_body: Promise the whole body and close after half of it.
        short_body: Give half of the body and call it the whole.
        swallow: Say 200 to a write and store nothing.
        hang: Never answer, and take nothing of the body.
        hang_half_way: Give half of the body, and no more for ever.
    """

    status: int = 0
    code: str = "InternalError"
    reset: bool = False
    delay_seconds: float = 0
    cut_body: bool = False
    short_body: bool = False
    swallow: bool = False
    hang: bool = False
    hang_half_way: bool = False


Decide = Callable[[Request], Fault | None]


@dataclass
class FaultyProxy:
    """A running proxy; set `decide` to inject faults, and read `requests` to see what came."""

    endpoint_url: str
    decide: Decide = field(default=lambda request: None)
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def faulty_proxy(target_url: str) -> Iterator[FaultyProxy]:
    """A proxy on a free loopback port for as long as the block."""
    target = urlsplit(target_url)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = FaultyProxy(f"http://127.0.0.1:{server.server_address[1]}")
    server.proxy = proxy  # type: ignore[attr-defined]
    server.target = (target.hostname, target.port)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""

    def _serve(self) -> None:
        proxy: FaultyProxy = self.server.proxy  # type: ignore[attr-defined]
        request = Request(self.command, self.path, len(proxy.requests))
        proxy.requests.append(request)
        fault = proxy.decide(request) or Fault()
        if fault.hang:
            proxy.closing.wait()
            self.close_connection = True
            return
        body = self._read_body()
        proxy.closing.wait(fault.delay_seconds)
        if fault.reset:
            self.close_connection = True
        elif fault.status:
            self._answer(fault.status, [("Content-Type", "application/xml")], _ERROR % fault.code.encode())
        elif fault.swallow:
            self._answer(200, [("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')], b"")
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class looks for these

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes, fault: Fault) -> None:
        host, port = self.server.target  # type: ignore[attr-defined]
        upstream = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP]
            self._answer(answer.status, headers, answer.read(), fault)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the store is gone: so is the connection
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        if fault.short_body:
            body = body[: len(body) // 2]
        with suppress(OSError):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if fault.cut_body or fault.hang_half_way else body)
        if fault.hang_half_way:
            self.server.proxy.closing.wait()  # type: ignore[attr-defined]
        if fault.cut_body or fault.hang_half_way:
            self.close_connection = True
