"""Waiting for what comes about by itself: looking again and again, with a limit that a busy machine does not meet."""

import time
from collections.abc import Callable


def wait_until(
    happened: Callable[[], bool],
    limit_seconds: float = 300,
    *,
    poll_seconds: float = 0.05,
    told: str = "it did not happen",
) -> None:
    """Wait for something.

    Args:
        happened: Whether it has.
        limit_seconds: After which the test fails.
        poll_seconds: Between two looks.
        told: What is said then.
    """
    deadline = time.monotonic() + limit_seconds
    while not happened():
        assert time.monotonic() < deadline, f"{told} within {limit_seconds:.0f} s"
        time.sleep(poll_seconds)
