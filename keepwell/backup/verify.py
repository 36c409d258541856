"""Prove one backup set, level by level, from the store: guide items BK-1 and MONTHLY-6.

Each level rests on those before it, so the ladder ends at the first that does not pass.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.cache_keys import KeysChecked, check_keys
from keepwell.backup.catalogue import read_manifest_and_digest
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof
from keepwell.backup.read_back import PartDamaged, SetReader
from keepwell.backup.rehearsal import Target
from keepwell.backup.source_image import choose_tools, find_provers, without_image
from keepwell.backup.space import estimate_scratch_bytes
from keepwell.backup.spool import open_scratch, open_spool, require_space, spool_place, sweep_spools
from keepwell.backup.uploads_proof import check_uploads, read_trusted
from keepwell.errors import KeepwellError
from keepwell.objectstore.store import Store
from keepwell.postgres.archive import DataEntry
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.connection import connect_to
from keepwell.postgres.isolation import Isolation, isolate
from keepwell.postgres.server import database_on, throwaway_server
from keepwell.progress import Progress, Step
from keepwell.settings import Platform, ProofLevel
from keepwell.verdict import Finding, Verdict, worst

_DATABASE = "restored"


def verify_backup(
    platform: Platform, store: Store, backup_id: str, progress: Progress, *, all_uploads: bool = True
) -> Proof:
    """Read a set back from the store, restore it on a scratch server, and compare it with its source.

    Damage does not raise: it is what the proof says. The proof is appended beside the manifest, unless this machine
    signs nothing that counts: an unsigned one would put the signed ones before it in doubt.

    Args:
        platform: Whose set.
        store: Its folder in the bucket; the source itself is not touched.
        backup_id: Which set.
        progress: Told how far it is.
        all_uploads: Read every uploaded file back; otherwise those that no proof has read, and a slice of the rest.

    Returns:
        The proof, as it was stored where it was.

    Raises:
        PreconditionFailed: There is no such set, or not enough space to prove it.
        VerificationFailed: The manifest itself is damaged.
        TransientError: The store does not answer.
    """
    sweep_spools(platform)
    manifest, manifest_sha256 = read_manifest_and_digest(store, backup_id)
    needed_bytes = estimate_scratch_bytes(manifest.source.size_bytes)
    require_space(spool_place(platform), needed_bytes, "the scratch server of the proof")
    with open_spool(platform) as spool, ExitStack() as stack:
        reader = SetReader(store, manifest, spool, progress, nice=platform.backup.nice)
        ladder = _Ladder(platform, store, manifest, manifest_sha256, reader, spool, progress, stack, all_uploads)
        proof = ladder.climb()
    if not store.seal.is_believed:
        return proof
    # By their names the newest is found, so two of one second must not be told apart by lot.
    name = f"{proof.finished_at:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}.json"
    key = f"{layout.proofs_folder(backup_id)}{name}"
    store.put_signed(key, proof.to_json())
    return Proof.from_json(store.get_signed(key))


@dataclass
class _Ladder:
    """One verification on its way up; what a level finds out, later levels use."""

    platform: Platform
    store: Store
    manifest: Manifest
    manifest_sha256: str
    reader: SetReader
    spool: Path
    progress: Progress
    stack: ExitStack
    all_uploads: bool
    binaries: Binaries | None = None
    tools: Binaries | None = None
    isolation: Isolation | None = None
    target: Target | None = None
    entries: list[DataEntry] | Finding | None = None
    restored: list[Finding] = field(default_factory=list)
    restore_seconds: float = 0
    keys: KeysChecked = field(default_factory=KeysChecked)

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
            outcomes.append(self._credited(_judge(level, checks[level])))
            if not outcomes[-1].passed:
                break
        return Proof(
            backup_id=self.manifest.backup_id,
            manifest_sha256=self.manifest_sha256,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            levels=tuple(outcomes),
            server=str(self.binaries) if self.target and self.binaries else None,
            same_major=self.target.server_major == self.manifest.source.server_major if self.target else None,
            isolation=str(self.isolation) if self.target else None,
            restore_seconds=time.monotonic() - started if self.target else None,
        )

    def _uploaded(self) -> tuple[str, Iterable[Finding]]:
        stored = list(self.store.list_objects(layout.set_folder(self.manifest.backup_id)))
        total = f"{len(self.manifest.parts)} objects, {self.manifest.stored_bytes:,} bytes, all there and of their size"
        return total, read_back.check_uploaded(self.manifest, stored)

    def _readable(self) -> tuple[str, Iterable[Finding]]:
        """Read everything back. Rows are restored as they come, so that nothing has to be kept in between."""
        files = self.reader.fetch_files()
        if all(read.sound for read in files):
            began = time.monotonic()
            self.restored = list(self._restore())
            self.restore_seconds = time.monotonic() - began
        self.keys = check_keys(self.manifest, self.reader, self.platform.redis, self.spool, self.progress)
        level, today = self.platform.backup.proven_level, datetime.now(UTC).date()
        trusted = None if self.all_uploads else read_trusted(self.store, self.manifest.backup_id, level)
        files_read = check_uploads(self.store, self.manifest, self.reader, self.progress, today=today, trusted=trusted)
        self.reader.drain()
        parts = self.reader.parts
        summary = f"{len(parts)} objects read back, SHA-256 as written, before and after decompression"
        return _joined(summary, files_read.summary), [
            *read_back.check_readable(self.manifest, parts),
            *files_read.findings,
        ]

    def _complete(self) -> tuple[str, Iterable[Finding]]:
        if self.binaries is None or self.entries is None:
            return "", self.restored  # without tools for it, nothing can be said of the archive's contents
        if isinstance(self.entries, Finding):
            return "", [self.entries]
        schema = self.reader.find(next((p.name for p in self.manifest.parts if p.content_name == layout.SCHEMA), None))
        summary = (
            f"{len(self.manifest.dumped_tables)} streams end with their terminator and hold {self.manifest.rows:,} rows"
        )
        return summary, [
            *read_back.check_contents(self.manifest, self.entries, schema, self.spool),
            *read_back.check_streams(self.manifest, self.reader.find),
            *self.keys.complete,
        ]

    def _restored(self) -> tuple[str, Iterable[Finding]]:
        assert self.binaries is not None  # noqa: S101 - the level before chose them
        summary = f"restored without an error on {self.binaries}, schema equal"
        if self.binaries.major != self.manifest.source.server_major:
            summary += (
                f" as far as versions {self.manifest.source.server_major} and {self.binaries.major} word it alike"
            )
        return summary, self.restored

    def _restore(self) -> Iterator[Finding]:
        """Restore onto a scratch server; what is wrong with the streams themselves, the levels before tell."""
        began = yield from self._begin()
        if began is None:
            return
        scratch, server = began
        assert self.binaries is not None  # noqa: S101 - the server runs from them
        assert self.tools is not None  # noqa: S101 - chosen with it
        with connect_to(server) as connection:
            findings = list(rehearsal.create_like(connection, _DATABASE, self.manifest.source))
        self.target = Target(
            database_on(server, _DATABASE, major=self.binaries.major),
            self.binaries.major,
            self.platform.backup.jobs,
            programs=self._programs_folder(scratch),
        )
        findings += rehearsal.restore_roles(self.spool, self.target)
        yield from findings
        if all(finding.verdict in (Verdict.OK, Verdict.WARN) for finding in findings):
            with suppress(PartDamaged):
                yield from rehearsal.check_restored(self.manifest, self.tools, self.spool, self.target, self.reader)

    def _begin(self) -> Generator[Finding, None, tuple[Path, str] | None]:
        """Start the scratch server: from the source's own image where that works, else from this machine's programs.

        Returns:
            Its folder and connection string; None when none could be started, which a finding tells.
        """
        installations = find_installations(self.platform.backup.tools_directory)
        archive_major = self.manifest.tools.archive_major
        provers = find_provers(
            self.platform,
            self.spool,
            installations,
            source_major=self.manifest.source.server_major,
            archive_major=archive_major,
        )
        yield from provers.findings
        for left, self.binaries in zip(reversed(range(len(provers.servers))), provers.servers, strict=True):
            self.tools = choose_tools(self.binaries, installations, archive_major=archive_major)
            self.entries = read_back.list_entries(self.tools, self.spool)
            try:
                with ExitStack() as attempt:
                    scratch = attempt.enter_context(open_scratch(self.spool))
                    self.isolation = isolate(self.binaries, scratch)
                    server = attempt.enter_context(
                        throwaway_server(self.binaries, scratch, self.isolation, nice=self.platform.backup.nice)
                    )
                    self.stack.push(attempt.pop_all())
                    return scratch, server
            except KeepwellError as error:
                yield (
                    without_image(error)
                    if left
                    else Finding(name="scratch server", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)
                )
        return None

    def _programs_folder(self, scratch: Path) -> Path:
        """Where programs of the scratch server leave what they found."""
        assert self.isolation is not None  # noqa: S101 - the server runs by it
        folder = scratch / "programs"
        folder.mkdir(mode=0o700)
        self.isolation.hand_over(folder)
        return folder

    def _credited(self, outcome: LevelOutcome) -> LevelOutcome:
        """The time of the restore belongs to its own level, though it ran while the set was read back."""
        if outcome.level == "readable":
            return outcome.model_copy(update={"seconds": max(outcome.seconds - self.restore_seconds, 0)})
        if outcome.level == "restored":
            return outcome.model_copy(update={"seconds": outcome.seconds + self.restore_seconds})
        return outcome

    def _equal(self) -> tuple[str, Iterable[Finding]]:
        assert self.target is not None  # noqa: S101 - the level before restored into it
        findings = rehearsal.check_equal(self.manifest, self.reader, self.target, self.progress)
        compared = len(self.manifest.dumped_tables)
        taken = f"{self.manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC"
        summary = (
            f"{compared} tables, {self.manifest.rows:,} rows: counts and content hashes equal the source at {taken}, "
            "and COPY streams equal the archive"
        )
        return _joined(summary, self.keys.summary), [*findings, *self.keys.equal]

    def _sound(self) -> tuple[str, Iterable[Finding]]:
        assert self.target is not None  # noqa: S101 - restored before
        assert self.tools is not None  # noqa: S101 - chosen before
        findings = list(rehearsal.check_sound(self.manifest, self.tools, self.target))
        summary = f"indexes know every row, {len(self.manifest.sequences)} sequences not behind, views came back"
        # What this machine cannot judge of Redis does not say that the database is not equal; it is never green either.
        findings += self.keys.unjudged
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


def _joined(summary: str, beside: str) -> str:
    return f"{summary}; {beside}" if beside else summary


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
