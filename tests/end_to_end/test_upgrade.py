"""What the previous release left on its orchestrator is taken over by this one: `make upgrade-test`."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import Api, wait_until

from deployments.deployment_file import read_deployment_file
from deployments.local.stack import StackOptions, plan_stack
from deployments.running.lifecycle import bring_up, take_down
from deployments.running.orchestrator import DATABASE, DATABASE_PART, REGISTRATION, SERVER, login_file
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.state import StateFolder, write_private
from keepwell.postgres.binaries import find_installations
from keepwell.verdict import Verdict

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RELEASES = Path(__file__).parent.parent / "releases"
LOGIN = "operator:marked-login"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    """A stack of this release, whose orchestrator begins with what 0.1.0 left; nothing is registered anew yet."""
    made = StateFolder.at(tmp_path / "state")
    made.prepare()
    write_private(login_file(made), LOGIN)
    try:
        start(made, SERVER)
        load(made, RELEASES / "0.1.0" / "prefect.sql.gz")
        take_down(plan_stack(), made)
        start(made, REGISTRATION)
        yield made
    finally:
        take_down(plan_stack(), made, purge=True)


def start(state: StateFolder, *without: str) -> dict[str, Any]:
    report = bring_up(plan_stack(StackOptions(scale=0.05, without=without)), state)
    assert report.verdict is Verdict.OK, f"{report.hint}: {report.data}"
    return report.data


def load(state: StateFolder, dump: Path) -> None:
    port = state.read_document("ports.json")[DATABASE_PART]
    words = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", f"--port={port}"]
    # As new as the dump's own pg_dump, whose words an older psql does not know.
    psql = next(one for one in find_installations() if one.major >= 17).program("psql")
    loaded = subprocess.run(
        [psql, *words, f"--username={SUPERUSER}", f"--dbname={DATABASE}"],
        input=gzip.decompress(dump.read_bytes()),
        env=os.environ | {"PGPASSWORD": state.secret(f"{DATABASE_PART}-password")},
        check=False,
        capture_output=True,
    )
    assert loaded.returncode == 0, loaded.stderr


def keepwell(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("keepwell")
    return subprocess.run([program, *words], env=environment, check=False, capture_output=True, text=True)


def names(api: Api) -> set[str]:
    flows = {flow["id"]: flow["name"] for flow in api.post("/flows/filter")}
    return {f"{flows[one['flow_id']]}/{one['name']}" for one in api.post("/deployments/filter")}


def test_a_stack_of_the_previous_release_is_taken_over(state: StateFolder) -> None:
    address = f"http://127.0.0.1:{state.read_document('ports.json')[SERVER]}/api"
    environment = os.environ | {
        "KEEPWELL_CONFIG": str(state.platform_file),
        "PREFECT_API_URL": address,
        "PREFECT_API_AUTH_STRING": LOGIN,
    }
    api = Api(address, LOGIN)
    ended = {run["id"]: run["state"] for run in api.runs("backup-and-verify") if run["state"]["type"] == "COMPLETED"}
    assert ended
    before = names(api)
    assert "backup-and-verify/backup-and-verify" in before

    shown = keepwell(environment, "upgrade", "--plan")
    assert shown.returncode == 0, shown.stderr
    print(shown.stdout)  # noqa: T201 - words for the manual
    assert "remove  backup-and-verify/backup-and-verify" in shown.stdout
    assert names(api) == before, "a plan does nothing"
    # Nobody is there to ask, and another plan is not this one.
    assert keepwell(environment, "upgrade").returncode == 1
    assert "does not fit any more" in keepwell(environment, "upgrade", "--approve", "0123456789ab").stderr
    assert names(api) == before

    planned = json.loads(keepwell(environment, "upgrade", "--plan", "--json").stdout)["data"]["plan"]
    done = keepwell(environment, "upgrade", "--approve", planned)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201 - likewise
    procedures = [spec.name for spec in read_deployment_file().deployments if spec.per_platform]
    assert names(api) == {*(f"{name}/esn" for name in procedures), "report-failure/report-failure"}
    # The one that an operator had paused stays so, and it alone.
    assert {name: api.get(f"/deployments/name/{name}/esn")["paused"] for name in procedures} == {
        name: name == "verify-backups" for name in procedures
    }
    queues = {queue["name"] for queue in api.post("/work_pools/keepwell/queues/filter")}
    assert queues == {"default", "watch", "platform-esn"}
    expiries = [one["name"] for one in api.post("/automations/filter") if "expire old sets" in one["name"]]
    assert expiries == ["keepwell: expire old sets of esn after a proven backup"]
    # What ran before is there to be seen.
    assert {run_id: api.read(run_id)["state"]["type"] for run_id in ended} == dict.fromkeys(ended, "COMPLETED")

    # It works: runs are planned, and one is made, by this release's worker.
    wait_until(lambda: any(run["auto_scheduled"] and run["state"]["type"] == "SCHEDULED" for run in own(api)), 120)
    take_down(plan_stack(), state)
    start(state)
    run = api.wait(api.start("backup-and-verify"), 240)
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    again = json.loads(keepwell(environment, "upgrade", "--plan", "--json").stdout)["data"]["changes"]
    assert (again["made"], again["removed"]) == ([], [])


def own(api: Api) -> list[dict[str, Any]]:
    deployment = api.get("/deployments/name/backup-and-verify/esn")["id"]
    return [run for run in api.runs("backup-and-verify") if run["deployment_id"] == deployment]
