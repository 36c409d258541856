"""No secret of the platform is in what the orchestrator stores or logs, while a marker that went the same way is."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from people import CHANNEL_PASSWORD, CHANNEL_TOKEN, SWITCH_TOKEN, People
from runs import Api, wait_until

from deployments.running.orchestrator import DATABASE, DATABASE_PART
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.state import StateFolder
from keepwell.postgres.binaries import find_installations
from keepwell.settings import load_platform
from tasks.redaction import collect_secrets

if TYPE_CHECKING:
    from conftest import Stack

MARKER = "control-marker-that-must-be-found"


def dump_orchestrator(state: StateFolder, into: Path) -> None:
    """The orchestrator's whole database as text."""
    newest = max((found for found in find_installations() if found.has_server), key=lambda found: found.major)
    port = str(state.read_ports()[DATABASE_PART])
    argv = [newest.program("pg_dump"), "-h", "127.0.0.1", "-p", port, "-U", SUPERUSER, "-f", str(into), DATABASE]
    password = state.secret(f"{DATABASE_PART}-password")
    subprocess.run(argv, env=os.environ | {"PGPASSWORD": password}, check=True)


def holds(folder: Path, text: str) -> list[str]:
    """Files below a folder in which a text stands."""
    found = text.encode()
    return [path.name for path in folder.rglob("*") if path.is_file() and found in path.read_bytes()]


def test_no_secret_is_stored_or_logged(
    stack: "Stack", api: Api, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.wait(api.start("backup-and-verify"))["state"]["type"] == "COMPLETED"
    assert people.pings == 1
    api.wait(api.start("check-backups"))
    failed = api.start("verify-backups", which="one", backup_id=MARKER)
    assert api.wait(failed)["state"]["type"] == "FAILED"
    # The failure is reported by the automation: its run's log and evidence count as well.
    wait_until(lambda: any(MARKER in message["message"] for message in people.told))
    wait_until(lambda: all(run["state"]["type"] == "COMPLETED" for run in api.runs("report-failure")))

    state = StateFolder.at(stack.state)
    dump = tmp_path / "dump"
    dump.mkdir()
    dump_orchestrator(state, dump / "orchestrator.sql")
    places = {"database": dump, "logs": stack.state / "logs", "home": state.data("prefect")}
    for place in ("database", "logs"):
        assert holds(places[place], MARKER)

    monkeypatch.setenv("KEEPWELL_CONFIG", str(stack.platform_file))
    secrets = collect_secrets(load_platform("esn")) | {state.secret(f"{DATABASE_PART}-password")}
    # What has been through the runs is really among what is searched for.
    marked = {stack.login, CHANNEL_PASSWORD, CHANNEL_TOKEN, SWITCH_TOKEN}
    assert marked <= secrets
    assert len(secrets) >= len(marked) + 4
    for secret in secrets:
        for name, place in places.items():
            # Told by its length only: an assertion's text would end up in a log itself.
            assert not holds(place, secret), f"a secret of {len(secret)} characters in {name}: {holds(place, secret)}"
