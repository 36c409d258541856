"""A throwaway server runs code of others as its superuser: what that code can reach, tried from inside."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from real_servers import MAJORS, installation

from keepwell.postgres import confinement
from keepwell.postgres.confinement import Confinement
from keepwell.postgres.isolation import isolate
from keepwell.postgres.server import confine, end_orphan, throwaway_server


@dataclass(frozen=True)
class Scratch:
    connection: psycopg.Connection
    folder: Path

    def shell(self, script: str) -> str:
        """What a program that was started by a dump's SQL says."""
        self.connection.execute("CREATE TEMP TABLE IF NOT EXISTS said (line text)")
        self.connection.execute("TRUNCATE said")
        call = sql.Literal(f"({script}) 2>&1 | base64 -w 0")
        self.connection.execute(sql.SQL("COPY said FROM PROGRAM {}").format(call))
        row = self.connection.execute("SELECT convert_from(decode(line, 'base64'), 'LATIN1') FROM said").fetchone()
        return row[0] if row else ""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    folder = tmp_path_factory.mktemp("confined")
    with throwaway_server(installation(17), folder) as conninfo, psycopg.connect(conninfo, autocommit=True) as opened:
        yield Scratch(opened, folder)


def processes_of(folder: Path) -> list[int]:
    """Processes whose call names a data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [int(entry.name)] if os.fsencode(folder / "data") in argv else []
    return found


def test_this_machine_confines(tmp_path: Path) -> None:
    """Where it cannot, the tests below would show something else than they claim."""
    assert (
        str(isolate(installation(17), tmp_path))
        == "no files but its own, no other processes, no network, empty environment"
    )


@pytest.mark.parametrize("major", MAJORS)
def test_a_throwaway_server_of_each_major_runs_confined(major: int, tmp_path: Path) -> None:
    with throwaway_server(installation(major), tmp_path) as conninfo, psycopg.connect(conninfo) as opened:
        shell = Scratch(opened, tmp_path)
        assert "No such file" in shell.shell("cat /etc/shadow")


def test_files_of_this_machine_do_not_exist_for_it(scratch: Scratch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("marked-secret")
    for script in (f"cat {tmp_path}/secret", "cat /etc/shadow", "ls /root", f"ls {Path.home()}", "ls /outside/*"):
        assert "No such file" in scratch.shell(script), script
    with pytest.raises(psycopg.errors.UndefinedFile):
        scratch.connection.execute(sql.SQL("SELECT pg_read_file({})").format(sql.Literal(str(tmp_path / "secret"))))


def test_nothing_can_be_written_but_in_its_own_folder(scratch: Scratch, tmp_path: Path) -> None:
    for place in ("/usr/bin", "/", "/etc", "/dev", "/tmp"):
        assert "Read-only file system" in scratch.shell(f"touch {place}/keepwell-was-here"), place
        assert not Path(place, "keepwell-was-here").exists()
    assert "No such file" in scratch.shell(f"touch {tmp_path}/keepwell-was-here")
    assert scratch.shell(f"touch {scratch.folder}/mine; ls {scratch.folder}/mine").strip() == f"{scratch.folder}/mine"


def test_what_is_read_only_cannot_be_made_writable_nor_the_view_be_left(scratch: Scratch) -> None:
    inner = "unshare --user --map-root-user --mount"
    assert "permission denied" in scratch.shell(f"{inner} mount -o remount,bind,rw /usr")
    assert "not mounted" in scratch.shell(f"{inner} umount -l /usr")
    assert "No such file" in scratch.shell("cat /proc/sys/kernel/core_pattern")


def test_other_processes_can_be_neither_seen_nor_signalled(scratch: Scratch) -> None:
    assert "No such process" in scratch.shell(f"bash -c 'kill -0 {os.getpid()}'")
    seen = scratch.shell("ls /proc").split()
    assert str(os.getpid()) not in seen
    assert "sysrq-trigger" not in seen


def test_it_has_no_network(scratch: Scratch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        call = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{listening.getsockname()[1]}'"
        assert "unreachable" in scratch.shell(call)
        assert subprocess.run(call, shell=True, check=False).returncode == 0
    assert scratch.connection.execute("SHOW listen_addresses").fetchone() == ("",)
    assert conninfo_to_dict(scratch.connection.info.dsn)["host"].startswith("/")


def test_it_has_none_of_our_environment(scratch: Scratch) -> None:
    environment = scratch.shell("env; tr '\\0' '\\n' < /proc/1/environ")
    assert "PATH=" in environment
    for name in ("AWS_", "KEEPWELL_", "PASSWORD", "VIRTUAL_ENV", "PYTEST"):
        assert name not in environment


def test_it_is_gone_with_its_block(tmp_path: Path) -> None:
    with throwaway_server(installation(15), tmp_path) as conninfo:
        psycopg.connect(conninfo).close()
        assert processes_of(tmp_path)
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "data" / "postmaster.pid").exists()


def test_it_is_gone_with_a_killed_parent_and_its_children_with_it(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
import psycopg
from real_servers import installation
from keepwell.postgres.server import throwaway_server
with throwaway_server(installation(17), Path(sys.argv[1])) as conninfo, psycopg.connect(conninfo) as opened:
    print("ready", flush=True)
    opened.execute("COPY (SELECT 1) TO PROGRAM 'sleep 60'")
"""
    argv = [sys.executable, "-c", script, str(tmp_path)]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=paths) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == b"ready\n"
        doomed.kill()
    deadline = time.monotonic() + 15
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(tmp_path) == []


def test_an_orphan_is_found_by_its_folder_and_ended(tmp_path: Path) -> None:
    with throwaway_server(installation(17), tmp_path):
        end_orphan(tmp_path / "data")
        assert processes_of(tmp_path) == []


def test_a_confined_program_that_is_killed_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    call = (*confine(installation(17), tmp_path / "own", tmp_path / "own").prefix(), "sleep", "60")
    process = subprocess.Popen(call)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def test_what_is_mounted_below_a_readable_folder_is_read_only_too(tmp_path: Path) -> None:
    readable, blanks, own, root = (tmp_path / name for name in ("readable", "with blanks in it", "own", "root"))
    for folder in (readable / "mounted", blanks, own, root):
        folder.mkdir(parents=True)
    probe = 'touch "$1/mounted/x"; touch "$1/x"; touch "$2/x"; touch "$3/x"; ls "$1/mounted"'
    prefix = Confinement(root, (own,), (readable, blanks)).prefix()
    mounted = 'mount -t tmpfs keepwell "$1"; : > "$1/there"; shift; exec "$@"'
    outer = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", readable / "mounted")
    call = [*outer, *prefix, "sh", "-c", probe, "sh", readable, blanks, own]
    said = subprocess.run(call, capture_output=True, text=True, check=False)
    assert said.stderr.count("Read-only file system") == 3, said.stderr
    assert said.stdout == "there\n"
    assert [f.name for f in (*own.iterdir(), *readable.iterdir(), *blanks.iterdir())] == ["x", "mounted"]


@pytest.mark.parametrize("name", ["with blank", "line\nbreak", "back\\slash", "ümlaut"])
def test_a_folder_whose_name_the_script_could_misread_is_not_confined_and_said(name: str, tmp_path: Path) -> None:
    odd = tmp_path / name
    odd.mkdir()
    assert not Confinement(odd, (odd,)).possible
    assert "no files but its own" not in str(isolate(installation(17), odd))


def test_a_machine_without_the_means_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_can_confine", lambda: False)
    with throwaway_server(installation(17), tmp_path) as conninfo, psycopg.connect(conninfo) as opened:
        assert opened.execute("SELECT 1").fetchone() == (1,)
    assert "no files but its own" not in str(isolate(installation(17), tmp_path))


def test_installations_outside_the_systems_folders_are_shown_to_it(tmp_path: Path) -> None:
    view = Confinement(tmp_path, (tmp_path,), (Path("/usr/lib"), Path("/opt/pg"))).prefix()
    assert "/opt/pg" in view
    assert "/usr/lib" not in view
