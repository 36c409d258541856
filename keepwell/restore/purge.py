"""Dropping what a restore left behind: the replaced database, or the undone one; never the only copy of anything.

A replaced database holds what was written between the set's snapshot and the restore, and nothing else in the world may
hold it. So it goes by an explicit command, or after the time that the platform file names, and only once a proven set
holds what is live now.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg

from keepwell.approval import Approval, Subject, require_approval
from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.evidence import Evidence
from keepwell.objectstore.store import Store
from keepwell.postgres.connection import translated
from keepwell.postgres.databases import (
    NamedDatabase,
    drop_database,
    read_databases,
    read_server_id,
    read_sessions,
)
from keepwell.progress import Progress, Step
from keepwell.quantities import describe_bytes
from keepwell.restore.apply import ITEM, Kept, judge_journal, keep_evidence
from keepwell.restore.journal import Journal, StepName, read_case_ids, read_journal
from keepwell.restore.plan import live_name
from keepwell.restore.standing import CaseState, Standing, judge_case
from keepwell.restore.swap import connect_beside
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst

_MAY_GO = (Standing.SERVING, Standing.UNDONE, Standing.SUPERSEDED)


@dataclass(frozen=True)
class PurgePlan:
    """What a purge would drop.

    Attributes:
        platform: Its name.
        case_id: Of the restore that left it.
        state: How the case stands.
        target: The database that goes.
        settled_at: Since when it has not been the live one.
        sessions: How many are in it.
        findings: What forbids it, or is worth knowing.
    """

    platform: str
    case_id: str
    state: CaseState
    target: NamedDatabase
    settled_at: datetime
    sessions: int
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
    """What was dropped, how much space that gave, and what is worth knowing."""

    case_id: str
    dropped: str
    freed_bytes: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class DuePurges:
    """What may go without being named.

    Attributes:
        plans: The newest case first.
        findings: Cases that were passed over, each with the reason.
    """

    plans: tuple[PurgePlan, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass
class _Scene:
    """What all plans look at, read once."""

    databases: tuple[NamedDatabase, ...]
    server: str
    ahead: timedelta
    sets: list[BackupEntry]
    journals: list[Journal] = field(default_factory=list)
    unread: list[Finding] = field(default_factory=list)


def plan_purge(platform: Platform, store: Store, case_id: str) -> PurgePlan:
    """Plan a purge; nothing is changed.

    Raises:
        PreconditionFailed: There is no such case, or nothing of it to drop.
        ServiceUnavailable: The store or the server does not answer.
    """
    journal = read_journal(store, case_id)
    with connect_beside(platform) as connection:
        return _plan(platform, connection, _look(store, connection), journal)


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
    if approval is None and plan.sessions:
        raise PreconditionFailed(
            f"{plan.target.name} has {plan.sessions} sessions, and nobody approved that they are cut.",
            hint=f"See who looks at it, or approve it: keepwell restore purge {case_id}.",
        )
    journal = read_journal(store, case_id)
    progress(Step(f"dropping {plan.target.name}"))
    journal.write(StepName.PURGING, name=plan.target.name, approval=approval, required=True)
    _drop(platform, plan.target, cuts_sessions=approval is not None)
    journal.write(StepName.PURGED, name=plan.target.name, approval=approval)
    findings = judge_journal(journal)
    why = approval.told if approval else f"Its {platform.restore.keep_replaced_days} days were over."
    kept = _leave_evidence(store, plan, why, findings, now)
    return PurgeOutcome(case_id, plan.target.name, plan.target.size_bytes, (*findings, *kept.findings))


def read_due(platform: Platform, store: Store, now: datetime) -> DuePurges:
    """What may go without being named, because its time has come and nothing forbids it; none unless configured.

    A case that cannot be read, or whose database somebody is in, is passed over, and told.

    Raises:
        KeepwellError: The store or the server does not answer.
    """
    if platform.restore.keep_replaced_days is None:
        return DuePurges()
    plans: list[PurgePlan] = []
    with connect_beside(platform) as connection:
        scene = _look(store, connection)
        findings = list(scene.unread)
        for journal in scene.journals:
            try:
                plan = _plan(platform, connection, scene, journal)
            except PreconditionFailed:
                continue  # nothing of it is there to go
            wrong = [one.message for one in plan.findings if one.verdict is Verdict.ALERT or one.name == "sessions"]
            if is_due(platform, plan, now) and wrong:
                message = f"{plan.target.name} stays, though its days are over: {wrong[0]}"
                findings.append(Finding(name=f"case {plan.case_id}", verdict=Verdict.WARN, message=message, hint=""))
            elif is_due(platform, plan, now):
                plans.append(plan)
    return DuePurges(tuple(plans), tuple(findings))


def is_due(platform: Platform, plan: PurgePlan, now: datetime) -> bool:
    """Whether its time has come."""
    days = platform.restore.keep_replaced_days
    return days is not None and now - plan.settled_at >= timedelta(days=days)


def _look(store: Store, connection: psycopg.Connection) -> _Scene:
    """Read the server and the bucket; a case that cannot be read is told, and stops no other."""
    before = datetime.now(UTC)
    with translated("asking for the server's clock"):
        row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
    ahead = max(row[0] - before, timedelta()) if row else timedelta()
    scene = _Scene(read_databases(connection), read_server_id(connection), ahead, read_catalogue(store))
    for case_id in read_case_ids(store):
        try:
            scene.journals.append(read_journal(store, case_id))
        except KeepwellError as error:
            told = Finding(name=f"case {case_id}", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)
            scene.unread.append(told)
    return scene


def _plan(platform: Platform, connection: psycopg.Connection, scene: _Scene, journal: Journal) -> PurgePlan:
    """Plan one purge.

    Raises:
        PreconditionFailed: Nothing of the case may go.
    """
    case = journal.case
    state = judge_case(journal, scene.databases, scene.server)
    target = find_target(journal, state, _names_in_use(platform, scene.journals))
    sessions = sum(one.count for one in read_sessions(connection, target.name))
    findings = [*_judge_copies(platform, scene, journal)]
    if state.standing is Standing.SUPERSEDED and scene.unread:
        message = f"Which database was exchanged last is not known: {scene.unread[0].message}"
        findings.append(Finding(name="journals", verdict=Verdict.ALERT, message=message, hint=scene.unread[0].hint))
    if sessions:
        message = f"{sessions} sessions are in {target.name}; they will be cut."
        findings.append(Finding(name="sessions", verdict=Verdict.WARN, message=message, hint="Who still looks at it?"))
    return PurgePlan(platform.name, case.case_id, state, target, journal.settled_at, sessions, tuple(findings))


def _names_in_use(platform: Platform, journals: Sequence[Journal]) -> frozenset[str]:
    """Names under which a database is somebody's live one, in whatever case."""
    lives = (one.case.live for one in journals)
    return frozenset((*platform.database.names, platform.database.maintenance_name, *lives))


def find_target(journal: Journal, state: CaseState, in_use: frozenset[str]) -> NamedDatabase:
    """What goes: a database of the case that has not the live name, and is called exactly as the journal calls it.

    Whoever renamed it, since then it is that one's: a number alone is no reason to drop anything.

    Args:
        journal: Of the case.
        state: As it stands.
        in_use: Names of which none ever goes.

    Raises:
        PreconditionFailed: There is none, or the case has not come to an end.
    """
    case = journal.case
    if state.standing not in _MAY_GO:
        raise PreconditionFailed(
            f"Nothing of the case {case.case_id} may go: {state.standing}.",
            hint=state.advice or "See how the cases stand: keepwell restore status.",
        )
    idle = [one for one in (state.former, state.restored) if one is not None and one != state.live]
    if state.live is None or not idle:
        raise PreconditionFailed(
            f"Of the case {case.case_id} there is one database only, and it stays.",
            hint="See how the cases stand: keepwell restore status.",
        )
    for one in idle:
        ours = {case.replaced} if one == state.former else journal.restored_names
        if one.name in ours and one.name not in in_use:
            return one
    raise PreconditionFailed(
        f"{idle[0].name} is not what the case {case.case_id} called it; it is in use under that name, and stays.",
        hint="Look who renamed it, or which other restore did: keepwell restore status.",
    )


def _judge_copies(platform: Platform, scene: _Scene, journal: Journal) -> Iterator[Finding]:
    """Whether what is live now is in a proven set: else what goes would leave one copy of everything."""
    case, level = journal.case, platform.backup.proven_level
    others = [one for one in scene.journals if one.exchanged and one.case.live == case.live]
    # The journal's times are this machine's, those of the sets the server's.
    exchanged_at = max(one.settled_at for one in (journal, *others)) + scene.ahead
    newer = [
        one.backup_id
        for one in scene.sets
        if one.is_proven(level) and one.manifest is not None
        for database in one.manifest.databases
        if live_name(platform, database) == case.live and database.snapshot_at >= exchanged_at
    ]
    if newer:
        message = f"What is live now is in the proven set {max(newer)}."
        yield Finding(name="copies", verdict=Verdict.OK, message=message)
        return
    yield Finding(
        name="copies",
        verdict=Verdict.ALERT,
        message=(
            f"No proven set is from after {exchanged_at:%Y-%m-%d %H:%M:%S} UTC and holds {case.live}: then the names"
            " were exchanged last."
        ),
        hint="Make one first, so that the live database is not the only copy: keepwell backup create.",
    )


def _drop(platform: Platform, target: NamedDatabase, *, cuts_sessions: bool) -> None:
    """Drop it; where the connection went in the very moment, look whether it is done."""
    try:
        with connect_beside(platform) as connection:
            drop_database(connection, target.oid, target.name, cuts_sessions=cuts_sessions)
    except KeepwellError:
        with connect_beside(platform) as connection:
            if any(one.oid == target.oid for one in read_databases(connection)):
                raise


def _leave_evidence(store: Store, plan: PurgePlan, why: str, found: Sequence[Finding], now: datetime) -> Kept:
    findings = (*plan.findings, *found, Finding(name="approval", verdict=Verdict.OK, message=why))
    freed = describe_bytes(plan.target.size_bytes)
    return keep_evidence(
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
