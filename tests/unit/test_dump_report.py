"""What people read first, and what the difference to a live database means."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepwell.dumps.comparison import Apart, explain
from keepwell.dumps.extensions import package_of
from keepwell.dumps.proof import Described, DumpProof, Level
from keepwell.dumps.report import next_step, printable, summarize
from keepwell.postgres.fingerprint import Fingerprint
from keepwell.verdict import Finding, Verdict

PATH = Path("/backups/backup_20250123_020000.sql.gz")
DUMP = Described(
    file=PATH.name,
    format="plain SQL",
    wrapping="gzip",
    size_bytes=2_300_000,
    content_bytes=24_000_000,
    scope="database",
    database="",
    server_version="15.18 (Debian 15.18-0+deb12u1)",
    tool_version="15.18 (Debian 15.18-0+deb12u1)",
    made_at=None,
    modified_at=datetime(2025, 1, 23, 2, 0, 41, tzinfo=UTC),
    roles_missing=(),
    extensions=(),
)
PROOF = DumpProof(
    dump=DUMP,
    levels=(Level("readable", Verdict.OK, "read", (), 0.1),),
    rows_restored=38_230,
    size_restored_bytes=24_400_000,
    restore_seconds=3.14,
    server="PostgreSQL 15.18 (system)",
)


def with_finding(verdict: Verdict, message: str = "It broke.", hint: str = "Mend it.") -> DumpProof:
    finding = Finding(name="n", verdict=verdict, message=message, hint=hint)
    return replace(PROOF, levels=(*PROOF.levels, Level("complete", verdict, message, (finding,), 0.1)))


def test_three_plain_lines() -> None:
    first, *others = summarize(PROOF)
    assert first == (
        "backup_20250123_020000.sql.gz is a dump of PostgreSQL 15.18, written by pg_dump 15.18, "
        "dated 2025-01-23 02:00:41 UTC by the file (plain SQL, compressed with gzip, 2.3 MB)."
    )
    assert others == [
        "A restore brings back 0 tables with 38,230 rows (24.4 MB), in 3.1 s on PostgreSQL 15.18 (system).",
        "proven: it is whole, restores without an error, every row of it came back, and what came back is sound.",
    ]


def test_the_third_line_gives_the_worst_reason() -> None:
    assert summarize(with_finding(Verdict.ALERT))[2] == "do not rely on it. It broke."
    assert summarize(with_finding(Verdict.UNKNOWN))[2] == "it could not be proven. It broke."
    assert summarize(with_finding(Verdict.WARN))[2].endswith("is sound. 1 thing to know below.")


def test_what_is_not_known_is_said() -> None:
    unknown = replace(PROOF, rows_restored=None, dump=replace(DUMP, server_version="", tool_version=""))
    first, second, _ = summarize(unknown)
    assert "which does not say of what" in first
    assert "not known" in second


def test_missing_roles_are_named_in_the_second_line() -> None:
    roles = tuple(f"role{number}" for number in range(8))
    second = summarize(replace(PROOF, dump=replace(DUMP, roles_missing=roles)))[1]
    assert second.endswith("Not in it: the roles role0, role1, role2, role3, role4, role5 and 2 more.")


@pytest.mark.parametrize(
    ("proof", "compared", "step"),
    [
        (PROOF, False, "--against postgresql://USER@HOST/DATABASE"),
        (PROOF, True, "keepwell init"),
        (with_finding(Verdict.ALERT), False, "make a new dump now"),
        (with_finding(Verdict.UNKNOWN), False, "Next: Mend it."),
    ],
)
def test_there_is_always_a_next_step(proof: DumpProof, compared: bool, step: str) -> None:
    assert step in next_step(proof, PATH, compared=compared)


def test_signs_that_command_a_terminal_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2J\nb\u202e ü") == "a\\x1b[2J b\\x202e ü"


@pytest.mark.parametrize(
    ("restored", "live", "apart", "verdict", "message"),
    [
        ((3, "7"), (3, "7"), None, "ok", ""),
        ((0, "0"), (5, "9"), None, "alert", "the dump holds none of its 5 live rows"),
        ((3, "7"), (5, "9"), None, "warn", "2 more live (3 in the dump, 5 live)"),
        ((5, "7"), (3, "9"), None, "warn", "2 fewer live (5 in the dump, 3 live)"),
        ((3, "7"), (3, "9"), None, "warn", "as many rows as live (3), with other contents"),
        (
            (3, "7"),
            (4, "9"),
            Apart(2, 1, 1),
            "warn",
            "2 rows only live, 1 only in the dump, 1 changed (3 in the dump, 4 live)",
        ),
    ],
)
def test_what_a_difference_to_the_live_database_means(
    restored: tuple[int, str], live: tuple[int, str], apart: Apart | None, verdict: str, message: str
) -> None:
    finding = explain("public.t", Fingerprint(*restored), Fingerprint(*live), apart)
    assert (finding.verdict, finding.message) == (verdict, message)


@pytest.mark.parametrize(
    ("extension", "package"),
    [
        ("uuid-ossp", "contrib modules (postgresql-15 on Debian"),
        ("postgis_topology", "postgresql-15-postgis-3"),
        ("vector", "postgresql-15-pgvector"),
        ("plperlu", "apt-cache search postgresql-15-"),
        ("somebodys_own", "apt-cache search postgresql-15-"),
    ],
)
def test_the_package_of_an_extension(extension: str, package: str) -> None:
    assert package in package_of(extension, 15)


def test_what_is_no_dump_is_told_once_and_then_why() -> None:
    finding = Finding(name="file", verdict=Verdict.ALERT, message="x is empty: 0 bytes.", hint="It failed.")
    nothing = DumpProof(None, (Level("readable", Verdict.ALERT, finding.message, (finding,), 0.0),))
    assert summarize(nothing) == (
        "x is empty: 0 bytes.",
        "What a restore of it would bring back is not known: it did not come to one.",
        "do not rely on it. It failed.",
    )


def test_a_schema_alone_is_never_called_proven() -> None:
    third = summarize(replace(PROOF, dump=replace(DUMP, scope="schema only")))[2]
    assert third == "it restores without an error, but holds no rows: alone it is no backup of a database."
