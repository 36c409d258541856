"""What every destination can do with one platform's objects.

Keys are relative to the platform's folder everywhere above this package. Never trust a success status alone: what was
written is read back by those who rely on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.keeping import Keeping
from keepwell.objectstore.uploads import Uploads
from keepwell.sealing import Readable, Seal

SIGNATURE_SUFFIX = ".sig"
NOT_KEPT = Keeping()


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
    keeping: Keeping = NOT_KEPT

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


class ObjectMissing(PreconditionFailed):
    """There is no such object."""


class ChecksumMismatch(VerificationFailed):
    """The store's own checksum does not fit what it sent."""
