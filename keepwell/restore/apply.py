"""Carrying out a planned restore: guide item BK-4. Each step is in the journal before the next one begins.

1. Plan anew: only what was approved is done.
2. Write the case down.
3. Restore beside the live database, and prove it there (`keepwell.backup.restore`).
4. For a swap: give it what the live one has beside its data, exchange the names, empty the cache where that is asked
   for, and ask the application whether it serves. If it does not, exchange them back.
5. Leave the evidence.

A run that died goes on under its case's id: what is done is not done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from keepwell.approval import Approval, require_approval
from keepwell.backup.catalogue import read_manifest
from keepwell.backup.restore import (
    Restored,
    Stopwatch,
    ask_smoke_queries,
    choose_database,
    restore_into,
    restored_target,
)
from keepwell.cache.flush import flush_cache
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.evidence import Evidence, write_evidence
from keepwell.holding import Hold
from keepwell.objectstore.store import Store
from keepwell.postgres.databases import (
    NamedDatabase,
    carry_over,
    exchange_names,
    read_databases,
    read_properties,
    read_server_id,
)
from keepwell.progress import Progress, Step
from keepwell.restore.choice import Choice
from keepwell.restore.journal import Journal, RestoreCase, StepName, begin_case, new_case_id, read_journal
from keepwell.restore.names import replaced_name, undone_name
from keepwell.restore.plan import RestorePlan, plan_restore, require_applicable
from keepwell.restore.standing import CaseState, Standing, judge_case
from keepwell.restore.swap import Exchange, connect_beside, exchange, open_databases
from keepwell.settings import Platform
from keepwell.smoke import ask_application, judge_answers, smoke_paths
from keepwell.verdict import Finding, Verdict, worst

ITEM = "BK-4"
# What a plan finds only because its case is under way already.
_ENDS = (Standing.UNDONE, Standing.PURGED, Standing.SUPERSEDED, Standing.GONE, Standing.ELSEWHERE)
_OF_OURSELVES = {Standing.BESIDE: ("target", "space"), Standing.FENCED: ("target", "space", "fence")}


@dataclass(frozen=True)
class RestoreOutcome:
    """What a restore came to.

    Attributes:
        case_id: Under which it is undone, purged, and told.
        plan: As it was carried out.
        database: What the restored database is called now.
        replaced: What the former live database is called now; None where none was replaced.
        rows: That were compared; None where an earlier run of the case did that.
        phases: Seconds of each phase: find, fetch, restore, prove, smoke, swap, serve; those of this run.
        findings: What is worth knowing.
        evidence_keys: Of the documents in the bucket; empty where they could not be kept.
        is_kept: Whether the bucket knows its case, so that the console can undo it.
    """

    case_id: str
    plan: RestorePlan
    database: str
    replaced: str | None
    rows: int | None
    phases: Mapping[str, float]
    findings: tuple[Finding, ...]
    evidence_keys: tuple[str, ...] = ()
    is_kept: bool = True

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.phases.values())

    @property
    def verdict(self) -> Verdict:
        """The worst finding's."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])


@dataclass(frozen=True)
class Kept:
    """Where evidence is in the bucket; or the finding that it is not."""

    keys: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


@dataclass
class _Run:
    """One run of a case on its way."""

    platform: Platform
    store: Store
    plan: RestorePlan
    journal: Journal
    progress: Progress
    started_at: datetime
    hold: Hold | None = None
    findings: list[Finding] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    rows: int | None = None


def apply_restore(
    platform: Platform,
    store: Store,
    plan: RestorePlan,
    approval: Approval | None,
    progress: Progress,
    *,
    case_id: str | None = None,
    as_case: str | None = None,
    hold: Hold | None = None,
) -> RestoreOutcome:
    """Carry out a plan; the caller holds the platform, for a swap or for a restore.

    Args:
        platform: Whose set, and whose server.
        store: Its folder in the bucket.
        plan: As somebody saw it.
        approval: Of that plan; needed for a swap. A case that goes on may have one that still counts (`is_approved`).
        progress: Told how far it is.
        case_id: Of a case that goes on; a new one by default.
        as_case: Id of a new case, where somebody wrote it down already; one that is made by default.
        hold: How the caller holds it: looked at once more before anybody is shut out.

    Returns:
        What it came to; its evidence is in the bucket.

    Raises:
        PreconditionFailed: The plan is another one by now, something forbids it, or the approval is missing or void.
        VerificationFailed: The set is damaged, or the application did not serve and the names were exchanged back.
        KeepwellError: It stopped on the way; `keepwell restore status` tells where, and what to do.
    """
    started_at = datetime.now(UTC)
    if case_id is None:
        journal, state = None, None
    else:
        journal = read_journal(store, case_id)
        _require_same(plan, journal.case)
        state = read_state(platform, journal)
        require_open_end(journal, state)
    if state is None or not state.is_swapped:
        plan = _plan_anew(platform, store, plan, state)
        if plan.swaps:
            if approval is None and journal is not None and state is not None:
                is_enough = _still_counts(platform, journal, state, plan, started_at)
                approval = journal.approval if is_enough else None
            approval = require_approval(plan.subject, approval)
    if journal is None:
        journal = begin_case(store, _describe_case(platform, plan, approval, started_at, as_case))
    elif approval is not None and approval != journal.approval:
        journal.write(StepName.APPROVED, approval=approval, required=True)
    run = _Run(platform, store, plan, journal, progress, started_at, hold)
    try:
        return _carry_out(run, state)
    except BaseException as error:
        said = error.message if isinstance(error, KeepwellError) else f"It was interrupted: {type(error).__name__}."
        if journal.last not in (StepName.SWAPPED_BACK, StepName.FAILED):
            journal.write(StepName.FAILED, message=said)
        if isinstance(error, KeepwellError):
            _leave_evidence(run, Verdict.ALERT, f"The restore of {plan.backup_id} failed: {said}")
        raise


def plan_case(platform: Platform, store: Store, case_id: str, now: datetime) -> RestorePlan:
    """The plan of a case that is to go on.

    Raises:
        PreconditionFailed: There is no such case, or its set is gone.
    """
    case = read_journal(store, case_id).case
    choice = Choice(which=case.backup_id, database=case.database, allow_unproven=case.allow_unproven)
    return plan_restore(platform, store, choice, mode=case.mode, name=case.name, now=now)


def is_approved(platform: Platform, store: Store, plan: RestorePlan, case_id: str, now: datetime) -> bool:
    """Whether a case may go on with the approval that it has, so that nobody has to be asked.

    It counts for as long as a question waits (`orchestrator.approval_hours`), and to finish what is half done.

    Args:
        platform: Whose case.
        store: Its folder in the bucket.
        plan: Of the case, made just now.
        case_id: Of it.
        now: Aware.

    Raises:
        PreconditionFailed: There is no such case.
        ServiceUnavailable: The store or the server does not answer.
    """
    journal = read_journal(store, case_id)
    return _still_counts(platform, journal, read_state(platform, journal), plan, now)


def _still_counts(platform: Platform, journal: Journal, state: CaseState, plan: RestorePlan, now: datetime) -> bool:
    if state.is_swapped:
        return True  # nothing is left that anybody would have to agree to
    approval = journal.approval
    if approval is None or approval.digest != plan.digest:
        return False
    is_fresh = now - approval.approved_at <= timedelta(hours=platform.orchestrator.approval_hours)
    return is_fresh or state.standing is Standing.FENCED


def read_state(platform: Platform, journal: Journal) -> CaseState:
    """What a case has come to, by what the server says now.

    Raises:
        ServiceUnavailable: The server does not answer.
    """
    with connect_beside(platform) as connection:
        return judge_case(journal, read_databases(connection), read_server_id(connection))


def require_open_end(journal: Journal, state: CaseState) -> None:
    """Go on only with a case that has not come to an end that forbids it.

    Raises:
        PreconditionFailed: It has.
    """
    if state.standing in _ENDS:
        raise PreconditionFailed(
            f"The case {journal.case.case_id} cannot go on: {state.standing}.",
            hint="Begin a new one: keepwell restore plan.",
        )


def _require_same(plan: RestorePlan, case: RestoreCase) -> None:
    planned = (plan.backup_id, plan.database, plan.live, plan.name, plan.mode)
    if planned != (case.backup_id, case.database, case.live, case.name, case.mode):
        raise PreconditionFailed(
            f"The case {case.case_id} is of another plan. Nothing was changed.",
            hint=f"Go on with its own: keepwell restore apply --case {case.case_id}.",
        )


def _plan_anew(platform: Platform, store: Store, plan: RestorePlan, state: CaseState | None) -> RestorePlan:
    now = datetime.now(UTC)
    fresh = plan_restore(platform, store, plan.choice, mode=plan.mode, name=plan.name, now=now, measures_loss=False)
    if fresh.digest != plan.digest:
        raise PreconditionFailed(
            f"The plan is {fresh.digest} by now, not {plan.digest}: nothing was changed.",
            hint="Look at it again: keepwell restore plan.",
        )
    require_applicable(fresh, ignoring=_OF_OURSELVES.get(state.standing, ()) if state else ())
    return replace(fresh, loss=plan.loss)


def _describe_case(
    platform: Platform, plan: RestorePlan, approval: Approval | None, now: datetime, case_id: str | None
) -> RestoreCase:
    with connect_beside(platform) as connection:
        server = read_server_id(connection)
    live_oid = plan.live_database.oid if plan.live_database else None
    return RestoreCase(
        case_id=case_id or new_case_id(now),
        platform=platform.name,
        mode=plan.mode,
        backup_id=plan.backup_id,
        database=plan.database,
        snapshot_at=plan.snapshot_at,
        allow_unproven=plan.choice.allow_unproven,
        server=server,
        live=plan.live,
        live_oid=live_oid,
        name=plan.name,
        replaced=replaced_name(plan.live, now) if plan.swaps and live_oid is not None else None,
        digest=plan.digest,
        approval=approval if plan.swaps else None,
        begun_at=now,
    )


def _carry_out(run: _Run, state: CaseState | None) -> RestoreOutcome:
    plan = run.plan
    if state is None or state.restored is None:
        if state is not None and state.standing is Standing.FENCED and state.former is not None:
            open_databases(run.platform, (state.former.oid,))  # nobody waits outside for as long as a restore takes
        _restore(run)
    elif state.standing in (Standing.BESIDE, Standing.FENCED):
        _take_up(run, state.restored)
    if state is not None and state.standing is Standing.SERVING:
        return _tell_again(run)
    if not plan.swaps:
        return _end(run, plan.name, None, f"{plan.backup_id} is restored beside {plan.live}, as {plan.name}.")
    if state is None or state.restored is None or not state.is_swapped:
        _swap(run)
    else:
        # Whoever shut them since: an undo that died shuts both.
        open_databases(run.platform, [one.oid for one in (state.restored, state.former) if one is not None])
    return _serve(run)


def _tell_again(run: _Run) -> RestoreOutcome:
    """Of a case that had come to its end: the application is not asked anew, since people have worked with it since."""
    journal = run.journal
    ended_at = journal.since(StepName.SERVING, StepName.NOT_ASKED)
    message = f"The case had come to its end at {ended_at:%Y-%m-%d %H:%M} UTC: nothing was done."
    run.findings.append(_finding("case", Verdict.OK, message, hint="Look at the application yourself."))
    return _end(run, run.plan.live, journal.case.replaced, f"{run.plan.backup_id} is live as {run.plan.live} already.")


def _restore(run: _Run) -> None:
    plan, journal = run.plan, run.journal
    journal.write(StepName.RESTORING, required=True)
    restored = restore_into(
        run.platform,
        run.store,
        plan.backup_id,
        plan.name,
        run.progress,
        source=plan.database,
        allow_unproven=plan.choice.allow_unproven,
        on_proven=lambda oid: journal.write(StepName.PROVEN, oid=oid, required=True),
    )
    journal.write(StepName.RESTORED, message=f"{restored.rows} rows in {restored.tables} tables, equal to the source.")
    run.rows = restored.rows
    for phase, seconds in restored.phases.items():
        run.watch.phases[phase] = seconds
    run.watch.restart()
    run.findings += _without_properties(restored, swaps=plan.swaps)
    _heed_answers(run, restored.smoke)


def _without_properties(restored: Restored, *, swaps: bool) -> Sequence[Finding]:
    """A swap carries over what a restore alone does not."""
    return [one for one in restored.findings if not swaps or one.name != "database properties"]


def _heed_answers(run: _Run, wrong: Sequence[Finding]) -> None:
    """Wrong answers to the smoke queries stop a swap; beside the live database they are only told."""
    plan = run.plan
    run.findings += wrong
    if plan.swaps and wrong:
        raise VerificationFailed(
            f"{wrong[0].message} {plan.live} is as it was; the restored database is {plan.name}.",
            hint="Look at it there. If the question is wrong, mend it in the platform file, and let the case go on.",
        )


def _take_up(run: _Run, restored: NamedDatabase) -> None:
    """What an earlier run restored and proved: give it its name, if that run died before, and ask it once more."""
    plan = run.plan
    open_databases(run.platform, (restored.oid,))
    with connect_beside(run.platform) as connection:
        server_major = connection.info.server_version // 10_000
        if restored.name != plan.name:
            wait_seconds = run.platform.restore.fence_seconds
            exchange_names(connection, [(restored.name, plan.name)], reopen=[], wait_seconds=wait_seconds)
    database = choose_database(read_manifest(run.store, plan.backup_id), plan.database)
    target = restored_target(run.platform, plan.name, server_major)
    _heed_answers(run, ask_smoke_queries(run.platform, database, target))
    proven_at = run.journal.since(StepName.PROVEN)
    when = f"at {proven_at:%Y-%m-%d %H:%M} UTC" if proven_at else "by an earlier run"
    message = f"{plan.name} was proven {when}, and not compared since: what somebody wrote into it since is in it."
    run.findings.append(_finding("copy", Verdict.WARN, message, hint="In doubt drop it, and begin anew."))
    run.watch.lap("smoke")


def _swap(run: _Run) -> None:
    journal = run.journal
    wanted = _find_exchange(run)
    if wanted.leaving is not None:
        with connect_beside(run.platform) as connection:
            carry_over(connection, wanted.coming.name, read_properties(connection, wanted.leaving.oid))
    if run.hold is not None:
        run.hold.require_held()
    journal.write(StepName.FENCING, required=True)
    exchange(run.platform, wanted, run.progress, before_shutting=lambda: journal.write(StepName.EXCHANGING))
    journal.write(StepName.EXCHANGED)
    run.watch.lap("swap")


def _find_exchange(run: _Run) -> Exchange:
    """The databases of the case, as the server knows them now.

    Raises:
        PreconditionFailed: They are not those that were planned; nothing was changed.
    """
    case, state = run.journal.case, read_state(run.platform, run.journal)
    is_other = state.live is not None and state.live.oid != case.live_oid
    if state.restored is None or is_other or (state.live is None and case.live_oid is not None):
        raise PreconditionFailed(
            f"{case.live} or the restored database is another one by now: nothing was exchanged.",
            hint="Look: keepwell restore status.",
        )
    return Exchange(case.live, state.live, case.replaced or "", state.restored)


def _serve(run: _Run) -> RestoreOutcome:
    """Empty the cache, ask the application, and go back if it does not serve."""
    plan, journal = run.plan, run.journal
    run.findings += empty_cache(run.platform)
    run.progress(Step("asking the application whether it serves"))
    answers = ask_whether_it_serves(run.platform)
    run.watch.lap("serve")
    run.findings += answers
    wrong = [finding for finding in answers if finding.verdict is Verdict.ALERT]
    if wrong:
        _go_back(run, wrong[0])
    journal.write(StepName.NOT_ASKED if run.platform.restore.base_url is None else StepName.SERVING)
    replaced = journal.case.replaced
    way_back = f" The former one is {replaced}." if replaced else ""
    return _end(run, plan.live, replaced, f"{plan.backup_id} is restored and live as {plan.live}.{way_back}")


def empty_cache(platform: Platform) -> list[Finding]:
    """Empty the cache where that is asked for; that it cannot be emptied is told, and stops nothing."""
    if not platform.restore.flush_cache:
        return []
    if platform.redis is None:
        return [_finding("cache", Verdict.WARN, "restore.flush_cache is set, and there is no [redis] to empty.")]
    try:
        keys = flush_cache(platform.redis)
    except KeepwellError as error:
        message = f"The cache could not be emptied, and may hold answers of before: {error.message}"
        return [_finding("cache", Verdict.WARN, message, hint="Empty it by hand (FLUSHALL), or restart it.")]
    return [_finding("cache", Verdict.OK, f"{keys:,} keys were removed from the cache.")]


def ask_whether_it_serves(platform: Platform) -> list[Finding]:
    """What the application answers over HTTP."""
    settings = platform.restore
    if settings.base_url is None:
        message = "Nobody asked the application over HTTP whether it serves: restore.base_url is not set."
        return [_finding("application", Verdict.WARN, message, hint="Look at it yourself, now.")]
    asked = ask_application(settings.base_url, smoke_paths(settings), wait_seconds=settings.smoke_wait_seconds)
    return list(judge_answers(asked))


def _go_back(run: _Run, wrong: Finding) -> NoReturn:
    """Exchange the names back: the live data are as they were, and what was restored is beside them again."""
    case, journal = run.journal.case, run.journal
    journal.write(StepName.NOT_SERVING, message=wrong.message)
    state = read_state(run.platform, journal)
    if state.former is None or state.live is None:
        raise VerificationFailed(
            f"{wrong.message} There is no former {case.live} to go back to: the restored one stays live.",
            hint=wrong.hint,
        )
    name = _name_to_leave(run)
    back = Exchange(case.live, state.live, name, state.former)
    exchange(run.platform, back, run.progress, before_shutting=lambda: journal.write(StepName.UNDOING, name=name))
    journal.write(StepName.SWAPPED_BACK, message=wrong.message)
    run.findings += empty_cache(run.platform)
    run.watch.lap("swap back")
    raise VerificationFailed(
        f"{wrong.message} So the names were exchanged back: {case.live} is as it was, and {name} beside it.",
        hint=wrong.hint,
    )


def _name_to_leave(run: _Run) -> str:
    """The name that the restored database had, or another one, if somebody took that in the meantime."""
    case = run.journal.case
    with connect_beside(run.platform) as connection:
        taken = any(one.name == case.name for one in read_databases(connection))
    return undone_name(case.live, datetime.now(UTC)) if taken else case.name


def _end(run: _Run, database: str, replaced: str | None, summary: str) -> RestoreOutcome:
    run.findings += _end_hold(run.hold)
    kept = _leave_evidence(run, None, summary)
    return RestoreOutcome(
        case_id=run.journal.case.case_id,
        plan=run.plan,
        database=database,
        replaced=replaced,
        rows=run.rows,
        phases=dict(run.watch.phases),
        findings=(*run.findings, *kept.findings),
        evidence_keys=kept.keys,
        is_kept=run.store.may_write,
    )


def _end_hold(hold: Hold | None) -> list[Finding]:
    """What is done is done: a place that was lost on the way is told, and the run does not fail by it any more."""
    if hold is None:
        return []
    try:
        hold.require_held()
    except KeepwellError as error:
        message = f"The interlock was lost on the way, so somebody else may have been at work too: {error.message}"
        return [
            _finding("interlock", Verdict.WARN, message, hint="Look: keepwell restore status. Do not run it again.")
        ]
    finally:
        hold.end_early()
    return []


def _leave_evidence(run: _Run, verdict: Verdict | None, summary: str) -> Kept:
    """Keep what was found; that it cannot be kept is a finding, and undoes nothing."""
    plan, case = run.plan, run.journal.case
    run.findings += _tell_of_case(run.journal, plan)
    numbers: dict[str, float | str | None] = {
        "case": case.case_id,
        "backup_id": plan.backup_id,
        "snapshot_at": plan.snapshot_at.isoformat(),
        "rows": run.rows,
        "rows_lost": plan.loss.rows_lost if plan.loss else None,
        "rows_back": plan.loss.rows_back if plan.loss else None,
        "lost_seconds": (case.begun_at - plan.snapshot_at).total_seconds(),
        **{f"{phase.replace(' ', '_')}_seconds": seconds for phase, seconds in run.watch.phases.items()},
    }
    found = worst([Verdict.OK, *(finding.verdict for finding in run.findings)])
    return keep_evidence(
        run.store,
        Evidence(
            items=(ITEM,),
            platform=run.platform.name,
            verdict=verdict or found,
            summary=summary,
            findings=tuple(run.findings),
            numbers=numbers,
            started_at=run.started_at,
            finished_at=datetime.now(UTC),
        ),
    )


def _tell_of_case(journal: Journal, plan: RestorePlan) -> list[Finding]:
    """Who approved it, whether a proof was waived, and what the journal lacks."""
    told = [finding for finding in plan.findings if finding.name == "proof" and finding.verdict is not Verdict.OK]
    approval = journal.approval
    if approval is not None:
        told.append(_finding("approval", Verdict.OK, approval.told))
    return [*told, *judge_journal(journal)]


def judge_journal(journal: Journal) -> list[Finding]:
    """What the journal lacks of what was done."""
    if not journal.unwritten:
        return []
    steps = ", ".join(journal.unwritten)
    return [_finding("journal", Verdict.WARN, f"The bucket did not take these steps of the journal: {steps}.")]


def keep_evidence(store: Store, evidence: Evidence) -> Kept:
    """Keep a document in the bucket; that it does not take it is a finding: what was done is done."""
    try:
        if store.may_write:
            return Kept(write_evidence(store, evidence))
        why = "This machine's key of the bucket only reads."
    except KeepwellError as error:
        why = error.message
    lost = _finding("evidence", Verdict.WARN, f"The bucket has no evidence of it: {why}", "Keep what is shown here.")
    return Kept((), (lost,))


def _finding(name: str, verdict: Verdict, message: str, hint: str = "") -> Finding:
    return Finding(name=name, verdict=verdict, message=message, hint=hint)
