"""A private folder for one scratch server: locked while its run lives, and swept by the next run when that one died."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keepwell.postgres.server import sweep_server

_PREFIX = "keepwell-dump-"
_LOCK = "lock"
_UNLOCKED = "lock.new"
# Between making a folder and locking it: a younger one without a lock may be just about to get it.
_MOMENT_SECONDS = 600


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """A folder of our own in a place where many may write; gone with this block.

    Args:
        place: An existing folder on a disk with space enough.
    """
    sweep_scratch_folders(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    descriptor = os.open(folder / _UNLOCKED, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # Locked under another name, or a sweep could take the lock first, and the run for dead.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / _UNLOCKED).rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep_scratch_folders(place: Path) -> int:
    """Remove what killed runs of this user left in a place, their servers first.

    Returns:
        How many there were.
    """
    return sum(_sweep(folder) for folder in place.glob(f"{_PREFIX}*") if _is_ours(folder))


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
    return False


def _sweep(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _MOMENT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        sweep_server(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)
