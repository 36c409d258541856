"""Run a backup and its proof as a process of its own, and die by SIGKILL when told to.

Usage: backup_then_die.py PICKLED_PLATFORM COUNT STAGE: die when a stage that begins like that is met the COUNT-th
time.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

from keepwell.backup.create import create_backup
from keepwell.backup.verify import verify_backup
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.progress import Step


def main(pickled: str, count: str, stage: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())
    met = 0

    def die(step: Step) -> None:
        nonlocal met
        met += step.stage.startswith(stage)
        if met == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(platform)
    with hold_platform(platform, store, Procedure.BACKUP):
        manifest = create_backup(platform, store, die)
    die(Step("created"))
    verify_backup(platform, store, manifest.backup_id, die)


if __name__ == "__main__":
    main(*sys.argv[1:])
