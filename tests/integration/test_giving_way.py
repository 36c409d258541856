"""What runs for a backup stands back for whoever shares the machine: each process of it, and each session."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from real_servers import installation
from waiting import wait_until

from keepwell import command, giving_way
from keepwell.command import Command
from keepwell.giving_way import descendants_standing_back, let_session_stand_back
from keepwell.postgres.server import throwaway_server

NICE = 7
# Where the kernel shares the processor among sessions first, each has such a file.
AUTOGROUPS = Path("/proc/self/autogroup").exists()


def group_nice(pid: int) -> int:
    """How far the session of a process stands back; where it has no group of its own, how far the process does."""
    words = Path(f"/proc/{pid}/autogroup").read_text().split() if AUTOGROUPS else []
    return int(words[-1]) if words else os.getpriority(os.PRIO_PROCESS, pid)


def test_a_program_stands_back_with_a_session_of_its_own() -> None:
    process = command.start(Command(("sleep", "60")).standing_back(NICE))
    try:
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == NICE)
        assert os.getsid(process.pid) == process.pid
        assert group_nice(process.pid) == NICE
        assert group_nice(os.getpid()) != NICE
    finally:
        command.stop(process)


def test_a_session_without_a_group_of_its_own_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a machine's first process: there is nothing to change, and no failure."""
    group = tmp_path / "1" / "autogroup"
    group.parent.mkdir()
    group.write_text("")
    monkeypatch.setattr(giving_way, "_PROC", tmp_path)
    let_session_stand_back(1, NICE)
    assert group.read_text() == ""


def test_a_program_that_stands_back_still_dies_with_whoever_started_it() -> None:
    """A session of its own hears no hangup of ours; the kernel's signal reaches it all the same."""
    script = (
        "from keepwell import command; from keepwell.command import Command; import time;"
        f"print(command.start(Command(('sleep', '60')).standing_back({NICE})).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep")
        starter.send_signal(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


def backends_of(conninfo: str) -> list[int]:
    """The sessions of a scratch server: its superuser is nobody else's, and they bear its name."""
    user = conninfo_to_dict(conninfo)["user"]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        found += [int(entry.name)] if title.startswith(f"postgres: {user} ") else []
    return found


def test_every_session_of_a_scratch_server_stands_back(tmp_path: Path) -> None:
    with (
        throwaway_server(installation(17), tmp_path, nice=NICE) as conninfo,
        psycopg.connect(conninfo),
        psycopg.connect(conninfo),
    ):
        backends = backends_of(conninfo)
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in backends] == [NICE, NICE]
        wait_until(lambda: [group_nice(pid) for pid in backends] == [NICE, NICE])


def test_a_session_that_begins_after_its_process_was_seen_stands_back_too() -> None:
    late = "sleep 0.5; exec setsid sleep 60"
    process = command.start(Command(("sh", "-c", 'sh -c "$1"; true', "sh", late)).standing_back(NICE))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        with descendants_standing_back(process.pid, NICE):
            wait_until(lambda: children.read_text().strip() != "")
            child = int(children.read_text())
            wait_until(lambda: os.getsid(child) == child)
            wait_until(lambda: group_nice(child) == NICE)
    finally:
        os.kill(child, signal.SIGKILL)
        command.stop(process)
