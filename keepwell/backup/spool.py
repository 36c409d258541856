"""Temporary space of a run: private, locked while the run lives, and swept by the next one when it died."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keepwell import disk_space
from keepwell.command import end_orphans
from keepwell.containers.engine import find_address, sweep_containers
from keepwell.containers.programs import used_containers
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.locked_folder import locked_folder, sweep_locked_folders
from keepwell.postgres.server import sweep_server
from keepwell.settings import Platform

_PREFIX = "keepwell-spool-"
_SCRATCH_PREFIX = "keepwell-scratch-"
SCRATCH = "scratch"
CACHE_SCRATCH = "scratch-redis"


def spool_place(platform: Platform) -> Path:
    """Folder in which spools are made.

    Raises:
        ConfigurationError: It does not exist, or we may not write into it.
    """
    place = platform.backup.spool_directory or Path(tempfile.gettempdir())
    if not place.is_dir():
        # Not made here: it may be a disk that is not mounted, and the one below it may be too small.
        raise ConfigurationError(
            f"There is no folder {place} for temporary files.",
            hint="Create or mount it, or set backup.spool_directory to another.",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"We may not write into {place}, the folder for temporary files.",
            hint="Give it to the user that Keepwell runs as, or set backup.spool_directory to another.",
        )
    return place


@contextmanager
def open_spool(platform: Platform) -> Iterator[Path]:
    """A private folder for one run; the lock in it shows that the run lives."""
    place = spool_place(platform)
    try:
        with locked_folder(place, _PREFIX) as folder:
            yield folder
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise KeepwellError(
            f"The disk of {place} is full.", hint="Free some space, or set backup.spool_directory to a larger disk."
        ) from error


@contextmanager
def open_scratch(spool: Path, link: str = SCRATCH) -> Iterator[Path]:
    """A folder for a run's scratch server, beside the spool: another user must get in, who may not see the spool.

    Args:
        spool: Of the run; a link in it leads a sweep to the folder.
        link: The link's name.
    """
    folder = spool.with_name(f"{_SCRATCH_PREFIX}{secrets.token_hex(8)}")
    (spool / link).symlink_to(folder)  # first, so that it is found however we end
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (spool / link).unlink(missing_ok=True)


def sweep_spools(platform: Platform) -> int:
    """Remove what dead runs left, their containers and scratch servers first.

    Returns:
        How many there were.
    """
    return sweep_locked_folders(spool_place(platform), _PREFIX, _end_dead_run)


def require_space(place: Path, needed_bytes: int, purpose: str) -> None:
    """Stop before the disk of the spools would be full.

    Args:
        place: Existing folder on the disk in question.
        needed_bytes: Estimated need.
        purpose: For the message.

    Raises:
        PreconditionFailed: There is less than that, beside a reserve that is always left.
    """
    hint = "Free some space, or set backup.spool_directory to a larger disk."
    disk_space.require_space(place, needed_bytes, purpose, hint=hint)


def _end_dead_run(spool: Path) -> None:
    """End what a dead run left at work, its containers first, and remove its scratch servers beside its spool."""
    address = find_address() if used_containers(spool) else None
    if address is not None:
        # They end by themselves; an engine that does not answer must not keep a new run from its work.
        with suppress(KeepwellError):
            sweep_containers(address, spool)
    end_orphans(spool)
    for link in (SCRATCH, CACHE_SCRATCH):
        try:
            folder = (spool / link).readlink()
        except OSError:
            continue  # it never came to one
        if folder.parent == spool.parent and folder.name.startswith(_SCRATCH_PREFIX):
            sweep_server(folder)
            shutil.rmtree(folder, ignore_errors=True)
