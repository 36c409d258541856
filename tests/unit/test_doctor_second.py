"""What `keepwell doctor` says of a second destination."""

from pathlib import Path
from typing import Any

import pytest
from lying_store import lying_store
from pydantic import SecretStr

from keepwell.doctor import second
from keepwell.doctor.second import examine_second
from keepwell.objectstore.folder import MARK, FolderStore, prepare_folder
from keepwell.settings import Platform, SealingSettings, SecondBucketSettings, SecondFolderSettings
from keepwell.verdict import Finding, Verdict


def a_platform(**settings: Any) -> Platform:
    return Platform.model_construct(name="esn", sealing=SealingSettings(mode="none"), **settings)


def look(**settings: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_second(a_platform(**settings))}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    prepare_folder(tmp_path)
    return tmp_path


def test_without_one_it_is_said_what_that_means() -> None:
    (finding,) = look().values()
    assert finding.verdict is Verdict.NOT_APPLICABLE
    assert "loses every backup" in finding.hint


def test_a_folder_is_written_and_read_and_nothing_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(second_folder=SecondFolderSettings(directory=place))
    assert found["second folder"].verdict is Verdict.OK
    assert found["second folder's clock"].verdict is Verdict.OK
    assert [path for path in place.rglob("*") if not path.is_dir()] == [place / MARK]


def test_a_folder_that_is_not_mounted_is_an_alert(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        (finding,) = look(second_folder=SecondFolderSettings(directory=directory)).values()
        assert finding.verdict is Verdict.ALERT
        assert "prepare-second" in finding.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_gives_back_something_else_is_an_alert(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "get_bytes", lambda self, key: b"something else")
    (finding,) = look(second_folder=SecondFolderSettings(directory=place)).values()
    assert finding.verdict is Verdict.ALERT


def test_little_space_and_the_same_disk_are_warnings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "free_bytes", lambda self: 1000)
    found = look(second_folder=SecondFolderSettings(directory=place))
    assert found["second folder's space"].verdict is Verdict.WARN
    assert second._judge_disk(Path("/")).verdict is Verdict.WARN
    assert second._judge_disk(Path("/proc")).verdict is Verdict.OK


def test_a_second_bucket_is_tried_as_the_first_and_named_apart() -> None:
    with lying_store() as store:
        keys = {"access_key_id": SecretStr("k"), "secret_access_key": SecretStr("s")}
        bucket = SecondBucketSettings(name="b", endpoint_url=store.url, addressing="path", **keys)
        found = look(second_bucket=bucket)
        assert found["second bucket"].verdict is Verdict.OK
        store.lies.add("denies")
        found = look(second_bucket=bucket)
    assert found["second bucket"].verdict is Verdict.ALERT
    assert found["second object store"].verdict is Verdict.UNKNOWN
    away = bucket.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    assert "second_bucket.endpoint_url" in look(second_bucket=away)["second bucket"].hint
