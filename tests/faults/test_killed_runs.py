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
import redis
from backup_sets import back_up, back_up_and_prove, open_multipart, prove
from pydantic import SecretStr
from real_servers import Server, installation, reachable_folder, running_postgres

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.manifest import new_backup_id
from keepwell.backup.restore import restore_into, temporary_prefix
from keepwell.backup.spool import CACHE_SCRATCH, sweep_spools
from keepwell.backup.sweep import sweep_unfinished
from keepwell.backup.uploads_index import FileEntry
from keepwell.backup.verify import verify_backup
from keepwell.errors import CommandFailed, ServiceUnavailable, TransientError
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.isolation import UNPRIVILEGED_ID, isolate
from keepwell.progress import Step, silent
from keepwell.settings import Platform, UploadsSettings

SCRIPT = Path(__file__).parent / "backup_then_die.py"
RESTORE_SCRIPT = Path(__file__).parent / "restore_then_die.py"
STEP_SECONDS = 60
# Anywhere but where it was made, this index takes so long that a restore is there to be killed, on a busy machine too.
SLOW_TO_RESTORE = """
CREATE FUNCTION slow(n int, made_in text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_sleep(3) WHERE pg_catalog.current_database() <> made_in;
    RETURN n;
END $$;
CREATE TABLE few AS SELECT 1 AS n, current_database()::text AS made_in;
CREATE INDEX ON few (slow(n, made_in));
"""


@pytest.fixture(autouse=True)
def some_rows(server: Server, platform: Platform) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 20000) n")
        connection.execute("CREATE INDEX ON people (id); CREATE TABLE notes AS SELECT 'note' AS note")


@pytest.fixture
def a_key(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("a key", "a value")


def run_and_die(platform: Platform, folder: Path, stage: str, count: int = 1) -> None:
    """Run a backup in a process that kills itself at a stage."""
    run_killed(SCRIPT, platform, folder, str(count), stage)


def run_killed(script: Path, platform: Platform, folder: Path, *arguments: str) -> None:
    pickled = folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    call = [sys.executable, str(script), str(pickled), *arguments]
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


def scratch_folder(platform: Platform) -> Path:
    """Of the only run that there is, or that died."""
    return (spools(platform)[0] / "scratch").readlink()


def wait_until_no_process_of(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []


def assert_nothing_is_left(platform: Platform, store: Store, proven: str) -> None:
    assert platform.backup.spool_directory is not None
    assert list(platform.backup.spool_directory.iterdir()) == []
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
    (spool,) = spools(platform)
    wait_until_no_process_of(spool)  # by themselves: a worker of pg_dump would keep its locks until the next run
    assert len(list(store.list_objects(layout.UNFINISHED))) == 1
    proof = back_up_and_prove(platform)
    assert proof.reached == "serving"
    assert_nothing_is_left(platform, store, proof.backup_id)


@pytest.mark.usefixtures("a_key")
@pytest.mark.parametrize(
    ("stage", "count"),
    [
        ("storing uploaded files", 1),
        ("sending uploaded files", 1),
        ("sending uploaded files", 7),
        ("storing uploaded files", 2),
        ("storing keys of Redis", 2),
    ],
)
def test_a_run_killed_while_files_are_sent_leaves_whole_contents_only_and_the_next_sends_the_rest(
    stage: str, count: int, platform: Platform, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000))
    (folder / "large.bin").write_bytes(os.urandom(20_000_000))
    platform = platform.model_copy(update={"uploads": UploadsSettings(directory=folder)})
    run_and_die(platform, tmp_path, stage, count)
    assert read_catalogue(store) == []
    left = [found.key for found in store.list_objects(layout.UPLOADS)]
    for key in left:
        entry = FileEntry("file", "left", key=key, sha256=key.rpartition("/")[2].partition(".")[0])
        assert entry.read_content(store, lambda chunk: None) == ""
    manifest = back_up(platform)
    assert manifest.uploads is not None
    assert manifest.uploads.sent_contents == 21 - len(left)
    proof = verify_backup(platform, store, manifest.backup_id, silent, all_uploads=False)
    assert "21 contents, all read back" in proof.levels[1].summary  # nobody had read what the dead run sent
    assert proof.reached == "serving"
    assert_nothing_is_left(platform, store, proof.backup_id)
    uploads = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.key(""))
    assert "Uploads" not in uploads


@pytest.mark.usefixtures("a_key")
def test_a_proof_that_was_killed_leaves_no_scratch_server_for_redis(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    run_and_die(platform, tmp_path, "comparing keys of Redis")
    (spool,) = spools(platform)
    scratch = (spool / CACHE_SCRATCH).readlink()
    assert (scratch / "server.conf").exists()
    deadline = time.monotonic() + 20
    while processes_of(scratch) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(scratch) == []
    (entry,) = read_catalogue(store)
    assert prove(platform, entry.backup_id).reached == "serving"
    assert spools(platform) == []
    assert not scratch.exists()


@pytest.mark.parametrize("level", ["readable", "restored", "equal", "sound", "serving"])
def test_a_proof_that_was_killed_leaves_an_unproven_set_and_no_scratch_server(
    level: str, platform: Platform, store: Store, tmp_path: Path
) -> None:
    run_and_die(platform, tmp_path, f"proving: {level}")
    if level not in ("readable", "restored"):
        wait_until_no_process_of(scratch_folder(platform))
    (entry,) = read_catalogue(store)
    assert (entry.proof, entry.is_proven("equal")) == (None, False)
    assert prove(platform, entry.backup_id).reached == "serving"
    assert_nothing_is_left(platform, store, entry.backup_id)


def test_a_killed_proof_leaves_no_scratch_server_of_another_user(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    """Where we are root, a spool within everybody's reach has its scratch server run as nobody."""
    with reachable_folder() as place:
        backup = platform.backup.model_copy(update={"spool_directory": place})
        reachable = platform.model_copy(update={"backup": backup})
        run_and_die(reachable, tmp_path, "proving: equal")
        scratch = scratch_folder(reachable)
        owner = UNPRIVILEGED_ID if isolate(installation(17), scratch).owns_its_files else os.geteuid()
        assert (scratch / "data").stat().st_uid == owner
        wait_until_no_process_of(scratch)
        (entry,) = read_catalogue(store)
        assert prove(reachable, entry.backup_id).reached == "serving"
        assert_nothing_is_left(reachable, store, entry.backup_id)


def test_a_killed_proof_whose_socket_lay_elsewhere_leaves_no_folder_behind(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    """A socket's path may have 107 bytes, so one of a deep spool lies in a short folder outside of it."""
    deep = tmp_path / ("deep" * 15)
    deep.mkdir()
    backup = platform.backup.model_copy(update={"spool_directory": deep})
    deep_platform = platform.model_copy(update={"backup": backup})
    run_and_die(deep_platform, tmp_path, "proving: equal")
    sockets = (scratch_folder(deep_platform) / "socket").readlink()
    assert sockets.is_dir()
    sweep_spools(deep_platform)
    assert (sockets.exists(), spools(deep_platform)) == (False, [])
    (entry,) = read_catalogue(store)
    assert prove(deep_platform, entry.backup_id).reached == "serving"


def databases(server: Server) -> set[str]:
    with server.connect() as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.mark.parametrize("stage", ["restoring", "comparing"])
@pytest.mark.parametrize("sweeper", ["backup", "restore"])
def test_a_restore_that_was_killed_is_swept_by_the_next_backup_or_restore(
    sweeper: str, stage: str, platform: Platform, server: Server, tmp_path: Path
) -> None:
    manifest, before = back_up(platform), databases(server)
    run_killed(RESTORE_SCRIPT, platform, tmp_path, manifest.backup_id, "killed_copy", stage)
    (left,) = databases(server) - before
    assert left.startswith("keepwell_restoring_")
    assert len(spools(platform)) == 1
    if sweeper == "backup":
        back_up(platform)
        assert databases(server) == before
    else:
        store = open_store(platform)
        with hold_platform(platform, store, Procedure.RESTORE):
            restore_into(platform, store, manifest.backup_id, "killed_copy", silent, allow_unproven=True)
        assert databases(server) == before | {"killed_copy"}
        with server.connect() as connection:
            connection.execute("DROP DATABASE killed_copy")
    assert spools(platform) == []


def test_a_role_that_may_not_drop_what_a_dead_restore_left_backs_up_all_the_same(
    platform: Platform, server: Server
) -> None:
    left = f"{temporary_prefix(platform)}dead"
    with server.connect() as connection:
        connection.execute(f'CREATE DATABASE "{left}"')
        connection.execute("CREATE ROLE unable LOGIN PASSWORD 'p'; GRANT pg_read_all_data TO unable")
    try:
        database = platform.database.model_copy(update={"user": "unable", "password": SecretStr("p")})
        back_up(platform.model_copy(update={"database": database}))
        assert left in databases(server)
        back_up(platform)
        assert left not in databases(server)
    finally:
        with server.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{left}"')
            connection.execute("DROP ROLE unable")


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


def test_a_restore_that_is_killed_does_not_prove_the_set(platform: Platform, server: Server, store: Store) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute(SLOW_TO_RESTORE)
    manifest = back_up(platform)
    killers: list[threading.Thread] = []

    def watch(step: Step) -> None:
        if step.stage == "proving: readable":
            killers.append(kill_when_seen("pg_restore", "--exit-on-error", seconds=200))

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
