"""Run a backup, and its proof, with a small disk for the spool; say how it ended.

Usage: unshare --map-root-user --mount … backup_on_small_disk.py PICKLED_PLATFORM MEGABYTES [BACKUP_ID]
With MEGABYTES followed by `!`, no FIFOs are to be had, so that rows take the way over the disk.
"""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

from keepwell.backup.create import create_backup
from keepwell.backup.verify import verify_backup
from keepwell.errors import KeepwellError
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent


def refuse(*arguments: object, **named: object) -> None:
    raise OSError(errno.EPERM, "no FIFOs here")


def main(pickled: str, megabytes: str, *backup_ids: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())
    spool = platform.backup.spool_directory
    size = megabytes.rstrip("!")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", spool], check=True)
    if megabytes != size:
        os.mkfifo = refuse
    try:
        if backup_ids:
            verify_backup(platform, open_store(platform), backup_ids[0], silent)
        else:
            create_backup(platform, open_store(platform), silent)
    except KeepwellError as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201 - this is what the test reads
    print("left:", [entry.name for entry in spool.iterdir()])  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
