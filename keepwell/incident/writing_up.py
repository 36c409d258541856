"""Writing a case up: a last look at what ran meanwhile, then the post-mortem beside the journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keepwell.errors import VerificationFailed
from keepwell.evidence import write_evidence
from keepwell.incident.documents import POST_MORTEM, Entry, Kind, Step, StepOutcome, case_folder
from keepwell.incident.gathering import Source, gather
from keepwell.incident.identify import summarise
from keepwell.incident.journal import Incident, append, read_incident, write_step
from keepwell.incident.post_mortem import render_post_mortem
from keepwell.incident.report import build_evidence
from keepwell.objectstore.store import Store
from keepwell.verdict import worst

# What these tell happened at a time of its own; how things stand now is of no matter any more.
_EVENTFUL = ("backups", "restores", "maintenance", "runs")


@dataclass(frozen=True)
class WrittenUp:
    """A post-mortem as it was stored.

    Attributes:
        key: In the platform's folder.
        text: Markdown.
        is_final: Whether the case was resolved by then; else it is how it stood.
    """

    key: str
    text: str
    is_final: bool


def write_up(
    store: Store,
    incident: Incident,
    sources: Sequence[Source],
    *,
    limit_seconds: float,
    now: datetime,
    by: str | None = None,
    flow_run: str | None = None,
) -> WrittenUp:
    """Gather what ran since the first look, render the post-mortem, and keep it beside the journal.

    Once the case is resolved, it leaves evidence of the guide's four steps as well.

    Args:
        store: The platform's folder in its bucket.
        incident: Which case.
        sources: From `build_sources`; of these, the ones that tell of runs are asked again.
        limit_seconds: How long they may take.
        now: Aware.
        by: Who writes it up, by their own account; None for a run.
        flow_run: Id of the orchestrator's run; None without one.

    Returns:
        The document. Of an open case it is written as well, and the step is not done by that.

    Raises:
        VerificationFailed: It reads back differently from what was written.
        KeepwellError: The store does not answer.
    """
    case_id = incident.case.case_id
    eventful = [source for source in sources if source.name in _EVENTFUL]
    observations = gather(eventful, limit_seconds=limit_seconds, now=now)
    append(
        store,
        Entry(
            case_id=case_id,
            kind=Kind.EVIDENCE,
            at=now,
            verdict=worst(one.verdict for one in observations),
            message=summarise(observations),
            observations=observations,
        ),
    )
    found = read_incident(store, case_id)
    text, key = render_post_mortem(found), case_folder(case_id) + POST_MORTEM
    store.put_bytes(key, text.encode())
    if store.get_bytes(key).decode() != text:
        raise VerificationFailed(
            "The post-mortem reads back differently from what was written.", hint="Look at the store."
        )
    final = not found.standing.is_open
    if final:
        # Behind the document: a step that is done has something to show.
        write_step(store, case_id, Step.POST_MORTEM, StepOutcome.DONE, f"It lies at {key}.", now=now, by=by)
        write_evidence(store, build_evidence(read_incident(store, case_id), finished_at=now, flow_run=flow_run))
    return WrittenUp(key, text, final)
