"""What is kept of a restored part in the bucket: what came of it, who approved it, and whether a proof was waived."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keepwell.approval import Approval
from keepwell.backup.catalogue import read_entry
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.evidence import Evidence
from keepwell.objectstore.store import Store
from keepwell.restore.apply import ITEM, keep_evidence
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict, worst


@dataclass
class PartTold:
    """What whoever restores a part says of it, for its evidence.

    Attributes:
        summary: What was restored where, one sentence; what was tried until then.
        findings: What was found.
        numbers: What was counted.
        approval: Where one was asked for.
        restores: Whether the set is restored, and not what was restored taken away.
        began_at: When it began.
    """

    summary: str
    findings: Sequence[Finding] = ()
    numbers: dict[str, float | str | None] = field(default_factory=dict)
    approval: Approval | None = None
    restores: bool = True
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@contextmanager
def kept_in_evidence(
    platform: Platform,
    store: Store,
    backup_id: str,
    trying: str,
    approval: Approval | None = None,
    *,
    restores: bool = True,
) -> Iterator[PartTold]:
    """Keep what a block restores, and that it failed; a block that refuses before it begins leaves nothing.

    Args:
        platform: Whose.
        store: Its folder in the bucket; where it takes nothing, nothing is kept.
        backup_id: Of the set.
        trying: What the block tries, for one that fails.
        approval: Where one was asked for.
        restores: Whether the set is restored, and not what was restored taken away.
    """
    told = PartTold(trying, approval=approval, restores=restores)
    try:
        yield told
    except PreconditionFailed:
        raise
    except KeepwellError as error:
        failed = Finding(name="restore", verdict=Verdict.ALERT, message=error.message, hint=error.hint)
        told.summary, told.findings = f"{trying}, which failed.", (*told.findings, failed)
        _keep(platform, store, backup_id, told)
        raise
    _keep(platform, store, backup_id, told)


def _keep(platform: Platform, store: Store, backup_id: str, told: PartTold) -> None:
    findings = list(told.findings)
    if told.restores:
        findings += _tell_waived(platform, store, backup_id)
    if told.approval is not None:
        findings.append(Finding(name="approval", verdict=Verdict.OK, message=told.approval.told))
    keep_evidence(
        store,
        Evidence(
            items=(ITEM,),
            platform=platform.name,
            verdict=worst([Verdict.OK, *(finding.verdict for finding in findings)]),
            summary=told.summary,
            findings=tuple(findings),
            numbers={"backup_id": backup_id, **told.numbers},
            started_at=told.began_at,
            finished_at=datetime.now(UTC),
        ),
    )


def _tell_waived(platform: Platform, store: Store, backup_id: str) -> Iterator[Finding]:
    """That a set without a proof was taken; what was restored stands, so a store that is gone by now is no error."""
    with suppress(KeepwellError):
        entry = read_entry(store, backup_id)
        if not entry.is_proven(platform.backup.proven_level):
            message = f"{backup_id} is not proven (level reached: {entry.level or 'none'}), and was taken all the same."
            yield Finding(name="proof", verdict=Verdict.WARN, message=message)
