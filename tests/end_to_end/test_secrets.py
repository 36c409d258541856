"""No secret of the platform is in what the orchestrator stores or logs, while a marker that went the same way is."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from runs import Api, wait_until

from deployments.local.orchestrator import DATABASE, DATABASE_PART
from deployments.local.postgres_cluster import SUPERUSER
from deployments.local.stack import read_ports
from deployments.local.state import StateFolder
from keepwell.postgres.binaries import find_installations
from keepwell.settings import load_platform
from tasks.redaction import collect_secrets

if TYPE_CHECKING:
    from conftest import Stack

MARKER = "control-marker-that-must-be-found"


def dump_orchestrator(state: StateFolder, into: Path) -> None:
    """The orchestrator's whole database as text."""
    newest = max((found for found in find_installations() if found.has_server), key=lambda found: found.major)
    port = str(read_ports(state)[DATABASE_PART])
    argv = [newest.program("pg_dump"), "-h", "127.0.0.1", "-p", port, "-U", SUPERUSER, "-f", str(into), DATABASE]
    password = state.secret(f"{DATABASE_PART}-password")
    subprocess.run(argv, env=os.environ | {"PGPASSWORD": password}, check=True)


def holds(folder: Path, text: str) -> list[str]:
    """Files below a folder in which a text stands."""
    found = text.encode()
    return [path.name for path in folder.rglob("*") if path.is_file() and found in path.read_bytes()]


def test_no_secret_is_stored_or_logged(stack: "Stack", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(stack.api_url)
    assert api.wait(api.start("backup-and-verify"))["state"]["type"] == "COMPLETED"
    api.wait(api.start("check-backups"))
    failed = api.start("verify-backups", which="one", backup_id=MARKER)
    assert api.wait(failed)["state"]["type"] == "FAILED"
    logs = stack.state / "logs"
    # The failure is reported by the automation: its run's log and evidence count as well.
    wait_until(lambda: any(run["state"]["type"] == "COMPLETED" for run in api.runs("report-failure")), 60)

    state = StateFolder.at(stack.state)
    dump = tmp_path / "dump"
    dump.mkdir()
    dump_orchestrator(state, dump / "orchestrator.sql")
    assert holds(dump, MARKER)
    assert holds(logs, MARKER)

    monkeypatch.setenv("KEEPWELL_CONFIG", str(stack.platform_file))
    secrets = collect_secrets(load_platform("esn")) | {state.secret(f"{DATABASE_PART}-password")}
    assert len(secrets) >= 4
    for secret in secrets:
        # Told by its length only: an assertion's text would end up in a log itself.
        assert not holds(dump, secret), f"a secret of {len(secret)} characters"
        assert not holds(logs, secret), f"a secret of {len(secret)} characters in {holds(logs, secret)}"
