"""Work spread over workers and platforms: one of them dies, or is full, and the others go on."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dumps_at_work import (
    assert_completed,
    assert_the_next_run_succeeds,
    stopped_dump,
    wait_for_the_stopped_dump,
)
from people import People
from runs import SILENT, SILENT_SECONDS, Api, impatient_automation, process_of, wait_for_its_turn, wait_until

from deployments.deployment_file import DEPLOYMENT_FILE
from deployments.running.orchestrator import WORKER
from deployments.running.state import StateFolder
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store
from keepwell.settings import Platform

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MANUAL = DEPLOYMENT_FILE.parent / "docs" / "second-platform.md"


def documented_worker(name: str) -> list[str]:
    """The manual's command, with a name of our own."""
    (line,) = [line for line in MANUAL.read_text().splitlines() if line.startswith("prefect worker start --pool")]
    program, *words, _ = line.split()
    return [str(Path(sys.executable).with_name(program)), *words, name]


@contextmanager
def second_worker(stack: "Stack", api: Api) -> Iterator["subprocess.Popen[bytes]"]:
    """As on another machine: with files of its own, and nothing shared but the server, the database and the bucket."""
    home = Path(tempfile.mkdtemp(prefix="second-worker-", dir=stack.state.parent))
    (home / "tmp").mkdir()
    own = {"PREFECT_HOME": str(home), "TMPDIR": str(home / "tmp"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with subprocess.Popen(
        documented_worker("second"), env=stack.environment | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            wait_until(lambda: "second" in online(api), 120)
            yield worker
        finally:
            worker.kill()


def online(api: Api) -> set[str]:
    return {one["name"] for one in api.post("/work_pools/keepwell/workers/filter") if one["status"] == "ONLINE"}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(pid)
    return found


def start_on_second(stack: "Stack", api: Api, worker: "subprocess.Popen[bytes]", platform: Platform) -> str:
    """A backup whose dump stands still, taken by the second worker."""
    first = StateFolder(stack.state).recorded_processes()[WORKER].pid
    with stopped(first):
        run_id = api.start("backup-and-verify")
        wait_for_the_stopped_dump(platform)
    assert worker.pid in ancestors(process_of(run_id))
    return run_id


def test_a_run_goes_on_when_its_worker_dies_and_the_other_takes_what_comes_next(
    stack: "Stack", api: Api, platform: Platform, store: Store
) -> None:
    with second_worker(stack, api) as worker:
        with stopped_dump(platform):
            run_id = start_on_second(stack, api, worker, platform)
            worker.kill()
            worker.wait()
        assert_completed(api.wait(run_id, 240))
        assert_the_next_run_succeeds(api, store)


def test_a_run_that_died_with_its_machine_is_told_and_the_other_worker_makes_the_next_backup(
    stack: "Stack", api: Api, platform: Platform, store: Store, people: People
) -> None:
    with second_worker(stack, api) as worker:
        with impatient_automation(api, SILENT, SILENT_SECONDS), stopped_dump(platform):
            run_id = start_on_second(stack, api, worker, platform)
            process = process_of(run_id)
            worker.kill()
            os.kill(process, signal.SIGKILL)
            worker.wait()
            assert api.wait(run_id, 300)["state"]["name"] == "Crashed"
        wait_until(lambda: bool(people.alarms))
        assert people.alarms[0]["title"] == "esn: backup-and-verify was killed or crashed"
        assert_the_next_run_succeeds(api, store)


def test_a_platform_whose_queue_is_full_keeps_no_other_waiting(
    stack: "Stack", api: Api, platform: Platform, store: Store
) -> None:
    register = [sys.executable, "-m", "deployments.register"]
    subprocess.run([*register, "--platform", "blog"], env=stack.environment, check=True, stdout=subprocess.DEVNULL)
    # Without a proven set there is nothing to expire, nor to verify.
    assert_completed(api.wait(api.start("backup-and-verify")))
    try:
        with hold_platform(platform, store, Procedure.BACKUP):
            backup = api.start("backup-and-verify")
            wait_for_its_turn(api, backup)
            expiry = api.start("expire-backups")
            # It or the one that an earlier test's backup brought about: only one runs at a time.
            wait_until(lambda: any(run["state"]["type"] == "RUNNING" for run in api.runs("expire-backups")))
            # The queue lets two run at once.
            behind = api.start("verify-backups")
            # It ends badly, since there is no such platform here; that it had its turn is what counts.
            other = api.wait(api.start("backup-and-verify", "blog"))
            assert other["start_time"] is not None
            assert api.read(behind)["state"]["type"] == "SCHEDULED"
        for run_id in (backup, expiry, behind):
            assert_completed(api.wait(run_id, 240))
    finally:
        removed = subprocess.run(register, env=stack.environment, check=True, capture_output=True, text=True).stdout
    assert "Removed: backup-and-verify/blog" in removed
