from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepwell.errors import ConfigurationError
from keepwell.schedules import Registered, Rule, ScheduleFile, describe_difference, next_time, read_schedules
from keepwell.settings import load_platform, read_platform_names

PROCEDURES = ("backup-and-verify", "check-backups", "verify-backups", "expire-backups")
PLATFORM = '\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n'


def read(folder: Path, text: str) -> ScheduleFile:
    (folder / "schedules.toml").write_text(text)
    return read_schedules(folder / "schedules.toml", platforms=("blog", "esn"), procedures=PROCEDURES)


def test_a_platform_s_own_rules_come_before_those_for_all_and_the_release_s_last(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        timezone = "Europe/Rome"
        [all]
        timezone = "UTC"
        check-backups = "*/30  * * * *"
        backup-and-verify = "0 1 * * *"
        [platform.esn]
        backup-and-verify = ["30 3 * * *", "30 15 * * *"]
        expire-backups = []
        """,
    )
    rome = [Rule("30 3 * * *", "Europe/Rome"), Rule("30 15 * * *", "Europe/Rome")]
    assert file.rules_for("esn", "backup-and-verify") == tuple(rome)
    assert file.rules_for("blog", "backup-and-verify") == (Rule("0 1 * * *", "UTC"),)
    assert file.rules_for("esn", "check-backups") == (Rule("*/30 * * * *", "UTC"),)
    assert file.rules_for("esn", "expire-backups") == ()
    assert file.rules_for("esn", "verify-backups") is None


def test_without_the_file_everything_is_as_the_release_says(tmp_path: Path) -> None:
    found = read_schedules(tmp_path / "schedules.toml", platforms=("esn",), procedures=PROCEDURES)
    assert found == ScheduleFile()
    assert found.rules_for("esn", "backup-and-verify") is None


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[all", "cannot be read", "line"),
        ("[every]", "unknown key every", "all"),
        ('[platform.ens]\nbackup-and-verify = "0 2 * * *"', "unknown key platform.ens", "Did you mean esn?"),
        ('[all]\nbackup-and-verfy = "0 2 * * *"', "unknown key all.backup-and-verfy", "Did you mean backup-and-verify"),
        ('[all]\nbackup-and-verify = "0 2 * *"', "has 4 fields, not 5", "every day at 02:00"),
        ('[all]\nbackup-and-verify = "0 25 * * *"', "Bad hour", "hour 0-23"),
        ('[all]\nbackup-and-verify = "0 2 30 2 *"', "is no rule", ""),
        ("[all]\nbackup-and-verify = 2", "is no rule", "for never"),
        ('[all]\nbackup-and-verify = ["0 2 * * *", "0 2 * * *"]', "the same twice", ""),
        ('timezone = "Europe/Roma"', "'Europe/Roma' is no time zone", "Europe/Rome"),
        ('timezone = "../../etc/passwd"', "is no time zone", ""),
        ("timezone = 2", "2 is no time zone", ""),
        ('platform = "esn"', "platform is no table", "[platform]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_times_go_by_the_rule_s_own_clock() -> None:
    before, after = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 12, tzinfo=UTC)
    rule = Rule("30 4 * * *", "Europe/Rome")
    # That night the clock is put forward.
    assert next_time(rule, before) == datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
    assert next_time(rule, after) == datetime(2026, 3, 30, 2, 30, tzinfo=UTC)


NIGHTLY = Registered(Rule("0 2 * * *", "UTC"), "nightly")
OWN = Registered(Rule("0 3 * * *", "UTC"), "own")


@pytest.mark.parametrize(
    ("wanted", "registered", "says"),
    [
        (None, [NIGHTLY], ""),
        ((OWN.rule,), [OWN], ""),
        ((OWN.rule,), [NIGHTLY], "the file says 0 3 * * * UTC, registered is 0 2 * * * UTC"),
        (None, [OWN], "the file does not say so any more"),
        ((), [NIGHTLY], "the file says never"),
        ((OWN.rule,), [], "registered is nothing"),
    ],
)
def test_what_was_not_registered_is_told(
    wanted: tuple[Rule, ...] | None, registered: list[Registered], says: str
) -> None:
    found = describe_difference(wanted, registered)
    assert says in found
    assert bool(found) is bool(says)


def test_the_schedules_stand_among_the_platform_files_and_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("esn", "blog"):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"{PLATFORM}')
    (tmp_path / "schedules.toml").write_text('[all]\ncheck-backups = "0 * * * *"\n')
    monkeypatch.setenv("KEEPWELL_CONFIG", str(tmp_path))
    assert load_platform("blog").name == "blog"
    assert read_platform_names() == ("blog", "esn")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (['name = "esn"', 'name = "esn"'], "both describe the platform esn"),
        (["[bucket]"], "gives its platform no name"),
        (['name = "Not One"'], "gives its platform no name"),
        (["name ="], "cannot be read"),
    ],
)
def test_names_are_read_without_secrets_and_refused_where_they_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], says: str
) -> None:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.toml").write_text(text)
    monkeypatch.setenv("KEEPWELL_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match=says):
        read_platform_names()
