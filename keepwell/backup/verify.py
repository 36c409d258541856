"""Prove one backup set, level by level, from the store: guide items BK-1 and MONTHLY-6.

Each level rests on those before it, so the ladder ends at the first that does not pass.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keepwell.backup import layout, read_back, rehearsal
from keepwell.backup.cache_keys import KeysChecked, check_keys
from keepwell.backup.catalogue import read_manifest_and_digest
from keepwell.backup.database import Database
from keepwell.backup.locks import judge_lock
from keepwell.backup.manifest import Manifest, describe_snapshots
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof, reaches
from keepwell.backup.read_back import SetReader
from keepwell.backup.rehearsal import Target
from keepwell.backup.scratch_restore import Copy, ScratchRestore
from keepwell.backup.space import estimate_scratch_bytes
from keepwell.backup.spool import open_spool, require_space, spool_place, sweep_spools
from keepwell.backup.uploads_proof import check_uploads, read_trusted
from keepwell.objectstore.store import Store
from keepwell.progress import Progress, Step
from keepwell.settings import Platform, ProofLevel, SmokeQuery
from keepwell.verdict import Finding, Verdict, worst

_PROOF_TIME = "%Y%m%dT%H%M%S.%fZ"


def verify_backup(
    platform: Platform, store: Store, backup_id: str, progress: Progress, *, all_uploads: bool = True
) -> Proof:
    """Read a set back from the store, restore it on a scratch server, and compare it with its source.

    Damage does not raise: it is what the proof says. The proof is appended beside the manifest, unless this machine
    may not write there, or signs nothing that counts: an unsigned one would put the signed ones before it in doubt.

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
    return keep_proof(store, climb_ladder(platform, store, backup_id, progress, all_uploads=all_uploads).proof)


def keep_proof(store: Store, proof: Proof) -> Proof:
    """Append a proof beside its set's manifest, where this machine may write and signs what counts.

    Returns:
        The proof, as it was stored where it was.

    Raises:
        KeepwellError: The store did not take it.
    """
    if not (store.seal.is_believed and store.may_write):
        return proof
    name = _next_proof_name(store, proof)
    key = layout.proofs_folder(proof.backup_id) + name
    store.put_signed(key, proof.model_copy(update={"stored_as": name}).to_json())
    return Proof.from_json(store.get_signed(key))


@dataclass(frozen=True)
class Climb:
    """One climb up the ladder, and what the proof itself does not say of it.

    Attributes:
        manifest: Of the set.
        proof: Stored nowhere yet.
        index_seconds: How much of the restore came after the last row; None where that is not known.
    """

    manifest: Manifest
    proof: Proof
    index_seconds: float | None


def climb_ladder(
    platform: Platform,
    store: Store,
    backup_id: str,
    progress: Progress,
    *,
    all_uploads: bool = True,
    up_to: ProofLevel = "serving",
    while_up: Callable[[ScratchRestore], None] | None = None,
) -> Climb:
    """Prove a set as `verify_backup` does, and store nothing.

    Args:
        platform: Whose set.
        store: Its folder in the bucket.
        backup_id: Which set.
        progress: Told how far it is.
        all_uploads: As for `verify_backup`.
        up_to: The last level that is tried. Below *complete* nothing is restored: the set is only read back.
        while_up: Called after the last level that passed, while the scratch server still runs, if there is one.

    Raises:
        KeepwellError: As `verify_backup`.
    """
    sweep_spools(platform)
    manifest, manifest_sha256 = read_manifest_and_digest(store, backup_id)
    restores = reaches(up_to, "complete")
    if restores:
        needed_bytes = estimate_scratch_bytes(manifest.source_bytes)
        require_space(spool_place(platform), needed_bytes, "the scratch server of the proof")
    with open_spool(platform) as spool, ExitStack() as stack:
        reader = SetReader(store, manifest, spool, progress, nice=platform.backup.nice)
        ladder = _Ladder(
            platform, store, manifest, manifest_sha256, reader, spool, progress, stack, all_uploads, restores=restores
        )
        proof = ladder.climb(up_to)
        if while_up is not None:
            while_up(ladder.scratch)
    return Climb(manifest, proof, reader.index_seconds)


def _next_proof_name(store: Store, proof: Proof) -> str:
    """What a proof is called: behind every other one of its set, since by their names the newest is found.

    A clock that was ahead when an older one was made, and was put right since, must not let that one speak.
    """
    folder = layout.proofs_folder(proof.backup_id)
    at = f"{proof.finished_at:{_PROOF_TIME}}"
    newest = max((found.key.removeprefix(folder)[: len(at)] for found in store.list_objects(folder)), default="")
    if newest >= at:
        with suppress(ValueError, OverflowError):  # a name that is none of ours tells no time
            at = f"{datetime.strptime(newest, _PROOF_TIME) + timedelta(microseconds=1):{_PROOF_TIME}}"  # noqa: DTZ007
    return f"{at}-{secrets.token_hex(3)}.json"


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
    restores: bool
    keys: KeysChecked = field(default_factory=KeysChecked)
    scratch: ScratchRestore = field(init=False)

    def __post_init__(self) -> None:
        self.scratch = ScratchRestore(self.platform, self.manifest, self.reader, self.spool, self.stack)

    def climb(self, up_to: ProofLevel) -> Proof:
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
        wanted = LEVELS[: LEVELS.index(up_to) + 1]
        for number, level in enumerate(wanted):
            self.progress(Step(f"proving: {level}", number, len(wanted), "levels"))
            outcomes.append(self._credited(_judge(level, checks[level])))
            if not outcomes[-1].passed:
                break
        server_major = self.scratch.server_major
        restored = server_major is not None
        return Proof(
            backup_id=self.manifest.backup_id,
            manifest_sha256=self.manifest_sha256,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            levels=tuple(outcomes),
            server=str(self.scratch.binaries) if restored else None,
            same_major=server_major == self.manifest.main.source.server_major if restored else None,
            isolation=str(self.scratch.isolation) if restored else None,
            restore_seconds=time.monotonic() - started if restored else None,
        )

    def _uploaded(self) -> tuple[str, Iterable[Finding]]:
        stored = list(self.store.list_objects(layout.set_folder(self.manifest.backup_id)))
        total = f"{len(self.manifest.parts)} objects, {self.manifest.stored_bytes:,} bytes, all there and of their size"
        return total, [*read_back.check_uploaded(self.manifest, stored), *judge_lock(self.store, self.manifest)]

    def _readable(self) -> tuple[str, Iterable[Finding]]:
        """Read everything back. Rows are restored as they come, so that nothing has to be kept in between."""
        files = self.reader.fetch_files()
        if self.restores and all(read.sound for read in files):
            self.scratch.run()
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
        if self.scratch.binaries is None:
            return "", self.scratch.findings  # without tools for it, nothing can be said of the archives' contents
        findings = list(read_back.check_globals(self.spool))
        for copy in self.scratch.copies:
            findings += copy.database.tell_findings(self._check_complete(copy))
        summary = f"{self._count('streams')} end with their terminator and hold {self.manifest.rows:,} rows"
        return summary, [*findings, *self.keys.complete]

    def _check_complete(self, copy: Copy) -> Iterator[Finding]:
        """One database's archive, by its own contents and stream by stream."""
        database = copy.database
        if isinstance(copy.entries, Finding):
            yield copy.entries
            return
        schema = self.reader.find_content(database.schema_file)
        yield from read_back.check_contents(database, self.manifest.parts, copy.entries, schema)
        yield from read_back.check_streams(database, self.reader.find)

    def _restored(self) -> tuple[str, Iterable[Finding]]:
        binaries, source_major = self.scratch.binaries, self.manifest.main.source.server_major
        assert binaries is not None  # noqa: S101 - the level before chose them
        what = "" if self._is_alone else f"{len(self.manifest.databases)} databases "
        summary = f"{what}restored without an error on {binaries}, schema{'' if self._is_alone else 's'} equal"
        if binaries.major != source_major:
            summary += f" as far as versions {source_major} and {binaries.major} word it alike"
        return summary, self.scratch.findings

    def _credited(self, outcome: LevelOutcome) -> LevelOutcome:
        """The time of the restore belongs to its own level, though it ran while the set was read back."""
        if outcome.level == "readable":
            return outcome.model_copy(update={"seconds": max(outcome.seconds - self.scratch.seconds, 0)})
        if outcome.level == "restored":
            return outcome.model_copy(update={"seconds": outcome.seconds + self.scratch.seconds})
        return outcome

    def _equal(self) -> tuple[str, Iterable[Finding]]:
        findings: list[Finding] = []
        for database, target in self._restored_databases:
            compared = rehearsal.check_equal(database, self.reader, target, self.progress)
            findings += database.tell_findings(compared)
        summary = (
            f"{self._count('tables')}, {self.manifest.rows:,} rows: counts and content hashes equal the source at "
            f"{describe_snapshots(self.manifest)}, and COPY streams equal the archive{'' if self._is_alone else 's'}"
        )
        return _joined(summary, self.keys.summary), [*findings, *self.keys.equal]

    def _sound(self) -> tuple[str, Iterable[Finding]]:
        assert self.scratch.tools is not None  # noqa: S101 - chosen before
        findings: list[Finding] = []
        for database, target in self._restored_databases:
            checked = rehearsal.check_sound(database, self.scratch.tools, target)
            findings += database.tell_findings(checked)
        sequences = sum(len(database.sequences) for database in self.manifest.databases)
        summary = f"indexes know every row, {sequences} sequences not behind, views came back"
        if not self._is_alone:
            summary = f"in each of {len(self.manifest.databases)} databases {summary}"
        # What this machine cannot judge of Redis does not say that the database is not equal; it is never green either.
        findings += self.keys.unjudged
        noticed = sum(1 for finding in findings if finding.verdict is Verdict.WARN)
        return f"{summary}; {noticed} things of the source to look at" if noticed else summary, findings

    def _serving(self) -> tuple[str, Iterable[Finding]]:
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
        findings: list[Finding] = []
        for database, target in self._restored_databases:
            asked = [query for query in queries if _is_asked_of(query, database)]
            if asked:
                findings += database.tell_findings(rehearsal.check_serving(asked, target))
        findings += _name_unasked(queries, self.manifest)
        return f"{len(queries)} smoke queries answered as they should", findings

    @property
    def _restored_databases(self) -> list[tuple[Database, Target]]:
        """Every database of the set with where it was restored: a level that looked at fewer would prove too much."""
        restored = list(self.scratch.targets)
        assert len(restored) == len(self.manifest.databases)  # noqa: S101 - the level before restored all of them
        return restored

    @property
    def _is_alone(self) -> bool:
        """Whether the set holds one database only, which goes without saying."""
        return len(self.manifest.databases) == 1

    def _count(self, what: str) -> str:
        """Tables whose rows are in the set, or their streams, of all its databases."""
        count = sum(len(database.dumped_tables) for database in self.manifest.databases)
        return f"{count} {what}" if self._is_alone else f"{count} {what} of {len(self.manifest.databases)} databases"


def _is_asked_of(query: SmokeQuery, database: Database) -> bool:
    return database.is_main if query.database is None else query.database == database.name


def _name_unasked(queries: Sequence[SmokeQuery], manifest: Manifest) -> Iterator[Finding]:
    """Questions to a database that the set does not hold, such as one from before it was in the platform file."""
    for query in queries:
        if not any(_is_asked_of(query, database) for database in manifest.databases):
            yield Finding(
                name=query.name,
                verdict=Verdict.UNKNOWN,
                message=f"The smoke query “{query.name}” asks {query.database}, which this set does not hold.",
                hint="Sets hold what database.name and database.more_names named when they were made.",
            )


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
