"""One platform's folder in memory, and a watch over any store's effects that can strike at each of them."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from keepwell.errors import AccessDenied
from keepwell.objectstore.store import ObjectMissing, StoredObject
from keepwell.sealing import NO_SEAL


class MemoryStore:
    """The objects of one platform, in memory.

    Attributes:
        objects: By their keys.
        locked: Keys that the store refuses to delete; the others of the same call are deleted, as S3 does it.
        sticky: Keys that it says it deleted, and keeps.
        retained: Until when an object is locked, by its key; told by `find`.
        may_expire: Whether there is a key that may delete what sets hold.
    """

    place = "memory"
    is_local = False
    may_write = True
    seal = NO_SEAL

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.locked: set[str] = set()
        self.sticky: set[str] = set()
        self.retained: dict[str, datetime] = {}
        self.may_expire = True

    def put_bytes(self, relative: str, content: bytes) -> None:
        self.objects[relative] = content

    def get_bytes(self, relative: str) -> bytes:
        if relative not in self.objects:
            raise ObjectMissing("There is no such object.")
        return self.objects[relative]

    def open_writer(self, relative: str, uploads: object) -> "MemoryWriter":
        return MemoryWriter(self, relative)

    @contextmanager
    def open_reader(self, relative: str) -> Iterator[io.BytesIO]:
        yield io.BytesIO(self.get_bytes(relative))

    def put_signed(self, relative: str, document: bytes) -> None:
        self.put_bytes(relative, document)

    def get_signed(self, relative: str) -> bytes:
        return self.get_bytes(relative)

    def find(self, relative: str) -> StoredObject | None:
        found = next((stored for stored in self.list_objects(relative) if stored.key == relative), None)
        return replace(found, locked_until=self.retained.get(relative)) if found else None

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key.startswith(folder):
                yield StoredObject(key, len(self.objects[key]), self.modified.get(key, datetime.now(UTC)))

    def list_folders(self, folder: str) -> list[str]:
        below = {key.removeprefix(folder).split("/")[0] for key in self.objects if key.startswith(folder)}
        return sorted(below)

    def delete(self, relatives: Iterable[str]) -> None:
        kept = []
        for key in list(relatives):
            if key in self.locked and key in self.objects:
                kept.append(key)
            elif key not in self.sticky:
                self.objects.pop(key, None)
        if kept:
            raise AccessDenied(f"The store kept {kept[0]}: AccessDenied.", hint="May this key delete objects?")

    def abort_uploads(self, folder: str) -> int:
        return 0

    def keep_longer(self, relatives: Iterable[str]) -> int:
        return 0

    def read_clock(self) -> datetime:
        return datetime.now(UTC)

    def keeps_versions(self) -> bool:
        return False


class MemoryWriter:
    """An object on its way; it is there once it is finished."""

    def __init__(self, store: Any, relative: str) -> None:
        self._store, self._relative = store, relative
        self._content = bytearray()

    def write(self, chunk: bytes) -> int:
        self._content += chunk
        return len(chunk)

    def finish(self) -> None:
        self._store.put_bytes(self._relative, bytes(self._content))

    def abort(self) -> None:
        self._content.clear()


Strike = Callable[[str, int, str], None]


class WatchedStore:
    """A store whose every external effect is counted, with a chance to strike before and after each.

    A deletion of many is one effect for each object, since a store may die between any two.

    Attributes:
        effects: What was done, in order, such as `delete backups/…/manifest.json`.
    """

    def __init__(self, store: Any, strike: Strike = lambda effect, number, when: None) -> None:
        self._store = store
        self._strike = strike
        self.effects: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_bytes(self, relative: str, content: bytes) -> None:
        self._do(f"put {relative}", lambda: self._store.put_bytes(relative, content))

    def open_writer(self, relative: str, uploads: object) -> MemoryWriter:
        """An object as it comes; what has an effect is that it is finished."""
        return MemoryWriter(self, relative)

    def abort_uploads(self, folder: str) -> int:
        return int(self._do(f"abort uploads of {folder}", lambda: self._store.abort_uploads(folder)))

    def delete(self, relatives: Iterable[str]) -> None:
        for relative in list(relatives):
            self._do(f"delete {relative}", lambda key=relative: self._store.delete([key]))  # type: ignore[misc]

    def _do(self, effect: str, call: Callable[[], Any]) -> Any:
        number = len(self.effects)
        self.effects.append(effect)
        self._strike(effect, number, "before")
        result = call()
        self._strike(effect, number, "after")
        return result
