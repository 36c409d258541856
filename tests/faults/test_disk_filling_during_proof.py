"""A disk that fills up in the middle of a proof says nothing of the set: unknown or an error, and never damage."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from backup_sets import back_up, prove
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.catalogue import read_entry
from keepwell.objectstore.bucket import open_store
from keepwell.settings import Platform

SCRIPT = Path(__file__).parent / "proof_on_filling_disk.py"


@dataclass(frozen=True)
class Stored:
    platform: Platform
    backup_id: str


@pytest.fixture(scope="module")
def stored(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    """A set of sixty megabytes that no server compresses."""
    server = servers(17)
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute("CREATE TABLE large (n int PRIMARY KEY, body text)")
            connection.execute("ALTER TABLE large ALTER body SET STORAGE EXTERNAL")
            connection.execute("INSERT INTO large SELECT n, repeat('x', 2000000) FROM generate_series(1, 30) n")
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        yield Stored(platform, back_up(platform).backup_id)


def verify_while_the_disk_fills(stored: Stored, folder: Path, stage: str, megabytes: int) -> str:
    pickled = folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(stored.platform))
    call = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, str(SCRIPT)]
    call += [str(pickled), stored.backup_id, stage, str(megabytes)]
    ended = subprocess.run(call, capture_output=True, check=False, timeout=120, cwd=Path.cwd(), text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("left: []\n")
    return ended.stdout


@pytest.mark.parametrize(
    ("stage", "megabytes", "outcomes"),
    [
        ("readable", 1, ("KeepwellError: The disk of", "restored unknown: 1 finding: ")),
        ("restored", 1, ("restored unknown: 1 finding: ", "serving ok", "ServiceUnavailable: ")),
        ("scratch server", 1, ("ServiceUnavailable: creating the database",)),
        ("scratch server", 40, ("restored unknown: 1 finding: This machine cannot restore", "ServiceUnavailable: ")),
        ("equal", 0, ("serving ok", "ServiceUnavailable: ")),
        ("sound", 0, ("sound unknown", "serving ok", "ServiceUnavailable: ")),
    ],
)
def test_a_disk_that_fills_up_during_a_proof_never_damages_a_set(
    stored: Stored, tmp_path: Path, stage: str, megabytes: int, outcomes: tuple[str, ...]
) -> None:
    said = verify_while_the_disk_fills(stored, tmp_path, stage, megabytes)
    assert said.startswith(outcomes)
    entry = read_entry(open_store(stored.platform), stored.backup_id)
    assert not entry.damaged


def test_the_set_was_fine_all_the_while(stored: Stored) -> None:
    assert prove(stored.platform, stored.backup_id).reached == "serving"
