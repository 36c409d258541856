"""Prove one backup set, level by level, from the store: guide items BK-1 and MONTHLY-6.

Each level rests on those before it, so the ladder ends at the first that does not pass.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.catalogue import read_manifest
from keepwell.backup.manifest import Manifest
from keepwell.backup.progress import Progress, Step
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof
from keepwell.backup.read_back import PartReadBack
from keepwell.backup.rehearsal import Target
from keepwell.backup.spool import SCRATCH, open_spool, require_space, spool_place, sweep_spools
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.objectstore.store import Store
from keepwell.postgres.binaries import Binaries, choose_server, find_installations
from keepwell.postgres.connection import connect_to
from keepwell.postgres.server import database_on, describe_isolation, throwaway_server
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst

_DATABASE = "restored"
# Tables and indexes come back about as large as they were, and the write-ahead log takes its share.
_SCRATCH_FACTOR = 1.3
_SCRATCH_BASE_BYTES = 64 * 1024 * 1024


def verify_backup(platform: Platform, store: Store, backup_id: str, progress: Progress) -> Proof:
    """Read a set back from the store, restore it on a scratch server, and compare it with its source.

    Damage does not raise: it is what the proof says. The proof is appended beside the manifest.

    Args:
        platform: Whose set.
        store: Its folder in the bucket; the source itself is not touched.
        backup_id: Which set.
        progress: Told how far it is.

    Returns:
        The proof, as it was stored.

    Raises:
        PreconditionFailed: There is no such set, or not enough space to prove it.
        VerificationFailed: The manifest itself is damaged.
        TransientError: The store does not answer.
    """
    sweep_spools(platform)
    manifest = read_manifest(store, backup_id)
    needed_bytes = manifest.content_bytes + int(manifest.source.size_bytes * _SCRATCH_FACTOR) + _SCRATCH_BASE_BYTES
    require_space(spool_place(platform), needed_bytes, "the proof")
    with open_spool(platform) as spool, ExitStack() as stack:
        ladder = _Ladder(platform, store, manifest, spool, progress, stack)
        proof = ladder.climb()
    name = f"{proof.finished_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json"
    key = f"{layout.proofs_folder(backup_id)}{name}"
    store.put_bytes(key, proof.to_json())
    return Proof.from_json(store.get_bytes(key))


@dataclass
class _Ladder:
    """One verification on its way up; what a level finds out, later levels use."""

    platform: Platform
    store: Store
    manifest: Manifest
    spool: Path
    progress: Progress
    stack: ExitStack
    parts: list[PartReadBack] = field(default_factory=list)
    binaries: Binaries | None = None
    target: Target | None = None

    def climb(self) -> Proof:
        """Try the levels in order, up to the first that does not pass."""
        started_at, started = datetime.now(UTC), time.monotonic()
        checks: dict[ProofLevel, Callable[[], tuple[str, Iterable[Finding]]]] = {
            "uploaded": self._uploaded,
            "readable": self._readable,
            "complete": self._complete,
            "restored": self._restored,
            "equal": self._equal,
            "sound": self._sound,
            "serving": self._serving,
        }
        outcomes: list[LevelOutcome] = []
        for number, level in enumerate(LEVELS):
            self.progress(Step(f"proving: {level}", number, len(LEVELS), "levels"))
            outcomes.append(_judge(level, checks[level]))
            if not outcomes[-1].passed:
                break
        return Proof(
            backup_id=self.manifest.backup_id,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            levels=tuple(outcomes),
            server=str(self.binaries) if self.target and self.binaries else None,
            same_major=self.target.server_major == self.manifest.source.server_major if self.target else None,
            isolation=describe_isolation() if self.target else None,
            restore_seconds=time.monotonic() - started if self.target else None,
        )

    def _uploaded(self) -> tuple[str, Iterable[Finding]]:
        stored = list(self.store.list_objects(layout.set_folder(self.manifest.backup_id)))
        total = f"{len(self.manifest.parts)} objects, {self.manifest.stored_bytes:,} bytes, all there and of their size"
        return total, read_back.check_uploaded(self.manifest, stored)

    def _readable(self) -> tuple[str, Iterable[Finding]]:
        self.parts = read_back.read_all(self.store, self.manifest, self.spool, self.progress)
        summary = f"{len(self.parts)} objects read back, SHA-256 as written, before and after decompression"
        return summary, read_back.check_readable(self.manifest, self.parts)

    def _complete(self) -> tuple[str, Iterable[Finding]]:
        try:
            self.binaries = choose_server(
                find_installations(self.platform.backup.tools_directory),
                source_major=self.manifest.source.server_major,
                archive_major=self.manifest.tools.archive_major,
            )
        except ConfigurationError as error:
            return "", [
                Finding(name="tools", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint),
            ]
        summary = (
            f"{len(self.manifest.dumped_tables)} streams end with their terminator and hold {self.manifest.rows:,} rows"
        )
        return summary, read_back.check_complete(self.manifest, self.parts, self.binaries, self.spool)

    def _restored(self) -> tuple[str, Iterable[Finding]]:
        assert self.binaries is not None  # noqa: S101 - the level before chose them
        scratch = self.spool / SCRATCH
        scratch.mkdir(mode=0o700)
        try:
            server = self.stack.enter_context(throwaway_server(self.binaries, scratch))
        except KeepwellError as error:
            return "", [Finding(name="scratch server", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)]
        with connect_to(server) as connection:
            findings = list(rehearsal.create_like(connection, _DATABASE, self.manifest.source))
        self.target = Target(
            database_on(server, _DATABASE, major=self.binaries.major),
            self.binaries.major,
            self.platform.backup.jobs,
        )
        findings += rehearsal.restore_roles(self.binaries, self.spool, server)
        if all(finding.verdict in (Verdict.OK, Verdict.WARN) for finding in findings):
            findings += rehearsal.check_restored(self.manifest, self.binaries, self.spool, self.target)
        summary = f"restored without an error on {self.binaries}, schema equal"
        if self.binaries.major != self.manifest.source.server_major:
            summary += (
                f" as far as versions {self.manifest.source.server_major} and {self.binaries.major} word it alike"
            )
        return summary, findings

    def _equal(self) -> tuple[str, Iterable[Finding]]:
        assert self.target is not None  # noqa: S101 - the level before restored into it
        findings = rehearsal.check_equal(self.manifest, self.parts, self.spool, self.target, self.progress)
        compared = len(self.manifest.dumped_tables)
        taken = f"{self.manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
        summary = (
            f"{compared} tables, {self.manifest.rows:,} rows: counts and content hashes equal the source at {taken}, "
            "and COPY streams equal the archive"
        )
        return summary, findings

    def _sound(self) -> tuple[str, Iterable[Finding]]:
        assert self.target is not None  # noqa: S101 - restored before
        assert self.binaries is not None  # noqa: S101 - chosen before
        findings = list(rehearsal.check_sound(self.manifest, self.binaries, self.target))
        summary = f"indexes know every row, {len(self.manifest.sequences)} sequences not behind, views came back"
        noticed = sum(1 for finding in findings if finding.verdict is Verdict.WARN)
        return f"{summary}; {noticed} things of the source to look at" if noticed else summary, findings

    def _serving(self) -> tuple[str, Iterable[Finding]]:
        assert self.target is not None  # noqa: S101 - restored before
        queries = self.platform.backup.smoke_queries
        if not queries:
            return "", [
                Finding(
                    name="smoke queries",
                    verdict=Verdict.NOT_APPLICABLE,
                    message="The platform file asks no smoke queries.",
                    hint="Add [[backup.smoke_queries]] to prove that the application could work.",
                )
            ]
        return f"{len(queries)} smoke queries answered as they should", rehearsal.check_serving(queries, self.target)


def _judge(level: ProofLevel, check: Callable[[], tuple[str, Iterable[Finding]]]) -> LevelOutcome:
    """One level's outcome; its summary stands only when the level passed."""
    started = time.monotonic()
    summary, lazy = check()
    findings = tuple(lazy)
    verdict = worst([Verdict.OK, *(finding.verdict for finding in findings)])
    if findings and all(finding.verdict is Verdict.NOT_APPLICABLE for finding in findings):
        verdict = Verdict.NOT_APPLICABLE
    passed = verdict in (Verdict.OK, Verdict.WARN)
    count = sum(1 for finding in findings if finding.verdict not in (Verdict.OK, Verdict.WARN))
    return LevelOutcome(
        level=level,
        verdict=verdict,
        summary=summary if passed else f"{count} finding{'s' if count != 1 else ''}: {_first_bad(findings)}",
        findings=findings,
        seconds=time.monotonic() - started,
    )


def _first_bad(findings: Iterable[Finding]) -> str:
    return next(f.message for f in findings if f.verdict not in (Verdict.OK, Verdict.WARN))
