"""Recording what a run found: a document in the bucket that outlives the orchestrator, and a page on the run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.runtime import flow_run

from keepwell.backup.catalogue import BackupEntry, read_catalogue
from keepwell.backup.freshness import build_limits, describe_sets, judge_sizes
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.report import render_backup, render_check, render_second, render_verification
from keepwell.backup.second_copies import SecondCopies
from keepwell.backup.sweep import judge_left_over
from keepwell.destination import Destination
from keepwell.errors import KeepwellError
from keepwell.evidence import Evidence, write_evidence
from keepwell.objectstore.destinations import open_destination
from keepwell.objectstore.store import open_store
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst
from tasks import platforms
from tasks.artifacts import show_markdown
from tasks.redaction import redact
from tasks.retries import MINUTE_SECONDS, step

BACKUP_ITEMS = ("BK-1", "DB-6")
COPY_ITEMS = ("BK-1",)
VERIFICATION_ITEMS = ("MONTHLY-6",)
CHECK_ITEMS = ("DAILY-5", "BK-5")


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record_backup(platform: str, proof: Proof, started_at: datetime, noticed: Sequence[Finding]) -> Evidence:
    """Record what a backup run wrote and proved, beside the sizes of earlier sets.

    Args:
        platform: Its name.
        proof: Of the set that was written.
        started_at: When the run began.
        noticed: What was found before the dump began.

    Returns:
        The document as it was stored.
    """
    loaded = platforms.load(platform)
    store = open_store(loaded)
    entries = [entry for entry in read_catalogue(store) if entry.backup_id <= proof.backup_id]
    manifest, earlier = _split(entries, proof.backup_id)
    noticed = (*noticed, *judge_left_over(store))
    wanted = loaded.backup.proven_level
    sizes = judge_sizes(describe_sets(entries, wanted), build_limits(loaded))
    evidence = Evidence(
        items=BACKUP_ITEMS,
        platform=platform,
        verdict=_judge(proof, wanted, [*noticed, *sizes]),
        summary=f"{proof.backup_id} reached {proof.reached or 'no level'}; {wanted} is wanted.",
        findings=(*noticed, *proof.findings, *sizes),
        numbers=_measure(manifest, proof),
        started_at=started_at,
        finished_at=datetime.now(UTC),
        flow_run=flow_run.id,
    )
    keep_evidence(loaded, evidence)
    if manifest is not None:
        page = render_backup(manifest, proof, earlier, platform=platform, proven_level=wanted)
        show_markdown(f"{platform}-backup-evidence", page, evidence.summary)
    return evidence


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record_second(platform: str, second: SecondCopies, started_at: datetime) -> Evidence:
    """Record what a backup run carried to the second destination, and proved there.

    Args:
        platform: Its name.
        second: What became of each set.
        started_at: When the run began.

    Returns:
        The document as it was stored.
    """
    loaded = platforms.load(platform)
    wanted = loaded.backup.proven_level
    findings = second.judge(wanted)
    proven = sum(1 for copy in second.copies if copy.is_proven(wanted))
    evidence = Evidence(
        items=COPY_ITEMS,
        platform=platform,
        verdict=worst([Verdict.OK, *(finding.verdict for finding in findings)]),
        summary=f"{proven} of {len(second.copies)} sets were carried to the second destination and proven there.",
        findings=findings,
        numbers={f"carried_bytes {copy.backup_id}": copy.carried.sent_bytes for copy in second.copies if copy.carried},
        started_at=started_at,
        finished_at=datetime.now(UTC),
        flow_run=flow_run.id,
    )
    stored = keep_evidence(loaded, evidence)
    show_markdown(f"{platform}-second-evidence", render_second(stored, platform=platform), stored.summary)
    return stored


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record_verification(
    platform: str,
    outcomes: Mapping[str, Proof | str],
    started_at: datetime,
    destination: Destination = Destination.FIRST,
) -> Evidence:
    """Record what a verification of stored sets proved.

    Args:
        platform: Its name.
        outcomes: Backup id to its proof, or to why there is none.
        started_at: When the run began.
        destination: Where the sets lie.

    Returns:
        The document as it was stored.
    """
    loaded = platforms.load(platform)
    wanted = loaded.backup.proven_level
    findings = [_describe_outcome(name, outcome, wanted) for name, outcome in outcomes.items()]
    findings += _find_faulty(loaded, destination)
    proven = sum(1 for outcome in outcomes.values() if isinstance(outcome, Proof) and outcome.proves(wanted))
    evidence = Evidence(
        items=VERIFICATION_ITEMS,
        platform=platform,
        verdict=worst(finding.verdict for finding in findings),
        summary=f"{proven} of {len(outcomes)} chosen sets of {destination.named} were restored and proven {wanted} or"
        " better.",
        findings=tuple(findings),
        numbers={
            f"restore_seconds {name}": outcome.restore_seconds
            for name, outcome in outcomes.items()
            if isinstance(outcome, Proof)
        },
        started_at=started_at,
        finished_at=datetime.now(UTC),
        flow_run=flow_run.id,
    )
    keep_evidence(loaded, evidence)
    page = render_verification(outcomes, evidence, platform=platform, proven_level=wanted)
    key = "verification" if destination is Destination.FIRST else f"verification-{destination}"
    show_markdown(f"{platform}-{key}-evidence", page, evidence.summary)
    return evidence


@step("record evidence", timeout_seconds=10 * MINUTE_SECONDS)
def record_check(platform: str, evidence: Evidence) -> Evidence:
    """Record what a check found, with what people were told of it, and show it."""
    loaded = platforms.load(platform)
    stored = keep_evidence(loaded, evidence)
    for finding in stored.findings:
        get_run_logger().info("%s: %s: %s", finding.verdict, finding.name, finding.message)
    show_markdown(f"{platform}-backup-check", render_check(stored, platform=platform), stored.summary)
    return stored


def keep_evidence(platform: Platform, evidence: Evidence) -> Evidence:
    """Keep a document in the bucket, without secrets; as it was stored."""
    findings = tuple(
        finding.model_copy(update={"message": redact(finding.message), "hint": redact(finding.hint)})
        for finding in evidence.findings
    )
    clean = evidence.model_copy(update={"summary": redact(evidence.summary), "findings": findings})
    write_evidence(open_store(platform), clean)
    return clean


def _split(entries: Sequence[BackupEntry], backup_id: str) -> tuple[Manifest | None, list[Manifest]]:
    """One set's manifest, and those of older sets that are not known to be bad."""
    manifest = next((entry.manifest for entry in entries if entry.backup_id == backup_id), None)
    earlier = [e.manifest for e in entries if e.backup_id != backup_id and e.manifest is not None and not e.damaged]
    return manifest, earlier


def _judge(proof: Proof, wanted: ProofLevel, others: Sequence[Finding]) -> Verdict:
    own = proof.verdict if proof.proves(wanted) else worst([proof.verdict, Verdict.UNKNOWN])
    return worst([own, *(finding.verdict for finding in others)])


def _find_faulty(platform: Platform, destination: Destination) -> list[Finding]:
    """Sets without a manifest that can be read; a second destination that cannot be asked is one finding."""
    try:
        entries = read_catalogue(open_destination(platform, destination))
    except KeepwellError as error:
        if destination is Destination.FIRST:
            raise
        return [Finding(name=destination.named, verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)]
    return [Finding(name=e.backup_id, verdict=Verdict.WARN, message=e.fault) for e in entries if e.manifest is None]


def _describe_outcome(name: str, outcome: Proof | str, wanted: ProofLevel) -> Finding:
    if isinstance(outcome, str):
        return Finding(name=name, verdict=Verdict.UNKNOWN, message=outcome)
    message = f"It reached {outcome.reached or 'no level'}; {wanted} is wanted."
    return Finding(name=name, verdict=_judge(outcome, wanted, []), message=message)


def _measure(manifest: Manifest | None, proof: Proof) -> dict[str, float | str | None]:
    numbers: dict[str, float | str | None] = {
        "backup_id": proof.backup_id,
        "level": proof.reached,
        "restore_seconds": proof.restore_seconds,
        "proof_seconds": (proof.finished_at - proof.started_at).total_seconds(),
    }
    if manifest is not None:
        numbers |= {
            "rows": manifest.rows,
            "tables": len(manifest.tables),
            "stored_bytes": manifest.stored_bytes,
            "content_bytes": manifest.content_bytes,
            "database_bytes": manifest.source_bytes,
            **_measure_databases(manifest),
            "dump_seconds": manifest.seconds.dump,
            "backup_seconds": manifest.seconds.total,
            "role_passwords": "in the set" if manifest.role_passwords else "not in the set",
            "uploaded_files": manifest.uploads.files if manifest.uploads else "not in the set",
            "uploads_sent_bytes": manifest.uploads.sent_bytes if manifest.uploads else None,
            "redis_keys": manifest.cache.records if manifest.cache else "not in the set",
        }
    return numbers


def _measure_databases(manifest: Manifest) -> dict[str, float]:
    """The size of each database, where a set holds several."""
    if len(manifest.databases) == 1:
        return {}
    return {f"database_bytes {one.name}": one.source.size_bytes for one in manifest.databases}
