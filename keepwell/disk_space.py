"""Whether a disk has room for what a run is about to write."""

import shutil
from pathlib import Path

from keepwell.errors import PreconditionFailed
from keepwell.quantities import describe_bytes

# What is always left free, so that a run of ours is never what stops the platform.
_RESERVE_BYTES = 256 * 1024 * 1024


def require_space(place: Path, needed_bytes: int, purpose: str, *, hint: str) -> None:
    """Stop before the disk would be full.

    Args:
        place: Existing folder on the disk in question.
        needed_bytes: Estimated need.
        purpose: For the message.
        hint: Which setting or flag names another disk.

    Raises:
        PreconditionFailed: There is less than that, beside a reserve that is always left.
    """
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes + _RESERVE_BYTES:
        raise PreconditionFailed(
            f"{place} has {describe_bytes(free_bytes)} free; {purpose} needs about {describe_bytes(needed_bytes)}"
            f" and leaves {describe_bytes(_RESERVE_BYTES)} alone.",
            hint=hint,
        )
