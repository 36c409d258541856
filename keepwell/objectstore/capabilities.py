"""What the object store really does, tried on throw-away keys and read back: a success status alone proves nothing.

Some stores accept a condition, a checksum or a retention and ignore it, and some replace an object's body on a call
that should only describe it. So every answer here comes from looking at what is stored afterwards.
"""

import base64
import hashlib
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field

from keepwell.errors import KeepwellError, VerificationFailed
from keepwell.objectstore.store import BucketStore, translated

_FOLDER = "probes/"
_LEFTOVER_AGE = timedelta(hours=1)
# The smallest size that S3 allows for a part that is not the last.
_PART_BYTES = 5 * 1024 * 1024
_RETENTION_SECONDS = 20
_REFUSALS_TO_TELL = {"AccessDenied", "403", "Forbidden"}


class Answer(StrEnum):
    """Whether a store can do something."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Capabilities(BaseModel):
    """What one store was seen to do with one set of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranged_reads: Answer = Field(description="A byte range came back, and only it.")
    multipart: Answer = Field(description="An object written in parts came back whole and equal.")
    conditional_put: Answer = Field(description="If-None-Match kept an existing object. Never enough for a lock.")
    refuses_bad_md5: Answer = Field(description="A body that contradicts its Content-MD5 was not stored.")
    refuses_bad_crc32: Answer = Field(description="A body that contradicts its CRC32 was not stored.")
    refuses_bad_sha256: Answer = Field(description="A body that contradicts its SHA-256 was not stored.")
    versioning: Answer = Field(description="An overwritten body could still be read by its version.")
    retention: Answer = Field(description="A retention was there on read-back, and the body too.")
    refuses_locked_delete: Answer = Field(description="A version under retention outlived a delete.")
    deletes: Answer = Field(description="A deleted object was gone, and no longer listed.")
    clock_offset_seconds: float | None = Field(description="The store's clock minus ours; None without a Date header.")
    notes: tuple[str, ...] = Field(default=(), description="What was odd, one sentence each.")

    @property
    def refuses_damaged_bodies(self) -> bool:
        """Whether at least one kind of checksum protects what is sent."""
        return Answer.YES in (self.refuses_bad_md5, self.refuses_bad_crc32, self.refuses_bad_sha256)


def probe_capabilities(store: BucketStore) -> Capabilities:
    """Try what the store does on throw-away keys below `probes/`, and remove them whatever happens.

    Writes about 5 MiB. Leftovers of a probe that was killed are removed once they are an hour old.

    Raises:
        AccessDenied, ConfigurationError, ServiceUnavailable, KeepwellError: The bucket cannot be used at all.
        VerificationFailed: What was written did not come back equal, or is not listed.
    """
    probe = _Probe(store, f"{_FOLDER}{secrets.token_hex(8)}/")
    try:
        offset = probe.require_round_trip()
        _remove_leftovers(store)
        answers = {name: probe.ask(name, question) for name, question in probe.questions().items()}
    finally:
        is_clean = probe.clean_up()
    if not is_clean:
        probe.notes.append("The throw-away keys below probes/ could not all be removed.")
    return Capabilities(**answers, clock_offset_seconds=offset, notes=tuple(probe.notes))


@dataclass
class _Probe:
    store: BucketStore
    folder: str
    notes: list[str] = field(default_factory=list)
    locked_until: datetime | None = None

    def questions(self) -> dict[str, Callable[[], Answer]]:
        return {
            "ranged_reads": self._ranged_reads,
            "multipart": self._multipart,
            "conditional_put": self._conditional_put,
            "refuses_bad_md5": lambda: self._refuses("md5", "ContentMD5", _md5),
            "refuses_bad_crc32": lambda: self._refuses("crc32", "ChecksumCRC32", _crc32),
            "refuses_bad_sha256": lambda: self._refuses("sha256", "ChecksumSHA256", _sha256),
            "versioning": self._versioning,
            "retention": self._retention,
            "refuses_locked_delete": self._refuses_locked_delete,
            "deletes": self._deletes,
        }

    def ask(self, name: str, question: Callable[[], Answer]) -> Answer:
        """One question; an error of the store is an answer of its own."""
        try:
            return question()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            self.notes.append(f"{name.replace('_', ' ')}: the store answered {code or 'an error'}.")
            return Answer.UNKNOWN if code in _REFUSALS_TO_TELL else Answer.NO
        except BotoCoreError as error:
            self.notes.append(f"{name.replace('_', ' ')}: {type(error).__name__}.")
            return Answer.UNKNOWN

    def require_round_trip(self) -> float | None:
        """Write, read, look, list; without these nothing else matters.

        Returns:
            The store's clock minus ours, in seconds.
        """
        body = secrets.token_bytes(64)
        key = self._key("round-trip")
        with translated("trying the bucket"):
            before = time.time()
            answer = self.store.client.put_object(Bucket=self.store.bucket, Key=key, Body=body)
            offset = _clock_offset(answer, (before + time.time()) / 2)
            read = self._read(key)
            size_bytes = self._call("head_object", key)["ContentLength"]
            listed = self._listed(key)
        if read != body or size_bytes != len(body):
            raise VerificationFailed(
                "The store gave back something else than was written.", hint="Do not keep backups in this store."
            )
        if not listed:
            raise VerificationFailed(
                "The store does not list what was just written.", hint="Only a store with consistent listing will do."
            )
        return offset

    def _ranged_reads(self) -> Answer:
        key, body = self._write("range", bytes(range(200)))
        return _yes(self._read(key, Range="bytes=3-9") == body[3:10])

    def _multipart(self) -> Answer:
        key = self._key("multipart")
        parts = (secrets.token_bytes(_PART_BYTES), b"the end")
        upload_id = self._call("create_multipart_upload", key)["UploadId"]
        try:
            done = [
                {
                    "PartNumber": n,
                    "ETag": self._call("upload_part", key, UploadId=upload_id, PartNumber=n, Body=part)["ETag"],
                }
                for n, part in enumerate(parts, start=1)
            ]
            self._call("complete_multipart_upload", key, UploadId=upload_id, MultipartUpload={"Parts": done})
        except ClientError:
            self._call("abort_multipart_upload", key, UploadId=upload_id)
            raise
        return _yes(hashlib.sha256(self._read(key)).digest() == hashlib.sha256(b"".join(parts)).digest())

    def _conditional_put(self) -> Answer:
        key, body = self._write("conditional")
        try:
            self._call("put_object", key, Body=b"a second writer", IfNoneMatch="*")
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 412:
                raise
        return _yes(self._read(key) == body)

    def _refuses(self, kind: str, parameter: str, digest: Callable[[bytes], bytes]) -> Answer:
        """A body with the right checksum is stored, and one with a wrong checksum is not."""
        key, body = self._key(f"checked-{kind}"), b"what the checksum says"
        self._call("put_object", key, Body=body, **{parameter: _encode(digest(body))})
        bad = self._key(f"bad-{kind}")
        try:
            self._call("put_object", bad, Body=b"something else", **{parameter: _encode(digest(body))})
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code", "")) in _REFUSALS_TO_TELL:
                raise
        return _yes(self._exists(key) and not self._exists(bad))

    def _versioning(self) -> Answer:
        key, body = self._write("version")
        version = self._call("head_object", key).get("VersionId")
        self._call("put_object", key, Body=b"newer")
        if version in (None, "null"):
            return Answer.NO
        return _yes(self._read(key, VersionId=version) == body)

    def _retention(self) -> Answer:
        key, body = self._write("retention")
        until = datetime.now(UTC) + timedelta(seconds=_RETENTION_SECONDS)
        try:
            self._call("put_object_retention", key, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until})
            self.locked_until = until
            said = self._call("get_object_retention", key).get("Retention", {})
        except ClientError:
            # Most stores have no retention, and say so in many ways; but the body must have survived the question.
            return self._body_survived(key, body, otherwise=Answer.NO)
        kept = said.get("Mode") == "GOVERNANCE" and "RetainUntilDate" in said
        return self._body_survived(key, body, otherwise=_yes(kept))

    def _body_survived(self, key: str, body: bytes, *, otherwise: Answer) -> Answer:
        if self._read(key) == body:
            return otherwise
        self.notes.append("The store replaced an object's body when it was asked for a retention: use none there.")
        return Answer.NO

    def _refuses_locked_delete(self) -> Answer:
        if self.locked_until is None:
            return Answer.NO
        key = self._key("retention")
        version = self._call("head_object", key).get("VersionId")
        chosen = {} if version in (None, "null") else {"VersionId": version}
        with suppress(ClientError):
            self._call("delete_object", key, **chosen)
        return _yes(self._exists(key, **chosen))

    def _deletes(self) -> Answer:
        key, _ = self._write("delete")
        self._call("delete_object", key)
        return _yes(not self._exists(key) and not self._listed(key))

    def clean_up(self) -> bool:
        """Remove every object, version and unfinished upload of this probe.

        Returns:
            Whether nothing is left; never an error, which would hide the one that ended the probe.
        """
        with suppress(KeepwellError):
            self.store.abort_uploads(self.folder)
        try:
            if _remove(self.store, self.folder):
                return True
            if self.locked_until is None:
                return False
            # Where we may not bypass a retention, it has to run out first.
            time.sleep(max(0.0, (self.locked_until - datetime.now(UTC)).total_seconds() + 1))
            return _remove(self.store, self.folder)
        except KeepwellError:
            return False

    def _key(self, name: str) -> str:
        return self.store.key(f"{self.folder}{name}")

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        return getattr(self.store.client, operation)(Bucket=self.store.bucket, Key=key, **arguments)

    def _write(self, name: str, body: bytes = b"the first body") -> tuple[str, bytes]:
        key = self._key(name)
        self._call("put_object", key, Body=body)
        return key, body

    def _read(self, key: str, **arguments: Any) -> bytes:
        with self._call("get_object", key, **arguments)["Body"] as body:
            return bytes(body.read())

    def _exists(self, key: str, **arguments: Any) -> bool:
        try:
            self._call("head_object", key, **arguments)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise
        return True

    def _listed(self, key: str) -> bool:
        page = self.store.client.list_objects_v2(Bucket=self.store.bucket, Prefix=key)
        return any(entry["Key"] == key for entry in page.get("Contents", ()))


def _remove_leftovers(store: BucketStore) -> None:
    """Remove what a probe that was killed has left behind; a probe at work beside us is younger and stays."""
    oldest_kept = datetime.now(UTC) - _LEFTOVER_AGE
    old = {entry.key.split("/")[1] for entry in store.list_objects(_FOLDER) if entry.modified_at < oldest_kept}
    for name in old:
        _remove(store, f"{_FOLDER}{name}/")


def _remove(store: BucketStore, folder: str) -> bool:
    """Remove every version below a folder; True when nothing is left."""
    with translated("removing probes"):
        for key, version in list(_versions(store, folder)):
            chosen = {"VersionId": version} if version not in (None, "null") else {}
            with suppress(ClientError):
                _delete(store, key, chosen)
        return not _is_there(store, folder)


def _is_there(store: BucketStore, folder: str) -> bool:
    return next(_versions(store, folder), None) is not None


def _delete(store: BucketStore, key: str, chosen: dict[str, str]) -> None:
    try:
        store.client.delete_object(Bucket=store.bucket, Key=key, **chosen)
    except ClientError:
        if not chosen:
            raise
        store.client.delete_object(Bucket=store.bucket, Key=key, BypassGovernanceRetention=True, **chosen)


def _versions(store: BucketStore, folder: str) -> Iterator[tuple[str, str | None]]:
    prefix = store.key(folder)
    try:
        pages = list(store.client.get_paginator("list_object_versions").paginate(Bucket=store.bucket, Prefix=prefix))
    except ClientError:
        # A store without versions may not know the question.
        for entry in store.list_objects(folder):
            yield store.key(entry.key), None
        return
    for page in pages:
        for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            yield entry["Key"], entry.get("VersionId")


def _clock_offset(answer: Any, asked_at: float) -> float | None:
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        # The header has whole seconds, so on average it is half a second behind.
        return parsedate_to_datetime(said).timestamp() + 0.5 - asked_at
    except (TypeError, ValueError):
        return None


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


def _sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _yes(happened: bool) -> Answer:
    return Answer.YES if happened else Answer.NO
