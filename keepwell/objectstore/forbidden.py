"""Trying what a key must not be able to do, on throw-away objects: a policy is what the store refuses, not its text."""

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from keepwell.errors import AccessDenied, KeepwellError
from keepwell.objectstore.capabilities import PROBES
from keepwell.objectstore.keeping import SETS
from keepwell.objectstore.store import BucketStore, ObjectMissing, translated

# Below the folder of sets, where a policy has to forbid it; one name for ever, so that what cannot be removed again
# does not become more. It is no folder, and so no set.
THROW_AWAY = f"{SETS}doctor-tries-to-delete-this"
_WRITTEN = f"{PROBES}reading-key-tries-to-write-this"
_BODY = b"Made by `keepwell doctor`, to see whether a key that must not delete it can. It may be removed.\n"


class Fate(StrEnum):
    """What became of an object that a key was to leave alone."""

    REFUSED = "refused"
    HIDDEN = "hidden"
    DESTROYED = "destroyed"


@dataclass(frozen=True)
class Attempts:
    """What keys did that they should not be able to do.

    Attributes:
        writer: What the writing key did to an object among the sets.
        reader: What the reading key did to it; None where there is none of its own.
        left: Whether the object is still there, since no key could remove it.
    """

    writer: Fate
    reader: Fate | None
    left: bool


def try_to_delete(store: BucketStore) -> Attempts:
    """Write an object among the sets, and try to delete it with every key that must not be able to.

    Afterwards the key that may delete sets removes it, where there is one.

    Raises:
        KeepwellError: The bucket cannot be used, or what became of the object cannot be told.
    """
    reader = _try(store, store.reader) if store.reader is not store.client else None
    writer = _try(store, store.client)
    if store.has_expiring_key:
        with suppress(KeepwellError):
            _remove(store)
    return Attempts(writer, reader, left=store.find(THROW_AWAY) is not None)


def try_to_write(store: BucketStore) -> bool:
    """Whether the reading key can write an object; what it wrote is removed again.

    Raises:
        KeepwellError: That cannot be told.
    """
    with suppress(AccessDenied), translated("trying to write with the reading key"):
        store.reader.put_object(Bucket=store.bucket, Key=store.key(_WRITTEN), Body=_BODY)
    written = store.find(_WRITTEN) is not None
    if written:
        remover = store.client if store.may_write else store.reader
        with suppress(AccessDenied), translated("removing what the reading key wrote"):
            remover.delete_object(Bucket=store.bucket, Key=store.key(_WRITTEN))
    return written


def _try(store: BucketStore, client: Any) -> Fate:
    """Delete in each way that there is: some stores forbid one and forget the other."""
    if store.find(THROW_AWAY) is None:
        store.put_bytes(THROW_AWAY, _BODY)
    address = {"Bucket": store.bucket, "Key": store.key(THROW_AWAY)}
    with translated("looking at the object to be deleted"):
        version = store.reader.head_object(**address).get("VersionId")
    chosen = {} if version in (None, "null") else {"VersionId": version}
    many = {"Bucket": store.bucket, "Delete": {"Objects": [{"Key": address["Key"]}]}}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("delete_object", address),
        ("delete_objects", many),
        ("delete_object", address | chosen),
    ]
    for operation, arguments in calls:
        with suppress(AccessDenied, ObjectMissing), translated("trying a delete that should be forbidden"):
            getattr(client, operation)(**arguments)
    if not _is_there(store, chosen):
        return Fate.DESTROYED
    return Fate.REFUSED if store.find(THROW_AWAY) is not None else Fate.HIDDEN


def _is_there(store: BucketStore, chosen: dict[str, str]) -> bool:
    try:
        with translated("looking at the object that was to be deleted"):
            store.reader.head_object(Bucket=store.bucket, Key=store.key(THROW_AWAY), **chosen)
    except ObjectMissing:
        return False
    return True


def _remove(store: BucketStore) -> None:
    """Remove it with the key that may, its version too where the store lets it."""
    address = {"Bucket": store.bucket, "Key": store.key(THROW_AWAY)}
    with suppress(ClientError):
        version = store.reader.head_object(**address).get("VersionId")
        if version not in (None, "null"):
            store.expirer.delete_object(**address, VersionId=version)
    store.delete([THROW_AWAY])
