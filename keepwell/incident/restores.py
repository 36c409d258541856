"""What was restored since a case was opened, by the restores' own journals: by this run, an earlier one, or by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from keepwell.errors import KeepwellError
from keepwell.incident.documents import Case, Entry, Kind, Observation, Step, StepOutcome
from keepwell.incident.journal import Incident, append, shorten, write_step
from keepwell.objectstore.store import Store
from keepwell.restore.journal import Journal, RestoreCase, StepName, read_case_ids, read_journal
from keepwell.restore.plan import Mode
from keepwell.restore.standing import Standing
from keepwell.restore.status import read_status
from keepwell.settings import Platform
from keepwell.verdict import Verdict

_BAD_STEPS = {StepName.FAILED, StepName.NOT_SERVING}
_BACK_STEPS = {StepName.SWAPPED_BACK, StepName.UNDONE}
# Begun, and not at its end: it is gone on with, and no other one begun beside it.
_TO_GO_ON = {Standing.NOT_RESTORED, Standing.FENCED, Standing.SHUT, Standing.SWAPPED}


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
    """

    restore_case: str | None = None
    is_done: bool = False
    backup_id: str = ""
    snapshot_at: datetime | None = None
    begun_at: datetime | None = None
    approved: str = ""

    @property
    def numbers(self) -> dict[str, float | str | None]:
        """What the journal of the case keeps of it: what was written between the snapshot and the restore is lost."""
        lost = None
        if self.snapshot_at is not None and self.begun_at is not None:
            lost = (self.begun_at - self.snapshot_at).total_seconds()
        return {"rpo_seconds": lost, "backup_id": self.backup_id or None, "restore_case": self.restore_case}


def find_restore(platform: Platform, store: Store, *, since: datetime, mode: Mode) -> RestoreSoFar:
    """The newest restore that was begun since a time and still counts.

    One that went back does not, nor does one that failed before it changed anything.

    Args:
        platform: Whose.
        store: Its folder in the bucket.
        since: Aware; when the case was opened.
        mode: How it restores.

    Raises:
        KeepwellError: The store does not answer.
    """
    for one in read_status(platform, store).cases:
        if one.case.begun_at < since or one.case.mode is not mode or one.state is None:
            continue
        standing = one.state.standing
        beside = standing is Standing.BESIDE
        if standing is Standing.SERVING or (beside and mode is Mode.BESIDE):
            return _describe(one.case, is_done=True)
        if beside or standing in _TO_GO_ON:
            return _describe(one.case, is_done=False)
    return RestoreSoFar()


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
        The entry of the step.

    Raises:
        KeepwellError: The store did not take it.
    """
    case_id = incident.case.case_id
    if found.approved:
        told = shorten(f"The restore {found.restore_case} of {found.backup_id} was {found.approved}")
        append(store, Entry(case_id=case_id, kind=Kind.DECISION, at=found.begun_at or now, message=told))
    return write_step(
        store,
        case_id,
        Step.RESTORE,
        StepOutcome.DONE,
        said,
        now=now,
        by=by,
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


def _describe(case: RestoreCase, *, is_done: bool) -> RestoreSoFar:
    return RestoreSoFar(
        restore_case=case.case_id,
        is_done=is_done,
        backup_id=case.backup_id,
        snapshot_at=case.snapshot_at,
        begun_at=case.begun_at,
        approved=case.approval.told if case.approval is not None else "",
    )


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
