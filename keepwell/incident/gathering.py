"""Asking every source of evidence, side by side, before anything is changed; none can hold up or spoil the others."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from keepwell.errors import KeepwellError
from keepwell.incident.documents import Observation
from keepwell.verdict import Verdict


@dataclass(frozen=True)
class Source:
    """Something that can tell how things stand, or what happened.

    Attributes:
        name: One word, as the timeline shows it.
        look: Reads, and changes nothing. What it raises becomes one `unknown` of this source alone.
    """

    name: str
    look: Callable[[], Iterable[Observation]]


def gather(sources: Sequence[Source], *, limit_seconds: float, now: datetime) -> tuple[Observation, ...]:
    """Ask every source at once.

    Args:
        sources: Each is asked in a thread of its own; one that hangs is left behind, and ends with the process.
        limit_seconds: How long all of them together may take.
        now: When what could not be asked is said to be unknown; aware.

    Returns:
        What they told, source by source in the given order, each by time. Every source is in there: one that failed,
        told nothing or did not answer in time, with one `unknown`.
    """
    told: queue.SimpleQueue[tuple[str, tuple[Observation, ...]]] = queue.SimpleQueue()
    for source in sources:
        threading.Thread(
            target=lambda source=source: told.put((source.name, _ask(source, now))),
            name=f"evidence {source.name}",
            daemon=True,
        ).start()
    found: dict[str, tuple[Observation, ...]] = {}
    deadline = time.monotonic() + limit_seconds
    while len(found) < len(sources):
        try:
            name, observations = told.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = observations
    late = f"It did not answer within {limit_seconds:.0f} s."
    return tuple(
        observation
        for source in sources
        for observation in found.get(source.name) or (_unknown(source, late, "Look at it by hand.", now),)
    )


def _ask(source: Source, now: datetime) -> tuple[Observation, ...]:
    try:
        found = sorted(source.look(), key=lambda observation: observation.at)
    except KeepwellError as error:
        return (_unknown(source, error.message, error.hint, now),)
    except Exception as error:  # noqa: BLE001 - a fault in one source must not cost the evidence of the others
        return (_unknown(source, f"Asking it failed in Keepwell itself: {type(error).__name__}.", "", now),)
    return tuple(found) or (_unknown(source, "It told nothing.", "", now),)


def _unknown(source: Source, message: str, hint: str, now: datetime) -> Observation:
    return Observation(at=now, source=source.name, verdict=Verdict.UNKNOWN, message=message, hint=hint)
