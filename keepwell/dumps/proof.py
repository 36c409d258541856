"""What the proof of a dump says: for people, and for programs that read the envelope of `--json`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from keepwell.verdict import Finding, Verdict, worst

LevelName = Literal["readable", "complete", "restored", "sound", "equal"]


@dataclass(frozen=True)
class Level:
    """One level of the proof.

    Attributes:
        level: Its word.
        verdict: `unknown` also where it was not tried.
        summary: What was shown, or why it did not come to that.
        findings: What is wrong or worth knowing.
        seconds: How long it took; None where it was not tried.
    """

    level: LevelName
    verdict: Verdict
    summary: str
    findings: tuple[Finding, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Table:
    """One table: in the dump, as it came back, and in the live database.

    Attributes:
        database: Where the dump is of several; empty else.
        table_schema: Of the table.
        name: Of the table.
        kind: `table`, `partitioned table` or `materialized view`.
        rows_in_dump: Counted in the dump itself; None where it carries none, or they cannot be counted there.
        rows_restored: Counted after the restore; None where the table did not come back.
        rows_live: Counted in the live database; None without one, or where it has no such table.
        size_bytes: As restored, with indexes.
        verdict: The worst of what was found of it.
        remark: In words, what that is; empty when all is well.
    """

    database: str
    table_schema: str
    name: str
    kind: str
    rows_in_dump: int | None
    rows_restored: int | None
    rows_live: int | None
    size_bytes: int
    verdict: Verdict
    remark: str

    @property
    def qualified(self) -> str:
        """For people."""
        return ".".join(part for part in (self.database, self.table_schema, self.name) if part)


@dataclass(frozen=True)
class Described:
    """What a dump is.

    Attributes:
        file: Its name.
        format: One of pg_dump's four; empty when it is no dump.
        wrapping: What the whole was compressed with; `none` when not.
        size_bytes: As it lies there.
        content_bytes: Decompressed.
        scope: `database`, `cluster`, `schema only`, `rows only` or `roles only`.
        database: Its name; empty when not said.
        server_version: Of the server that was dumped; empty when not said.
        tool_version: Of pg_dump; empty when not said.
        made_at: In the clock of the machine that made it, without a zone; None when not said.
        modified_at: When the file was last written.
        roles_missing: That it needs and does not bring along.
        extensions: That it needs.
    """

    file: str
    format: str
    wrapping: str
    size_bytes: int
    content_bytes: int
    scope: str
    database: str
    server_version: str
    tool_version: str
    made_at: datetime | None
    modified_at: datetime | None
    roles_missing: tuple[str, ...]
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class DumpProof:
    """The proof of one dump.

    Attributes:
        dump: What it is; None when it is no dump.
        levels: In order, also those that were not tried.
        tables: By database, schema and name; empty when it did not come to a restore.
        rows_restored: All rows that came back.
        size_restored_bytes: Of the databases that came back.
        restore_seconds: How long the restore alone took: a measured RTO of this machine; None when there was none.
        server: What it was restored on; empty when it did not come to that.
        same_major: Whether that has the source's major version; None when not known.
        isolation: How that server was kept apart; empty when there was none.
        seconds: The whole proof.
    """

    dump: Described | None
    levels: tuple[Level, ...]
    tables: tuple[Table, ...] = ()
    rows_restored: int | None = None
    size_restored_bytes: int | None = None
    restore_seconds: float | None = None
    server: str = ""
    same_major: bool | None = None
    isolation: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst of the levels, and unknown is never ok."""
        return worst(level.verdict for level in self.levels)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything named by any level, the worst first."""
        found = [finding for level in self.levels for finding in level.findings]
        order = {verdict: place for place, verdict in enumerate(_WORST_FIRST)}
        return tuple(sorted(found, key=lambda finding: order[finding.verdict]))


_WORST_FIRST = (Verdict.ALERT, Verdict.UNKNOWN, Verdict.WARN, Verdict.OK, Verdict.NOT_APPLICABLE)
