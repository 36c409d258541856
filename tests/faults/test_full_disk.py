"""A spool that is too small: refused early where that can be foreseen, and a clean error where it cannot."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from backup_sets import back_up, back_up_and_prove, prove
from real_servers import Server

from keepwell.backup.catalogue import read_catalogue, read_entry
from keepwell.objectstore.store import Store
from keepwell.settings import Platform

SCRIPT = Path(__file__).parent / "backup_on_small_disk.py"


@pytest.fixture(autouse=True)
def well_compressed_rows(server: Server, platform: Platform) -> None:
    """Four megabytes on the server's disk, 400 in a dump."""
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE well_compressed AS SELECT repeat('x', 10000000) FROM generate_series(1, 40)")


def run_on_small_disk(platform: Platform, folder: Path, megabytes: str, *backup_ids: str) -> str:
    pickled = folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    call = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, str(SCRIPT)]
    call += [str(pickled), megabytes, *backup_ids]
    ended = subprocess.run(call, capture_output=True, check=False, timeout=120, cwd=Path.cwd(), text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_disk_that_is_visibly_too_small_is_refused_before_anything_is_stored(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    said = run_on_small_disk(platform, tmp_path, "200")
    assert said.startswith("PreconditionFailed:")
    assert "MB free; the run needs about" in said
    assert list(store.list_objects("")) == []


def test_rows_need_no_disk(platform: Platform, store: Store, tmp_path: Path) -> None:
    """Four hundred megabytes of them, through a disk of 335."""
    assert run_on_small_disk(platform, tmp_path, "335") == "left: []\n"
    (entry,) = read_catalogue(store)
    assert entry.manifest is not None
    assert (entry.manifest.rows, entry.manifest.main.spooled_bytes) == (40, 0)
    assert prove(platform, entry.backup_id).reached == "serving"


def test_a_disk_that_fills_up_during_the_dump_is_an_error_and_no_set(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    said = run_on_small_disk(platform, tmp_path, "335!")
    assert said.startswith("CommandFailed: pg_dump")
    assert "No space left on device" in said
    assert said.endswith("left: []\n")
    assert read_catalogue(store) == []
    proof = back_up_and_prove(platform)
    assert proof.reached == "serving"
    assert [entry.backup_id for entry in read_catalogue(store)] == [proof.backup_id]
    assert list(store.list_objects("unfinished/")) == []


def test_a_proof_that_would_not_fit_is_refused_and_the_set_stays_unjudged(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    manifest = back_up(platform)
    said = run_on_small_disk(platform, tmp_path, "315", manifest.backup_id)
    assert said.startswith("PreconditionFailed:")
    assert "the scratch server of the proof needs about" in said
    assert read_entry(store, manifest.backup_id).last_attempt is None
