"""The second destination of backup sets: whether it could be written to now, and read back."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from keepwell.doctor.clock import judge_clock
from keepwell.doctor.outcome import alert, not_applicable, ok, warn
from keepwell.doctor.store import examine_bucket
from keepwell.errors import KeepwellError
from keepwell.objectstore.folder import FolderStore, find_mount_point, open_folder
from keepwell.quantities import describe_bytes
from keepwell.settings import Platform
from keepwell.verdict import Finding

_FOLDER = "probes/"
_NAME = "second folder"
# Below this a copy of the next set may well not fit; what is needed for sure only a set can tell.
_LITTLE_BYTES = 1024**3


def examine_second(platform: Platform) -> Iterator[Finding]:
    """As the first: a bucket is tried on throw-away keys, a folder on a throw-away file."""
    if platform.second_folder is not None:
        yield from _examine_folder(open_folder(platform, platform.second_folder))
    elif platform.second_bucket is not None:
        yield from map(_named_second, examine_bucket(platform, platform.second_bucket))
    else:
        yield not_applicable(
            "second destination",
            "The platform file has neither [second_bucket] nor [second_folder].",
            hint="Whoever loses the bucket loses every backup: a second place, best elsewhere, would be left.",
        )


def _named_second(finding: Finding) -> Finding:
    """Told from those of the first; hints name the table that they are about."""
    hint = finding.hint.replace("bucket.", "second_bucket.")
    return finding.model_copy(update={"name": f"second {finding.name}", "hint": hint})


def _examine_folder(store: FolderStore) -> Iterator[Finding]:
    key, body = f"{_FOLDER}{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        asked_at = time.time()
        store.put_bytes(key, body)
        read, found = store.get_bytes(key), store.find(key)
        listed = any(one.key == key for one in store.list_objects(_FOLDER))
        store.delete([one.key for one in store.list_objects(_FOLDER)])
        left = store.find(key)
        free_bytes = store.free_bytes()
    except KeepwellError as error:
        yield alert(_NAME, error.message, hint=error.hint)
        return
    if read != body or found is None or not listed or left is not None:
        hint = "Do not keep backups there: look at the disk, or at the network share's options."
        yield alert(_NAME, "The folder gave back, listed or kept something else than was written.", hint=hint)
        return
    yield ok(_NAME, f"{store.directory}: written, read back equal, listed and removed.")
    yield judge_clock("second folder's clock", "the folder's file system", found.modified_at.timestamp() - asked_at)
    yield _judge_space(free_bytes)
    yield _judge_disk(store.directory)


def _judge_space(free_bytes: int) -> Finding:
    message = f"{describe_bytes(free_bytes)} are free."
    if free_bytes < _LITTLE_BYTES:
        return warn("second folder's space", message, hint="Make room there, or keep fewer sets: see [retention].")
    return ok("second folder's space", message)


def _judge_disk(directory: Path) -> Finding:
    """Whether it lies on another file system than this machine's own: a copy on the same disk is lost with it."""
    mount_point = find_mount_point(directory)
    if directory.stat().st_dev == Path("/").stat().st_dev:
        return warn(
            "second folder's disk",
            f"{directory} lies on the same file system as this machine's root.",
            hint="Put it on another disk or a network share: what destroys this one would destroy the copies too.",
        )
    return ok("second folder's disk", f"It lies on the file system that is mounted at {mount_point}.")
