"""The journal of a restore: what was approved and what was done, each in a document of its own in the bucket.

restores/<case id>/case.json            what is to be done, before anything is
restores/<case id>/0001-<step>.json     one for each step, never changed again

What a case has come to is told by the databases themselves (their numbers and names); the journal says which they are.
So a journal that ends too early, or a store that is down, never leaves anybody without an answer.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from keepwell.approval import Approval
from keepwell.document import Document
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.restore.plan import Mode

RESTORES = "restores/"
_CASE = "case.json"
_CASE_ID = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
_LIST = "List what there is: keepwell restore status."


class StepName(StrEnum):
    """What a step of a case says: what is about to be done, or was."""

    APPROVED = "approved"
    RESTORING = "restoring"
    PROVEN = "proven"
    RESTORED = "restored"
    FENCING = "fencing"
    EXCHANGING = "exchanging"
    EXCHANGED = "exchanged"
    SERVING = "serving"
    NOT_SERVING = "not-serving"
    NOT_ASKED = "not-asked"
    SWAPPED_BACK = "swapped-back"
    UNDOING = "undoing"
    UNDONE = "undone"
    PURGING = "purging"
    PURGED = "purged"
    FAILED = "failed"


_EXCHANGES = (StepName.EXCHANGING, StepName.EXCHANGED, StepName.UNDOING, StepName.UNDONE)


class RestoreCase(Document):
    """One restore as it was approved, written before anything is changed."""

    format_version: Literal[1] = 1
    case_id: str = Field(pattern=_CASE_ID.pattern, description="UTC time, and a random end.")
    platform: str
    mode: Mode
    backup_id: str
    database: str = Field(description="Which of the set's databases.")
    snapshot_at: AwareDatetime = Field(description="The moment that comes back.")
    allow_unproven: bool = Field(description="Whether a set without a proof was asked for.")
    server: str = Field(description="The server's system identifier: on another one the numbers mean others.")
    live: str = Field(description="Name of the live database.")
    live_oid: int | None = Field(description="Number of the database that had it; None where there was none.")
    name: str = Field(description="Name of the new database until it takes the live one's place.")
    replaced: str | None = Field(description="What the live database is called then; None where none is replaced.")
    digest: str = Field(description="Of the plan.")
    approval: Approval | None = Field(description="None where the live name is not touched.")
    begun_at: AwareDatetime


class JournalStep(Document):
    """One step of a case."""

    format_version: Literal[1] = 1
    case_id: str
    number: int = Field(ge=1)
    step: StepName
    at: AwareDatetime
    oid: int | None = Field(default=None, description="Number of the new database, from when it is proven.")
    name: str | None = Field(
        default=None, description="What the restored database is called from then on; or of what is purged."
    )
    approval: Approval | None = Field(default=None, description="Of an undo, a purge, or a case that goes on.")
    message: str = Field(default="", description="What happened, for people.")


@dataclass
class Journal:
    """A case with its steps so far, and more of them as they are done.

    Attributes:
        store: The platform's folder in the bucket.
        case: What is to be done.
        steps: In their order.
        unwritten: Steps that the store did not take; what they tell is done all the same.
    """

    store: Store
    case: RestoreCase
    steps: list[JournalStep] = field(default_factory=list)
    unwritten: list[StepName] = field(default_factory=list)

    def write(
        self,
        step: StepName,
        *,
        required: bool = False,
        oid: int | None = None,
        name: str | None = None,
        approval: Approval | None = None,
        message: str = "",
    ) -> None:
        """Add a step.

        Args:
            step: What is about to be done, or was.
            required: Whether to stop where it cannot be kept; else what is under way goes on.
            oid: The new database's number.
            name: What it is called from then on; or the name of what is purged.
            approval: Of an undo, a purge, or a case that goes on.
            message: For people.

        Raises:
            KeepwellError: The store does not take it, and it is required.
        """
        number = self.steps[-1].number + 1 if self.steps else 1
        written = JournalStep(
            case_id=self.case.case_id,
            number=number,
            step=step,
            at=datetime.now(UTC),
            oid=oid,
            name=name,
            approval=approval,
            message=message,
        )
        self.steps.append(written)
        if not self.store.may_write:
            self.unwritten.append(step)
            return
        try:
            self.store.put_bytes(f"{_folder(self.case.case_id)}{number:04d}-{step.value}.json", written.to_json())
        except KeepwellError:
            if required:
                raise
            self.unwritten.append(step)

    @property
    def restored_oid(self) -> int | None:
        """Number of the restored database; None until one was proven."""
        return next((one.oid for one in reversed(self.steps) if one.oid is not None), None)

    @property
    def approval(self) -> Approval | None:
        """The newest one of the restore itself."""
        later = (one.approval for one in reversed(self.steps) if one.step is StepName.APPROVED)
        return next(later, self.case.approval)

    @property
    def restored_names(self) -> frozenset[str]:
        """What the restored database was ever called by us while it was not live."""
        back = (one.name for one in self.steps if one.step is StepName.UNDOING and one.name is not None)
        return frozenset((self.case.name, *back))

    @property
    def settled_at(self) -> datetime:
        """Since when its names are as they are; when it began, where none was exchanged."""
        return self.since(*_EXCHANGES, StepName.SWAPPED_BACK) or self.case.begun_at

    @property
    def exchanged(self) -> bool:
        """Whether names were exchanged, or about to be."""
        return self.since(*_EXCHANGES) is not None

    @property
    def last(self) -> StepName | None:
        """The newest step."""
        return self.steps[-1].step if self.steps else None

    def since(self, *names: StepName) -> datetime | None:
        """When one of these steps was last written."""
        return next((one.at for one in reversed(self.steps) if one.step in names), None)


def begin_case(store: Store, case: RestoreCase) -> Journal:
    """Write a new case down, before anything of it is done.

    Raises:
        KeepwellError: The store does not take it, or gives it back differently.
    """
    if store.may_write:
        key = _folder(case.case_id) + _CASE
        store.put_bytes(key, case.to_json())
        if store.get_bytes(key) != case.to_json():
            raise VerificationFailed(f"The case {case.case_id} reads back differently.", hint="Look at the store.")
    return Journal(store, case)


def read_journal(store: Store, case_id: str) -> Journal:
    """One case with its steps.

    Raises:
        PreconditionFailed: There is no such case.
        VerificationFailed: A document of it is damaged.
    """
    if _CASE_ID.fullmatch(case_id) is None:
        raise PreconditionFailed(f"{case_id!r} is not the id of a case.", hint=_LIST)
    try:
        case = RestoreCase.from_json(store.get_bytes(_folder(case_id) + _CASE))
    except ObjectMissing:
        raise PreconditionFailed(f"There is no case {case_id}.", hint=_LIST) from None
    return Journal(store, case, list(_read_steps(store, case_id)))


def read_case_ids(store: Store) -> list[str]:
    """Ids of all cases, the newest first.

    Raises:
        KeepwellError: The store cannot be listed.
    """
    return sorted(filter(_CASE_ID.fullmatch, store.list_folders(RESTORES)), reverse=True)


def new_case_id(now: datetime) -> str:
    """UTC time, so that names sort by age, and a random end, so that two runs never meet."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _folder(case_id: str) -> str:
    return f"{RESTORES}{case_id}/"


def _read_steps(store: Store, case_id: str) -> Iterator[JournalStep]:
    for stored in store.list_objects(_folder(case_id)):
        if stored.key.endswith(f"/{_CASE}"):
            continue
        step = JournalStep.from_json(store.get_bytes(stored.key))
        if step.case_id != case_id:
            raise VerificationFailed(f"{stored.key} is a step of {step.case_id}.", hint="Somebody moved it.")
        yield step
