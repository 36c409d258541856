import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.uploaded_files import takes
from keepwell.errors import Abandoned
from keepwell.objectstore.uploads import Uploads, plan_part_bytes
from keepwell.settings import UploadsSettings

MIB = 1024 * 1024


def test_ten_thousand_parts_hold_a_terabyte() -> None:
    sent = parts = 0
    while sent < 1024**4:
        sent += plan_part_bytes(sent)
        parts += 1
    assert parts < 10_000


@given(st.integers(0, 5 * 1024**4))
def test_parts_are_never_below_what_a_store_takes_and_only_grow(sent: int) -> None:
    assert plan_part_bytes(sent) >= 5 * MIB
    assert plan_part_bytes(sent + MIB) >= plan_part_bytes(sent)


def test_a_store_that_takes_nothing_is_told_from_one_that_is_slow() -> None:
    release = threading.Event()
    with Uploads(1) as uploads:
        assert uploads.stalled_seconds == 0
        future = uploads.send(lambda body: release.wait(10), b"x")
        time.sleep(0.05)
        assert uploads.stalled_seconds >= 0.05
        release.set()
        uploads.wait(future)
        assert uploads.stalled_seconds == 0


def test_bytes_that_are_taken_end_a_stall() -> None:
    release, took = threading.Event(), threading.Event()

    def slow(body: object) -> None:
        time.sleep(0.1)
        body.read(1)  # type: ignore[attr-defined]
        took.set()
        release.wait(10)

    with Uploads(1) as uploads:
        future = uploads.send(slow, b"xy")
        took.wait(10)
        assert uploads.stalled_seconds < 0.1
        release.set()
        uploads.wait(future)


def test_whoever_waits_for_an_abandoned_upload_is_let_go() -> None:
    release = threading.Event()
    with Uploads(1) as uploads:
        future = uploads.send(lambda body: release.wait(10), b"x")
        uploads.abandon()
        with pytest.raises(Abandoned):
            uploads.wait(future)
        release.set()


@pytest.mark.parametrize(
    ("location", "taken"),
    [
        (b"esn.toml", True),
        (b"keys/identities.txt", False),
        (b"keys/odd.toml", False),
        (b"conf.d/a.toml", True),
        (b"conf.d/more/a.toml", False),
        (b"esn.toml.bak", False),
    ],
)
def test_only_what_the_patterns_name_is_taken(location: bytes, taken: bool) -> None:
    settings = UploadsSettings(directory=Path("/etc/keepwell"), only=("*.toml", "conf.d/*.toml"))
    assert takes(settings, location) is taken
    assert takes(UploadsSettings(directory=Path("/etc/keepwell")), location)
