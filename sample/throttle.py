"""Counts requests per address in fixed windows, as NestJS's throttler does."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ADDRESSES = 10_000


@dataclass(frozen=True)
class Limit:
    """So many requests in a window of so many seconds."""

    requests: int
    window_seconds: float


PLATFORM_LIMITS = (Limit(10, 1), Limit(100, 60), Limit(1_000, 3_600))


class Throttle:
    """Decides whether an address may be served now. Safe for threads; memory is bounded."""

    def __init__(self, limits: Sequence[Limit] = PLATFORM_LIMITS) -> None:
        self._limits = tuple(limits)
        self._windows: dict[str, list[tuple[float, int]]] = {}
        self._lock = threading.Lock()

    def admit(self, address: str, now_seconds: float) -> float:
        """Count one request.

        Args:
            address: Who asks.
            now_seconds: A monotonic time.

        Returns:
            0 when it may be served, otherwise the seconds until it is worth asking again.
        """
        with self._lock:
            if len(self._windows) >= MOST_ADDRESSES and address not in self._windows:
                self._windows.clear()
            windows = self._windows.setdefault(address, [(now_seconds, 0)] * len(self._limits))
            wait_seconds = 0.0
            for position, limit in enumerate(self._limits):
                opened, count = windows[position]
                if now_seconds - opened >= limit.window_seconds:
                    opened, count = now_seconds, 0
                windows[position] = (opened, count + 1)
                if count >= limit.requests:
                    wait_seconds = max(wait_seconds, opened + limit.window_seconds - now_seconds)
            return wait_seconds
