"""The nightly backup through a real server and a real worker."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest
from runs import Api, find_process, last_evidence, process_of, read_environment, wait_until

from deployments.deployment_file import HEARTBEAT_SECONDS
from deployments.running.orchestrator import WORKER
from deployments.running.state import StateFolder
from keepwell.objectstore.store import Store
from keepwell.verdict import Verdict

if TYPE_CHECKING:
    from conftest import Stack

HEARTBEAT_VARIABLE = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


def test_is_proven_shown_and_recorded(api: Api, store: Store) -> None:
    run_id = api.start("backup-and-verify")
    run = api.wait(run_id)
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    shown = api.artifacts(run_id)
    assert shown["esn-backup-evidence"]["data"].startswith("# ✓ ok")
    assert "keepwell backup restore" in shown["esn-backup-evidence"]["data"]
    assert shown["esn-backup-progress"]["data"] == 100
    evidence = last_evidence(store, "BK-1")
    assert evidence.verdict is Verdict.OK
    assert evidence.flow_run == run_id
    assert float(evidence.numbers["restore_seconds"] or 0) > 0


def test_the_check_finds_it_and_the_schedule(api: Api, store: Store) -> None:
    run_id = api.start("backup-and-verify")
    api.wait(run_id)
    check = api.wait(api.start("check-backups"))
    assert check["state"]["name"] == "Completed", check["state"]["message"]
    assert last_evidence(store, "DAILY-5").verdict is Verdict.OK


def test_the_server_refuses_parameters_that_no_flow_takes(api: Api) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        api.start("verify-backups", which="the-best-one")
    assert refused.value.response.status_code in (409, 422)


def test_a_run_beats_as_often_as_its_deployment_says_though_its_worker_was_told_nothing(
    stack: "Stack", api: Api
) -> None:
    worker = StateFolder(stack.state).recorded_processes()[WORKER].pid
    assert HEARTBEAT_VARIABLE not in read_environment(worker)
    began = datetime.now(UTC)
    run_id = api.start("check-backups")
    wait_until(lambda: find_process(run_id) is not None, poll_seconds=0.05)
    assert read_environment(process_of(run_id))[HEARTBEAT_VARIABLE] == str(HEARTBEAT_SECONDS)
    api.wait(run_id)
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run_id}"]},
        "occurred": {"since": began.isoformat()},
    }
    wait_until(lambda: api.post("/events/filter", filter=wanted)["total"] >= 1)
