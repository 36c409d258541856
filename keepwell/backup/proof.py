"""Proofs: how far a backup set was shown to be good, level by level, and when."""

from collections.abc import Sequence
from typing import Literal, Self, get_args

from pydantic import AwareDatetime, Field, field_validator, model_validator

from keepwell.document import Document
from keepwell.settings import ProofLevel
from keepwell.verdict import Finding, Verdict, worst

LEVELS: tuple[ProofLevel, ...] = get_args(ProofLevel)


class LevelOutcome(Document):
    """One level of one verification.

    `ok` and `warn` pass; `alert` means that the set is wrong; `unknown` that the level could not be judged;
    `not_applicable` that the platform file asks for no such check.
    """

    level: ProofLevel
    verdict: Verdict
    summary: str = Field(description="What was checked, with its numbers.")
    findings: tuple[Finding, ...] = Field(default=(), description="What is wrong or worth knowing, named.")
    seconds: float = Field(ge=0)

    @property
    def passed(self) -> bool:
        """Whether the next level may be tried."""
        return self.verdict in (Verdict.OK, Verdict.WARN)


class Proof(Document):
    """One verification of one set, read back from the store."""

    format_version: Literal[1, 2] = 2
    backup_id: str
    manifest_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the manifest, as it was stored, that the set was compared with; None before version 2.",
    )
    stored_as: str | None = Field(
        default=None, description="Its name among its set's proofs; under another name it proves nothing."
    )
    started_at: AwareDatetime
    finished_at: AwareDatetime
    levels: tuple[LevelOutcome, ...] = Field(description="In order, up to the first that did not pass.")
    server: str | None = Field(description="What the set was restored on; None when it did not come to that.")
    same_major: bool | None = Field(description="Whether that server has the source's major version.")
    isolation: str | None = Field(description="How that server was kept apart.")
    restore_seconds: float | None = Field(description="From the first byte read to the last level: a measured RTO.")

    @field_validator("levels")
    @classmethod
    def _in_order(cls, levels: tuple[LevelOutcome, ...]) -> tuple[LevelOutcome, ...]:
        reached_level(levels)
        return levels

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if (self.manifest_sha256 is None) != (self.format_version == 1):
            message = "a proof names its manifest's SHA-256, from format version 2 on"
            raise ValueError(message)
        return self

    def is_of(self, backup_id: str, manifest_sha256: str) -> bool:
        """Whether it speaks of this set, with this very manifest as far as it tells."""
        return self.backup_id == backup_id and self.manifest_sha256 in (None, manifest_sha256)

    def is_at_its_place(self, name: str) -> bool:
        """Whether it lies where it was put, as far as it tells: an old good proof must not be laid before a bad one.

        Args:
            name: Under which it was found among its set's proofs.
        """
        return self.stored_as in (None, name)

    @property
    def reached(self) -> ProofLevel | None:
        """The highest level passed without a gap."""
        return reached_level(self.levels)

    @property
    def verdict(self) -> Verdict:
        """Alert when damage was found, unknown when a level could not be judged, else the worst of the levels."""
        return worst(outcome.verdict for outcome in self.levels)

    @property
    def damaged(self) -> bool:
        """Whether a level found the set itself wrong; the application's own questions do not judge the data."""
        return any(outcome.verdict is Verdict.ALERT for outcome in self.levels if outcome.level != "serving")

    def proves(self, wanted: ProofLevel) -> bool:
        """Whether this verification makes its set count as a backup."""
        return not self.damaged and reaches(self.reached, wanted)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything named by any level."""
        return tuple(finding for outcome in self.levels for finding in outcome.findings)


def reached_level(outcomes: Sequence[LevelOutcome]) -> ProofLevel | None:
    """The highest level passed without a gap; None when not even the first was.

    Raises:
        ValueError: The outcomes are not a beginning of the ladder, in order.
    """
    if tuple(outcome.level for outcome in outcomes) != LEVELS[: len(outcomes)]:
        message = "the levels of a proof are not in order"
        raise ValueError(message)
    reached: ProofLevel | None = None
    for outcome in outcomes:
        if not outcome.passed:
            return reached
        reached = outcome.level
    return reached


def reaches(reached: ProofLevel | None, wanted: ProofLevel) -> bool:
    """Whether one level is at least another."""
    return reached is not None and LEVELS.index(reached) >= LEVELS.index(wanted)
