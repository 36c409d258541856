"""What was restored since a case was opened, by the restores' own journals: by this run, an earlier one, or by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable, VerificationFailed
from keepwell.evidence import EVIDENCE, Evidence
from keepwell.incident.documents import Case, Entry, Kind, Observation, Step, StepOutcome
from keepwell.incident.journal import Incident, append, shorten, write_step
from keepwell.objectstore.store import Store
from keepwell.restore.apply import ITEM
from keepwell.restore.choice import NEWEST, Choice, choose_set
from keepwell.restore.journal import Journal, RestoreCase, StepName, new_case_id, read_case_ids, read_journal
from keepwell.restore.plan import Mode
from keepwell.restore.standing import CaseState, Standing
from keepwell.restore.status import Case as Known
from keepwell.restore.status import read_status
from keepwell.settings import Platform
from keepwell.verdict import Verdict

_BAD_STEPS = {StepName.FAILED, StepName.NOT_SERVING}
_BACK_STEPS = {StepName.SWAPPED_BACK, StepName.UNDONE}
# The live database is shut, or is the restored one already: no other restore is begun over that.
_HALF_WAY = {Standing.FENCED, Standing.SHUT, Standing.SWAPPED}
_DAMAGED_HINT = (
    "Look: keepwell restore status. Then say what was done: keepwell incident done restore HOW, or skip restore."
)
# Where a restore is not called good.
BAD = (Verdict.ALERT, Verdict.UNKNOWN)


@dataclass(frozen=True)
class RestoreSoFar:
    """What a case's restore has come to.

    Attributes:
        restore_case: Id of the restore; None where none was begun that still counts.
        is_done: Whether nothing is left to do for it.
        backup_id: What was restored; empty without one.
        snapshot_at: The moment that came back; None without one.
        begun_at: When it was begun; None without one.
        approved: Who approved it, in words; empty where nobody had to, or without one.
        fenced_at: When the live database was last shut for it; None where it was not, or without one.
        verdict: Of the evidence that it left; unknown where it left none.
        fault: What that says is wrong, or that there is none; empty where all is well, or it is not done.
    """

    restore_case: str | None = None
    is_done: bool = False
    backup_id: str = ""
    snapshot_at: datetime | None = None
    begun_at: datetime | None = None
    approved: str = ""
    fenced_at: datetime | None = None
    verdict: Verdict = Verdict.OK
    fault: str = ""

    @property
    def numbers(self) -> dict[str, float | str | None]:
        """What the journal of the case keeps of it: what was written between the snapshot and the fence is lost."""
        lost = None
        if self.snapshot_at is not None and self.fenced_at is not None:
            lost = (self.fenced_at - self.snapshot_at).total_seconds()
        return {"rpo_seconds": lost, "backup_id": self.backup_id or None, "restore_case": self.restore_case}


def find_restore(platform: Platform, store: Store, incident: Incident, choice: Choice) -> RestoreSoFar:
    """The restore that counts for a case: one that is done, or one that the case began and that is gone on with.

    One that went back does not count, nor does one that failed before it changed anything, nor one of another database.
    What was begun by somebody else, or of another set, is left as it is: a new one is planned and approved beside it.

    Args:
        platform: Whose.
        store: Its folder in the bucket.
        incident: The case.
        choice: Which set is wanted.

    Raises:
        PreconditionFailed: The live database is another set's by now or half way to it, or it is not clear which set is
            wanted; nothing was changed.
        VerificationFailed: A restore's journal is damaged.
        ServiceUnavailable: What was restored cannot be told, since the store or the server does not answer.
    """
    ours = {entry.numbers.get("restore_case") for entry in incident.entries if entry.step is Step.RESTORE}
    for one, state in _read_cases(platform, store, incident):
        if _is_done(one.case, state):
            if _is_meant(one.case, choice):
                return _describe(store, one.case, is_done=True)
            if one.case.mode is Mode.SWAP:
                _refuse(one.case, state, f"and {_name(choice)} is asked for")
        elif _is_begun(state):
            is_ours = one.case.case_id in ours
            if is_ours and one.case.backup_id == choose_set(store, choice, platform.backup.proven_level).backup_id:
                return _describe(store, one.case, is_done=False)
            if is_ours and choice.which == NEWEST:
                _refuse(one.case, state, "and is not the newest proven set any more", f"which={one.case.backup_id}")
            if state.standing in _HALF_WAY:
                _refuse(
                    one.case,
                    state,
                    f"and {_name(choice)} is asked for" if is_ours else "and this case did not begin it",
                )
    return RestoreSoFar()


def find_done_restore(platform: Platform, store: Store, incident: Incident) -> RestoreSoFar:
    """The newest restore that is done since a case was opened, of whichever set: a person says that it counts.

    Raises:
        VerificationFailed: A restore's journal is damaged.
        ServiceUnavailable: What was restored cannot be told, since the store or the server does not answer.
    """
    done = (one.case for one, state in _read_cases(platform, store, incident) if _is_done(one.case, state))
    return next((_describe(store, case, is_done=True) for case in done), RestoreSoFar())


def begin_restore(store: Store, incident: Incident, backup_id: str, restore_case: str | None, *, now: datetime) -> str:
    """Write down which restore begins, before it does: by its id the case knows it again as its own.

    Args:
        store: The platform's folder in its bucket.
        incident: The case.
        backup_id: What is restored.
        restore_case: Of a restore that goes on; None for a new one.
        now: Aware.

    Returns:
        Id of the restore.

    Raises:
        KeepwellError: The store did not take it.
    """
    begun = restore_case or new_case_id(now)
    numbers: dict[str, float | str | None] = {"restore_case": begun, "backup_id": backup_id}
    write_step(store, incident.case.case_id, Step.RESTORE, StepOutcome.BEGUN, "", now=now, numbers=numbers)
    return begun


def mode_of(case: Case) -> Mode:
    """How a case restores: an exercise touches nothing that is live."""
    return Mode.BESIDE if case.drill else Mode.SWAP


def record_restore(
    store: Store, incident: Incident, found: RestoreSoFar, said: str, *, now: datetime, by: str | None = None
) -> Entry:
    """Write down what was restored, who approved it, and what is lost by it, as the restore's own journal has it.

    Args:
        store: The platform's folder in its bucket.
        incident: Which case.
        found: From `find_restore`; one without a restore leaves the numbers unknown.
        said: How it was done.
        now: Aware.
        by: Who says so, by their own account; None for a run.

    Returns:
        The entry of the step; its verdict is the restore's.

    Raises:
        KeepwellError: The store did not take it.
    """
    case_id = incident.case.case_id
    if found.approved:
        told = shorten(f"The restore {found.restore_case} of {found.backup_id} was {found.approved}")
        decision = Entry(case_id=case_id, kind=Kind.DECISION, at=found.begun_at or now, message=told)
        # Tried again, it is there already.
        if all((one.kind, one.message) != (decision.kind, told) for one in incident.entries):
            append(store, decision)
    return write_step(
        store,
        case_id,
        Step.RESTORE,
        StepOutcome.DONE,
        shorten(f"{said} {found.fault}"),
        now=now,
        by=by,
        verdict=found.verdict,
        numbers=found.numbers if found.is_done else {},
    )


def observe_restores(store: Store, now: datetime, *, within: timedelta) -> Iterator[Observation]:
    """Every step of every restore that was begun within a time, as events.

    Args:
        store: The platform's folder in its bucket.
        now: Aware.
        within: How far back.

    Raises:
        KeepwellError: The store does not answer.
    """
    found = False
    for case_id in read_case_ids(store):
        try:
            journal = read_journal(store, case_id)
        except KeepwellError as error:
            yield Observation(
                at=now, source="restores", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint
            )
            continue
        if now - journal.case.begun_at > within:
            break
        found = True
        yield from _events_of(journal)
    if not found:
        yield Observation(
            at=now,
            source="restores",
            verdict=Verdict.OK,
            message=f"Nothing was restored in the last {within.days} days.",
        )


def _read_cases(platform: Platform, store: Store, incident: Incident) -> Iterator[tuple[Known, CaseState]]:
    """Restores of the main database that were begun since the case was opened, as it restores; the newest first.

    Raises:
        VerificationFailed: One of them is damaged.
        ServiceUnavailable: The store does not answer, or there are some and the server does not answer.
    """
    since, mode = incident.case.opened_at, mode_of(incident.case)
    status = read_status(platform, store)
    known = {one.case.case_id for one in status.cases}
    unknown = {one.name: one for one in status.findings if one.verdict is Verdict.UNKNOWN}
    if "journals" in unknown:
        raise ServiceUnavailable(unknown["journals"].message, hint=unknown["journals"].hint)
    for name, finding in unknown.items():
        case_id = name.removeprefix("case ")
        # Its name tells when it was begun, to the second.
        if name != case_id and case_id not in known and case_id >= f"{since.astimezone(UTC):%Y%m%dT%H%M%SZ}":
            raise VerificationFailed(f"What was restored is not known: {finding.message}", hint=_DAMAGED_HINT)
    for one in status.cases:
        if one.case.begun_at < since or one.case.mode is not mode or one.case.live != platform.database.name:
            continue
        if one.state is None:
            said = unknown["server"].message if "server" in unknown else "The server does not answer."
            raise ServiceUnavailable(
                f"What became of the restore {one.case.case_id} is not known: {said}", hint="keepwell restore status"
            )
        yield one, one.state


def _is_done(case: RestoreCase, state: CaseState) -> bool:
    return state.standing is (Standing.SERVING if case.mode is Mode.SWAP else Standing.BESIDE)


def _is_begun(state: CaseState) -> bool:
    """Whether something of it is there that could be gone on with."""
    return state.standing in _HALF_WAY or state.standing in (Standing.NOT_RESTORED, Standing.BESIDE)


def _is_meant(case: RestoreCase, choice: Choice) -> bool:
    """Whether what is done is what is asked for; the newest set of then, where the newest is."""
    in_time = choice.before is None or case.snapshot_at <= choice.before
    return in_time and choice.which in (NEWEST, case.backup_id)


def _name(choice: Choice) -> str:
    return choice.which if choice.before is None else f"the newest set of before {choice.before:%Y-%m-%d %H:%M %Z}"


def _refuse(case: RestoreCase, state: CaseState, why: str, parameter: str = "") -> NoReturn:
    go_on = f" To go on with it in this case: {parameter}." if parameter else ""
    raise PreconditionFailed(
        f"The restore {case.case_id} is {state.standing}, of {case.backup_id}, {why}. Nothing was changed.",
        hint=f"{state.advice or 'Look: keepwell restore status.'}{go_on}",
    )


def _describe(store: Store, case: RestoreCase, *, is_done: bool) -> RestoreSoFar:
    verdict, fault = _judge_evidence(store, case) if is_done else (Verdict.OK, "")
    journal = read_journal(store, case.case_id)
    return RestoreSoFar(
        restore_case=case.case_id,
        is_done=is_done,
        backup_id=case.backup_id,
        snapshot_at=case.snapshot_at,
        begun_at=case.begun_at,
        approved=journal.approval.told if journal.approval is not None else "",
        fenced_at=journal.since(StepName.FENCING),
        verdict=verdict,
        fault=fault,
    )


def _judge_evidence(store: Store, case: RestoreCase) -> tuple[Verdict, str]:
    """What a restore's own evidence says of it; that it says nothing is no good news."""
    earliest = f"{EVIDENCE}{ITEM}/{case.begun_at.astimezone(UTC):%Y%m%dT%H%M%S}"
    for key in sorted(
        (one.key for one in store.list_objects(f"{EVIDENCE}{ITEM}/") if one.key >= earliest), reverse=True
    ):
        evidence = Evidence.from_json(store.get_bytes(key))
        if evidence.numbers.get("case") == case.case_id:
            bad = [one.message for one in evidence.findings if one.verdict in BAD]
            is_bad = evidence.verdict in BAD
            return evidence.verdict, " ".join(["But:", *(bad or [evidence.summary])]) if is_bad else ""
    return Verdict.UNKNOWN, "But it left no evidence of how it ended."


def _events_of(journal: Journal) -> Iterator[Observation]:
    case = journal.case
    approved = f"; {case.approval.told}" if case.approval is not None else ""
    where = f"in place of {case.live}" if case.mode is Mode.SWAP else f"beside it, as {case.name}"
    yield Observation(
        at=case.begun_at,
        source="restores",
        verdict=Verdict.WARN,
        message=f"{case.case_id}: the restore of {case.backup_id} began, {where}{approved}",
    )
    for step in journal.steps:
        approved = f"; {step.approval.told}" if step.approval is not None else ""
        said = f": {step.message}" if step.message else ""
        verdict = Verdict.ALERT if step.step in _BAD_STEPS else Verdict.WARN if step.step in _BACK_STEPS else Verdict.OK
        yield Observation(
            at=step.at,
            source="restores",
            verdict=verdict,
            message=f"{case.case_id}: {step.step.value.replace('-', ' ')}{said}{approved}"[:1000],
        )
