"""Restore one set from the store and prove it, in a process of its own, and say what it cost: seconds, memory, disk.

Usage: measured_restore.py PICKLED_PLATFORM BACKUP_ID. Prints one JSON object.
"""

import json
import pickle
import sys
import threading
import time
from pathlib import Path

from measured_backup import Cost

from keepwell.backup.verify import verify_backup
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent

RESTORED = ("uploaded", "readable", "complete", "restored")


def main(pickled: str, backup_id: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())
    cost = Cost()
    watcher = threading.Thread(target=cost.watch, args=(platform.backup.spool_directory,))
    watcher.start()
    began = time.monotonic()
    proof = verify_backup(platform, open_store(platform), backup_id, silent)
    whole = time.monotonic() - began
    cost.stop()
    watcher.join()
    levels = {outcome.level: outcome.seconds for outcome in proof.levels}
    said = {
        "restored_seconds": sum(levels[level] for level in RESTORED),
        "sound_seconds": whole - levels.get("serving", 0),
        "peak_memory_bytes": cost.peak_memory_bytes,
        "peak_temp_bytes": cost.peak_temp_bytes,
        "reached": proof.reached,
        "levels": levels,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
