"""Objects written as they come: in parts that grow, few of them in memory, never a file.

S3 takes at most 10,000 parts of an object, so a part's size grows with what was sent before it.
"""

import base64
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from threading import Lock
from typing import Any, Self

from keepwell.errors import Abandoned, KeepwellError, TransientError

_MIB = 1024 * 1024
_FIRST_PART_BYTES = 8 * _MIB
# 1,800 parts of the first size, then 1,800 for each time that the object grows e-fold: a terabyte in under 10,000.
_GROWTH = 1_800
_PARTS_ON_THEIR_WAY = 2
_LOOK_SECONDS = 0.5


def plan_part_bytes(sent_bytes: int) -> int:
    """How large the next part of an object is, given what was sent of it before."""
    return max(_FIRST_PART_BYTES, -(-sent_bytes // _GROWTH // _MIB) * _MIB)


class Uploads:
    """The threads that send, shared by the objects of one run.

    They know when the store last took a byte, so that a store that stopped is told from one that is slow.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "sending")
        self._lock = Lock()
        self._on_their_way = 0
        self._last_byte_at = time.monotonic()
        self._abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A thread that waits for a dead store ends with its connection's own time limit, and nobody waits for it.
        self._abandoned = error[0] is not None
        self._pool.shutdown(wait=not self._abandoned, cancel_futures=True)

    def abandon(self) -> None:
        """Let go of everything that is on its way."""
        self._abandoned = True

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for anything any more."""
        return self._abandoned

    @property
    def stalled_seconds(self) -> float:
        """For how long the store has taken nothing although something was offered."""
        with self._lock:
            return time.monotonic() - self._last_byte_at if self._on_their_way else 0.0

    def send(self, call: Callable[[io.BytesIO], Any], content: bytes | bytearray) -> "Future[Any]":
        """Run one call of the store's client with a body, in a thread."""
        body = _Body(bytes(content), self._took)
        with self._lock:
            if not self._on_their_way:
                self._last_byte_at = time.monotonic()
            self._on_their_way += 1
        future = self._pool.submit(call, body)
        future.add_done_callback(self._done)
        return future

    def wait(self, future: "Future[Any]") -> Any:
        """The result of a call.

        Raises:
            Abandoned: The run was ended meanwhile.
            BaseException: Whatever the call raised.
        """
        while True:
            try:
                return future.result(timeout=_LOOK_SECONDS)
            except FutureTimeout:
                if self._abandoned:
                    raise Abandoned("The upload was abandoned.", hint="Look at what ended the run.") from None

    def _took(self) -> None:
        self._last_byte_at = time.monotonic()

    def _done(self, future: "Future[Any]") -> None:
        del future
        with self._lock:
            self._on_their_way -= 1
            self._last_byte_at = time.monotonic()


class _Body(io.BytesIO):
    """A request's body that tells when something of it is taken."""

    def __init__(self, content: bytes, took: Callable[[], None]) -> None:
        super().__init__(content)
        self._took = took

    def read(self, size: int | None = -1, /) -> bytes:
        self._took()
        return super().read(size)


class ObjectWriter:
    """One object on its way into the store; it is there once `finish` returned, and not before.

    Args:
        client: The boto3 S3 client.
        address: Bucket and Key.
        extra: For the calls that create the object, such as its storage class.
        uploads: Whose threads send.
        translate: Turns the client's errors into ours.
        finished: Called once the object is there; what it raises is raised by `finish`.
    """

    def __init__(
        self,
        client: Any,
        address: Mapping[str, str],
        extra: Mapping[str, Any],
        uploads: Uploads,
        translate: Callable[[Callable[[], Any]], Any],
        *,
        finished: Callable[[], None],
    ) -> None:
        self._client, self._address, self._extra = client, dict(address), dict(extra)
        self._uploads, self._translate_error, self._finished = uploads, translate, finished
        self._silent = False
        self._buffer = bytearray()
        self._sent_bytes = 0
        self._upload_id: str | None = None
        self._parts: list[Future[Any]] = []

    def write(self, chunk: bytes) -> int:
        """Take the next bytes; waits while too much is on its way."""
        self._buffer += chunk
        size = plan_part_bytes(self._sent_bytes)
        while len(self._buffer) > size:
            self._send_part(self._buffer[:size])
            del self._buffer[:size]
            size = plan_part_bytes(self._sent_bytes)
        return len(chunk)

    def finish(self) -> None:
        """Send what is left and make it an object.

        Raises:
            KeepwellError: The store did not take it, or does not keep it as it was asked to.
        """
        if self._upload_id is None:
            self._send_whole()
        else:
            self._complete()
        self._finished()

    def _send_whole(self) -> None:
        more = {**self._extra, **checksum_of_locked(self._client, self._extra, self._buffer)}
        self._uploads.wait(
            self._uploads.send(
                self._translated(lambda body: self._client.put_object(**self._address, **more, Body=body)),
                self._buffer,
            )
        )

    def _complete(self) -> None:
        self._send_part(self._buffer)
        parts = [{"PartNumber": number, **self._uploads.wait(part)} for number, part in enumerate(self._parts, start=1)]
        self._translate(
            lambda: self._client.complete_multipart_upload(
                **self._address, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )
        )

    def abort(self) -> None:
        """Give up, and what was sent too; a store that fell silent is not asked once more: the next run sweeps."""
        for part in self._parts:
            part.cancel()
        if self._upload_id is not None and not (self._silent or self._uploads.abandoned):
            with suppress(KeepwellError):
                self._translate(lambda: self._client.abort_multipart_upload(**self._address, UploadId=self._upload_id))

    def _send_part(self, content: bytearray) -> None:
        if self._upload_id is None:
            begun = self._translate(
                lambda: self._client.create_multipart_upload(
                    **self._address, **self._extra, **_multipart_checksum(self._client)
                )
            )
            self._upload_id = begun["UploadId"]
        if len(self._parts) >= _PARTS_ON_THEIR_WAY:
            self._uploads.wait(self._parts[-_PARTS_ON_THEIR_WAY])
        number, upload_id = len(self._parts) + 1, self._upload_id

        more = checksum_of_locked(self._client, self._extra, content)

        def send(body: io.BytesIO) -> dict[str, str]:
            answer = self._client.upload_part(**self._address, UploadId=upload_id, PartNumber=number, Body=body, **more)
            return {name: answer[name] for name in ("ETag", "ChecksumCRC32") if answer.get(name)}

        self._parts.append(self._uploads.send(self._translated(send), content))
        self._sent_bytes += len(content)

    def _translate(self, call: Callable[[], Any]) -> Any:
        try:
            return self._translate_error(call)
        except TransientError:
            self._silent = True
            raise

    def _translated(self, call: Callable[[io.BytesIO], Any]) -> Callable[[io.BytesIO], Any]:
        return lambda body: self._translate(lambda: call(body))


def checksum_of_locked(client: Any, extra: Mapping[str, Any], content: bytes | bytearray) -> dict[str, str]:
    """The checksum without which stores take no locked object, where the client sends none by itself.

    Args:
        client: The boto3 S3 client.
        extra: Of the call that makes the object; without a lock in it there is nothing to add.
        content: The body.
    """
    if "ObjectLockMode" not in extra or client.meta.config.request_checksum_calculation == "when_supported":
        return {}
    return {"ContentMD5": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()}


def _multipart_checksum(client: Any) -> dict[str, str]:
    """The checksum that the client will send with each part has to be announced when the upload begins."""
    wanted = client.meta.config.request_checksum_calculation == "when_supported"
    return {"ChecksumAlgorithm": "CRC32"} if wanted else {}
