"""A private folder for one scratch server of a run that has no spool: swept by the next run when that one died."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keepwell.locked_folder import locked_folder, sweep_locked_folders
from keepwell.postgres.server import sweep_server

_PREFIX = "keepwell-dump-"


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """A folder of our own in a place where many may write; gone with this block.

    Args:
        place: An existing folder on a disk with space enough.
    """
    sweep_scratch_folders(place)
    with locked_folder(place, _PREFIX) as folder:
        yield folder


def sweep_scratch_folders(place: Path) -> int:
    """Remove what killed runs of this user left in a place, their servers first.

    Returns:
        How many there were.
    """
    return sweep_locked_folders(place, _PREFIX, sweep_server)
