"""When a part that died is started again: a pure decision."""

from dataclasses import dataclass

SETTLED_SECONDS = 30.0
MOST_QUICK_FAILURES = 5
_FIRST_DELAY_SECONDS = 0.5


@dataclass(frozen=True)
class Patience:
    """How long a stack bears with a part that keeps dying.

    Attributes:
        most_quick_failures: It is given up after so many in a row; None tries for ever.
        longest_delay_seconds: Between two starts.
        retries_all: Whether even what would fail again, unless somebody mends it, is tried by itself.
    """

    most_quick_failures: int | None = MOST_QUICK_FAILURES
    longest_delay_seconds: float = 10.0
    retries_all: bool = False


# Somebody sits before it: what keeps failing is told, and tried again when they ask.
WATCHED = Patience()
# Nobody does: a full disk or a wrong file is mended some day, and then it must come back by itself.
UNATTENDED = Patience(most_quick_failures=None, longest_delay_seconds=60.0, retries_all=True)


@dataclass(frozen=True)
class RestartDecision:
    """What to do with a part that ended by itself.

    Attributes:
        quick_failures: How often in a row it has now died before it settled.
        delay_seconds: How long to wait before the next start; None gives it up.
    """

    quick_failures: int
    delay_seconds: float | None


def decide_restart(
    *, quick_failures: int, served_seconds: float, fails_again: bool = False, patience: Patience = WATCHED
) -> RestartDecision:
    """Restart a part soon when it had served for a while, later and later when it keeps dying, at last no more.

    Args:
        quick_failures: How often in a row it had died before, without settling in between.
        served_seconds: How long it was ready this time; 0 when it never was.
        fails_again: It was a step, or could not even be started: unless something changes, it will be the same.
        patience: Of its stack.
    """
    failures = 1 if served_seconds >= SETTLED_SECONDS else quick_failures + 1
    most = patience.most_quick_failures
    if (fails_again and not patience.retries_all) or (most is not None and failures > most):
        return RestartDecision(failures, None)
    # Bounded before it is raised: after a week of failures the power alone would be too large for a float.
    delay_seconds = _FIRST_DELAY_SECONDS * 2 ** min(failures - 1, 16)
    return RestartDecision(failures, min(delay_seconds, patience.longest_delay_seconds))
