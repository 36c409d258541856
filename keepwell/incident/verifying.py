"""Verify: whether it serves again, asked of everything that the platform file names (guide item DR-3)."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from keepwell.backup.rehearsal import Target, check_serving
from keepwell.incident.documents import Entry, Kind, Observation, Step, StepOutcome
from keepwell.incident.gathering import Source, gather
from keepwell.incident.identify import summarise
from keepwell.incident.journal import Incident, append, write_step
from keepwell.incident.sources import observe_application, observe_database, observe_redis
from keepwell.objectstore.store import Store
from keepwell.postgres.connection import conninfo
from keepwell.settings import Platform
from keepwell.verdict import Verdict, worst

_BAD = (Verdict.ALERT, Verdict.UNKNOWN)


def verify(
    store: Store,
    incident: Incident,
    questions: Sequence[Source],
    *,
    limit_seconds: float,
    now: datetime,
    by: str | None = None,
) -> Entry:
    """Ask everything that shows whether it serves; done only where each answered as it should.

    Args:
        store: The platform's folder in its bucket.
        incident: Which case.
        questions: From `build_questions`.
        limit_seconds: From `limit_of`.
        now: Aware.
        by: Who asks, by their own account; None for a run.

    Returns:
        The evidence as it was written. The step is done, or failed where something is wrong or could not be asked.

    Raises:
        KeepwellError: The store takes nothing, so there is no journal.
    """
    case_id = incident.case.case_id
    write_step(store, case_id, Step.VERIFY, StepOutcome.BEGUN, "", now=now, by=by)
    began = time.monotonic()
    found = gather(questions, limit_seconds=limit_seconds, now=now)
    ended_at = now + timedelta(seconds=time.monotonic() - began)
    verdict, said = worst(one.verdict for one in found), summarise(found)
    evidence = append(
        store,
        Entry(
            case_id=case_id, kind=Kind.EVIDENCE, at=ended_at, verdict=verdict, message=said, by=by, observations=found
        ),
    )
    outcome = StepOutcome.FAILED if verdict in _BAD else StepOutcome.DONE
    write_step(store, case_id, Step.VERIFY, outcome, said, now=ended_at, by=by, verdict=verdict)
    return evidence


def limit_of(platform: Platform) -> float:
    """How long all questions together may take, in seconds: the application may need a while to find its database."""
    return platform.restore.smoke_wait_seconds + platform.incident.look_seconds


def build_questions(platform: Platform, now: datetime) -> tuple[Source, ...]:
    """What is asked to see whether it serves; nothing is asked yet.

    Args:
        platform: Which.
        now: Aware.
    """
    wait_seconds = platform.restore.smoke_wait_seconds
    return (
        Source("application", partial(observe_application, platform, now, wait_seconds=wait_seconds)),
        Source("database", partial(observe_database, platform, now, takes_writes=True)),
        Source("smoke queries", partial(_ask_queries, platform, now)),
        Source("redis", partial(observe_redis, platform, now)),
    )


def _ask_queries(platform: Platform, now: datetime) -> Iterator[Observation]:
    queries = platform.backup.smoke_queries
    if not queries:
        yield Observation(
            at=now,
            source="smoke queries",
            verdict=Verdict.WARN,
            message="The platform file asks no smoke queries.",
            hint="[[backup.smoke_queries]] would show that the data are there.",
        )
        return
    bad = []
    for name in platform.database.names:
        asked = [query for query in queries if (query.database or platform.database.name) == name]
        # Its version is of no matter where nothing is compared with a dump.
        live = Target(
            conninfo(platform.database.of(name), application_name="keepwell incident"),
            server_major=0,
            jobs=1,
            password=platform.database.password,
        )
        bad += list(check_serving(asked, live)) if asked else []
    for finding in bad:
        yield Observation(at=now, source="smoke queries", verdict=finding.verdict, message=finding.message)
    if not bad:
        yield Observation(
            at=now, source="smoke queries", verdict=Verdict.OK, message=f"{len(queries)} answered as they should."
        )
