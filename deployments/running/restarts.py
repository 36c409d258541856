"""When a part that died is started again: a pure decision."""

from dataclasses import dataclass

SETTLED_SECONDS = 30.0
MOST_QUICK_FAILURES = 5
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 10.0


@dataclass(frozen=True)
class RestartDecision:
    """What to do with a part that ended by itself.

    Attributes:
        quick_failures: How often in a row it has now died before it settled.
        delay_seconds: How long to wait before the next start; None gives it up.
    """

    quick_failures: int
    delay_seconds: float | None


def decide_restart(*, quick_failures: int, served_seconds: float) -> RestartDecision:
    """Restart a part soon when it had served for a while, later and later when it keeps dying, at last no more.

    Args:
        quick_failures: How often in a row it had died before, without settling in between.
        served_seconds: How long it was ready this time; 0 when it never was.
    """
    failures = 1 if served_seconds >= SETTLED_SECONDS else quick_failures + 1
    if failures > MOST_QUICK_FAILURES:
        return RestartDecision(failures, None)
    return RestartDecision(failures, min(_FIRST_DELAY_SECONDS * 2 ** (failures - 1), _LONGEST_DELAY_SECONDS))
