"""Running the checks: side by side, each bounded in time, none stopping another."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keepwell.doctor.database import examine_database
from keepwell.doctor.outcome import not_checked
from keepwell.doctor.second import examine_second
from keepwell.doctor.store import examine_store
from keepwell.doctor.surroundings import (
    examine_cache,
    examine_keys,
    examine_messages,
    examine_orchestrator,
    examine_uploads,
)
from keepwell.settings import Platform
from keepwell.verdict import Finding


@dataclass(frozen=True)
class Group:
    """Checks of one part, one after the other.

    Attributes:
        name: The part.
        checks: Yields findings as they come, and never raises a `KeepwellError`.
        limit_seconds: After this time what is missing counts as not checked.
    """

    name: str
    checks: Callable[[Platform], Iterator[Finding]]
    limit_seconds: float


GROUPS: tuple[Group, ...] = (
    Group("database", examine_database, 60),
    Group("object store", examine_store, 120),
    Group("second destination", examine_second, 120),
    Group("keys", examine_keys, 15),
    Group("cache", examine_cache, 15),
    Group("uploads", examine_uploads, 15),
    Group("orchestrator", examine_orchestrator, 30),
    Group("notifications", examine_messages, 5),
)


def examine(platform: Platform, groups: Sequence[Group] = GROUPS) -> list[Finding]:
    """Check every part at the same time, each in a thread of its own.

    Args:
        platform: What to look at.
        groups: The parts, in the order of the result.

    Returns:
        Findings of all groups; a group that did not end in time, or failed, ends with an `unknown`.
    """
    examinations = [_Examination(group, platform) for group in groups]
    return [finding for examination in examinations for finding in examination.result()]


class _Examination:
    """One group at work. Its thread is a daemon, so that a hanging one does not keep the program."""

    def __init__(self, group: Group, platform: Platform) -> None:
        self._group = group
        self._found: list[Finding] = []
        self._failure: Exception | None = None
        self._deadline = time.monotonic() + group.limit_seconds
        self._thread = threading.Thread(target=self._run, args=(platform,), name=f"doctor {group.name}", daemon=True)
        self._thread.start()

    def _run(self, platform: Platform) -> None:
        try:
            for finding in self._group.checks(platform):
                self._found.append(finding)
        except Exception as error:  # noqa: BLE001 - a fault in one group of checks must not take the others with it
            self._failure = error

    def result(self) -> list[Finding]:
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            message = f"Not checked to the end: no answer within {self._group.limit_seconds:.0f} s."
            found.append(not_checked(self._group.name, message, hint="Look for a hanging server or network."))
        elif self._failure is not None:
            message = f"Not checked to the end: {type(self._failure).__name__}: {self._failure}"
            found.append(
                not_checked(self._group.name, message, hint="This is a fault of Keepwell's: please report it.")
            )
        return found
