"""`keepwell bucket policies`: for which bucket, and what is said of a second destination."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keepwell.cli.main import app

FILE = """
name = "esn"
[database]
name = "d"
user = "u"
[bucket]
name = "first-bucket"
prefix = "prod"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPWELL_CONFIG", raising=False)


def policies(second: str, *words: str) -> Result:
    Path("keepwell.toml").write_text(FILE + second)
    return CliRunner().invoke(app, ["bucket", "policies", *words])


def test_without_a_second_destination_nothing_is_said_of_one() -> None:
    assert "second" not in policies("").stdout


def test_a_second_bucket_has_policies_of_its_own_and_is_named_beside_the_first_s() -> None:
    second = '[second_bucket]\nname = "second-bucket"'
    assert "keepwell bucket policies --destination second" in policies(second).stdout
    of_second = policies(second, "--destination", "second")
    assert "first-bucket" not in of_second.stdout
    expiring = policies(second, "expiring", "--destination", "second")
    resources = json.loads(expiring.stdout)["Statement"][0]["Resource"]
    assert resources == ["arn:aws:s3:::second-bucket/esn/backups/*", "arn:aws:s3:::second-bucket/esn/uploads/*"]


def test_a_second_folder_takes_no_policies_and_what_protects_it_is_said() -> None:
    second = '[second_folder]\ndirectory = "/mnt/nas"'
    assert "/mnt/nas, is a folder and takes no policies" in policies(second).stdout
    refused = policies(second, "--destination", "second")
    assert (refused.exit_code, "who may enter it says its file system" in refused.stderr) == (1, True)


def test_a_second_destination_that_is_not_there_has_no_policies() -> None:
    refused = policies("", "--destination", "second")
    assert (refused.exit_code, "Name one in the platform file" in refused.stderr) == (1, True)
