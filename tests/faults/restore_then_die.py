"""Restore a set into a new database as a process of its own, and die by SIGKILL when told to.

Usage: restore_then_die.py PICKLED_PLATFORM BACKUP_ID NAME STAGE: die when a stage that begins like that is met.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

from keepwell.backup.restore import restore_into
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.progress import Step


def main(pickled: str, backup_id: str, name: str, stage: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())

    def die(step: Step) -> None:
        if step.stage.startswith(stage):
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(platform)
    with hold_platform(platform, store, Procedure.RESTORE):
        restore_into(platform, store, backup_id, name, die, allow_unproven=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
