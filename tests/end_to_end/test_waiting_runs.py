"""Runs that have to wait: for one another, and for a worker that does not come."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from people import People
from runs import Api, impatient_automation, wait_until

from deployments.deployment_file import DEPLOYMENT_FILE
from deployments.running.orchestrator import WORKER
from deployments.running.state import StateFolder
from keepwell.backup.catalogue import read_catalogue
from keepwell.objectstore.store import Store
from keepwell.settings import CONFIG_VARIABLE

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.long

OPERATING = DEPLOYMENT_FILE.parent / "docs" / "operating.md"


def moment(run: dict[str, str], key: str) -> datetime:
    return datetime.fromisoformat(run[key])


def test_two_runs_at_once_complete_one_after_the_other(api: Api, store: Store) -> None:
    before = {entry.backup_id for entry in read_catalogue(store)}
    ids = [api.start("backup-and-verify") for _ in range(2)]
    waited: set[str] = set()

    def both_ended() -> bool:
        states = [api.read(run_id)["state"] for run_id in ids]
        waited.update(state["name"] for state in states)
        return all(state["type"] in ("COMPLETED", "FAILED", "CRASHED") for state in states)

    wait_until(both_ended, 180)
    first, second = sorted((api.read(run_id) for run_id in ids), key=lambda run: moment(run, "start_time"))
    assert [run["state"]["type"] for run in (first, second)] == ["COMPLETED", "COMPLETED"]
    assert "AwaitingConcurrencySlot" in waited
    assert moment(first, "end_time") <= moment(second, "start_time")
    made = [entry for entry in read_catalogue(store) if entry.backup_id not in before]
    assert [entry.is_proven("serving") for entry in made] == [True, True]


def documented(beginning: str) -> list[str]:
    """A command of the operating manual, as words."""
    (line,) = [line.strip() for line in OPERATING.read_text().splitlines() if line.strip().startswith(beginning)]
    return shlex.split(line)


@contextmanager
def watch_worker(stack: "Stack", home: Path) -> Iterator[None]:
    """The second worker that the manual recommends, as if on another machine that has not the database's password."""
    words = documented("prefect worker start --pool keepwell --work-queue watch")
    lines = stack.platform_file.read_text().splitlines(keepends=True)
    without_password = [line for line in lines if "production-password" not in line]
    assert len(without_password) == len(lines) - 1
    (home / "keepwell.toml").write_text("".join(without_password))
    own = {"PREFECT_HOME": str(home), "TMPDIR": str(home), CONFIG_VARIABLE: str(home / "keepwell.toml")}
    environment = stack.environment | own
    with subprocess.Popen(
        [Path(sys.executable).with_name(words[0]), *words[1:]], env=environment, stdout=subprocess.DEVNULL
    ) as worker:
        try:
            yield
        finally:
            worker.terminate()


@contextmanager
def frozen_worker(stack: "Stack") -> Iterator[None]:
    """As good as dead for everybody else; killed, its supervisor would start it again."""
    pid = StateFolder(stack.state).recorded_processes()[WORKER].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_with_its_worker_dead_people_hear_of_a_backup_that_does_not_begin_from_a_watch_worker(
    stack: "Stack", api: Api, people: People, tmp_path: Path
) -> None:
    title = "esn: backup-and-verify has not started"
    with (
        frozen_worker(stack),
        impatient_automation(api, "keepwell: tell of runs that do not begin", 10),
    ):
        run_id = api.start("backup-and-verify")
        try:
            wait_until(lambda: api.read(run_id)["state"]["name"] == "Late")
            # With the only worker dead, nobody is told; this is what the second one is for.
            assert people.told == []
            with watch_worker(stack, tmp_path):
                wait_until(lambda: title in [message["title"] for message in people.told], 120)
            assert api.read(run_id)["state"]["name"] == "Late"
        finally:
            api.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLED"}, force=True)
    (message,) = [message for message in people.told if message["title"] == title]
    assert "Is a worker of its pool up?" in message["message"]
