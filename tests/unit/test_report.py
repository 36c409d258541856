import io
import shlex
from datetime import timedelta

import pytest
from backup_documents import SNAPSHOT, a_cache, a_database, a_manifest, a_proof, a_table, change_main, some_uploads
from rich.console import Console

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.freshness import Notice
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.report import (
    FailureFacts,
    build_check_message,
    build_failure_message,
    build_restore_commands,
    describe_companions,
    describe_safety,
    describe_sealing,
    escape,
    render_backup,
    render_failure,
)
from keepwell.cli.backup import _show_set
from keepwell.notify import render_body
from keepwell.verdict import Finding, Verdict

FINE = a_proof()
DAMAGED = a_proof(
    reached="restored",
    stopped_by=Verdict.ALERT,
    findings=(
        Finding(name="public.events", verdict=Verdict.ALERT, message="public.events: 99 rows restored, not 100."),
    ),
)
UNJUDGED = a_proof(reached="complete", stopped_by=Verdict.UNKNOWN)


def render(manifest: Manifest, proof: Proof, earlier: list[Manifest] | None = None) -> str:
    return render_backup(manifest, proof, earlier or [], platform="esn", proven_level="equal")


def first_lines(page: str) -> list[str]:
    return page.split("\n\n")[1].splitlines()


def test_says_first_what_is_safe_since_when_and_how_long_a_restore_takes() -> None:
    safe, since, restore = first_lines(render(a_manifest(), FINE))
    assert safe.startswith("- **Safe:**")
    assert "100 rows" in safe
    assert "*serving*" in safe
    assert "2026-03-02 02:00:00 UTC" in since
    assert "12.5 s, measured" in restore


@pytest.mark.parametrize(("proof", "sign"), [(DAMAGED, "✗ ALERT"), (UNJUDGED, "? unknown")])
def test_a_set_that_is_not_proven_never_looks_safe(proof: Proof, sign: str) -> None:
    page = render(a_manifest(), proof)
    assert page.startswith(f"# {sign}")
    assert first_lines(page)[0].startswith("- **NOT SAFE:**")
    assert "**Safe:**" not in page


def test_levels_that_were_not_tried_are_unknown() -> None:
    page = render(a_manifest(), DAMAGED)
    assert "| equal | ✗ ALERT |" in page
    assert "| sound | ? unknown | not tried" in page
    assert "| serving | ? unknown | not tried" in page


def test_the_table_that_differs_is_named_and_the_others_are_equal() -> None:
    page = render(a_manifest(tables=(a_table(), a_table("users"))), DAMAGED)
    assert "| public.events | 100 | 8.2 kB | ✗ ALERT |" in page
    assert "| public.users | 100 | 8.2 kB | ✓ ok |" in page


def test_without_a_comparison_no_table_is_equal() -> None:
    page = render(a_manifest(), UNJUDGED)
    assert "| public.events | 100 | 8.2 kB | ? unknown: not compared |" in page


def test_the_largest_tables_are_shown_and_every_unproven_one() -> None:
    tables = tuple(a_table(f"t{number:03}", size=1000 * (100 - number)) for number in range(60))
    page = render(a_manifest(tables=(*tables, a_table("tiny", size=1, unproven="a foreign table"))), FINE)
    assert "public.t024" in page
    assert "public.t025" not in page
    assert "| public.tiny | 100 | 1 bytes | ? unknown: a foreign table |" in page
    assert "and 35 smaller ones, each ✓ ok." in page
    assert "except 1 named below" in page


def test_sizes_stand_beside_those_of_earlier_sets() -> None:
    earlier = [a_manifest(SNAPSHOT - timedelta(days=n), size=2000) for n in range(1, 15)]
    page = render(a_manifest(size=1000), FINE, earlier)
    assert "50% of the median of 14 earlier sets" in page
    assert page.count("| 12.0 MB |") == 10
    assert "and 5 older ones." in page


def test_the_first_set_has_nothing_to_compare_with() -> None:
    assert "No earlier set to compare with." in render(a_manifest(), FINE)


HOSTILE = 'a|b`c*<img src=x onerror="alert(1)">[x](javascript:y)\n# head'


def test_names_cannot_break_out_of_their_cell() -> None:
    page = render(a_manifest(tables=(a_table(HOSTILE),)), FINE)
    (row,) = [line for line in page.splitlines() if line.startswith("| public.a")]
    assert row.replace("\\|", "").count("|") == 5
    assert "<img" not in page
    assert "\n# head" not in page
    assert "\\[x\\]" in page


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("plain", "plain"), ("user_data", "user\\_data"), ("- x", "\\- x"), ("a-b", "a-b"), ("a & b", "a &amp; b")],
)
def test_escaping(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def a_manifest_of(database: str) -> Manifest:
    """A set whose main database is called so."""
    manifest = a_manifest()
    return change_main(manifest, source=manifest.main.source.model_copy(update={"database": database}))


def test_the_restore_command_can_be_pasted_whatever_the_database_is_called() -> None:
    (command,) = build_restore_commands(a_manifest(), "esn")
    assert command.endswith("--into esn_db_restored_20260302 --platform esn")
    (command,) = build_restore_commands(a_manifest_of("my db; rm -rf /"), "esn")
    assert "--into 'my db; rm -rf /_restored_20260302' --platform" in command


@pytest.mark.parametrize(
    ("database", "into"),
    [
        ("a" * 45, "a" * 45 + "_restored_20260302"),
        ("a" * 63, "a" * 45 + "_restored_20260302"),
        ("雪" * 21, "雪" * 15 + "_restored_20260302"),
        ("a" + "雪" * 20, "a" + "雪" * 14 + "_restored_20260302"),
    ],
)
def test_the_proposed_name_fits_into_a_name_and_ends_with_a_whole_letter(database: str, into: str) -> None:
    argv = shlex.split(build_restore_commands(a_manifest_of(database), "esn")[0])
    assert argv[argv.index("--into") + 1] == into
    assert len(into.encode()) <= 63


LATER = SNAPSHOT + timedelta(seconds=5)
BOTH = a_manifest(further=(a_database("analytics", 2, LATER, tables=(a_table(rows=7),)),))


def test_a_set_of_several_databases_tells_of_each_and_of_which_moment_it_is() -> None:
    safe, since, _ = first_lines(page := render(BOTH, FINE))
    assert "2 relations with 107 rows of databases esn\\_db and analytics" in safe
    assert "2026-03-02 02:00:00 UTC (esn\\_db), 2026-03-02 02:00:05 UTC (analytics)" in since
    assert "PostgreSQL has none across databases" in page
    assert "| analytics | 2026-03-02 02:00:05 UTC | 1 | 7 |" in page
    assert "Databases: 24.0 MB" in page
    commands = build_restore_commands(BOTH, "esn")
    assert [("--database analytics" in command, command in page) for command in commands] == [
        (False, True),
        (True, True),
    ]


def test_tables_of_one_name_are_told_apart_by_their_database() -> None:
    differs = Finding(name="analytics: public.events", verdict=Verdict.ALERT, message="It differs.")
    page = render(BOTH, a_proof(reached="restored", stopped_by=Verdict.ALERT, findings=(differs,)))
    assert "| public.events | 100 | 8.2 kB | ✓ ok |" in page
    assert "| analytics: public.events | 7 | 8.2 kB | ✗ ALERT |" in page


def test_sets_of_other_databases_are_no_measure() -> None:
    alone = a_manifest(SNAPSHOT - timedelta(days=1))
    assert "no earlier set held these databases" in render(BOTH, FINE, [alone])
    assert "100% of the median of 1 earlier sets" in render(BOTH, FINE, [BOTH, alone])


def test_the_console_shows_each_of_several_databases_and_says_nothing_more_of_one() -> None:
    shown = io.StringIO()
    for manifest in (BOTH, a_manifest()):
        _show_set(Console(file=shown, width=200), manifest, None)
    both, alone, _ = shown.getvalue().split("Never verified.\n")
    assert "esn_db and analytics on PostgreSQL 15.18" in both
    assert "analytics: 1 tables, 7 rows, 12.0 MB, as of 2026-03-02 02:00:05 UTC" in both
    assert "1 tables, 100 rows, database 12.0 MB" in alone
    assert "esn_db:" not in alone


def entry(proof: Proof | None) -> BackupEntry:
    return BackupEntry(a_manifest().backup_id, a_manifest(), "", proof, proof)


def test_safety_rests_on_proven_sets_only() -> None:
    assert "as of 2026-03-02 02:00:00 UTC" in describe_safety([entry(None), entry(FINE)], "equal")
    for bad in (DAMAGED, UNJUDGED, None):
        assert describe_safety([entry(bad)], "equal").startswith("nothing is proven: none of 1")
    assert "none of 0" in describe_safety([], "equal")


FACTS = FailureFacts(
    platform="esn",
    procedure="backup-and-verify",
    run_name="quick-fox",
    state="Crashed",
    cause="The process fell silent.",
    safe="the data as of yesterday",
    next_command="keepwell run backup-and-verify --platform esn",
    run_url="http://127.0.0.1:4200/runs/flow-run/1",
)


def test_a_failure_says_cause_what_is_still_safe_and_the_next_command() -> None:
    for text in (render_failure(FACTS), render_body(build_failure_message(FACTS))):
        assert "The process fell silent." in text
        assert "the data as of yesterday" in text
        assert "keepwell run backup-and-verify --platform esn" in text
        assert "http://127.0.0.1:4200/runs/flow-run/1" in text
    assert build_failure_message(FACTS).title == "esn: backup-and-verify was killed or crashed"


def test_a_code_block_holds_whatever_stands_in_it() -> None:
    from dataclasses import replace

    page = render_failure(replace(FACTS, next_command="echo '```' x"))
    assert "````\necho '```' x\n````" in page


def test_a_check_s_message_names_what_is_bad_and_what_to_do() -> None:
    findings = (
        Finding(name="age", verdict=Verdict.ALERT, message="It is too old.", hint="Run a backup."),
        Finding(name="schedule", verdict=Verdict.OK, message="It is fine."),
    )
    message = build_check_message(findings, Notice.STILL_BAD, platform="esn", safe="x", bad_since=SNAPSHOT)
    assert message.cause == "It is too old."
    assert message.next_command == "Run a backup."
    assert (message.title.endswith("still need you"), message.since) == (True, "2026-03-02 02:00:00 UTC")
    assert message.details == ("✗ ALERT age: It is too old.",)


def test_a_recovery_is_no_alarm() -> None:
    message = build_check_message((), Notice.RECOVERED, platform="esn", safe="x", bad_since=None)
    assert message.verdict is Verdict.OK
    assert "fine again" in message.title


def test_what_is_beside_the_database_is_told_and_so_is_what_is_not() -> None:
    bare = render(a_manifest(), FINE)
    assert "Uploaded files: NOT in the set, since no uploads folder is configured." in bare
    assert "Redis: NOT in the set, since none is configured." in bare
    assert "their passwords: in the set." in bare
    whole = a_manifest().model_copy(
        update={"uploads": some_uploads(left_out=2), "cache": a_cache(), "role_passwords": False}
    )
    roles, files, keys = describe_companions(whole)
    assert "their passwords: NOT in the set, since the backup's role may not read them" in roles
    assert files.startswith("Uploaded files: 1,234 with 56.0 MB in 12 folders, stored as 1,200 contents with 40.0 MB")
    assert "3 with 1.0 MB were sent for this set" in files
    assert "2 entries could NOT be included: s0 is a socket." in files
    assert "Redis: 345 keys of Valkey 9.1.2 (45 hash, 300 string), 120 of which expire" in keys
    page = render(whole, FINE)
    assert "1,234 uploaded files, 345 keys of Redis" in first_lines(page)[0]
    assert "except 1 named below" in first_lines(page)[0]


def test_says_for_how_many_a_set_is_sealed_and_names_what_is_not() -> None:
    bare = a_manifest()
    (part,) = bare.parts
    closed = part.model_copy(update={"name": "database/2.dat.zst.age", "encryption": "age"})
    sealed = bare.model_copy(update={"parts": (closed,), "sealed_for": ("age1one", "age1two")})
    assert describe_sealing(sealed) == "Sealed with age for 2 recipients"
    assert "for recipients it does not name" in describe_sealing(sealed.model_copy(update={"sealed_for": ()}))
    assert "- Sealed with age for 2 recipients.\n" in render(sealed, FINE)
    assert "- NOT SEALED: whoever reads the bucket reads the data.\n" in render(bare, FINE)
    page = part.model_copy(update={"name": "RESTORE.md"})
    assert describe_sealing(sealed.model_copy(update={"parts": (closed, page)})) == describe_sealing(sealed)
    half = sealed.model_copy(update={"parts": (part, closed)})
    assert describe_sealing(half).startswith("ONLY 1 of 2 objects are sealed")


def test_the_console_shows_how_a_set_is_sealed() -> None:
    screen = Console(file=io.StringIO(), width=200)
    _show_set(screen, a_manifest(), None)
    assert "\nNOT SEALED: whoever reads the bucket reads the data.\n" in screen.file.getvalue()  # type: ignore[attr-defined]
