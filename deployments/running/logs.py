"""Logs of a stack: bounded, under the processes that write them."""

import os
import shutil
from pathlib import Path

LONGEST_BYTES = 10_000_000
KEPT = 3


def keep_bounded(log: Path, *, longest_bytes: int = LONGEST_BYTES, kept: int = KEPT) -> None:
    """Set a log's text aside once it is long; harmless when it is short or missing.

    Its text is copied and the log cut, rather than renamed, because whoever writes it has it open: that must be for
    appending. What is written between the copy's last read and the cut is lost, which may be a line.

    Args:
        log: Such as worker.log; older text is in worker.log.1 (the newest) and so on.
        longest_bytes: From this size on.
        kept: How many older ones stay.
    """
    if not log.exists() or log.stat().st_size < longest_bytes:
        return
    for number in range(kept - 1, 0, -1):
        older = _older(log, number)
        if older.exists():
            older.replace(_older(log, number + 1))
    partial = log.with_name(f"{log.name}.partial")
    with log.open("rb") as full, partial.open("wb") as copy:
        partial.chmod(0o600)
        shutil.copyfileobj(full, copy)
        # In this order: a crash in between leaves the text twice, never not at all.
        partial.replace(_older(log, 1))
        os.truncate(log, 0)


def _older(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
