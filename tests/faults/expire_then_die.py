"""Expire sets as a process of its own, and die by SIGKILL before or after one effect on the store.

Usage: expire_then_die.py PICKLED_PLATFORM NUMBER before|after [DAYS]: at the effect of that number, so many days ahead.
"""

import os
import pickle
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory_store import WatchedStore

from keepwell.backup.expire import apply_plan, read_plan
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store


def main(pickled: str, number: str, moment: str, days: str = "0") -> None:
    platform = pickle.loads(Path(pickled).read_bytes())

    def die(effect: str, at: int, when: str) -> None:
        if (at, when) == (int(number), moment):
            sys.stdout.write(effect)
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    store, now = open_store(platform), datetime.now(UTC) + timedelta(days=int(days))
    with hold_platform(platform, store, Procedure.EXPIRE):
        apply_plan(platform, cast("Store", WatchedStore(store, die)), read_plan(platform, store, now).digest, now)


if __name__ == "__main__":
    main(*sys.argv[1:])
