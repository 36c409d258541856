"""Approval: what somebody agreed to, bound to exactly that, and checked again when it is about to happen.

Read facts → plan → approve → act. What is approved is a `Subject`: it names what matters, and nothing that changes by
itself from one second to the next, so that a plan can be approved a minute later and not once it is another one. The
approver's name is what somebody said of himself; that goes into journals and evidence in these words.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from keepwell.errors import PreconditionFailed, Refused

_DIGEST_SIGNS = 12


def digest_plan(facts: Any) -> str:
    """What stands for a plan where somebody approves it: short enough to be typed.

    Args:
        facts: What is bound, as JSON takes it. Order counts in lists, not in mappings.

    Returns:
        The beginning of the SHA-256 of the facts as canonical JSON.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_SIGNS]


@dataclass(frozen=True)
class Subject:
    """What somebody approves.

    Attributes:
        procedure: Such as `restore` or `undo`.
        platform: Its name.
        binds: What the approval is bound to, such as the set's id, the names, the mode and the class of size.
        typed: The word that the approver has to type: the live database's name.
    """

    procedure: str
    platform: str
    binds: Mapping[str, str]
    typed: str

    @property
    def digest(self) -> str:
        """Another one as soon as anything that is bound is another."""
        return digest_plan([self.procedure, self.platform, dict(self.binds), self.typed])


class Decision(StrEnum):
    """What the person said."""

    APPROVED = "approved"
    REFUSED = "refused"


class Place(StrEnum):
    """Where the person was asked."""

    TERMINAL = "terminal"
    COMMAND_LINE = "command line"
    ORCHESTRATOR = "orchestrator"


class Approval(BaseModel):
    """What a person answered; it is written into journals and evidence as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    decision: Decision = Decision.APPROVED
    approver: str = Field(min_length=1, max_length=100, description="Who; as that person said, nobody checked it.")
    reason: str = Field(min_length=1, max_length=1000, description="Why, in the approver's words.")
    typed: str = Field(description="The word that was typed; the live database's name, if it is to count.")
    digest: str = Field(description="Of the plan that the person was shown.")
    approved_at: AwareDatetime
    given_at: Place

    @field_validator("approver", "reason")
    @classmethod
    def _require_printable(cls, text: str) -> str:
        """It is shown in one line of logs and pages."""
        if not text.isprintable():
            raise ValueError("only printable signs, in one line")
        return text

    @property
    def told(self) -> str:
        """In words, with what its name is worth."""
        return f"{self.decision} by {self.approver} (self-declared) at the {self.given_at}: {self.reason}"


def build_approval(
    *, approver: str, reason: str, typed: str, digest: str, approved_at: datetime, given_at: Place
) -> Approval:
    """An approval from what somebody typed.

    Raises:
        PreconditionFailed: It is malformed: no name, no reason, or signs that cannot be printed.
    """
    try:
        return Approval(
            approver=approver, reason=reason, typed=typed, digest=digest, approved_at=approved_at, given_at=given_at
        )
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise PreconditionFailed(
            f"The approval is malformed, so nothing was changed: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.",
            hint="It needs who approves, why, and the database's name, each in one line.",
        ) from None


def require_approval(subject: Subject, approval: Approval | None) -> Approval:
    """Go on only with an approval of exactly this, by somebody who typed the word; call it right before acting.

    Args:
        subject: What is about to happen, planned just now.
        approval: What somebody answered; None where nobody was asked.

    Returns:
        The approval, for the journal.

    Raises:
        Refused: The person said no.
        PreconditionFailed: There is none, it was given for another plan, or another word was typed.
    """
    again = f"Look at the plan, then approve {subject.digest}."
    if approval is None:
        raise PreconditionFailed(
            f"The {subject.procedure} of {subject.platform} needs an approval, so nothing was changed.", hint=again
        )
    if approval.decision is Decision.REFUSED:
        raise Refused(
            f"The {subject.procedure} of {subject.platform} was {approval.told}. Nothing was changed.",
            hint="Talk to that person before you start it anew.",
        )
    if approval.digest != subject.digest:
        raise PreconditionFailed(
            f"The approval is void: it was given for plan {approval.digest}, and the plan is {subject.digest} by now. "
            "Nothing was changed.",
            hint=again,
        )
    if approval.typed != subject.typed:
        raise PreconditionFailed(
            f"The approval is void: the word that was typed is not {subject.typed}. Nothing was changed.",
            hint=f"Type the name of the live database, as it stands there: {subject.typed}",
        )
    return approval
