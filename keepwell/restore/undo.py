"""Going back: the former live database takes its name again, and what was restored stays beside it.

What was written since the swap is in the restored one, as `<name>_undone_<UTC>`; nothing is lost, and nothing merged.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from keepwell.approval import Approval, Subject, require_approval
from keepwell.errors import PreconditionFailed
from keepwell.evidence import Evidence
from keepwell.objectstore.store import Store
from keepwell.postgres.databases import SessionGroup, read_databases, read_obstacles, read_server_id, read_sessions
from keepwell.progress import Progress, Step
from keepwell.restore.apply import ITEM, ask_whether_it_serves, empty_cache, judge_journal, keep_evidence
from keepwell.restore.journal import Journal, RestoreCase, StepName, read_journal
from keepwell.restore.names import undone_name
from keepwell.restore.standing import CaseState, Standing, judge_case
from keepwell.restore.swap import Exchange, connect_beside, exchange, open_databases
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst


@dataclass(frozen=True)
class UndoPlan:
    """What an undo would do.

    Attributes:
        platform: Its name.
        case: Of the restore that is undone.
        state: As it stands.
        sessions: Who is in the live database now; they are ended.
        findings: What stands in its way, or is worth knowing.
    """

    platform: str
    case: RestoreCase
    state: CaseState
    sessions: tuple[SessionGroup, ...]
    findings: tuple[Finding, ...]

    @property
    def exchanges(self) -> bool:
        """Whether names are exchanged; else the live database is only opened again."""
        return self.state.standing is not Standing.FENCED

    @property
    def verdict(self) -> Verdict:
        """The worst finding's; with an alert nothing is undone."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])

    @property
    def subject(self) -> Subject:
        """What somebody approves."""
        former = self.state.former.name if self.state.former else ""
        return Subject(
            procedure="undo",
            platform=self.platform,
            binds={"case": self.case.case_id, "live": self.case.live, "comes_back": former},
            typed=self.case.live,
        )

    @property
    def digest(self) -> str:
        """Of what is approved."""
        return self.subject.digest


@dataclass(frozen=True)
class UndoOutcome:
    """What an undo came to.

    Attributes:
        case_id: Of the restore that was undone.
        live: Name of the database that is live again.
        undone: What the restored one is called now; None where no names were exchanged.
        seconds: Until the application served again, or was to.
        findings: What the application answered, and what is worth knowing.
    """

    case_id: str
    live: str
    undone: str | None
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst finding's."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])


def plan_undo(platform: Platform, store: Store, case_id: str) -> UndoPlan:
    """Plan an undo; nothing is changed.

    Raises:
        PreconditionFailed: There is no such case, or nothing to go back to.
        ServiceUnavailable: The store or the server does not answer.
    """
    journal = read_journal(store, case_id)
    with connect_beside(platform) as connection:
        state = judge_case(journal, read_databases(connection), read_server_id(connection))
        _require_way_back(journal.case, state)
        assert state.live is not None  # noqa: S101 - required just now
        sessions = read_sessions(connection, state.live.name)
        tied = read_obstacles(connection, state.live.oid)
    findings = []
    named = ", ".join((*tied.prepared, *tied.slots, *tied.subscriptions))
    if named:
        message = f"{state.live.name} has prepared transactions, replication slots or subscriptions: {named}."
        hint = "End the transactions (COMMIT PREPARED, ROLLBACK PREPARED), and drop the slots and subscriptions first."
        findings.append(Finding(name="obstacles", verdict=Verdict.ALERT, message=message, hint=hint))
    out_of_reach = [one.role for one in sessions if one.out_of_reach]
    if out_of_reach:
        message = f"Sessions are not ours to end: those of {', '.join(out_of_reach)}."
        hint = (
            "GRANT pg_signal_backend to the role that restores, which ends all but superusers' sessions; or end them."
        )
        findings.append(Finding(name="sessions", verdict=Verdict.ALERT, message=message, hint=hint))
    return UndoPlan(platform.name, journal.case, state, sessions, tuple(findings))


def undo_swap(
    platform: Platform, store: Store, case_id: str, approval: Approval | None, progress: Progress
) -> UndoOutcome:
    """Go back; the caller holds the platform for a swap.

    Args:
        platform: Whose server.
        store: Its folder in the bucket.
        case_id: Of the restore.
        approval: Of the undo; needed unless the swap stopped before any name was exchanged.
        progress: Told how far it is.

    Raises:
        PreconditionFailed: There is nothing to go back to, something stands in the way, or the approval is missing or
            void.
        KeepwellError: It stopped on the way; both databases are there, and `keepwell restore status` tells.
    """
    began = datetime.now(UTC)
    plan = plan_undo(platform, store, case_id)
    journal = read_journal(store, case_id)
    if not plan.exchanges:
        return _open(platform, journal, plan, began)
    approval = require_approval(plan.subject, approval)
    wrong = [finding for finding in plan.findings if finding.verdict is Verdict.ALERT]
    if wrong:
        raise PreconditionFailed(f"{wrong[0].message} Nothing was changed.", hint=wrong[0].hint)
    former = plan.state.former
    assert former is not None  # noqa: S101 - a plan that exchanges names has one
    undone = undone_name(plan.case.live, began)
    wanted = Exchange(plan.case.live, plan.state.live, undone, former)
    journal.write(StepName.UNDOING, name=undone, approval=approval, required=True)
    exchange(platform, wanted, progress, before_shutting=lambda: None)
    journal.write(StepName.UNDONE, approval=approval, message=f"The restored one is {undone}.")
    findings = [*plan.findings, *empty_cache(platform)]
    progress(Step("asking the application whether it serves"))
    findings += ask_whether_it_serves(platform)
    findings.append(Finding(name="approval", verdict=Verdict.OK, message=approval.told))
    summary = (
        f"The restore of {plan.case.backup_id} is undone: {plan.case.live} is the former one; it was {former.name}."
    )
    return _end(journal, plan, began, UndoneAs(undone, summary), findings)


@dataclass(frozen=True)
class UndoneAs:
    """How an undo is told."""

    name: str | None
    summary: str


def _open(platform: Platform, journal: Journal, plan: UndoPlan, began: datetime) -> UndoOutcome:
    """A swap that stopped before any name was exchanged: whoever was shut out is let in again."""
    there = [one.oid for one in (plan.state.former, plan.state.restored) if one is not None]
    open_databases(platform, there)
    journal.write(StepName.SWAPPED_BACK, message="Opened again, as it was.")
    summary = f"The swap of {plan.case.backup_id} had stopped before any name was exchanged: {plan.case.live} is open."
    return _end(journal, plan, began, UndoneAs(None, summary), [*ask_whether_it_serves(platform)])


def _end(journal: Journal, plan: UndoPlan, began: datetime, told: UndoneAs, findings: list[Finding]) -> UndoOutcome:
    findings += judge_journal(journal)
    finished_at = datetime.now(UTC)
    seconds = (finished_at - began).total_seconds()
    kept = keep_evidence(
        journal.store,
        Evidence(
            items=(ITEM,),
            platform=plan.platform,
            verdict=worst([Verdict.OK, *(finding.verdict for finding in findings)]),
            summary=told.summary,
            findings=tuple(findings),
            numbers={"case": plan.case.case_id, "seconds": seconds},
            started_at=began,
            finished_at=finished_at,
        ),
    )
    return UndoOutcome(plan.case.case_id, plan.case.live, told.name, seconds, (*findings, *kept.findings))


def _require_way_back(case: RestoreCase, state: CaseState) -> None:
    """Go on only where the former live database is there, and the restored one in its place.

    Raises:
        PreconditionFailed: There is nothing to undo, or nothing to go back to.
    """
    if state.standing is Standing.FENCED:
        return
    if not state.is_swapped:
        raise PreconditionFailed(
            f"There is nothing to undo in the case {case.case_id}: {state.standing}.",
            hint=state.advice or "See how the cases stand: keepwell restore status.",
        )
    if state.former is None:
        gone = "was dropped" if case.live_oid is not None else "never was"
        raise PreconditionFailed(
            f"There is nothing to go back to: the former {case.live} {gone}.",
            hint="Restore a set from before instead: keepwell restore plan --before TIME.",
        )
