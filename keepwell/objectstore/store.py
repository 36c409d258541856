"""One platform's objects: what every destination can do with them, and how a bucket does it.

Keys are relative to `<prefix>/<platform>/` everywhere above this file. Never trust a success status alone: what was
written is read back by those who rely on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
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
from keepwell.objectstore.uploads import ObjectWriter, Uploads
from keepwell.sealing import NO_SEAL, Readable, Seal, load_seal
from keepwell.settings import BucketSettings, Platform

SIGNATURE_SUFFIX = ".sig"
_CHUNK_BYTES = 1024 * 1024
_DELETE_BATCH = 1000
_MISSING = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "429"}


@dataclass(frozen=True)
class StoredObject:
    """One object as the store lists it."""

    key: str
    size_bytes: int
    modified_at: datetime


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
    """

    seal: Seal
    is_local: bool = False

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
        client: The boto3 S3 client.
        bucket: Name of the bucket.
        seal: Who can open what is stored here, and whose documents count.
    """

    def __init__(self, client: Any, bucket: str, root: str, seal: Seal = NO_SEAL) -> None:
        self.client = client
        self.bucket = bucket
        self.seal = seal
        self._root = root

    @property
    def place(self) -> str:
        """The bucket, and the platform's folder in it."""
        return f"{self.bucket}/{self._root}".rstrip("/")

    def key(self, relative: str) -> str:
        """The full key in the bucket."""
        return f"{self._root}{relative}"

    def put_bytes(self, relative: str, content: bytes) -> None:
        """Write one small object whole."""
        with translated(f"writing {relative}"):
            self.client.put_object(Bucket=self.bucket, Key=self.key(relative), Body=content)

    def open_writer(self, relative: str, uploads: Uploads) -> ObjectWriter:
        """Write one object as it comes, however large it gets.

        Args:
            relative: Its key.
            uploads: Whose threads send it.
        """

        def translate(call: Callable[[], Any]) -> Any:
            with translated(f"writing {relative}"):
                return call()

        address = {"Bucket": self.bucket, "Key": self.key(relative)}
        return ObjectWriter(self.client, address, {}, uploads, translate)

    @contextmanager
    def open_reader(self, relative: str) -> Iterator[ObjectReader]:
        """Read one object of any size as it comes.

        Raises:
            PreconditionFailed: There is no such object.
        """
        with translated(f"reading {relative}"):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key(relative))
        with closing(answer["Body"]) as body:
            yield ObjectReader(body, f"reading {relative}")

    def get_bytes(self, relative: str) -> bytes:
        """One small object whole.

        Raises:
            PreconditionFailed: There is no such object.
        """
        with translated(f"reading {relative}"):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key(relative))
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
            with translated(f"looking at {relative}"):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key(relative))
        except ObjectMissing:
            return None
        return StoredObject(relative, head["ContentLength"], head["LastModified"])

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        """Every object below a folder, in the order of their keys.

        Args:
            folder: Ends with a slash, or is empty for all.
        """
        with translated(f"listing {folder}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.key(folder))
            for page in pages:
                for entry in page.get("Contents", ()):
                    relative = entry["Key"].removeprefix(self._root)
                    yield StoredObject(relative, entry["Size"], entry["LastModified"])

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        with translated(f"listing {folder}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.key(folder), Delimiter="/"
            )
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
        return sorted(prefix.removeprefix(self.key(folder)).rstrip("/") for prefix in found)

    def delete(self, relatives: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm.

        Raises:
            KeepwellError: The store kept at least one of them.
        """
        batch: list[str] = []
        for relative in relatives:
            batch.append(relative)
            if len(batch) == _DELETE_BATCH:
                self._delete_batch(batch)
                batch = []
        if batch:
            self._delete_batch(batch)

    def _delete_batch(self, relatives: Sequence[str]) -> None:
        with translated(f"deleting {len(relatives)} objects"):
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": self.key(r)} for r in relatives], "Quiet": True}
            )
        for failed in answer.get("Errors", ()):
            raise KeepwellError(
                f"The store kept {failed['Key']}: {failed.get('Code')}.", hint="May this key delete objects?"
            )

    def keeps_versions(self) -> bool | None:
        """Whether what is deleted stays as an old version; None when the store does not say: some know no such call."""
        try:
            with translated("asking whether the bucket keeps versions"):
                answer = self.client.get_bucket_versioning(Bucket=self.bucket)
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


class ObjectMissing(PreconditionFailed):
    """There is no such object."""


class ChecksumMismatch(VerificationFailed):
    """The store's own checksum does not fit what it sent."""


def open_store(platform: Platform) -> BucketStore:
    """The platform's folder in its bucket, the first destination; nothing is asked of the store yet."""
    return open_bucket(platform, platform.bucket)


def open_bucket(platform: Platform, bucket: BucketSettings) -> BucketStore:
    """The platform's folder in one of its buckets; nothing is asked of the store yet."""
    outer = f"{bucket.prefix}/" if bucket.prefix else ""
    return BucketStore(_build_client(bucket), bucket.name, f"{outer}{platform.name}/", load_seal(platform.sealing))


def _build_client(bucket: BucketSettings) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        region_name=bucket.region,
        # None lets boto3 look where it always does: instance roles, its own files, AWS_* variables.
        aws_access_key_id=bucket.access_key_id.get_secret_value() if bucket.access_key_id else None,
        aws_secret_access_key=bucket.secret_access_key.get_secret_value() if bucket.secret_access_key else None,
        verify=str(bucket.ca_bundle) if bucket.ca_bundle else None,
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
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
            hint="Were the keys rotated? Check the access key and what its policy allows.",
        )
    if code in _BUSY or status == 429:
        return Throttled(f"The object store asked us to slow down while {what}.", hint="Try again in a minute.")
    if status >= 500:
        return ServiceUnavailable(
            f"The object store failed while {what}: {code or status}.", hint="Look at the store; try again later."
        )
    return KeepwellError(f"The object store refused {what}: {code or status}.", hint="Run `keepwell doctor`.")
