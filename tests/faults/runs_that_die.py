"""Run backups and their proofs, each in a process of its own that dies by SIGKILL where it is told to.

Usage: runs_that_die.py FOLDER, which is where temporary files go; one order a line on standard input, as JSON:
`platform` (a pickled one); `backup` and `prove`, for what is to be done, where a set's id proves that one; and either
`strike` (an effect's name, its how-manieth time, and `before` or `after`) or `after_seconds`, or neither. Answers, a
line each: `before EFFECT`, `after EFFECT`, `wrote ID`, `reached LEVEL`, and `ended STATUS` at last. Each run is a fork
of this process, which does nothing itself, so that no run costs imports.
"""

import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from watched_effects import watch_machine, watched

from keepwell.backup.create import create_backup
from keepwell.backup.verify import verify_backup
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(order: dict[str, Any], folder: Path) -> None:
    platform = pickle.loads(Path(order["platform"]).read_bytes())
    met: Counter[tuple[str, str]] = Counter()
    turn = threading.Lock()

    def strike(effect: str, moment: str) -> None:
        with turn:
            met[effect, moment] += 1
            say(f"{moment} {effect}")
            if [effect, met[effect, moment], moment] == order.get("strike"):
                die()

    if order.get("after_seconds") is not None:
        threading.Thread(target=lambda: (time.sleep(order["after_seconds"]), die()), daemon=True).start()
    watch_machine(strike, [platform.backup.spool_directory, folder])
    store = watched(open_store(platform), strike)
    backup_id = order["prove"]
    if order["backup"]:
        with hold_platform(platform, store, Procedure.BACKUP):
            backup_id = create_backup(platform, store, silent).backup_id
        say(f"wrote {backup_id}")
    if order["prove"]:
        say(f"reached {verify_backup(platform, store, backup_id, silent).reached}")


def main(place: str) -> None:
    os.environ["TMPDIR"] = place
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            try:
                run(order, Path(place))
            except BaseException:  # noqa: BLE001 - whatever it is, the test is told, and nothing goes on from here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
