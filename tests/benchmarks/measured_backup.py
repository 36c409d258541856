"""Make and prove one backup in a process of its own, and say what it cost: seconds, memory, disk.

Usage: measured_backup.py PICKLED_PLATFORM. Prints one JSON object.
"""

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.backup.create import create_backup
from keepwell.backup.verify import verify_backup
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent

_SAMPLE_SECONDS = 0.1


@dataclass
class Cost:
    """What was used at most, sampled ten times a second.

    Attributes:
        peak_memory_bytes: Of this process and its tools, pages shared between them counted once; the scratch
            server's are its own.
        peak_temp_bytes: Of the spool, without the scratch server.
        peak_scratch_bytes: Of the scratch server's folder.
    """

    peak_memory_bytes: int = 0
    peak_temp_bytes: int = 0
    peak_scratch_bytes: int = 0
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self, spool: Path) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            scratch = sum(_size(folder) for folder in spool.glob("keepwell-spool-*/scratch"))
            self.peak_scratch_bytes = max(self.peak_scratch_bytes, scratch)
            self.peak_temp_bytes = max(self.peak_temp_bytes, _size(spool) - scratch)
            self.peak_memory_bytes = max(self.peak_memory_bytes, sum(map(_memory, _family(os.getpid()))))

    def stop(self) -> None:
        self._done.set()


def _size(folder: Path) -> int:
    total = 0
    # Unlike rglob, it passes over what goes while it looks.
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(place, name).lstat()
            except OSError:
                continue
            total += status.st_blocks * 512
    return total


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants, but for PostgreSQL servers."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(child) for child in children.read_text().split()]
            names = {child: Path(f"/proc/{child}/comm").read_text().strip() for child in pids}
        except OSError:
            continue
        for child, name in names.items():
            if name != "postgres":
                yield from _family(child)


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main(pickled: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())
    cost = Cost()
    watcher = threading.Thread(target=cost.watch, args=(platform.backup.spool_directory,))
    watcher.start()
    store = open_store(platform)
    began = time.monotonic()
    with hold_platform(platform, store, Procedure.BACKUP):
        manifest = create_backup(platform, store, silent)
    written = time.monotonic()
    proof = verify_backup(platform, store, manifest.backup_id, silent)
    proven = time.monotonic()
    cost.stop()
    watcher.join()
    said = {
        "peak_memory_bytes": cost.peak_memory_bytes,
        "peak_temp_bytes": cost.peak_temp_bytes,
        "peak_scratch_bytes": cost.peak_scratch_bytes,
        "backup_seconds": written - began,
        "proven_seconds": proven - began,
        "stored_bytes": manifest.stored_bytes,
        "rows": manifest.rows,
        "reached": proof.reached,
        "levels": {outcome.level: outcome.seconds for outcome in proof.levels},
        "steps": manifest.seconds.model_dump(),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
