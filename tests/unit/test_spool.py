import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from keepwell import disk_space, locked_folder
from keepwell.backup import spool
from keepwell.backup.spool import open_scratch, open_spool, require_space, spool_place, sweep_spools
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed
from keepwell.settings import BackupSettings, Platform


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform.model_construct(name="esn", backup=BackupSettings(spool_directory=tmp_path))


def test_a_spool_is_private_and_gone_with_its_block(platform: Platform) -> None:
    with open_spool(platform) as folder:
        (folder / "x").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_living_runs_spool_is_left_alone(platform: Platform) -> None:
    with open_spool(platform) as folder:
        assert sweep_spools(platform) == 0
        assert folder.exists()


def test_a_dead_runs_spool_is_removed(platform: Platform, tmp_path: Path) -> None:
    dead = tmp_path / "keepwell-spool-dead"
    (dead / "database").mkdir(parents=True)
    (dead / "lock").touch()
    assert sweep_spools(platform) == 1
    assert not dead.exists()


def test_a_spool_without_its_lock_is_removed_only_when_it_is_old(platform: Platform, tmp_path: Path) -> None:
    """It may have been made this very moment by a run that is about to lock it."""
    young, old = tmp_path / "keepwell-spool-young", tmp_path / "keepwell-spool-old"
    young.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    assert sweep_spools(platform) == 0
    assert (young.exists(), old.exists()) == (True, False)


def test_neither_links_nor_others_names_are_swept(platform: Platform, tmp_path: Path) -> None:
    other = tmp_path / "somebody-elses"
    other.mkdir()
    (other / "lock").touch()
    (tmp_path / "keepwell-spool-link").symlink_to(other)
    assert sweep_spools(platform) == 0
    assert (other / "lock").exists()


def test_what_a_dead_run_left_at_work_in_its_spool_is_ended(platform: Platform, tmp_path: Path) -> None:
    """As a worker of a killed pg_dump does, which waits for the other end of a FIFO and is told nothing."""
    dead = tmp_path / "keepwell-spool-dead"
    (dead / "database").mkdir(parents=True)
    (dead / "lock").touch()
    fifo = dead / "database" / "1.dat"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", ': > "$1"', "sh", str(fifo)]) as waiting:
        # A new program's call shows a moment after it began.
        while os.fsencode(fifo) not in Path(f"/proc/{waiting.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert sweep_spools(platform) == 1
        assert waiting.wait(10) == -signal.SIGKILL


def test_a_dead_runs_spool_that_names_another_process_ends_nobody(platform: Platform, tmp_path: Path) -> None:
    """Process numbers are reused: only the server of that very folder is ended."""
    data = make_dead_spool(tmp_path, tmp_path / "keepwell-scratch-dead") / "data"
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert sweep_spools(platform) == 1
    assert list(tmp_path.iterdir()) == []


def make_dead_spool(place: Path, scratch: Path) -> Path:
    """A dead run's spool that leads to a folder as to its scratch server's."""
    scratch.mkdir()
    spool = place / "keepwell-spool-dead"
    spool.mkdir()
    (spool / "lock").touch()
    (spool / "scratch").symlink_to(scratch)
    return scratch


def test_a_sweep_follows_no_link_but_to_a_folder_of_ours_beside_the_spool(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for scratch in (tmp_path / "dear", tmp_path / "elsewhere" / "keepwell-scratch-1"):
        make_dead_spool(tmp_path, scratch)
        assert sweep_spools(platform) == 1
        assert scratch.exists()


def test_a_sweep_of_a_scratch_server_follows_no_link_but_to_a_folder_of_sockets(
    platform: Platform, tmp_path: Path
) -> None:
    dear = tmp_path / "dear"
    dear.mkdir()
    scratch = make_dead_spool(tmp_path, tmp_path / "keepwell-scratch-dead")
    (scratch / "socket").symlink_to(dear)
    assert sweep_spools(platform) == 1
    assert (scratch.exists(), dear.exists()) == (False, True)


def test_a_scratch_folder_lies_beside_its_spool_and_is_gone_with_its_block(platform: Platform, tmp_path: Path) -> None:
    with open_spool(platform) as folder:
        with open_scratch(folder) as scratch:
            assert (scratch.parent, (folder / "scratch").readlink()) == (folder.parent, scratch)
            assert sweep_spools(platform) == 0
        assert not scratch.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_held_lock_outweighs_everything(platform: Platform, tmp_path: Path) -> None:
    held = tmp_path / "keepwell-spool-held"
    held.mkdir()
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep_spools(platform) == 0
    assert sweep_spools(platform) == 1


def test_no_sweep_comes_between_making_a_spool_and_locking_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, []

    def swept_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        swept.append(sweep_spools(platform))
        flock(descriptor, operation)

    monkeypatch.setattr(locked_folder.fcntl, "flock", swept_first)
    with open_spool(platform) as folder:
        assert (swept, folder.exists()) == ([0], True)
        assert sweep_spools(platform) == 0


def test_a_spool_that_another_run_removes_meanwhile_does_not_fail_this_one(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def removed_first(path: Path, flags: int) -> int:
        monkeypatch.undo()
        shutil.rmtree(path.parent)
        return opened(path, flags)

    (tmp_path / "keepwell-spool-dead").mkdir()
    monkeypatch.setattr(spool.os, "open", removed_first)
    assert sweep_spools(platform) == 0


def test_many_sweeps_at_once_fail_none_of_them(platform: Platform, tmp_path: Path) -> None:
    for number in range(200):
        dead = tmp_path / f"keepwell-spool-{number}"
        (dead / "database").mkdir(parents=True)
        (dead / "lock").touch()
    with ThreadPoolExecutor(4) as pool:
        sweeps = [pool.submit(sweep_spools, platform) for _ in range(4)]
        assert sum(sweep.result(60) for sweep in sweeps) >= 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free_mb", "enough"), [(100, False), (300, False), (357, True), (1000, True)])
def test_space_is_asked_for_beside_a_reserve_that_stays_free(
    free_mb: int, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=free_mb * 2**20))
    if enough:
        require_space(tmp_path, 100 * 2**20, "the dump")
    else:
        with pytest.raises(PreconditionFailed, match=r"the dump needs about 104\.9 MB") as raised:
            require_space(tmp_path, 100 * 2**20, "the dump")
        assert "spool_directory" in raised.value.hint


def test_a_folder_that_is_not_there_is_a_fault_of_the_platform_file(tmp_path: Path) -> None:
    missing = Platform.model_construct(name="esn", backup=BackupSettings(spool_directory=tmp_path / "missing"))
    for use in (sweep_spools, spool_place):
        with pytest.raises(ConfigurationError, match="There is no folder") as raised:
            use(missing)
        assert "backup.spool_directory" in raised.value.hint
    with pytest.raises(ConfigurationError), open_spool(missing):
        pytest.fail("opened")


def test_a_folder_that_may_not_be_written_is_a_fault_of_the_platform_file(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool.os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(ConfigurationError, match="may not write into") as raised, open_spool(platform):
        pytest.fail("opened")
    assert "backup.spool_directory" in raised.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_told_in_our_words(number: int, platform: Platform) -> None:
    with pytest.raises(KeepwellError, match="is full") as raised, open_spool(platform):
        raise OSError(number, "injected")
    assert "spool_directory" in raised.value.hint


def test_other_troubles_of_the_disk_are_not_renamed(platform: Platform) -> None:
    with pytest.raises(OSError, match="injected"), open_spool(platform):
        raise OSError(errno.EIO, "injected")
