"""Processes killed under a run: people hear of it, the next run sweeps and succeeds, and only proven sets count."""

import os
import signal
from typing import TYPE_CHECKING

import pytest
from dumps_at_work import (
    assert_completed,
    assert_only_proven_sets,
    assert_the_next_run_succeeds,
    programs_named,
    stopped_dump,
    unfinished,
    wait_for_the_stopped_dump,
)
from people import People
from runs import (
    SILENT,
    SILENT_SECONDS,
    Api,
    find_process,
    impatient_automation,
    last_evidence,
    process_of,
    wait_for_its_turn,
    wait_until,
)

from deployments.local.sample_platform import PRODUCTION
from deployments.running.orchestrator import WORKER
from deployments.running.processes import is_alive
from deployments.running.state import StateFolder
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store
from keepwell.settings import Platform

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.long


def kill_part(stack: "Stack", name: str) -> None:
    """kill -9 of one server of the stack; its supervisor starts it again."""
    killed = StateFolder(stack.state).recorded_processes()[name]
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(killed))
    wait_until(lambda: name in StateFolder(stack.state).recorded_processes())


def test_people_hear_of_the_first_proven_backup_and_of_a_run_whose_process_was_killed(
    api: Api, platform: Platform, store: Store, people: People
) -> None:
    store.delete([layout.FIRST_PROVEN])  # as on a platform that was registered today
    assert_completed(api.wait(api.start("backup-and-verify")))
    assert [message["title"] for message in people.told] == ["esn: backups are proven"]
    people.told.clear()
    with hold_platform(platform, store, Procedure.BACKUP):
        run_id = api.start("backup-and-verify")
        wait_for_its_turn(api, run_id)
        os.kill(process_of(run_id), signal.SIGKILL)
        assert api.wait(run_id)["state"]["name"] == "Crashed"
    wait_until(lambda: bool(people.told))
    (message,) = people.told
    assert message["title"] == "esn: backup-and-verify was killed or crashed"
    assert "Still safe: the data as of" in message["message"]
    assert "keepwell run backup-and-verify --platform esn" in message["message"]
    assert last_evidence(store, "BK-1").flow_run == run_id


def test_a_run_that_was_killed_while_it_dumped_is_swept_by_the_next(api: Api, platform: Platform, store: Store) -> None:
    dumps = programs_named("pg_dump")
    with stopped_dump(platform):
        run_id = api.start("backup-and-verify")
        wait_for_the_stopped_dump(platform)
        # A child bears its parent's name from its fork to its exec, so there may be more than the one that waits.
        ours = programs_named("pg_dump") - dumps
        assert ours
        os.kill(process_of(run_id), signal.SIGKILL)
        wait_until(lambda: ours.isdisjoint(programs_named("pg_dump")))
        assert api.wait(run_id)["state"]["name"] == "Crashed"
        (mark,) = unfinished(store)
    assert mark.removeprefix(layout.UNFINISHED) not in {entry.backup_id for entry in read_catalogue(store)}
    assert_the_next_run_succeeds(api, store)


def test_a_run_outlives_its_worker_and_so_do_those_after_it(
    stack: "Stack", api: Api, platform: Platform, store: Store
) -> None:
    with stopped_dump(platform):
        run_id = api.start("backup-and-verify")
        wait_for_the_stopped_dump(platform)
        process = process_of(run_id)
        kill_part(stack, WORKER)
        assert find_process(run_id) == process
    assert_completed(api.wait(run_id))
    assert_the_next_run_succeeds(api, store)


def test_a_database_that_restarts_under_a_dump_costs_an_attempt_and_no_run(
    stack: "Stack", api: Api, platform: Platform, store: Store
) -> None:
    with stopped_dump(platform):
        run_id = api.start("backup-and-verify")
        wait_for_the_stopped_dump(platform)
        kill_part(stack, PRODUCTION)
    assert_completed(api.wait(run_id, 180))
    assert any("our turn was taken again" in line for line in api.log(run_id))
    assert_only_proven_sets(store)


@pytest.mark.timeout(900)
def test_a_run_whose_worker_died_with_it_is_found_by_its_silence(
    stack: "Stack", api: Api, platform: Platform, store: Store, people: People
) -> None:
    with impatient_automation(api, SILENT, SILENT_SECONDS), hold_platform(platform, store, Procedure.BACKUP):
        run_id = api.start("backup-and-verify")
        wait_for_its_turn(api, run_id)
        process = process_of(run_id)
        kill_part(stack, WORKER)
        os.kill(process, signal.SIGKILL)
        assert api.wait(run_id, 240)["state"]["name"] == "Crashed"
    assert "silent" in api.read(run_id)["state"]["message"]
    wait_until(lambda: any("silent" in message["message"] for message in people.told))


def test_a_run_that_is_done_is_not_taken_for_dead(api: Api) -> None:
    with impatient_automation(api, SILENT, 10):
        run_id = api.start("check-backups")
        api.wait(run_id)
        with pytest.raises(AssertionError, match="did not happen"):
            # Its silence is long over, and the server has looked several times.
            wait_until(lambda: api.read(run_id)["state"]["name"] == "Crashed", 35)
