"""kill -9 at every stage of a backup and of its proof: the next run sweeps, succeeds, and lists only what is proven."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_sets import back_up, back_up_and_prove, open_multipart, prove
from real_servers import Server, running_postgres

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.manifest import new_backup_id
from keepwell.backup.progress import Step
from keepwell.backup.sweep import sweep_unfinished
from keepwell.backup.verify import verify_backup
from keepwell.errors import CommandFailed, ServiceUnavailable, TransientError
from keepwell.objectstore.store import Store, open_store
from keepwell.settings import Platform

SCRIPT = Path(__file__).parent / "backup_then_die.py"
STEP_SECONDS = 60


@pytest.fixture(autouse=True)
def some_rows(server: Server, platform: Platform) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 20000) n")
        connection.execute("CREATE INDEX ON people (id); CREATE TABLE notes AS SELECT 'note' AS note")


def run_and_die(platform: Platform, folder: Path, stage: str, count: int = 1) -> None:
    """Run a backup in a process that kills itself at a stage."""
    pickled = folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    call = [sys.executable, str(SCRIPT), str(pickled), str(count), stage]
    ended = subprocess.run(call, capture_output=True, check=False, timeout=STEP_SECONDS, cwd=Path.cwd())
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def spools(platform: Platform) -> list[Path]:
    assert platform.backup.spool_directory is not None
    return list(platform.backup.spool_directory.glob("keepwell-spool-*"))


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def assert_nothing_is_left(platform: Platform, store: Store, proven: str) -> None:
    assert spools(platform) == []
    assert list(store.list_objects(layout.UNFINISHED)) == []
    assert {stored.key.split("/")[1] for stored in store.list_objects(layout.BACKUPS)} == {proven}
    assert [entry.backup_id for entry in read_catalogue(store)] == [proven]


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("locking tables", 1),
        ("dumping", 1),
        ("dumping and storing", 1),
        ("dumping and storing", 3),
        ("counting and hashing", 1),
    ],
)
def test_a_backup_that_was_killed_is_swept_by_the_next_which_succeeds(
    stage: str, count: int, platform: Platform, store: Store, tmp_path: Path
) -> None:
    run_and_die(platform, tmp_path, stage, count)
    assert read_catalogue(store) == []
    assert len(spools(platform)) == 1
    assert len(list(store.list_objects(layout.UNFINISHED))) == 1
    proof = back_up_and_prove(platform)
    assert proof.reached == "serving"
    assert_nothing_is_left(platform, store, proof.backup_id)


@pytest.mark.parametrize("level", ["readable", "restored", "equal", "sound", "serving"])
def test_a_proof_that_was_killed_leaves_an_unproven_set_and_no_scratch_server(
    level: str, platform: Platform, store: Store, tmp_path: Path
) -> None:
    run_and_die(platform, tmp_path, f"proving: {level}")
    deadline = time.monotonic() + 20
    while processes_of(spools(platform)[0] / "scratch") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(spools(platform)[0] / "scratch") == []
    (entry,) = read_catalogue(store)
    assert (entry.proof, entry.is_proven("equal")) == (None, False)
    assert prove(platform, entry.backup_id).reached == "serving"
    assert_nothing_is_left(platform, store, entry.backup_id)


def test_half_uploads_of_a_dead_run_are_given_up(store: Store) -> None:
    dead = new_backup_id(__import__("datetime").datetime.now(__import__("datetime").UTC))
    key = f"{layout.set_folder(dead)}database/1.dat.zst"
    store.put_bytes(layout.unfinished_key(dead), b"")
    store.put_bytes(f"{layout.set_folder(dead)}database/2.dat.zst", b"?")
    with open_multipart(store, key):
        uploads = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.key(key))
        assert len(uploads["Uploads"]) == 1
        assert sweep_unfinished(store) == [dead]
        uploads = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.key(key))
        assert "Uploads" not in uploads
    assert list(store.list_objects("")) == []


def test_a_mark_that_outlived_its_manifest_costs_no_set(platform: Platform, store: Store) -> None:
    """Killed between the manifest and taking the mark away: the set is whole."""
    manifest = back_up(platform)
    store.put_bytes(layout.unfinished_key(manifest.backup_id), b"")
    assert [entry.backup_id for entry in read_catalogue(store)] == [manifest.backup_id]
    assert sweep_unfinished(store) == []
    assert prove(platform, manifest.backup_id).reached == "serving"


# One part of a run dies, and the run itself lives to say so.


def children_named(program: str) -> list[int]:
    """Our own children of that name."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = {pid for listing in children for pid in listing.read_text().split()}
    found = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                found.append(int(pid))
        except OSError:
            continue
    return found


def kill_when_seen(program: str, argument: str = "", seconds: float = 20) -> threading.Thread:
    """Kill our first child of that name, called with that argument, as soon as it is there."""

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pid in children_named(program):
                if argument in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("program", ["pg_dump", "pg_dumpall"])
def test_a_dump_that_is_killed_is_an_error_and_no_set(program: str, platform: Platform, store: Store) -> None:
    killer = kill_when_seen(program)
    with pytest.raises(CommandFailed, match=f"{program} was ended by signal 9"):
        back_up(platform)
    killer.join()
    assert (read_catalogue(store), spools(platform)) == ([], [])
    proof = back_up_and_prove(platform)
    assert_nothing_is_left(platform, store, proof.backup_id)


def test_a_restore_that_is_killed_does_not_prove_the_set(platform: Platform, store: Store) -> None:
    manifest = back_up(platform)
    killers: list[threading.Thread] = []

    def watch(step: Step) -> None:
        if step.stage == "proving: readable":
            killers.append(kill_when_seen("pg_restore", "--exit-on-error"))

    proof = verify_backup(platform, store, manifest.backup_id, watch)
    killers[0].join()
    assert (proof.reached, proof.levels[-1].level) == ("complete", "restored")
    assert "ended by signal 9" in proof.levels[-1].summary
    assert prove(platform, manifest.backup_id).reached == "serving"


@pytest.fixture
def doomed(platform: Platform, tmp_path: Path) -> Iterator[tuple[Platform, int]]:
    """A platform on a server of its own that may be killed, and its process."""
    folder = tmp_path / "pg"
    folder.mkdir()
    with running_postgres(17, folder) as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE doomed")
        with server.connect("doomed") as connection:
            connection.execute("CREATE TABLE t AS SELECT n, md5(n::text) AS m FROM generate_series(1, 300000) n")
        database = platform.database.model_copy(update={"port": server.port, "name": "doomed"})
        pid = int((folder / "data" / "postmaster.pid").read_text().split("\n")[0])
        yield platform.model_copy(update={"database": database}), pid


@pytest.mark.parametrize("stage", ["locking tables", "dumping", "pg_dump", "counting and hashing"])
def test_a_source_server_that_dies_is_a_transient_error_and_no_set(
    stage: str, doomed: tuple[Platform, int], store: Store
) -> None:
    platform, pid = doomed
    watched: list[threading.Thread] = []

    def kill_server() -> None:
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return
            time.sleep(0.01)

    def kill_under_the_dump() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not children_named("pg_dump"):
            time.sleep(0.001)
        time.sleep(0.05)
        kill_server()

    def kill(step: Step) -> None:
        if step.stage == stage and not watched:
            watched.append(threading.current_thread())
            kill_server()
        if stage == "pg_dump" and step.stage == "dumping" and not watched:
            watched.append(threading.Thread(target=kill_under_the_dump))
            watched[0].start()

    with pytest.raises(TransientError) as raised:
        create_backup(platform, open_store(platform), kill)
    assert isinstance(raised.value, ServiceUnavailable)
    assert (read_catalogue(store), spools(platform)) == ([], [])
    if stage == "pg_dump":
        watched[0].join()
