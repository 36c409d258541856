"""Verify a set with a disk of its own for the spool, which fills up at a stage; say how it ended.

Usage: unshare --map-root-user --mount … proof_on_filling_disk.py PICKLED_PLATFORM BACKUP_ID STAGE MEGABYTES: when a
stage is met, only so much is left. The stage `scratch server` is met when that server takes logins.
"""

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

from keepwell.backup.verify import verify_backup
from keepwell.errors import KeepwellError
from keepwell.objectstore.bucket import open_store
from keepwell.progress import Step

AT_FIRST = "1g"
SCRATCH_SERVER = "scratch server"


def main(pickled: str, backup_id: str, stage: str, megabytes: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())
    spool = platform.backup.spool_directory
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={AT_FIRST}", "tmpfs", spool], check=True)

    def fill_up() -> None:
        """Make the disk smaller instead of filling it, which costs no memory."""
        found = os.statvfs(spool)
        size_bytes = (found.f_blocks - found.f_bfree) * found.f_frsize + int(megabytes) * 2**20
        # Without the options that it has: they name a user who is called otherwise in this namespace.
        subprocess.run(["mount", "--options-source=disable", "-o", f"remount,size={size_bytes}", spool], check=True)

    def watch_for_server() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(spool.glob("*/scratch/socket/.s.PGSQL.*")):
            time.sleep(0.001)
        fill_up()

    def watch(step: Step) -> None:
        if step.stage == f"proving: {stage}":
            fill_up()

    if stage == SCRATCH_SERVER:
        threading.Thread(target=watch_for_server, daemon=True).start()
    try:
        proof = verify_backup(platform, open_store(platform), backup_id, watch)
        last = proof.levels[-1]
        print(f"{last.level} {last.verdict}: {last.summary}")  # noqa: T201 - this is what the test reads
    except KeepwellError as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
    print("left:", [entry.name for entry in spool.iterdir()])  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
