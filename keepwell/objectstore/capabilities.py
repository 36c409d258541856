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

from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.keeping import Keeping
from keepwell.objectstore.store import BucketStore, Store, translated
from keepwell.objectstore.uploads import checksum_of_locked

PROBES = "probes/"
# What is asked about where no storage class is configured: the one that most stores have beside their usual one.
_USUAL_CLASS = "STANDARD_IA"
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
    retention_on_write: Answer = Field(description="A retention that was given with an object was there on read-back.")
    refuses_locked_delete: Answer = Field(description="Each version under retention outlived a delete.")
    bypasses_retention: Answer = Field(description="This key set a retention of the governance mode aside.")
    storage_class: Answer = Field(description="An object kept the storage class that it was given, and reads at once.")
    storage_class_tried: str = Field(default="", description="Which one that was.")
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
    probe = _Probe(store, f"{PROBES}{secrets.token_hex(8)}/")
    try:
        offset = probe.require_round_trip()
        _remove_leftovers(store)
        answers = {name: probe.ask(name, question) for name, question in probe.questions().items()}
    finally:
        is_clean = probe.clean_up()
    if not is_clean:
        probe.notes.append("The throw-away keys below probes/ could not all be removed.")
    return Capabilities(
        **answers,
        storage_class_tried=probe.storage_class_tried,
        clock_offset_seconds=offset,
        notes=tuple(probe.notes),
    )


def require_keeping(store: Store) -> None:
    """Try on throw-away keys whether the store keeps what is asked of it for sets: a lock, a storage class.

    Asks nothing of the store where neither is asked for. What it cannot remove at once, because it is locked for some
    seconds, the next try removes.

    Raises:
        PreconditionFailed: It does not, or that could not be told.
        AccessDenied, ServiceUnavailable, KeepwellError: The bucket cannot be used.
    """
    if not isinstance(store, BucketStore):
        return  # a folder is asked for neither
    keeping = store.keeping
    if not keeping.lock_days and keeping.storage_class is None:
        return
    probe = _Probe(store, f"{PROBES}keeping/")
    _remove(store, probe.folder)
    try:
        locks = probe.ask("retention", probe.retention_on_write) if keeping.lock_days else Answer.YES
        holds = probe.ask("locked delete", probe.refuses_locked_delete) if keeping.lock_days else Answer.YES
        keeps = probe.ask("storage class", probe.keeps_storage_class) if keeping.storage_class else Answer.YES
    finally:
        with suppress(KeepwellError):
            _remove(store, probe.folder)
    fault = judge_keeping(keeping, locks=locks, holds=holds, keeps=keeps)
    if fault is not None:
        raise PreconditionFailed(" ".join([fault.message, *probe.notes]), hint=fault.hint)


def judge_keeping(keeping: Keeping, *, locks: Answer, holds: Answer, keeps: Answer) -> KeepwellError | None:
    """Why a store cannot keep sets as it is asked to; None when it can, or nothing is asked. Pure.

    Args:
        keeping: What is asked.
        locks: Whether a lock that was given with an object was there on read-back.
        holds: Whether a locked version outlived a delete.
        keeps: Whether an object kept its storage class, and could be read at once.
    """
    if keeping.lock_days and locks is not Answer.YES:
        return PreconditionFailed(
            f"bucket.lock_days is {keeping.lock_days}, and the store keeps no lock (kept on read-back: {locks}).",
            hint="Create the bucket with Object Lock, and let the key set and read retentions; or set lock_days = 0.",
        )
    if keeping.lock_days and holds is not Answer.YES:
        return PreconditionFailed(
            f"bucket.lock_days is {keeping.lock_days}, and the store takes a lock and deletes all the same"
            f" (a locked version outlived a delete: {holds}).",
            hint="Its locks protect nothing: use another store, or set lock_days = 0 and know that none holds.",
        )
    if keeping.storage_class and keeps is not Answer.YES:
        return PreconditionFailed(
            f"bucket.storage_class is {keeping.storage_class}, and the store does not keep it, or cannot read it at"
            f" once (kept: {keeps}).",
            hint="Name a class that the store has and that needs no thawing: a proof reads everything back.",
        )
    return None


@dataclass
class _Probe:
    store: BucketStore
    folder: str
    notes: list[str] = field(default_factory=list)
    locked_until: datetime | None = None
    locked: list[str] = field(default_factory=list)

    @property
    def storage_class_tried(self) -> str:
        return self.store.keeping.storage_class or _USUAL_CLASS

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
            "retention_on_write": self.retention_on_write,
            "refuses_locked_delete": self.refuses_locked_delete,
            "bypasses_retention": self._bypasses_retention,
            "storage_class": self.keeps_storage_class,
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
            self._remember_lock("retention", until)
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

    def retention_on_write(self) -> Answer:
        """Whether an object that is written with a lock has it: this is how sets are written."""
        key, body = self._key("locked"), b"the first body"
        until = (datetime.now(UTC) + timedelta(seconds=_RETENTION_SECONDS)).replace(microsecond=0)
        lock = self.store.keeping.build_lock(until)
        more = checksum_of_locked(self.store.client, lock, body)
        self._call("put_object", key, Body=body, **{**lock, **more, "ObjectLockMode": "GOVERNANCE"})
        head = self._call("head_object", key)
        found = head.get("ObjectLockRetainUntilDate")
        if found is None or found < until or head.get("ObjectLockMode") != "GOVERNANCE":
            return Answer.NO
        self._remember_lock("locked", until)
        return _yes(self._read(key) == body)

    def _remember_lock(self, name: str, until: datetime) -> None:
        self.locked.append(name)
        self.locked_until = max(until, self.locked_until or until)

    def refuses_locked_delete(self) -> Answer:
        """Whether everything that was locked so far outlives a delete."""
        return _yes(bool(self.locked) and all(self._outlives_delete(self._key(name)) for name in self.locked))

    def _bypasses_retention(self) -> Answer:
        """Whether this key, and so whoever steals it, may set a lock of the governance mode aside."""
        if not self.locked:
            return Answer.NO
        key = self._key(self.locked[-1])
        chosen = self._version_of(key)
        with suppress(ClientError):
            self._call("delete_object", key, BypassGovernanceRetention=True, **chosen)
        return _yes(not self._exists(key, **chosen))

    def _version_of(self, key: str) -> dict[str, str]:
        version = self._call("head_object", key).get("VersionId")
        return {} if version in (None, "null") else {"VersionId": version}

    def _outlives_delete(self, key: str) -> bool:
        chosen = self._version_of(key)
        for client in dict.fromkeys((self.store.client, self.store.expirer)):
            with suppress(ClientError):
                client.delete_object(Bucket=self.store.bucket, Key=key, **chosen)
        return self._exists(key, **chosen)

    def keeps_storage_class(self) -> Answer:
        """Whether an object has the class that it was given, and can be read without being thawed."""
        key, wanted = self._key("class"), self.storage_class_tried
        body = b"the first body"
        self._call("put_object", key, Body=body, StorageClass=wanted)
        # Nothing is said of an object of the usual class.
        kept = self._call("head_object", key).get("StorageClass", "STANDARD") == wanted
        return _yes(kept and self._read(key) == body)

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
        client = self.store.reader if operation.startswith(("get_", "head_")) else self.store.client
        return getattr(client, operation)(Bucket=self.store.bucket, Key=key, **arguments)

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
        page = self.store.reader.list_objects_v2(Bucket=self.store.bucket, Prefix=key)
        return any(entry["Key"] == key for entry in page.get("Contents", ()))


def _remove_leftovers(store: BucketStore) -> None:
    """Remove what a probe that was killed has left behind; a probe at work beside us is younger and stays."""
    oldest_kept = datetime.now(UTC) - _LEFTOVER_AGE
    old = {entry.key.split("/")[1] for entry in store.list_objects(PROBES) if entry.modified_at < oldest_kept}
    for name in old:
        _remove(store, f"{PROBES}{name}/")


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
        pages = list(store.reader.get_paginator("list_object_versions").paginate(Bucket=store.bucket, Prefix=prefix))
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
