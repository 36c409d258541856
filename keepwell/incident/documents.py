"""What a case is made of, in the platform's folder of the bucket.

incidents/<case id>/case.json            what it is about, written first and never changed
incidents/<case id>/entries/<time>…      one document for each thing that was seen, done, decided or told
incidents/<case id>/post-mortem.md       rendered from the entries, written anew whenever somebody asks for it

Entries are only ever added, so two people can write at once and a killed run leaves whole documents behind.
"""

import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from keepwell.document import Document
from keepwell.settings import PLATFORM_NAME
from keepwell.verdict import Verdict

INCIDENTS = "incidents/"
CASE_FILE = "case.json"
ENTRIES = "entries/"
POST_MORTEM = "post-mortem.md"
LONGEST_TEXT = 2000
_CASE_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")

CaseId = Annotated[str, Field(pattern=f"^{_CASE_ID.pattern}$")]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class Step(StrEnum):
    """The guide's steps, in its order; telling people is done at the beginning and at the end."""

    IDENTIFY = "identify"
    COMMUNICATE = "communicate"
    RESTORE = "restore"
    VERIFY = "verify"
    RESOLVE = "resolve"
    POST_MORTEM = "post-mortem"


class StepOutcome(StrEnum):
    """What became of a step; one that failed, or was begun and never ended, may be tried again."""

    BEGUN = "begun"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Kind(StrEnum):
    """What an entry tells."""

    STEP = "step"
    EVIDENCE = "evidence"
    NOTE = "note"
    DECISION = "decision"
    ACTION = "action"
    UPDATE = "update"
    REMINDER = "reminder"


class Observation(BaseModel):
    """One thing that a source told: a state as it was found, or something that happened earlier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime = Field(description="When it was so.")
    source: str = Field(description="Who told it, such as `database`.")
    verdict: Verdict
    message: str = Field(description="What was found, one sentence.")
    hint: str = Field(default="", description="What to do about it; empty where nothing is to be done.")


class Case(Document):
    """What an incident is about, as it was known when it was opened."""

    format_version: Literal[1] = 1
    case_id: CaseId
    platform: str = Field(pattern=PLATFORM_NAME)
    title: Annotated[str, Field(min_length=1, max_length=200)]
    impact: Text = Field(default="", description="What people notice of it.")
    since: AwareDatetime = Field(description="Since when it has been so; the opening where nobody knows better.")
    opened_at: AwareDatetime
    drill: bool = Field(default=False, description="An exercise: whatever is told says so.")
    flow_run: str | None = Field(default=None, description="Id of the orchestrator's run that opened it.")


class Entry(Document):
    """One thing that was seen, done, decided or told in a case."""

    format_version: Literal[1] = 1
    case_id: CaseId
    kind: Kind
    at: AwareDatetime = Field(description="When it happened.")
    verdict: Verdict = Verdict.OK
    message: Text = Field(description="What happened.")
    step: Step | None = Field(default=None, description="Of an entry about a step.")
    outcome: StepOutcome | None = Field(default=None, description="What became of that step.")
    by: str | None = Field(default=None, max_length=200, description="Who did it, by their own account.")
    observations: tuple[Observation, ...] = Field(default=(), description="Of `evidence`.")
    next_update_at: AwareDatetime | None = Field(default=None, description="Of `update`: when people hear again.")
    published: Text = Field(default="", description="Of `update`: the text for the status page.")
    numbers: dict[str, float | str | None] = Field(
        default_factory=dict, description="What was measured, by name with its unit; null where it is not known."
    )


def new_case_id(now: datetime) -> str:
    """UTC time, so that cases sort by age, and a random end, so that two never meet."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_case_id(text: str) -> bool:
    """Whether a text has the form of a case's id."""
    return _CASE_ID.fullmatch(text) is not None


def case_folder(case_id: str) -> str:
    """Folder of one case."""
    return f"{INCIDENTS}{case_id}/"


def new_entry_key(case_id: str, now: datetime) -> str:
    """Where an entry goes: names sort in the order in which they were written."""
    return f"{case_folder(case_id)}{ENTRIES}{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}.json"
