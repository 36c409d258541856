"""What the console tells to be typed next: whole, so that it does the same on the same platform."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from keepwell.cli import restore as command
from keepwell.cli.main import app
from keepwell.destination import Destination
from keepwell.restore.apply import RestoreOutcome
from keepwell.restore.choice import Choice
from keepwell.restore.pages import undo_command
from keepwell.restore.plan import Mode, RestorePlan

BACKUP_ID = "20261129T020000Z-abcdef"
REPLACED = "esn_db_replaced_20261129T030000Z"


def an_outcome(*, is_kept: bool) -> RestoreOutcome:
    at = datetime(2026, 11, 29, 2, tzinfo=UTC)
    plan = RestorePlan(
        platform="esn",
        mode=Mode.SWAP,
        choice=Choice(which=BACKUP_ID),
        backup_id=BACKUP_ID,
        database="esn_db",
        live="esn_db",
        name="esn_db_restored",
        live_database=None,
        snapshot_at=at,
        planned_at=at,
        level="equal",
        rows=1,
        size_bytes=1,
        needed_bytes=1,
        free_bytes=None,
        expected_seconds=None,
        sessions=(),
        carried=(),
        findings=(),
    )
    return RestoreOutcome("20261129T030000Z-fedcba", plan, "esn_db", REPLACED, 1, {}, (), is_kept=is_kept)


def test_the_way_back_names_case_destination_and_platform() -> None:
    told = command._tell_way_back(an_outcome(is_kept=True), Destination.SECOND, "esn")
    assert told == "Undo it: keepwell restore undo 20261129T030000Z-fedcba --in second --platform esn"


def test_without_a_case_the_way_back_is_both_renames() -> None:
    told = command._tell_way_back(an_outcome(is_kept=False), Destination.FIRST, None)
    assert "restore undo" not in told
    assert 'ALTER DATABASE "esn_db" RENAME TO "esn_db_undone_' in told
    assert f'ALTER DATABASE "{REPLACED}" RENAME TO "esn_db"; COMMIT;' in told
    assert "restore undo" not in undo_command(an_outcome(is_kept=False))


def test_what_carries_a_plan_out_has_every_option_that_it_was_made_with() -> None:
    told = command._command(
        "apply",
        BACKUP_ID,
        destination=Destination.SECOND,
        platform="esn",
        database="other",
        swap=True,
        into="a name",
        unproven=True,
    )
    assert told == (
        f"keepwell restore apply {BACKUP_ID} --database other --swap --into 'a name' --unproven"
        " --in second --platform esn"
    )


@pytest.mark.parametrize("choice", [[BACKUP_ID], ["--swap"], ["--into", "x"], ["--before", "2026-11-29"]])
def test_a_case_goes_on_with_no_other_choice(choice: list[str]) -> None:
    result = CliRunner().invoke(app, ["restore", "apply", *choice, "--case", "20261129T030000Z-fedcba"])
    assert result.exit_code == 1
    assert "A case goes on as it was begun" in result.stderr
