"""The page about installing: as few commands as it promises, each of them one that there is."""

from pathlib import Path

from typer.testing import CliRunner

from deployments.local.install_demo import PAGE, read_commands
from keepwell.cli.main import app

ROOT = Path(__file__).parents[2]


def test_six_commands_lead_from_a_clone_to_a_proven_backup_and_a_retired_crontab_line() -> None:
    commands = read_commands((ROOT / PAGE).read_text())
    assert 4 <= len(commands) <= 6
    assert commands[0] == "make install"
    assert any(words.startswith("keepwell run backup-and-verify") for words in commands)
    for words in commands[1:]:
        group = [word for word in words.split()[1:] if not word.startswith("-")][:1]
        if group != ["serve"]:  # which hands all of its words on
            assert CliRunner().invoke(app, [*group, "--help"]).exit_code == 0


def test_only_lines_after_a_prompt_in_console_blocks_are_commands() -> None:
    page = "# A title\n\n```console\n# one --flag\nsaid # this\n# two\n```\n\n```\n# three\n```\n"
    assert read_commands(page) == ["one --flag", "two"]
