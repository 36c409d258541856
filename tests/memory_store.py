"""The objects of one platform, for tests that need a store's answers and not a store."""

from collections.abc import Iterator
from datetime import UTC, datetime

from keepwell.objectstore.store import ObjectMissing, StoredObject


class MemoryStore:
    """The objects of one platform, in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_bytes(self, relative: str, content: bytes) -> None:
        self.objects[relative] = content

    def get_bytes(self, relative: str) -> bytes:
        if relative not in self.objects:
            raise ObjectMissing("There is no such object.")
        return self.objects[relative]

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key.startswith(folder):
                yield StoredObject(key, len(self.objects[key]), datetime.now(UTC))

    def list_folders(self, folder: str) -> list[str]:
        below = {key.removeprefix(folder).split("/")[0] for key in self.objects if key.startswith(folder)}
        return sorted(below)
