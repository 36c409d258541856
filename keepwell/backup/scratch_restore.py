"""A set restored onto a scratch server of its own, for its proof: every database of it, one after the other."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.backup import read_back, rehearsal
from keepwell.backup.database import Database
from keepwell.backup.manifest import Manifest
from keepwell.backup.read_back import PartDamaged, SetReader
from keepwell.backup.rehearsal import Target
from keepwell.backup.source_image import choose_tools, find_provers, without_image
from keepwell.backup.spool import open_scratch
from keepwell.errors import KeepwellError
from keepwell.postgres.archive import DataEntry
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.connection import connect_to
from keepwell.postgres.isolation import Isolation, isolate
from keepwell.postgres.server import database_on, throwaway_server
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict


@dataclass
class Copy:
    """One database of the set.

    Attributes:
        database: What the manifest says of it.
        entries: Its archive's table of contents, or what is wrong with that.
        target: Where it is restored; None when it did not come to a server.
    """

    database: Database
    entries: list[DataEntry] | Finding
    target: Target | None = None


@dataclass
class ScratchRestore:
    """One restore, and what came of it.

    Attributes:
        platform: Whose set; its settings hold, its server is not touched.
        manifest: Of the set.
        reader: Feeds its streams.
        spool: Where its files were read back to.
        stack: Ends the server with the proof.
        binaries: What was chosen for its server; None when there is nothing.
        tools: Client tools for it; None as above.
        isolation: How the server is kept apart; None when it did not come to one.
        copies: One for each database, the main one first; empty without binaries.
        findings: What is wrong or worth knowing. What is wrong with the streams themselves, the reader remembers.
        seconds: How long it took.
    """

    platform: Platform
    manifest: Manifest
    reader: SetReader
    spool: Path
    stack: ExitStack
    binaries: Binaries | None = None
    tools: Binaries | None = None
    isolation: Isolation | None = None
    copies: list[Copy] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0

    def run(self) -> None:
        """Restore as far as it goes.

        Raises:
            TransientError: The store or the scratch server went away.
        """
        began = time.monotonic()
        self.findings = list(self._restore())
        self.seconds = time.monotonic() - began

    @property
    def targets(self) -> Iterator[tuple[Database, Target]]:
        """Each database with where it was restored; empty when it did not come to a server."""
        return ((copy.database, copy.target) for copy in self.copies if copy.target is not None)

    @property
    def server_major(self) -> int | None:
        """Of the scratch server; None when it did not come to one."""
        return next((target.server_major for _, target in self.targets), None)

    def _restore(self) -> Iterator[Finding]:
        """From the source's own image where that works, else from this machine's programs."""
        installations = find_installations(self.platform.backup.tools_directory)
        archive_major = self.manifest.tools.archive_major
        provers = find_provers(
            self.platform,
            self.spool,
            installations,
            source_major=self.manifest.main.source.server_major,
            archive_major=archive_major,
        )
        yield from provers.findings
        for left, binaries in zip(reversed(range(len(provers.servers))), provers.servers, strict=True):
            self.binaries, self.tools = binaries, choose_tools(binaries, installations, archive_major=archive_major)
            self.copies = [
                Copy(database, read_back.list_entries(database, self.tools, self.spool))
                for database in self.manifest.databases
            ]
            try:
                with ExitStack() as attempt:
                    scratch = attempt.enter_context(open_scratch(self.spool))
                    self.isolation = isolate(binaries, scratch)
                    server = attempt.enter_context(
                        throwaway_server(binaries, scratch, self.isolation, nice=self.platform.backup.nice)
                    )
                    self.stack.push(attempt.pop_all())
            except KeepwellError as error:
                yield without_image(error) if left else _not_started(error)
                continue
            yield from self._restore_onto(server, scratch, binaries, self.tools, self.isolation)
            return

    def _restore_onto(
        self, server: str, scratch: Path, binaries: Binaries, tools: Binaries, isolation: Isolation
    ) -> Iterator[Finding]:
        """All databases first, then the roles, of which each may own something in any of them."""
        findings: list[Finding] = []
        with connect_to(server) as connection:
            for number, copy in enumerate(self.copies, start=1):
                name = f"restored_{number}"
                created = rehearsal.create_like(connection, name, copy.database.source)
                findings += copy.database.tell_findings(created)
                copy.target = Target(
                    database_on(server, name, major=binaries.major),
                    binaries.major,
                    self.platform.backup.jobs,
                    programs=_programs_folder(scratch / f"programs_{number}", isolation),
                )
        _, main = next(self.targets)
        findings += rehearsal.restore_roles(self.spool, main)
        yield from findings
        if all(finding.verdict in (Verdict.OK, Verdict.WARN) for finding in findings):
            with suppress(PartDamaged):
                for database, target in self.targets:
                    restored = rehearsal.check_restored(database, tools, self.spool, target, self.reader)
                    yield from database.tell_findings(restored)


def _not_started(error: KeepwellError) -> Finding:
    return Finding(name="scratch server", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint)


def _programs_folder(folder: Path, isolation: Isolation) -> Path:
    """Where programs of the scratch server leave what they found."""
    folder.mkdir(mode=0o700)
    isolation.hand_over(folder)
    return folder
