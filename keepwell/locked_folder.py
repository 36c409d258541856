"""Private folders for runs: locked while their run lives, and swept by the next one when it died."""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"
_UNLOCKED = "lock.new"
# Between making a folder and locking it: a younger one without a lock may be just about to get it.
_MOMENT_SECONDS = 600


@contextmanager
def locked_folder(place: Path, prefix: str) -> Iterator[Path]:
    """A folder of our own in a place where many may write; gone with this block.

    Args:
        place: An existing folder.
        prefix: Of its name, by which a sweep finds it.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    descriptor = os.open(folder / _UNLOCKED, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # Locked under another name, or a sweep could take the lock first, and the run for dead.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / _UNLOCKED).rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep_locked_folders(place: Path, prefix: str, end: Callable[[Path], None]) -> int:
    """Remove what killed runs of this user left in a place.

    Args:
        place: Where they lie.
        prefix: Of their names.
        end: Called for each before it is removed: ends what is still at work in it.

    Returns:
        How many there were.
    """
    return sum(_sweep(folder, end) for folder in place.glob(f"{prefix}*") if _is_ours(folder))


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False  # another run removed it meanwhile
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _sweep(folder: Path, end: Callable[[Path], None]) -> bool:
    """Whether the folder was a dead run's; it is gone then."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # Half removed, or gone altogether, or made this very moment by a run that is about to lock it.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _MOMENT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)
