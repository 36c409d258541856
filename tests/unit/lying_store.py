"""A small S3 server over real HTTP that can be told to lie, in the ways that real stores were seen to."""

import base64
import hashlib
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from keepwell.objectstore.store import Store, open_store
from keepwell.settings import BucketSettings, Platform


@dataclass
class LyingStore:
    """An honest store without versions or retention, until a lie is switched on.

    Lies: `damages` (stores other bytes), `forgets` (lists nothing), `ignores-conditions`, `ignores-checksums`,
    `accepts-retention` (says yes, keeps nothing), `retention-replaces-body`, `keeps-deleted`, `no-multipart`,
    `accepts-locks-and-deletes` (tells of the lock that an object was given, and lets it be deleted), `no-ranges`,
    `denies` (403 to everything), `denies-deletes`, `hour-ahead`.
    """

    lies: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    locks: dict[str, dict[str, str]] = field(default_factory=dict)
    url: str = ""

    def open(self, **settings: Any) -> Store:
        """The store as Keepwell opens it."""
        keys = {"access_key_id": "k", "secret_access_key": "s"}
        bucket = BucketSettings(name="b", endpoint_url=self.url, addressing="path", **keys | settings)
        return open_store(Platform.model_construct(name="esn", bucket=bucket))


class _Answer(Exception):
    def __init__(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
        super().__init__(code)
        error = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.status, self.body, self.headers = status, error if code else body, headers


@contextmanager
def lying_store(*lies: str) -> Iterator[LyingStore]:
    """A store on loopback for the length of a block."""
    store = LyingStore(set(lies))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path).removeprefix("/b").removeprefix("/")
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            body = _body(self)
            try:
                headers = {name.lower(): value for name, value in self.headers.items()}
                raise _decide(store, self.command, key, query, body=body, headers=headers)
            except _Answer as answer:
                self.send_response_only(answer.status)
                self.send_header("Date", formatdate(usegmt=True) if "hour-ahead" not in store.lies else _hour_ahead())
                for name, value in answer.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if "Content_Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler._serve)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _hour_ahead() -> str:
    import time

    return formatdate(time.time() + 3600, usegmt=True)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """The request's body; boto3 sends large ones in signed chunks."""
    raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
    if "aws-chunked" not in (handler.headers.get("content-encoding") or ""):
        return raw
    body = b""
    while raw:
        head, _, raw = raw.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        body, raw = body + raw[:size], raw[size + 2 :]
    return body


def _decide(
    store: LyingStore, method: str, key: str, query: dict[str, str], *, body: bytes, headers: dict[str, str]
) -> _Answer:
    if "denies" in store.lies or ("denies-deletes" in store.lies and method == "DELETE"):
        return _Answer(403, "AccessDenied")
    if method == "GET" and not key:
        return _list(store, query)
    if "uploads" in query or "uploadId" in query:
        return _multipart(store, method, key, query, body)
    if "retention" in query:
        return _retention(store, method, key)
    return _put(store, key, body, headers) if method == "PUT" else _get_or_delete(store, method, key, headers)


def _get_or_delete(store: LyingStore, method: str, key: str, headers: dict[str, str]) -> _Answer:
    if method != "DELETE":
        return _get(store, method, key, headers)
    if "keeps-deleted" not in store.lies:
        store.objects.pop(key, None)
    return _Answer(204)


def _list(store: LyingStore, query: dict[str, str]) -> _Answer:
    if "versions" in query or "uploads" in query:
        return _Answer(501, "NotImplemented")
    keys = [] if "forgets" in store.lies else sorted(k for k in store.objects if k.startswith(query.get("prefix", "")))
    entries = "".join(
        f"<Contents><Key>{k}</Key><Size>{len(store.objects[k])}</Size>"
        "<LastModified>2020-01-01T02:00:00.000Z</LastModified></Contents>"
        for k in keys
    )
    return _Answer(200, body=f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())


def _put(store: LyingStore, key: str, body: bytes, headers: dict[str, str]) -> _Answer:
    sums = {
        "content-md5": hashlib.md5(body).digest(),
        "x-amz-checksum-crc32": zlib.crc32(body).to_bytes(4, "big"),
        "x-amz-checksum-sha256": hashlib.sha256(body).digest(),
    }
    for name, right in sums.items():
        given = headers.get(name)
        if given and base64.b64decode(given) != right and "ignores-checksums" not in store.lies:
            return _Answer(400, "BadDigest")
    if headers.get("if-none-match") == "*" and key in store.objects and "ignores-conditions" not in store.lies:
        return _Answer(412, "PreconditionFailed")
    if "accepts-locks-and-deletes" in store.lies:
        store.locks[key] = {name: value for name, value in headers.items() if name.startswith("x-amz-object-lock")}
    store.objects[key] = body[:-1] + b"?" if "damages" in store.lies else body
    return _Answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')


def _get(store: LyingStore, method: str, key: str, headers: dict[str, str]) -> _Answer:
    if key not in store.objects:
        return _Answer(404, "NoSuchKey" if method == "GET" else "")
    body = store.objects[key]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
    if wanted and "no-ranges" not in store.lies:
        first, last = int(wanted[1]), int(wanted[2])
        return _Answer(206, body=body[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(body)}")
    if method == "HEAD":
        lock = {name.replace("-", "_"): value for name, value in store.locks.get(key, {}).items()}
        return _Answer(200, Content_Length=str(len(body)), **lock)
    return _Answer(200, body=body)


def _multipart(store: LyingStore, method: str, key: str, query: dict[str, str], body: bytes) -> _Answer:
    if "no-multipart" in store.lies:
        return _Answer(501, "NotImplemented")
    if "uploads" in query:
        store.uploads["u"] = {}
        return _Answer(200, body=b"<R><UploadId>u</UploadId></R>")
    if method == "PUT":
        store.uploads["u"][int(query["partNumber"])] = body
        return _Answer(200, ETag='"e"')
    parts = store.uploads.pop("u", {})
    if method == "POST":
        store.objects[key] = b"".join(parts[number] for number in sorted(parts))
        return _Answer(200, body=b'<R><ETag>"e"</ETag></R>')
    return _Answer(204)


def _retention(store: LyingStore, method: str, key: str) -> _Answer:
    if "retention-replaces-body" in store.lies and method == "PUT":
        store.objects[key] = b"<Retention/>"
        return _Answer(200)
    if "accepts-retention" in store.lies:
        until = b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>"
        return _Answer(200, body=until if method == "GET" else b"")
    return _Answer(501, "NotImplemented")
