"""Restores with a swap, undos and purges, each in a process of its own that dies by SIGKILL where it is told to.

Usage: swaps_that_die.py, one order a line on standard input, as JSON: `platform` and `approval` (pickled files);
`undo` or `purge` (a case's id), or `case` (one that goes on), or none for a new one; `strike`: an effect's name and
`before` or `after`, and perhaps another effect's name, before which nothing strikes. Answers, a line each:
`before EFFECT`, `after EFFECT`, and `ended STATUS` at last. Each run is a fork of this process, which does nothing
itself, so that no run costs imports.

An effect is what changes the world outside: a document in the bucket, a statement that changes a database, the cache.
"""

import json
import os
import pickle
import re
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import BucketStore, open_store
from keepwell.progress import silent
from keepwell.restore import apply as applying
from keepwell.restore.choice import Choice
from keepwell.restore.plan import Mode, plan_restore
from keepwell.restore.purge import purge_replaced
from keepwell.restore.undo import undo_swap

# Statements that change a database of the server, by how they are told.
_STATEMENTS = (
    (re.compile(r"CREATE DATABASE"), "create"),
    (re.compile(r"DROP DATABASE"), "drop"),
    (re.compile(r'RENAME TO ".*_restored_'), "name the restored one"),
    (re.compile(r'RENAME TO ".*_replaced_'), "rename the live one"),
    (re.compile(r'RENAME TO ".*_undone_'), "rename the live one"),
    (re.compile(r"RENAME TO"), "give the live name"),
    (re.compile(r"ALLOW_CONNECTIONS false"), "shut"),
    (re.compile(r"ALLOW_CONNECTIONS true"), "open"),
    (re.compile(r"pg_terminate_backend"), "end sessions"),
    (re.compile(r"CONNECTION LIMIT"), "carry over"),
)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def watch(strike: list[str]) -> None:
    """Tell every effect before and after it, and die at the one that is meant, the first time."""

    armed = len(strike) < 3

    def around(effect: str, act: Callable[[], Any]) -> Any:
        nonlocal armed
        armed = armed or effect == strike[2]
        for moment in ("before", "after"):
            say(f"{moment} {effect}")
            if armed and strike[:2] == [effect, moment]:
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == "before":
                done = act()
        return done

    execute, put, flush = psycopg.Connection.execute, BucketStore.put_bytes, applying.flush_cache

    def watched_execute(self: Any, query: Any, *more: Any, **options: Any) -> Any:
        text = query if isinstance(query, str) else query.as_string(self)
        effect = next((told for pattern, told in _STATEMENTS if pattern.search(text)), None)
        if effect is None:
            return execute(self, query, *more, **options)
        return around(effect, lambda: execute(self, query, *more, **options))

    def watched_put(self: Any, key: str, content: bytes) -> None:
        if key.startswith("restores/"):
            name = re.sub(r"^\d+-", "", Path(key).stem)
            around(f"write {name}", lambda: put(self, key, content))
        elif key.startswith("evidence/"):
            around("write evidence", lambda: put(self, key, content))
        else:
            put(self, key, content)

    psycopg.Connection.execute = watched_execute  # type: ignore[assignment, method-assign]
    BucketStore.put_bytes = watched_put  # type: ignore[method-assign]
    applying.flush_cache = lambda settings: around("empty the cache", lambda: flush(settings))


def run(order: dict[str, Any]) -> None:
    platform, approval = (pickle.loads(Path(order[name]).read_bytes()) for name in ("platform", "approval"))
    watch(order["strike"])
    store = open_store(platform)
    with hold_platform(platform, store, Procedure.SWAP):
        if order.get("undo"):
            undo_swap(platform, store, order["undo"], approval, silent)
            return
        if order.get("purge"):
            purge_replaced(platform, store, order["purge"], approval, silent, now=datetime.now(UTC))
            return
        case_id, now = order.get("case"), datetime.now(UTC)
        if case_id:
            plan = applying.plan_case(platform, store, case_id, now)
        else:
            plan = plan_restore(platform, store, Choice(), mode=Mode.SWAP, name=None, now=now)
        applying.apply_restore(platform, store, plan, approval, silent, case_id=case_id)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            try:
                run(order)
            except BaseException:  # noqa: BLE001 - whatever it is, the test is told, and nothing goes on from here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
