"""A run that somebody cancels in the Prefect UI: what it had at work is gone, and the next one sweeps."""

import time

import pytest
from dumps_at_work import (
    assert_the_next_run_succeeds,
    programs_named,
    stopped_dump,
    unfinished,
    wait_for_the_stopped_dump,
)
from people import People
from runs import Api, find_process, wait_until

from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store
from keepwell.settings import Platform

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_a_run_that_is_cancelled_leaves_nothing_at_work(
    api: Api, platform: Platform, store: Store, people: People
) -> None:
    dumps = programs_named("pg_dump")
    with stopped_dump(platform):
        run_id = api.start("backup-and-verify")
        wait_for_the_stopped_dump(platform)
        ours = programs_named("pg_dump") - dumps
        assert ours
        began = time.monotonic()
        # As the UI's button does.
        api.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
        wait_until(lambda: ours.isdisjoint(programs_named("pg_dump")), poll_seconds=0.1)
        wait_until(lambda: find_process(run_id) is None, poll_seconds=0.1)
        print(f"everything was gone after {time.monotonic() - began:.1f} s")  # noqa: T201 - a number for the manual
        assert api.wait(run_id)["state"]["type"] == "CANCELLED"
        # Nothing half-done counts: it is marked, so that no catalogue takes it for a set.
        assert len(unfinished(store)) <= 1
    # Its turn went with it.
    with hold_platform(platform, store, Procedure.BACKUP):
        pass
    assert_the_next_run_succeeds(api, store)
    # Whoever cancelled it knows.
    assert people.alarms == []
