"""Verdicts: how one check stands. The worst wins, and unknown is never ok."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Verdict(StrEnum):
    """How one check stands.

    `not_applicable` comes from configuration only, with its reason; `unknown` means that the check could not run,
    which is itself a finding.
    """

    OK = "ok"
    NOT_APPLICABLE = "not_applicable"
    WARN = "warn"
    UNKNOWN = "unknown"
    ALERT = "alert"


# An unknown may hide an alert, so it stands above a warning, which is known to be less than one.
_SEVERITY = {
    Verdict.NOT_APPLICABLE: 0,
    Verdict.OK: 1,
    Verdict.WARN: 2,
    Verdict.UNKNOWN: 3,
    Verdict.ALERT: 4,
}


class Finding(BaseModel):
    """One checked thing: what it is, how it stands, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What was checked, in the glossary's words.")
    verdict: Verdict
    message: str = Field(description="What was found, one sentence.")
    hint: str = Field(default="", description="What to do next; empty when nothing is to be done.")

    def named_for(self, whose: str) -> Self:
        """The same beside findings about others: what was checked and what was found say whose it is."""
        return self.model_copy(update={"name": f"{whose}: {self.name}", "message": f"{whose}: {self.message}"})


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe verdict; `unknown` when there is none, because nothing was checked."""
    return max(verdicts, key=_SEVERITY.__getitem__, default=Verdict.UNKNOWN)
