"""The folder of one scratch server: private, gone with its block, and swept when its run was killed."""

import fcntl
import os
import time
from pathlib import Path

from real_servers import installation

from keepwell.postgres.scratch_folder import scratch_folder, sweep_scratch_folders
from keepwell.postgres.server import throwaway_server


def test_it_is_private_and_gone_with_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert sweep_scratch_folders(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_with_its_server(tmp_path: Path) -> None:
    left = tmp_path / "keepwell-dump-dead"
    left.mkdir()
    (left / "lock").touch()
    with throwaway_server(installation(17), left):
        assert sweep_scratch_folders(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_run_holds_stays_and_so_does_what_is_not_ours(tmp_path: Path) -> None:
    held, young, old = (tmp_path / f"keepwell-dump-{name}" for name in ("held", "young", "old"))
    for folder in (held, young, old):
        folder.mkdir()
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    (tmp_path / "keepwell-dump-link").symlink_to(held)
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep_scratch_folders(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "keepwell-dump-held",
        "keepwell-dump-link",
        "keepwell-dump-young",
    ]
