"""Dropping what a restore left behind: the replaced database, or the undone one; never the only copy of anything.

A replaced database holds what was written between the set's snapshot and the restore, and nothing else in the world may
hold it. So it goes by an explicit command, or after the time that the platform file names, and only once a proven set
holds what is live now.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keepwell.approval import Approval, Subject, require_approval
from keepwell.backup.catalogue import read_catalogue
from keepwell.errors import PreconditionFailed
from keepwell.evidence import Evidence
from keepwell.objectstore.store import Store
from keepwell.postgres.databases import NamedDatabase, drop_database, read_databases, read_sessions
from keepwell.progress import Progress, Step
from keepwell.quantities import describe_bytes
from keepwell.restore.apply import ITEM, keep_evidence
from keepwell.restore.journal import Journal, StepName, read_case_ids, read_journal
from keepwell.restore.standing import CaseState, Standing, judge_case
from keepwell.restore.swap import connect_beside
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst

_MAY_GO = (Standing.SERVING, Standing.UNDONE)


@dataclass(frozen=True)
class PurgePlan:
    """What a purge would drop.

    Attributes:
        platform: Its name.
        case_id: Of the restore that left it.
        state: How the case stands.
        target: The database that goes.
        settled_at: Since when it has not been the live one.
        findings: What forbids it, or is worth knowing.
    """

    platform: str
    case_id: str
    state: CaseState
    target: NamedDatabase
    settled_at: datetime
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst finding's; with an alert nothing is dropped."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])

    @property
    def subject(self) -> Subject:
        """What somebody approves; what has to be typed is the name of what goes."""
        return Subject(
            procedure="purge",
            platform=self.platform,
            binds={"case": self.case_id, "drops": self.target.name, "number": str(self.target.oid)},
            typed=self.target.name,
        )

    @property
    def digest(self) -> str:
        """Of what is approved."""
        return self.subject.digest


@dataclass(frozen=True)
class PurgeOutcome:
    """What was dropped, and how much space that gave."""

    case_id: str
    dropped: str
    freed_bytes: int


def plan_purge(platform: Platform, store: Store, case_id: str) -> PurgePlan:
    """Plan a purge; nothing is changed.

    Raises:
        PreconditionFailed: There is no such case, or nothing of it to drop.
        ServiceUnavailable: The store or the server does not answer.
    """
    journal = read_journal(store, case_id)
    with connect_beside(platform) as connection:
        state = judge_case(journal, read_databases(connection))
        target = _find_target(platform, journal, state)
        sessions = sum(one.count for one in read_sessions(connection, target.name))
    settled_at = journal.since(StepName.EXCHANGING, StepName.EXCHANGED, StepName.UNDOING, StepName.UNDONE)
    assert settled_at is not None  # noqa: S101 - nothing may go of a case that exchanged nothing
    findings = [*_judge_copies(platform, store, settled_at)]
    if sessions:
        message = f"{sessions} sessions are in {target.name}; they will be cut."
        findings.append(Finding(name="sessions", verdict=Verdict.WARN, message=message, hint="Who still looks at it?"))
    return PurgePlan(platform.name, case_id, state, target, settled_at, tuple(findings))


def purge_replaced(
    platform: Platform,
    store: Store,
    case_id: str,
    approval: Approval | None,
    progress: Progress,
    *,
    now: datetime,
) -> PurgeOutcome:
    """Drop what a restore left behind; the caller holds the platform for a swap.

    Args:
        platform: Whose server.
        store: Its folder in the bucket.
        case_id: Of the restore.
        approval: Of the purge; without one only what is older than `restore.keep_replaced_days` goes.
        progress: Told how far it is.
        now: Aware.

    Raises:
        PreconditionFailed: It may not go: it is the only copy, its time has not come, or the approval is void.
        KeepwellError: The server refused.
    """
    plan = plan_purge(platform, store, case_id)
    if approval is not None or not is_due(platform, plan, now):
        approval = require_approval(plan.subject, approval)
    wrong = [finding for finding in plan.findings if finding.verdict is Verdict.ALERT]
    if wrong:
        raise PreconditionFailed(f"{wrong[0].message} Nothing was dropped.", hint=wrong[0].hint)
    journal = read_journal(store, case_id)
    progress(Step(f"dropping {plan.target.name}"))
    journal.write(StepName.PURGING, approval=approval, required=True, message=plan.target.name)
    with connect_beside(platform) as connection:
        drop_database(connection, plan.target.oid, plan.target.name)
    journal.write(StepName.PURGED, approval=approval, message=plan.target.name)
    _leave_evidence(platform, store, plan, approval, now)
    return PurgeOutcome(case_id, plan.target.name, plan.target.size_bytes)


def read_due(platform: Platform, store: Store, now: datetime) -> list[PurgePlan]:
    """What may go without being named, because its time has come and nothing forbids it; none unless configured.

    Raises:
        KeepwellError: The store or the server does not answer.
    """
    if platform.restore.keep_replaced_days is None:
        return []
    return [
        plan for plan in _plans(platform, store) if is_due(platform, plan, now) and plan.verdict is not Verdict.ALERT
    ]


def is_due(platform: Platform, plan: PurgePlan, now: datetime) -> bool:
    """Whether its time has come."""
    days = platform.restore.keep_replaced_days
    return days is not None and now - plan.settled_at >= timedelta(days=days)


def _plans(platform: Platform, store: Store) -> Iterator[PurgePlan]:
    for case_id in read_case_ids(store):
        try:
            yield plan_purge(platform, store, case_id)
        except PreconditionFailed:
            continue  # nothing of it is there to go


def _find_target(platform: Platform, journal: Journal, state: CaseState) -> NamedDatabase:
    """What goes: the one of the two that has not the live name, as long as it has a name of ours.

    Raises:
        PreconditionFailed: There is none, or the case has not come to an end.
    """
    case = journal.case
    if state.standing not in _MAY_GO:
        raise PreconditionFailed(
            f"Nothing of the case {case.case_id} may go: {state.standing}.",
            hint=state.advice or "See how the cases stand: keepwell restore status.",
        )
    if state.live is None or state.idle is None:
        raise PreconditionFailed(
            f"Of the case {case.case_id} there is one database only, and it stays.",
            hint="See how the cases stand: keepwell restore status.",
        )
    if state.idle.name in (*platform.database.names, case.live, platform.database.maintenance_name):
        raise PreconditionFailed(
            f"{state.idle.name} is in use under that name, and stays.", hint="Look who renamed it."
        )
    return state.idle


def _judge_copies(platform: Platform, store: Store, settled_at: datetime) -> Iterator[Finding]:
    """Whether what is live now is in a proven set: else what goes would leave one copy of everything."""
    level = platform.backup.proven_level
    proven = [one for one in read_catalogue(store) if one.is_proven(level) and one.snapshot_at is not None]
    newer = [one for one in proven if one.snapshot_at is not None and one.snapshot_at >= settled_at]
    if newer:
        message = f"What is live now is in the proven set {max(one.backup_id for one in newer)}."
        yield Finding(name="copies", verdict=Verdict.OK, message=message)
        return
    yield Finding(
        name="copies",
        verdict=Verdict.ALERT,
        message=f"No proven set is from after {settled_at:%Y-%m-%d %H:%M:%S} UTC, when the names were exchanged.",
        hint="Make one first, so that the live database is not the only copy: keepwell backup create.",
    )


def _leave_evidence(
    platform: Platform, store: Store, plan: PurgePlan, approval: Approval | None, now: datetime
) -> None:
    why = approval.told if approval else f"Its {platform.restore.keep_replaced_days} days were over."
    findings = (*plan.findings, Finding(name="approval", verdict=Verdict.OK, message=why))
    freed = describe_bytes(plan.target.size_bytes)
    keep_evidence(
        store,
        Evidence(
            items=(ITEM,),
            platform=plan.platform,
            verdict=worst(finding.verdict for finding in findings),
            summary=f"{plan.target.name} ({freed}) was dropped, which the restore {plan.case_id} had left.",
            findings=findings,
            numbers={"case": plan.case_id, "freed_bytes": plan.target.size_bytes},
            started_at=now,
            finished_at=datetime.now(UTC),
        ),
    )
