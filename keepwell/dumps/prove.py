"""Prove any existing dump, with nothing but the file: read it, restore it into a scratch server, count, and look.

1. What is it? By its content, never by its name.
2. Read it from its first byte to its last: whose rows it holds, how many, and whether it is whole.
3. Restore it with PostgreSQL's own programs, confined, and count what came back: dump against restored.
4. Look whether that is sound: indexes, sequences, constraints, views.
5. Where a live database was named: restored against live.

A level that finds something wrong does not end the proof: at 3 a.m. it matters what of a damaged dump can be saved.
"""

import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from keepwell.disk_space import require_space
from keepwell.dumps import judgement
from keepwell.dumps.comparison import Live, compare_with_live
from keepwell.dumps.content import Content
from keepwell.dumps.examination import RestoredDatabase, check_sound, read_databases
from keepwell.dumps.judgement import scope_of
from keepwell.dumps.opening import ContentStream, DumpFile, Format, Wrapping, open_tar, recognize
from keepwell.dumps.proof import DumpProof, Level, LevelName, Table
from keepwell.dumps.recount import count_through_pg_restore
from keepwell.dumps.restoring import Restored, Scratch, may_be_read_confined, restore, scratch_names
from keepwell.dumps.survey import UNCOUNTED, FolderInTarError, Survey, survey
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.postgres.binaries import Binaries, choose_server, find_installations
from keepwell.postgres.isolation import isolate
from keepwell.postgres.scratch_folder import scratch_folder
from keepwell.postgres.server import throwaway_server
from keepwell.progress import Progress, Step
from keepwell.verdict import Finding, Verdict, worst

_MOST_JOBS = 4
# Rows grow by their headers and indexes as they come back, and the write-ahead log takes its share.
_SCRATCH_FACTOR = 2
_SCRATCH_BASE_BYTES = 128 * 1024 * 1024


def prove_dump(
    path: Path, progress: Progress, *, scratch_directory: Path | None = None, live: Live | None = None
) -> DumpProof:
    """Prove one dump. What is wrong with it is what the proof says; it is not raised.

    Args:
        path: A file, or the folder of a directory dump.
        progress: Told how far it is.
        scratch_directory: Where there is space for one copy of the database; the system's temporary folder by default.
        live: A database to compare with; None for none.

    Raises:
        PreconditionFailed: There is no such file, or it cannot be opened.
        KeepwellError: The scratch folder cannot be made.
    """
    started = time.monotonic()
    recognized = recognize(path)
    if isinstance(recognized, Finding):
        level = Level("readable", recognized.verdict, recognized.message, (recognized,), time.monotonic() - started)
        rest = _not_tried("there is nothing to restore", live)
        return DumpProof(None, (level, *rest), seconds=time.monotonic() - started)
    place = scratch_directory or Path(tempfile.gettempdir())
    if not place.is_dir():
        raise ConfigurationError(f"There is no folder {place}.", hint="Name one on a disk with space enough.")
    with scratch_folder(place) as folder, ExitStack() as stack:
        proof = _Proving(recognized, folder, progress, live, stack).run()
    return replace(proof, seconds=time.monotonic() - started)


@dataclass
class _Proving:
    """One proof on its way; what a level finds out, later levels use."""

    dump: DumpFile
    folder: Path
    progress: Progress
    live: Live | None
    stack: ExitStack
    surveyed: Survey | None = None
    scratch: Scratch | None = None
    restored: Restored | None = None
    databases: tuple[RestoredDatabase, ...] = ()
    tables: tuple[Table, ...] = ()
    levels: list[Level] = field(default_factory=list)

    def run(self) -> DumpProof:
        """Climb as far as there is something to stand on."""
        self._judge("readable", self._readable)
        survey_ = self.surveyed
        if survey_ is None:
            return self._proof()
        self._judge("complete", self._complete)
        if obstacle := self._obstacle(survey_):
            self.levels += [obstacle, *_not_tried("it was not restored", self.live)[2:]]
            return self._proof()
        self._judge("restored", self._restored)
        if self.restored is None or not self.databases:
            self.levels += _not_tried("it was not restored", self.live)[2:]
            return self._proof()
        self._judge("sound", self._sound)
        if self.live is not None:
            self._judge("equal", self._equal)
        return self._proof()

    def _judge(self, level: LevelName, check: Callable[[], tuple[str, Iterable[Finding]]]) -> None:
        """One level; what fails on our side of it is unknown, never an alert and never ok."""
        started = time.monotonic()
        self.progress(Step(f"proving: {level}"))
        findings: tuple[Finding, ...]
        try:
            summary, lazy = check()
            findings = tuple(lazy)
        except KeepwellError as error:
            summary = ""
            findings = (Finding(name=level, verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint),)
        verdict = worst([Verdict.OK, *(finding.verdict for finding in findings)])
        bad = [finding for finding in findings if finding.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
        if bad:
            first = min(bad, key=lambda finding: finding.verdict is not Verdict.ALERT)
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            summary = f"{first.message}{more}"
        elif warned := sum(finding.verdict is Verdict.WARN for finding in findings):
            summary = f"{summary}; {warned} thing{'s' if warned > 1 else ''} to know"
        self.levels.append(Level(level, verdict, summary, findings, time.monotonic() - started))

    def _readable(self) -> tuple[str, Iterable[Finding]]:
        try:
            found = survey(self.dump, self.progress)
        except FolderInTarError:
            self.dump = _unpack_folder(self.dump, self.folder, self.progress)
            found = survey(self.dump, self.progress)
        self.surveyed = found
        return judgement.describe_reading(self.dump, found), judgement.judge_readable(found)

    def _complete(self) -> tuple[str, Iterable[Finding]]:
        assert self.surveyed is not None  # noqa: S101 - read before
        content = self._content
        if any(unknown.name == UNCOUNTED for unknown in content.unknowns):
            self._make_reachable()
            content = count_through_pg_restore(
                self.dump, content, _choose_binaries(content), self.folder, self.progress
            )
            self.surveyed = replace(self.surveyed, content=content)
        return judgement.describe_completeness(content), judgement.judge_complete(content)

    def _obstacle(self, found: Survey) -> Level | None:
        """Why it cannot be restored at all; None where it can be tried."""
        if not found.content.recognized:
            return _untried("restored", "there is nothing to restore")
        if found.obstacle:
            return _untried("restored", found.obstacle)
        if found.script is not None and found.script.refused:
            return _untried("restored", "what holds commands is not shown to psql")
        if scope_of(found.content) == "rows only":
            message = "It holds rows and no tables to put them into: a dump made with --data-only."
            hint = "Prove it with its schema: cat schema.sql data.sql > both.sql && keepwell prove-dump both.sql."
            finding = Finding(name="tables", verdict=Verdict.UNKNOWN, message=message, hint=hint)
            return Level("restored", Verdict.UNKNOWN, message, (finding,))
        return None

    def _restored(self) -> tuple[str, Iterable[Finding]]:
        assert self.surveyed is not None  # noqa: S101 - read before
        content = self._content
        binaries = _choose_binaries(content)
        self._require_space()
        self.progress(Step("starting a scratch server"))
        conninfo = self.stack.enter_context(throwaway_server(binaries, self.folder))
        # One after another, what stands before the damage comes back; in parallel, the first error ends all of it.
        jobs = 1 if content.faults or self.surveyed.unreadable else min(os.cpu_count() or 1, _MOST_JOBS)
        self.scratch = Scratch(binaries, conninfo, self.folder, jobs)
        self._make_reachable()
        self.restored = restore(self.dump, content, self.surveyed.script, self.scratch, self.progress)
        self.databases = read_databases(self.scratch, self.restored.databases, self.progress)
        lacking = judgement.missing_extensions(content, self.databases)
        self.tables = judgement.tables_of(
            content,
            self.databases,
            scratch_names(self.surveyed.script),
            lacking=bool(lacking),
            several=sum(bool(database.tables) for database in self.databases) > 1,
        )
        findings = judgement.judge_restored(
            content,
            self.restored,
            self.databases,
            self.tables,
            major=binaries.major,
            confined=self.scratch.is_confined,
        )
        same = content.origin.server_major in (None, binaries.major)
        other = "" if same else f", the nearest to the dump's {content.origin.server_major}"
        harmless = self.restored.harmless_count
        passed_over = f"; {harmless} statements dropped what an empty database does not have" if harmless else ""
        compared = sum(table.rows_in_dump is not None for table in self.tables)
        return (
            f"no error on {binaries}{other}; {compared} tables hold as many rows as the dump{passed_over}",
            findings,
        )

    def _sound(self) -> tuple[str, Iterable[Finding]]:
        assert self.scratch is not None  # noqa: S101 - restored before
        passed = self.levels[-1].verdict in (Verdict.OK, Verdict.WARN)
        return (
            ("" if passed else "of what came back: ")
            + "indexes know every row, sequences are not behind, constraints hold, views are filled",
            check_sound(self.scratch, self.databases, self._content, self.progress),
        )

    def _equal(self) -> tuple[str, Iterable[Finding]]:
        assert self.scratch is not None  # noqa: S101 - restored before
        assert self.live is not None  # noqa: S101 - asked for
        outcome = compare_with_live(self.live, self.scratch, self.databases, self.tables, self.progress)
        self.tables = outcome.tables
        return outcome.summary, outcome.findings

    @property
    def _content(self) -> Content:
        assert self.surveyed is not None  # noqa: S101 - read before
        return self.surveyed.content

    def _require_space(self) -> None:
        """Stop before the disk would be full."""
        assert self.surveyed is not None  # noqa: S101 - read before
        needed_bytes = self.surveyed.content_bytes * _SCRATCH_FACTOR + _SCRATCH_BASE_BYTES
        _require_space(self.folder, needed_bytes, "a restore")

    def _make_reachable(self) -> None:
        """Copy a folder that only its owner may read: as root we read it, but what we confine does not."""
        binaries = _choose_binaries(self._content)
        if self.dump.format is Format.DIRECTORY and not may_be_read_confined(binaries, self.folder, self.dump.path):
            _require_space(self.folder, self.dump.size_bytes, "a copy of the folder")
            copy = self.folder / "dump"
            shutil.copytree(self.dump.path, copy, copy_function=shutil.copyfile)
            copy.chmod(0o755)
            self.dump = replace(self.dump, path=copy)

    def _proof(self) -> DumpProof:
        found, binaries = self.surveyed, self.scratch.binaries if self.scratch else None
        rows = [table.rows_restored for table in self.tables if table.kind == "table"]
        source = found.content.origin.server_major if found else None
        return DumpProof(
            dump=judgement.describe(self.dump, found) if found and found.content.recognized else None,
            levels=tuple(self.levels),
            tables=self.tables,
            rows_restored=sum(filter(None, rows)) if self.restored else None,
            size_restored_bytes=sum(database.size_bytes for database in self.databases) if self.restored else None,
            restore_seconds=self.restored.seconds if self.restored else None,
            server=str(binaries) if binaries else "",
            same_major=binaries.major == source if binaries and source else None,
            isolation=str(isolate(binaries, self.folder)) if binaries else "",
        )


def _choose_binaries(content: Content) -> Binaries:
    """The source's major version where it is installed, else the nearest that can read the dump.

    Raises:
        ConfigurationError: None is installed that could.
    """
    installations = find_installations()
    newest = max((found.major for found in installations if found.has_server), default=0)
    source = content.origin.server_major or newest
    return choose_server(installations, source_major=source, archive_major=content.origin.tool_major or source)


def _require_space(place: Path, needed_bytes: int, purpose: str) -> None:
    require_space(place, needed_bytes, purpose, hint="Name a larger disk with --scratch-directory.")


def _unpack_folder(dump: DumpFile, folder: Path, progress: Progress) -> DumpFile:
    """Unpack a directory dump that somebody put into a tar file: only plain files, all into one folder.

    Raises:
        KeepwellError: There is no space for it, or its end is missing.
    """
    _require_space(folder, dump.size_bytes, "unpacking it")
    target = folder / "unpacked"
    target.mkdir(mode=0o755)
    stream = ContentStream(
        dump.path, dump.wrapping, lambda done: progress(Step("unpacking", done, dump.size_bytes, "bytes"))
    )
    try:
        with closing(stream), open_tar(stream) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    with (target / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise KeepwellError(
            f"{dump.path.name} cannot be unpacked to its end: {error}.", hint=judgement.DISTRUST
        ) from error
    found = recognize(target)
    if isinstance(found, Finding):
        raise KeepwellError(f"What {dump.path.name} unpacks to is no dump: {found.message}", hint=found.hint)
    return replace(found, size_bytes=dump.size_bytes, modified_at=dump.modified_at, wrapping=Wrapping.NONE)


def _untried(level: LevelName, why: str) -> Level:
    return Level(level, Verdict.UNKNOWN, f"not tried: {why}")


def _not_tried(why: str, live: Live | None) -> list[Level]:
    later: list[LevelName] = ["complete", "restored", "sound", *(["equal"] if live else [])]  # type: ignore[list-item]
    return [_untried(level, why) for level in later]
