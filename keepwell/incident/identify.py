"""Identify: everything that can be known is written down before anything is changed (guide item DR-1)."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from keepwell.incident.documents import Entry, Kind, Observation, Step, StepOutcome
from keepwell.incident.gathering import Source, gather
from keepwell.incident.journal import Incident, append, write_step
from keepwell.objectstore.store import Store
from keepwell.verdict import Verdict, worst

# In one document, so that a killed run leaves either all that was seen at a moment, or nothing of it.
_MOST_OBSERVATIONS = 500


def identify(
    store: Store, incident: Incident, sources: Sequence[Source], *, limit_seconds: float, now: datetime
) -> Entry:
    """Ask every source, and keep what they told.

    Args:
        store: The platform's folder in its bucket.
        incident: Which case; asked again, it gets a second look beside the first.
        sources: From `build_sources`.
        limit_seconds: How long all of them together may take.
        now: Aware.

    Returns:
        The evidence as it was written. A source that failed is `unknown` in there; it fails nothing else.

    Raises:
        KeepwellError: The store takes nothing, so there is no journal.
    """
    case_id = incident.case.case_id
    write_step(store, case_id, Step.IDENTIFY, StepOutcome.BEGUN, "", now=now)
    began = time.monotonic()
    observations = gather(sources, limit_seconds=limit_seconds, now=now)[:_MOST_OBSERVATIONS]
    ended_at = now + timedelta(seconds=time.monotonic() - began)
    said = summarise(observations)
    evidence = append(
        store,
        Entry(
            case_id=case_id,
            kind=Kind.EVIDENCE,
            at=ended_at,
            verdict=worst(observation.verdict for observation in observations),
            message=said,
            observations=observations,
        ),
    )
    write_step(store, case_id, Step.IDENTIFY, StepOutcome.DONE, said, now=ended_at)
    return evidence


def summarise(observations: Sequence[Observation]) -> str:
    """How the sources stand, one sentence: the bad ones by name."""
    by_source: dict[str, list[Verdict]] = {}
    for observation in observations:
        by_source.setdefault(observation.source, []).append(observation.verdict)
    verdicts = {source: worst(found) for source, found in by_source.items()}
    counts = Counter(verdicts.values())
    parts = []
    for verdict in (Verdict.ALERT, Verdict.UNKNOWN, Verdict.WARN):
        if counts[verdict]:
            named = ", ".join(source for source, found in verdicts.items() if found is verdict)
            parts.append(f"{verdict}: {named}")
    fine = counts[Verdict.OK] + counts[Verdict.NOT_APPLICABLE]
    parts.append(f"the other {fine} are fine" if parts else f"all {fine} are fine")
    return f"{len(verdicts)} sources were asked; {'; '.join(parts)}."
