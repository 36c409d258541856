"""A damaged copy of a set that lies nowhere: a store that reads some objects otherwise than they are.

Not copies in the bucket: those would cost a set's size each, be locked where sets are, and lie there for good after a
kill, damaged. The real objects are never written to, and nothing can be written through this store at all. What the
checker sees differs in one thing: the object store's own checksums are not asked of what is served from here, so what
they would have caught must be caught without them.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime

from keepwell.errors import KeepwellError
from keepwell.objectstore.store import ObjectMissing, Sink, Store, StoredObject
from keepwell.objectstore.uploads import Uploads
from keepwell.sealing import Readable, Seal


class DamagedCopy(Store):
    """A store as it is, but for some objects and for who can open them.

    Args:
        inner: The real one; read only.
        changes: Key to what is read there instead; None where the object is gone.
        seal: Whose keys open what is read, and whose documents count; the real one's by default.
    """

    may_write = False
    may_expire = False

    def __init__(self, inner: Store, changes: Mapping[str, bytes | None], seal: Seal | None = None) -> None:
        self._inner, self._changes = inner, dict(changes)
        self.seal = inner.seal if seal is None else seal
        self.keeping = inner.keeping
        self.is_local = inner.is_local

    @property
    def place(self) -> str:
        """Where the real objects lie."""
        return f"{self._inner.place} (a damaged copy)"

    def open_reader(self, relative: str) -> AbstractContextManager[Readable]:
        """As the real store, or from here."""
        if relative not in self._changes:
            return self._inner.open_reader(relative)
        return nullcontext(io.BytesIO(self._changed(relative)))

    def get_bytes(self, relative: str) -> bytes:
        """As the real store, or from here."""
        return self._changed(relative) if relative in self._changes else self._inner.get_bytes(relative)

    def find(self, relative: str) -> StoredObject | None:
        """As the real store; what was changed has its own size."""
        found = self._inner.find(relative)
        return self._listed(found) if found else None

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        """As the real store; what was changed has its own size, and what was dropped is not there."""
        for found in self._inner.list_objects(folder):
            listed = self._listed(found)
            if listed is not None:
                yield listed

    def list_folders(self, folder: str) -> list[str]:
        """As the real store."""
        return self._inner.list_folders(folder)

    def read_clock(self) -> datetime:
        """The real store's."""
        return self._inner.read_clock()

    def keeps_versions(self) -> bool | None:
        """As the real store."""
        return self._inner.keeps_versions()

    def put_bytes(self, relative: str, content: bytes) -> None:
        """Refused."""
        del content
        raise _refused(relative)

    def open_writer(self, relative: str, uploads: Uploads) -> Sink:
        """Refused."""
        del uploads
        raise _refused(relative)

    def copy(self, source: str, target: str) -> None:
        """Refused."""
        del source
        raise _refused(target)

    def delete(self, relatives: Iterable[str]) -> None:
        """Refused."""
        raise _refused(", ".join(relatives))

    def abort_uploads(self, folder: str) -> int:
        """Refused."""
        raise _refused(folder)

    def _changed(self, relative: str) -> bytes:
        content = self._changes[relative]
        if content is None:
            raise ObjectMissing(f"There is no object {relative}.")
        return content

    def _listed(self, found: StoredObject) -> StoredObject | None:
        if found.key not in self._changes:
            return found
        content = self._changes[found.key]
        return None if content is None else replace(found, size_bytes=len(content))


def _refused(what: str) -> KeepwellError:
    return KeepwellError(f"Nothing is written into a damaged copy: {what}.", hint="A fault of Keepwell: report it.")
