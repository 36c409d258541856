"""What every case has come to, by the journals in the bucket and by the databases' names: either tells by itself."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from keepwell.errors import KeepwellError
from keepwell.interlock import Procedure
from keepwell.objectstore.lease import read_leases
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import open_locks
from keepwell.postgres.databases import NamedDatabase, read_databases, read_server_id
from keepwell.restore.journal import Journal, RestoreCase, read_case_ids, read_journal
from keepwell.restore.standing import CaseState, judge_case
from keepwell.restore.swap import connect_beside
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst

_AS_OURS = re.compile(r"_(restored|replaced|undone)_\d{8}T\d{6}Z$")


@dataclass(frozen=True)
class Case:
    """One case and how it stands.

    Attributes:
        case: As it was approved.
        state: None where the server does not answer.
        last_step: The newest of its journal; empty where there is none.
        message: What that step says.
    """

    case: RestoreCase
    state: CaseState | None
    last_step: str
    message: str


@dataclass(frozen=True)
class RestoreStatus:
    """All cases, the newest first, and what is found beside them.

    Attributes:
        cases: Empty where the bucket does not answer.
        findings: What is wrong or unknown, each with what to do.
    """

    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst finding's."""
        return worst([Verdict.OK, *(finding.verdict for finding in self.findings)])


def read_status(platform: Platform, store: Store) -> RestoreStatus:
    """Look at the bucket and at the server; nothing is changed, and what does not answer is a finding.

    Args:
        platform: Whose cases.
        store: Its folder in the bucket.
    """
    findings: list[Finding] = []
    databases: tuple[NamedDatabase, ...] | None = None
    server = ""
    at_work: bool | None = None
    try:
        with open_locks(platform.database, platform.name, "status") as locks:
            at_work = any(holder.procedure is Procedure.SWAP for holder in locks.holders())
        with connect_beside(platform) as connection:
            server = read_server_id(connection)
            databases = read_databases(connection)
    except KeepwellError as error:
        message = f"How the databases are called now is not known: {error.message}"
        findings.append(_finding("server", Verdict.UNKNOWN, message, error.hint))
    journals = []
    try:
        journals = list(_read_journals(store, findings))
        # The lease of a run that was killed lasts for a minute; the server's locks know at once.
        at_work = _is_leased(store) if at_work is None else at_work
    except KeepwellError as error:
        message = f"What was begun is not known, since the bucket does not answer: {error.message}"
        findings.append(_finding("journals", Verdict.UNKNOWN, message, error.hint))
    cases = tuple(_describe(journal, databases, server) for journal in journals)
    findings += judge_cases(cases, at_work=bool(at_work))
    if databases is not None:
        findings += judge_databases(platform, databases, cases, at_work=bool(at_work))
    return RestoreStatus(cases, tuple(findings))


def judge_cases(cases: Sequence[Case], *, at_work: bool) -> Iterator[Finding]:
    """What is to be done about each case.

    Args:
        cases: The newest first.
        at_work: Whether a swap is at work now: then what is half done is no fault yet.
    """
    for one in cases:
        if one.state is None or one.state.verdict is Verdict.OK:
            continue
        name, message = f"case {one.case.case_id}", f"{one.state.standing.capitalize()}."
        if at_work:
            yield _finding(name, Verdict.UNKNOWN, f"{message} A swap is at work now.", "Look again when it has ended.")
        else:
            yield _finding(name, one.state.verdict, message, one.state.advice)


def judge_databases(
    platform: Platform, databases: Sequence[NamedDatabase], cases: Sequence[Case], *, at_work: bool
) -> Iterator[Finding]:
    """What the names tell beside the journals: a live database that is shut or missing, and copies of no known case."""
    states = [one.state for one in cases if one.state is not None]
    told = {state.live.name for state in states if state.live is not None and state.verdict is Verdict.ALERT}
    known = {one.oid for state in states for one in (state.former, state.restored) if one is not None}
    by_name = {one.name: one for one in databases}
    for name in platform.database.names:
        live = by_name.get(name)
        if live is None:
            yield _finding(
                "live database",
                Verdict.ALERT,
                f"There is no database {name}.",
                "Restore it: keepwell restore plan --swap.",
            )
        elif not live.open and name not in told and not at_work:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)).as_string(None)
            place = platform.database.maintenance_name
            yield _finding(
                "live database",
                Verdict.ALERT,
                f"Nobody is let into {name}, and no journal here says why.",
                f"Open it as it is, in the database {place}: {statement}",
            )
        for one in databases:
            if one.oid not in known and one.name.startswith(f"{name}_") and _AS_OURS.search(one.name):
                yield _finding(
                    "copy",
                    Verdict.WARN,
                    f"{one.name} looks like a copy of ours, and no journal here knows it.",
                    "Look at it, and drop it by hand when nobody needs it.",
                )


def _read_journals(store: Store, findings: list[Finding]) -> Iterator[Journal]:
    """Every case that can be read; one that cannot is told."""
    for case_id in read_case_ids(store):
        try:
            yield read_journal(store, case_id)
        except KeepwellError as error:
            findings.append(_finding(f"case {case_id}", Verdict.UNKNOWN, error.message, error.hint))


def _is_leased(store: Store) -> bool:
    return any(lease.procedure == Procedure.SWAP for lease in read_leases(store, store.read_clock()))


def _describe(journal: Journal, databases: Sequence[NamedDatabase] | None, server: str) -> Case:
    state = judge_case(journal, databases, server) if databases is not None else None
    last = journal.steps[-1] if journal.steps else None
    return Case(journal.case, state, last.step.value if last else "", last.message if last else "")


def _finding(name: str, verdict: Verdict, message: str, hint: str = "") -> Finding:
    return Finding(name=name, verdict=verdict, message=message, hint=hint)
