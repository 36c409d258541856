"""One platform's objects: what every destination can do with them, and how a bucket does it.

Keys are relative to `<prefix>/<platform>/` everywhere above this file. Never trust a success status alone: what was
written is read back by those who rely on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from keepwell.errors import (
    AccessDenied,
    ConfigurationError,
    KeepwellError,
    PreconditionFailed,
    ServiceUnavailable,
    Throttled,
    VerificationFailed,
)
from keepwell.objectstore.keeping import CONTENTS, SETS, Keeping, build_keeping, choose_mode
from keepwell.objectstore.uploads import ObjectWriter, Uploads, checksum_of_locked
from keepwell.sealing import NO_SEAL, Readable, Seal, load_seal
from keepwell.settings import BucketSettings, Platform

SIGNATURE_SUFFIX = ".sig"
_CHUNK_BYTES = 1024 * 1024
_DELETE_BATCH = 1000
_LOCKERS = 16
_KEPT_HINT = "May this key delete objects there? A lock forbids it to everybody, for its time."
_ATTEMPTS = 4
_MISSING = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
DENIED_HINTS = {
    "ExpiredToken": "The credentials have run out: get new ones, then run it again.",
    "RequestTimeTooSkewed": "This machine's clock is too far from the store's: let it take its time from NTP.",
}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "429"}

_NOT_KEPT = Keeping()


@dataclass(frozen=True)
class StoredObject:
    """One object as the store lists it.

    Attributes:
        key: In the platform's folder.
        size_bytes: Of what is stored.
        modified_at: By the store's clock.
        locked_until: Until when nobody may delete it. Told by `find` alone; None where it is not locked, or where the
            key may not ask.
    """

    key: str
    size_bytes: int
    modified_at: datetime
    locked_until: datetime | None = None


class Sink(Protocol):
    """One object on its way into a store; it is there once `finish` returned, and not before."""

    def write(self, chunk: bytes, /) -> int:
        """Take the next bytes."""

    def finish(self) -> None:
        """Make it an object.

        Raises:
            KeepwellError: The store did not take it; there is no object.
        """

    def abort(self) -> None:
        """Give up: neither an object nor what was taken of it stays, or the next run sweeps it."""


class Store(ABC):
    """The objects of one platform in one destination: a bucket, or a folder.

    Attributes:
        seal: Who can open what is stored here, and whose documents count.
        is_local: Whether reading an object back costs about as little as looking at it.
        may_write: Whether this machine may write here.
        may_expire: Whether it might delete what sets hold.
        keeping: How what sets hold is kept.
    """

    seal: Seal
    is_local: bool = False
    may_write: bool = True
    may_expire: bool = True
    keeping: Keeping = _NOT_KEPT

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the objects lie, for people: bucket and folder, or a path; without a slash at its end."""

    @abstractmethod
    def put_bytes(self, relative: str, content: bytes) -> None:
        """Write one small object whole."""

    @abstractmethod
    def open_writer(self, relative: str, uploads: Uploads) -> Sink:
        """Write one object as it comes, however large it gets.

        Args:
            relative: Its key.
            uploads: Whose threads send it, where it takes some.
        """

    @abstractmethod
    def open_reader(self, relative: str) -> AbstractContextManager[Readable]:
        """Read one object of any size as it comes.

        Raises:
            PreconditionFailed: There is no such object.
        """

    @abstractmethod
    def get_bytes(self, relative: str) -> bytes:
        """One small object whole.

        Raises:
            PreconditionFailed: There is no such object.
        """

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy one object inside the store, of any size."""

    @abstractmethod
    def find(self, relative: str) -> StoredObject | None:
        """What the store says of one object; None when there is none."""

    @abstractmethod
    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        """Every object below a folder, in the order of their keys.

        Args:
            folder: Ends with a slash, or is empty for all.
        """

    @abstractmethod
    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder that hold an object, sorted."""

    @abstractmethod
    def delete(self, relatives: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm.

        Raises:
            KeepwellError: The store kept at least one of them.
        """

    def keep_longer(self, relatives: Iterable[str]) -> int:
        """Lock contents for as long as a set of now needs them, where that is asked for; how many were locked anew."""
        del relatives
        return 0

    @abstractmethod
    def read_clock(self) -> datetime:
        """What time it is by the store, whose times the objects bear."""

    @abstractmethod
    def keeps_versions(self) -> bool | None:
        """Whether what is deleted stays as an old version; None when the store does not say."""

    @abstractmethod
    def abort_uploads(self, folder: str) -> int:
        """Give up whatever was begun below a folder and never finished; nobody may be writing there.

        Returns:
            How many there were.
        """

    def put_signed(self, relative: str, document: bytes) -> None:
        """Write a document of ours, its signature first, so that it is never there without one."""
        signature = self.seal.sign(document)
        if signature is not None:
            self.put_bytes(relative + SIGNATURE_SUFFIX, signature)
        self.put_bytes(relative, document)

    def get_signed(self, relative: str) -> bytes:
        """Read a document of ours, and believe nothing of it before its signature is found to be good.

        Raises:
            PreconditionFailed: There is no such document.
            VerificationFailed: It is signed by nobody whose signature counts here.
        """
        document = self.get_bytes(relative)
        try:
            signature = self.get_bytes(relative + SIGNATURE_SUFFIX)
        except ObjectMissing:
            signature = None
        self.seal.require_signed(document, signature, relative)
        return document


class ObjectReader:
    """One object's bytes as they come; asks the network for much at once, however little is read."""

    def __init__(self, body: Any, what: str) -> None:
        self._body, self._what = body, what
        self._ahead = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most so many; none at the end."""
        if not self._ahead:
            with translated(self._what):
                self._ahead = memoryview(self._body.read(_CHUNK_BYTES))
        chunk = self._ahead[:size] if size >= 0 else self._ahead
        self._ahead = self._ahead[len(chunk) :]
        return bytes(chunk)


class BucketStore(Store):
    """The objects of one platform in an S3 bucket.

    Attributes:
        bucket: Name of the bucket.
        seal: Who can open what is stored here, and whose documents count.
        keeping: How what sets hold is kept.
        reader: The boto3 S3 client that reads, looks and lists.
        may_write: Whether there is a key to write with.
        may_expire: Whether there is a key that might delete what sets hold.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        root: str,
        seal: Seal = NO_SEAL,
        *,
        keys: "Keys | None" = None,
        keeping: Keeping = _NOT_KEPT,
    ) -> None:
        keys = keys or Keys()
        self.bucket = bucket
        self.seal = seal
        self.keeping = keeping
        self.reader = keys.reading or client
        self.may_write = client is not None
        self.has_expiring_key = keys.expiring is not None
        self.may_expire = self.has_expiring_key or (client is not None and not keys.deletes_forbidden)
        self._client = client
        self._expiring = keys.expiring
        self._root = root

    @property
    def place(self) -> str:
        """The bucket, and the platform's folder in it."""
        return f"{self.bucket}/{self._root}".rstrip("/")

    @property
    def client(self) -> Any:
        """The boto3 S3 client that writes, and deletes what is no part of a set.

        Raises:
            AccessDenied: This machine has a key that only reads.
        """
        if self._client is None:
            raise AccessDenied(
                "This machine has no key that may write to the bucket, only one that reads.",
                hint="Do it where bucket.access_key_id_file is set; reading, proving and restoring work here.",
            )
        return self._client

    @property
    def expirer(self) -> Any:
        """The boto3 S3 client that deletes what sets hold: one of its own, or the one that writes."""
        return self._expiring or self.client

    def key(self, relative: str) -> str:
        """The full key in the bucket."""
        return f"{self._root}{relative}"

    def put_bytes(self, relative: str, content: bytes) -> None:
        """Write one small object whole."""
        until = self.keeping.find_lock(relative, datetime.now(UTC))
        lock = self.keeping.build_lock(until)
        with translated(f"writing {relative}"):
            self.client.put_object(
                Bucket=self.bucket,
                Key=self.key(relative),
                Body=content,
                **lock,
                **checksum_of_locked(self.client, lock, content),
            )
        self._require_lock(relative, until)

    def open_writer(self, relative: str, uploads: Uploads) -> ObjectWriter:
        """Write one object as it comes, however large it gets; locked and of its class where sets are to be.

        Args:
            relative: Its key.
            uploads: Whose threads send it.
        """
        until = self.keeping.find_lock(relative, datetime.now(UTC))
        extra = self.keeping.build_class(relative) | self.keeping.build_lock(until)

        def translate(call: Callable[[], Any]) -> Any:
            with translated(f"writing {relative}"):
                return call()

        address = {"Bucket": self.bucket, "Key": self.key(relative)}
        return ObjectWriter(
            self.client, address, extra, uploads, translate, finished=lambda: self._require_lock(relative, until)
        )

    @contextmanager
    def open_reader(self, relative: str) -> Iterator[ObjectReader]:
        """Read one object of any size as it comes.

        Raises:
            PreconditionFailed: There is no such object.
        """
        with translated(f"reading {relative}"):
            answer = self.reader.get_object(Bucket=self.bucket, Key=self.key(relative))
        with closing(answer["Body"]) as body:
            yield ObjectReader(body, f"reading {relative}")

    def get_bytes(self, relative: str) -> bytes:
        """One small object whole.

        Raises:
            PreconditionFailed: There is no such object.
        """
        with translated(f"reading {relative}"):
            answer = self.reader.get_object(Bucket=self.bucket, Key=self.key(relative))
            with closing(answer["Body"]) as body:
                return bytes(body.read())

    def copy(self, source: str, target: str) -> None:
        """Copy one object inside the store, of any size."""
        with translated(f"copying {source}"):
            origin = {"Bucket": self.bucket, "Key": self.key(source)}
            self.client.copy(origin, self.bucket, self.key(target))

    def find(self, relative: str) -> StoredObject | None:
        """What the store says of one object; None when there is none."""
        try:
            head = self._look(relative)
        except ObjectMissing:
            return None
        return StoredObject(
            relative, head["ContentLength"], head["LastModified"], head.get("ObjectLockRetainUntilDate")
        )

    def _look(self, relative: str) -> Any:
        with translated(f"looking at {relative}"):
            return self.reader.head_object(Bucket=self.bucket, Key=self.key(relative))

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        """Every object below a folder, in the order of their keys.

        Args:
            folder: Ends with a slash, or is empty for all.
        """
        with translated(f"listing {folder}"):
            pages = self.reader.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.key(folder))
            for page in pages:
                for entry in page.get("Contents", ()):
                    relative = entry["Key"].removeprefix(self._root)
                    yield StoredObject(relative, entry["Size"], entry["LastModified"])

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        with translated(f"listing {folder}"):
            pages = self.reader.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.key(folder), Delimiter="/"
            )
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
        return sorted(prefix.removeprefix(self.key(folder)).rstrip("/") for prefix in found)

    def delete(self, relatives: Iterable[str]) -> None:
        """Delete objects, those of sets by the key that may; those that are gone already do no harm.

        Raises:
            AccessDenied: The key may not, or the object is locked.
            KeepwellError: The store kept at least one of them.
        """
        waiting: dict[bool, list[str]] = {True: [], False: []}
        for relative in relatives:
            of_sets = relative.startswith((SETS, CONTENTS))
            waiting[of_sets].append(relative)
            if len(waiting[of_sets]) == _DELETE_BATCH:
                self._delete_batch(self.expirer if of_sets else self.client, waiting[of_sets])
                waiting[of_sets] = []
        for of_sets, batch in waiting.items():
            if batch:
                self._delete_batch(self.expirer if of_sets else self.client, batch)

    def _delete_batch(self, client: Any, relatives: Sequence[str]) -> None:
        if len(relatives) == 1:
            # Not every store knows the call for many, and not every policy speaks of it.
            return self._delete_one(client, relatives[0])
        with translated(f"deleting {len(relatives)} objects"):
            answer = client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": self.key(r)} for r in relatives], "Quiet": True}
            )
        for failed in answer.get("Errors", ()):
            kind = AccessDenied if failed.get("Code") in _DENIED else KeepwellError
            raise kind(f"The store kept {failed['Key']}: {failed.get('Code')}.", hint=_KEPT_HINT)
        return None

    def _delete_one(self, client: Any, relative: str) -> None:
        try:
            with translated(f"deleting {relative}"):
                client.delete_object(Bucket=self.bucket, Key=self.key(relative))
        except ObjectMissing:
            return
        except AccessDenied as error:
            raise AccessDenied(f"The store kept {relative}: AccessDenied.", hint=_KEPT_HINT) from error

    def keep_longer(self, relatives: Iterable[str]) -> int:
        """Lock contents for as long as a set of now needs them; never for less than they are locked already.

        Args:
            relatives: Keys of contents that the set uses again.

        Returns:
            How many were locked anew; 0 where no lock is asked for.

        Raises:
            VerificationFailed: The store does not keep the lock.
            KeepwellError: It refuses it.
        """
        if not self.keeping.lock_days:
            return 0
        with ThreadPoolExecutor(_LOCKERS, "locking") as lockers:
            return sum(lockers.map(self._keep_longer, relatives))

    def _keep_longer(self, relative: str) -> bool:
        now = datetime.now(UTC)
        if not self.keeping.needs_longer(self._look(relative).get("ObjectLockRetainUntilDate"), now):
            return False
        self._require_lock(relative, self.keeping.find_lock(relative, now))
        return True

    def _require_lock(self, relative: str, until: datetime | None) -> None:
        """Look whether an object is locked, and lock it where the store forgot: some do, for uploads in parts.

        Raises:
            VerificationFailed: The store does not keep the lock.
        """
        if until is None:
            return
        head = self._look(relative)
        if _is_locked(head, until):
            return
        mode = choose_mode(head.get("ObjectLockMode"), self.keeping.lock_mode)
        with translated(f"locking {relative}"):
            self.client.put_object_retention(
                Bucket=self.bucket, Key=self.key(relative), Retention={"Mode": mode, "RetainUntilDate": until}
            )
        if not _is_locked(self._look(relative), until):
            raise VerificationFailed(
                f"{relative} is not locked until {until:%Y-%m-%d %H:%M} UTC, though the store took the lock.",
                hint="May the reading key ask (s3:GetObjectRetention)? `keepwell doctor` tries what the store keeps.",
            )

    def read_clock(self) -> datetime:
        """What time it is by the store, to the second; by this machine where the store does not say."""
        with translated("asking for the store's time"):
            # Not the shorter HEAD, whose refusal has no body, and so no reason.
            answer = self.reader.list_objects_v2(Bucket=self.bucket, Prefix=self.key(""), MaxKeys=1)
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(told).astimezone(UTC) if told else datetime.now(UTC)

    def keeps_versions(self) -> bool | None:
        """Whether what is deleted stays as an old version; None when the store does not say: some know no such call."""
        try:
            with translated("asking whether the bucket keeps versions"):
                answer = self.reader.get_bucket_versioning(Bucket=self.bucket)
        except KeepwellError:
            return None
        return bool(answer.get("Status") == "Enabled")

    def abort_uploads(self, folder: str) -> int:
        """Give up unfinished multipart uploads below a folder, whose parts would be kept and billed for ever.

        Returns:
            How many there were.
        """
        count = 0
        with translated(f"looking for unfinished uploads below {folder}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self.key(folder)
            )
            for upload in (entry for page in pages for entry in page.get("Uploads", ())):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                count += 1
        return count


@dataclass(frozen=True)
class Keys:
    """Clients with other keys than the one that writes.

    Attributes:
        reading: With a key that only reads; None where the one that writes does it.
        expiring: With a key that may delete what sets hold; None where there is none of its own.
        deletes_forbidden: Whether the key that writes is said to be unable to do that.
    """

    reading: Any = None
    expiring: Any = None
    deletes_forbidden: bool = False


def _is_locked(head: Any, until: datetime) -> bool:
    found = head.get("ObjectLockRetainUntilDate")
    return found is not None and bool(found >= until)


class ObjectMissing(PreconditionFailed):
    """There is no such object."""


class ChecksumMismatch(VerificationFailed):
    """The store's own checksum does not fit what it sent."""


def open_store(platform: Platform) -> BucketStore:
    """The platform's folder in its bucket, the first destination; nothing is asked of the store yet."""
    return open_bucket(platform, platform.bucket)


def open_bucket(platform: Platform, bucket: BucketSettings) -> BucketStore:
    """The platform's folder in one of its buckets; nothing is asked of the store yet."""
    seal = load_seal(platform.sealing)
    silence = platform.backup.stall_limit_seconds
    reading = (bucket.reading_access_key_id, bucket.reading_secret_access_key)
    expiring = (bucket.expiring_access_key_id, bucket.expiring_secret_access_key)
    keys = Keys(
        reading=_build_client(bucket, silence, *reading) if all(reading) else None,
        expiring=_build_client(bucket, silence, *expiring) if all(expiring) else None,
        deletes_forbidden=bucket.deletes_forbidden,
    )
    own = (bucket.access_key_id, bucket.secret_access_key)
    writing = _build_client(bucket, silence, *own) if bucket.may_write else None
    folder = folder_of(platform.name, bucket)
    return BucketStore(writing, bucket.name, folder, seal, keys=keys, keeping=build_keeping(bucket))


def folder_of(name: str, bucket: BucketSettings) -> str:
    """A platform's folder in a bucket, ending with a slash."""
    outer = f"{bucket.prefix}/" if bucket.prefix else ""
    return f"{outer}{name}/"


def _build_client(
    bucket: BucketSettings, silence_seconds: int, key_id: SecretStr | None, secret: SecretStr | None
) -> Any:
    # All attempts together must not wait for longer than a store may be silent.
    patience_seconds = max(1.0, silence_seconds / _ATTEMPTS)
    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name=bucket.region,
        # None lets boto3 look where it always does: instance roles, its own files, AWS_* variables.
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        verify=str(bucket.ca_bundle) if bucket.ca_bundle else None,
        config=Config(
            connect_timeout=min(10.0, patience_seconds),
            read_timeout=min(60.0, patience_seconds),
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            s3={"addressing_style": bucket.addressing},
            request_checksum_calculation=bucket.checksums,
            response_checksum_validation=bucket.checksums,
            max_pool_connections=32,
        ),
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client's errors into ours, by code and HTTP status.

    Args:
        what: What was being done, for the message.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translate(error, what) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        # Not wrapped by the client: the connection broke while a body was being streamed.
        raise ServiceUnavailable(
            f"The connection to the object store broke while {what}: {type(error).__name__}.",
            hint="Check the store and the network between.",
        ) from error


def translate(error: ClientError | BotoCoreError, what: str) -> KeepwellError:
    """Our error for one of the client's; it names `what` and never a key."""
    if isinstance(error, ClientError):
        return _translate_answer(error, what)
    if isinstance(error, FlexibleChecksumError):
        return ChecksumMismatch(f"The object store's checksum does not fit ({what}).", hint="The object is damaged.")
    if isinstance(error, BotoConnectionError | HTTPClientError | IncompleteReadError):
        return ServiceUnavailable(
            f"The object store did not answer while {what}: {type(error).__name__}.",
            hint="Check bucket.endpoint_url, and that the store is up.",
        )
    return ConfigurationError(
        f"The object store's client refused {what}: {error}.", hint="Check the [bucket] table and its credentials."
    )


def _translate_answer(error: ClientError, what: str) -> KeepwellError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return ConfigurationError(f"The bucket does not exist ({what}).", hint="Check bucket.name, or create it.")
    if code in _MISSING:
        return ObjectMissing(
            f"The store has no such object ({what}).", hint="List what there is: keepwell backup list."
        )
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"The object store refused {what}: {code or status}.",
            hint=DENIED_HINTS.get(code, "Were the keys rotated? Check the access key and what its policy allows."),
        )
    if code in _BUSY or status == 429:
        return Throttled(f"The object store asked us to slow down while {what}.", hint="Try again in a minute.")
    if status >= 500:
        return ServiceUnavailable(
            f"The object store failed while {what}: {code or status}.", hint="Look at the store; try again later."
        )
    return KeepwellError(f"The object store refused {what}: {code or status}.", hint="Run `keepwell doctor`.")
