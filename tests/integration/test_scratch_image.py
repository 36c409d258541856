"""Proofs on the image that the source's server runs from, with a real Docker Engine that pulls nothing."""

import os
import pickle
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from backup_sets import back_up, prove
from docker_engine import IMAGE, import_postgres, running_engine
from real_servers import PASSWORD, Server, bucket_settings, build_platform, installation
from waiting import wait_until

from deployments.local.engine import RunningEngine
from deployments.local.objectstore import RunningObjectStore
from deployments.running.ports import find_free_port
from keepwell.backup.proof import Proof
from keepwell.backup.restore import restore_into
from keepwell.backup.source_image import SCRATCH_IMAGE, find_image_programs
from keepwell.backup.spool import open_scratch, open_spool, sweep_spools
from keepwell.containers.engine import ADDRESS_VARIABLE
from keepwell.containers.programs import ImageRunner
from keepwell.doctor.database import examine_database
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.server import throwaway_server
from keepwell.progress import silent
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.major(15)]
SOURCE = "esn_postgres"
CONTAINED = "a container of its own, read-only but for its folder, without any privilege, no network, empty environment"
# As the official image does it: a cluster in the volume that the image declares, and its server.
SOURCE_SCRIPT = """
set -e
echo "$PASSWORD" > /tmp/password
initdb -D /var/lib/postgresql/data -U postgres --auth=scram-sha-256 --pwfile=/tmp/password --locale=C.UTF-8 --no-sync
exec postgres -D /var/lib/postgresql/data -c listen_addresses=127.0.0.1 -c port="$PORT" -c fsync=off -k /tmp
"""
LIVING = """
import pickle, sys
from pathlib import Path
from keepwell.backup.source_image import find_image_programs
from keepwell.backup.spool import open_scratch, open_spool
from keepwell.postgres.server import throwaway_server
platform = pickle.loads(Path(sys.argv[1]).read_bytes())
with open_spool(platform) as spool, open_scratch(spool) as scratch:
    with throwaway_server(find_image_programs(platform, spool), scratch):
        print("up", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    with running_engine() as running:
        import_postgres(running, installation(15))
        yield running


@pytest.fixture(scope="module")
def source(engine: RunningEngine) -> Iterator[Server]:
    """The maintained server, in a container; what else it is to the tests, any server is."""
    port = find_free_port()
    container = engine.client.containers.run(
        IMAGE,
        ["sh", "-c", SOURCE_SCRIPT],
        name=SOURCE,
        user="999:999",
        network_mode="host",
        environment={"PASSWORD": PASSWORD, "PORT": str(port)},
        tmpfs={"/var/lib/postgresql/data": "uid=999,gid=999,mode=700"},
        detach=True,
    )
    server = Server(installation(15), port)
    wait_until(lambda: can_log_in(server) or container.status == "exited")
    with server.connect() as connection:
        connection.execute("CREATE ROLE owner LOGIN")
        connection.execute("CREATE DATABASE app OWNER owner")
    with server.connect("app") as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 5000) n")
        connection.execute(
            "CREATE INDEX ON people (id); CREATE TABLE notes (note text); ALTER TABLE notes OWNER TO owner"
        )
    yield server
    container.remove(force=True, v=True)


def can_log_in(server: Server) -> bool:
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def platform(source: Server, objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A platform whose server runs in the container."""
    return on_image(build_platform(source, "app", bucket_settings(objectstore), tmp_path_factory.mktemp("spool")))


@pytest.fixture(scope="module")
def backup_id(platform: Platform) -> str:
    return back_up(platform).backup_id


def on_image(platform: Platform, container: str | None = SOURCE, scratch_image: str = "auto") -> Platform:
    database = platform.database.model_copy(update={"container": container})
    backup = platform.backup.model_copy(update={"scratch_image": scratch_image})
    return platform.model_copy(update={"database": database, "backup": backup})


def noticed(proof: Proof) -> list[Finding]:
    return [finding for finding in proof.findings if finding.name == SCRATCH_IMAGE]


def assert_only_the_source_runs(engine: RunningEngine) -> None:
    names = [container.name for container in engine.client.containers.list(all=True)]
    assert (names, engine.volumes()) == ([SOURCE], [])


def test_a_set_is_proven_on_the_image_that_its_source_runs_from(
    platform: Platform, backup_id: str, engine: RunningEngine
) -> None:
    proof = prove(platform, backup_id)
    assert (proof.reached, proof.verdict, noticed(proof)) == ("serving", Verdict.OK, [])
    assert proof.server == f"PostgreSQL {installation(15).version[0]}.{installation(15).version[1]} (image {IMAGE})"
    assert (proof.isolation, proof.same_major) == (CONTAINED, True)
    assert_only_the_source_runs(engine)


@pytest.mark.long
def test_a_machine_without_any_postgresql_dumps_proves_and_restores_with_the_image_alone(
    platform: Platform, source: Server, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("preflight", "scratch_restore", "restore"):
        monkeypatch.setattr(f"keepwell.backup.{module}.find_installations", lambda configured: [])
    manifest = back_up(platform)
    assert (manifest.tools.archive_major, manifest.main.spooled_bytes) == (15, 0)
    proof = prove(platform, manifest.backup_id)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    restore_into(platform, open_store(platform), manifest.backup_id, "app_look", silent)
    with source.connect("app_look") as connection:
        assert connection.execute("SELECT count(*) FROM people").fetchone() == (5000,)
        connection.execute("DROP TABLE people, notes")
    assert_only_the_source_runs(engine)


def test_rows_that_the_image_does_not_take_turn_the_proof_red(platform: Platform, source: Server) -> None:
    """A check that holds on the source and nowhere else, as of a function that reads the server's settings."""
    with source.connect("app") as connection:
        connection.execute(
            "CREATE FUNCTION public.here() RETURNS bool IMMUTABLE LANGUAGE sql AS"
            f" $$SELECT pg_catalog.current_setting('port') = '{source.port}'$$"
        )
        connection.execute("CREATE TABLE bound (a int CHECK (public.here())); INSERT INTO bound VALUES (1)")
    try:
        manifest = back_up(platform)
    finally:
        with source.connect("app") as connection:
            connection.execute("DROP TABLE bound; DROP FUNCTION here")
    proof = prove(platform, manifest.backup_id)
    assert (proof.levels[-1].level, proof.levels[-1].verdict) == ("restored", Verdict.ALERT)
    assert "pg_restore ended with exit code 1: pg_restore: error: COPY failed" in proof.levels[-1].summary


@contextmanager
def contained_session(platform: Platform) -> Iterator[psycopg.Connection]:
    with open_spool(platform) as spool, open_scratch(spool) as scratch:
        programs = find_image_programs(platform, spool)
        with throwaway_server(programs, scratch) as conninfo, psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE TABLE seen (line text)")
            yield connection


def run_program(connection: psycopg.Connection, program: str) -> str:
    """What a program says that the server starts, as restored code could start it."""
    connection.execute("TRUNCATE seen")
    connection.execute(
        psycopg.sql.SQL("COPY seen FROM PROGRAM {} (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')").format(
            psycopg.sql.Literal(program)
        )
    )
    return "\n".join(line or "" for (line,) in connection.execute("SELECT line FROM seen"))


def test_restored_code_reaches_no_network_no_file_of_ours_and_not_the_source(
    platform: Platform, source: Server, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("only its owner may read this")
    with contained_session(platform) as connection:

        def says(program: str) -> str:
            return run_program(connection, f"{{ {program}; }} 2>&1 || true")

        assert says("tail -n +3 /proc/net/dev | grep -v '^ *lo:'") == ""
        assert "refused" in says(f"psql -h 127.0.0.1 -p {source.port} -U postgres -c 'SELECT 1'")
        assert "No such file" in says(f"cat {secret}")
        assert "No such file" in says(f"cat {platform.backup.spool_directory}/*/.users")
        assert says("id -u") == "65534"
        assert says("grep -E '^Cap(Eff|Bnd)' /proc/1/status | grep -v 0000000000000000") == ""
        assert says("grep NoNewPrivs /proc/1/status").endswith("1")
        assert "Read-only file system" in says("touch /anywhere")
        assert says('echo "$OF_THE_IMAGE$PASSWORD$KEEPWELL_INPUT"') == ""
        assert {*says("cat /proc/[0-9]*/comm").split("\n")} <= {"sh", "cat", "postgres"}


@pytest.fixture
def living(platform: Platform, tmp_path: Path, engine: RunningEngine) -> Iterator[subprocess.Popen[bytes]]:
    """A run with a scratch server from the image, at work."""
    pickled = tmp_path / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    call = [sys.executable, "-c", LIVING, str(pickled)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_a_container_that_did_not_end_is_swept_by_the_next_run(
    living: subprocess.Popen[bytes], platform: Platform, engine: RunningEngine
) -> None:
    """One that is held up, as by an engine that was busy when its run died."""
    (scratch,) = (found for found in engine.client.containers.list() if found.name != SOURCE)
    scratch.pause()
    living.kill()
    living.wait()
    assert sweep_spools(platform) == 1
    wait_until(lambda: len(engine.containers()) == 1)
    assert_only_the_source_runs(engine)
    assert not list(platform.backup.spool_directory.glob("keepwell-*"))


def test_without_an_engine_the_systems_programs_prove_and_it_is_said(
    platform: Platform, backup_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "unix:///nowhere/docker.sock")
    proof = prove(platform, backup_id)
    (finding,) = noticed(proof)
    assert (proof.reached, proof.verdict, finding.verdict) == ("serving", Verdict.WARN, Verdict.WARN)
    assert "No Docker Engine answers on this machine" in finding.message
    assert proof.server == str(installation(15))


def test_doctor_says_which_server_a_proof_would_use_and_why(platform: Platform, engine: RunningEngine) -> None:
    def proving(asked: Platform) -> list[tuple[str, Verdict, str]]:
        found = [one for one in examine_database(asked) if one.name in ("proving server", SCRATCH_IMAGE)]
        return [(one.name, one.verdict, one.message) for one in found]

    ((name, verdict, message),) = proving(platform)
    assert (name, verdict) == ("proving server", Verdict.OK)
    assert f"(image {IMAGE}) restores and proves" in message
    (missing, fallback) = proving(on_image(platform, container="gone"))
    assert (missing[1], fallback[1]) == (Verdict.WARN, Verdict.OK)
    assert "(system) restores and proves" in fallback[2]
    ((_, verdict, message),) = proving(on_image(platform, scratch_image="never"))
    assert (verdict, "(system)" in message) == (Verdict.OK, True)


# The runner by itself.


@pytest.fixture
def runner(platform: Platform, tmp_path: Path) -> ImageRunner:
    programs = find_image_programs(platform, tmp_path)
    assert isinstance(programs.elsewhere, ImageRunner)
    return programs.elsewhere


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **more}


def test_a_program_in_a_container_is_as_if_it_ran_here(runner: ImageRunner, tmp_path: Path) -> None:
    given, taken = tmp_path / "given", tmp_path / "taken"
    given.mkdir()
    taken.mkdir()
    (given / "file").write_text("of this machine")
    script = f'cat; cat {given}/file; echo "$PGOPTIONS" > {taken}/file; touch {given}/x; echo wrong >&2; exit 7'
    call = [*runner.prefix(writable=[taken], readable=[given], reads_input=True), "sh", "-c", script]
    ended = subprocess.run(call, input=b"input, ", capture_output=True, check=False, env=environment(PGOPTIONS="-c x"))
    assert (ended.returncode, ended.stdout) == (7, b"input, of this machine")
    assert b"Read-only file system" in ended.stderr
    assert ended.stderr.endswith(b"wrong\n")
    assert (taken / "file").read_text() == "-c x\n"


def test_signals_are_passed_on_and_an_end_by_one_is_told(runner: ImageRunner, engine: RunningEngine) -> None:
    script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    call = [*runner.prefix(), "sh", "-c", script]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert (process.stdout.read(), process.wait()) == (b"asked\n", 3)
    ended = subprocess.run([*runner.prefix(), "sh", "-c", "kill -9 $$"], check=False, env=environment())
    assert ended.returncode == 128 + signal.SIGKILL
    assert_only_the_source_runs(engine)


def test_the_container_of_a_killed_run_ends_by_itself(runner: ImageRunner, engine: RunningEngine) -> None:
    with subprocess.Popen([*runner.prefix(), "sleep", "600"], env=environment()) as process:
        wait_until(lambda: len(engine.client.containers.list()) == 2)
        process.kill()
    wait_until(lambda: len(engine.containers()) == 1)
    assert_only_the_source_runs(engine)


def test_a_container_that_cannot_be_run_is_told_from_a_program_that_failed(
    runner: ImageRunner, engine: RunningEngine, tmp_path: Path
) -> None:
    missing = tmp_path / secrets.token_hex(4)
    call = [*runner.prefix(readable=[missing]), "true"]
    ended = subprocess.run(call, capture_output=True, check=False, env=environment())
    assert ended.returncode == 125
    assert b"keepwell: it could not be run in a container" in ended.stderr
    assert_only_the_source_runs(engine)
