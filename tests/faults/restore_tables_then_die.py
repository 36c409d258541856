"""Restore a table beside the live ones as a process of its own, and die by SIGKILL when told to.

Usage: restore_tables_then_die.py PICKLED_PLATFORM BACKUP_ID SCHEMA STAGE: die when a stage begins like that.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.progress import Step
from keepwell.restore.parts import restore_tables
from keepwell.restore.parts_choice import TablesWanted


def main(pickled: str, backup_id: str, schema: str, stage: str) -> None:
    platform = pickle.loads(Path(pickled).read_bytes())

    def die(step: Step) -> None:
        if step.stage.startswith(stage):
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(platform)
    with hold_platform(platform, store, Procedure.RESTORE):
        restore_tables(platform, store, backup_id, TablesWanted(("people",), (), schema), die, allow_unproven=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
