"""Giving way to whoever else needs the processor: programs of ours, and all that they start.

`nice` alone does little on a stock Linux. Where autogroups are on, the kernel shares the processor among *sessions*
first, and within one by niceness (sched(7)); and every backend of a PostgreSQL server is a session of its own. So what
stands back is a session by itself, and its group is told as well.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROC = Path("/proc")
_LOOK_SECONDS = 0.1


def let_session_stand_back(pid: int, nice: int) -> None:
    """Let the session of a process stand back; where there are no autogroups, niceness alone does it.

    Args:
        pid: Of any process of that session; it should hold nobody else's.
        nice: 0 to 19.
    """
    group = _PROC / str(pid) / "autogroup"
    with suppress(OSError):
        # Empty in a session that has no group of its own, such as that of a machine's first process: it cannot change.
        words = group.read_text().split()
        if words and words[-1] != str(nice):
            group.write_text(str(nice))


@contextmanager
def descendants_standing_back(pid: int, nice: int) -> Iterator[None]:
    """Let every session that a process's descendants begin stand back, soon after it began.

    Args:
        pid: Whose descendants; its own session is left as it is.
        nice: 0 to 19; with 0 nothing is done.
    """
    done = threading.Event()

    def look() -> None:
        # Every one each time: a process may be seen before its session begins, and the kernel refuses those who are not
        # root a second change within a tenth of a second.
        while not done.wait(_LOOK_SECONDS):
            for descendant in _descendants(pid):
                let_session_stand_back(descendant, nice)

    watcher = threading.Thread(target=look, name="standing back", daemon=True)
    if nice:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if nice:
            watcher.join()


def _descendants(pid: int) -> Iterator[int]:
    pids: list[int] = []
    with suppress(OSError):  # it may end at any moment while it is looked at
        for children in (_PROC / str(pid) / "task").glob("*/children"):
            pids += map(int, children.read_text().split())
    for child in pids:
        yield child
        yield from _descendants(child)
