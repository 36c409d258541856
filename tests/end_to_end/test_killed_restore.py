"""A restore whose process was killed goes on by its case's id, in a run of its own."""

import os
import signal

import pytest
from runs import Api, process_of, wait_until

from keepwell.objectstore.store import Store
from keepwell.postgres.databases import read_databases
from keepwell.restore.journal import StepName, read_case_ids, read_journal
from keepwell.restore.swap import connect_beside
from keepwell.settings import Platform

pytestmark = pytest.mark.long


def test_a_run_that_was_killed_goes_on_under_its_case(api: Api, platform: Platform, store: Store) -> None:
    assert api.wait(api.start("backup-and-verify"))["state"]["type"] == "COMPLETED"
    before = set(read_case_ids(store))
    run_id = api.start("restore-backup", name="esn_looked_at")
    wait_until(lambda: set(read_case_ids(store)) > before, poll_seconds=0.1)
    os.kill(process_of(run_id), signal.SIGKILL)
    (case_id,) = set(read_case_ids(store)) - before
    assert StepName.RESTORED not in [step.step for step in read_journal(store, case_id).steps]
    assert api.wait(run_id)["state"]["name"] == "Crashed"

    ended = api.wait(api.start("restore-backup", case_id=case_id))
    assert ended["state"]["name"] == "Completed", ended["state"]["message"]
    assert set(read_case_ids(store)) - before == {case_id}
    with connect_beside(platform) as connection:
        names = [one.name for one in read_databases(connection)]
    assert names.count("esn_looked_at") == 1
