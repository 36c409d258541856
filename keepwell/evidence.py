"""Evidence: what a run of the guide's items found, kept in the bucket so that it outlives the orchestrator.

evidence/<item>/<UTC time>-<random>.json, one copy for each item that the run answers.
"""

import secrets
from collections.abc import Iterator
from datetime import UTC
from typing import Annotated, Literal, Protocol

from pydantic import AwareDatetime, Field

from keepwell.document import Document
from keepwell.errors import VerificationFailed
from keepwell.verdict import Finding, Verdict

EVIDENCE = "evidence/"

ItemId = Annotated[str, Field(pattern=r"^[A-Z]+-[1-9][0-9]*$")]


class Evidence(Document):
    """What one run found out about one or more items of the guide."""

    format_version: Literal[1] = 1
    items: tuple[ItemId, ...] = Field(min_length=1, description="Items of the guide that this answers.")
    platform: str
    verdict: Verdict
    summary: str = Field(description="What was found, one sentence.")
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, float | str | None] = Field(
        default_factory=dict, description="What was measured, by name with its unit; null where it is not known."
    )
    started_at: AwareDatetime
    finished_at: AwareDatetime
    flow_run: str | None = Field(default=None, description="Id of the orchestrator's run; null without one.")
    bad_since: AwareDatetime | None = Field(default=None, description="When the present bad state was first seen.")
    told_at: AwareDatetime | None = Field(default=None, description="When people were last told of that state.")


class Named(Protocol):
    """An object as the store lists it."""

    @property
    def key(self) -> str:
        """Its key in the platform's folder."""


class EvidenceStore(Protocol):
    """What evidence needs of a store; adapters lie above this file."""

    def put_bytes(self, relative: str, content: bytes) -> None:
        """Write one object whole."""

    def get_bytes(self, relative: str) -> bytes:
        """Read one object whole."""

    def list_objects(self, folder: str) -> Iterator[Named]:
        """Every object below a folder, in the order of their keys."""


def write_evidence(store: EvidenceStore, evidence: Evidence) -> tuple[str, ...]:
    """Keep a document under each of its items.

    Returns:
        The keys, in the order of the items.

    Raises:
        KeepwellError: The store did not take it.
    """
    content = evidence.to_json()
    # To the microsecond, because "the last one" is the one whose name sorts last.
    name = f"{evidence.finished_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}.json"
    keys = tuple(f"{EVIDENCE}{item}/{name}" for item in evidence.items)
    for key in keys:
        store.put_bytes(key, content)
    return keys


def read_last_evidence(store: EvidenceStore, item: str) -> Evidence | None:
    """The newest document of an item that can be read; a damaged one counts as none.

    Args:
        store: The platform's folder in its bucket.
        item: Id of the guide's item.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    names = [stored.key for stored in store.list_objects(f"{EVIDENCE}{item}/")]
    for key in reversed(names):
        try:
            return Evidence.from_json(store.get_bytes(key))
        except VerificationFailed:
            continue
    return None
