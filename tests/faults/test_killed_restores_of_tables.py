"""A restore of tables that is killed at any stage leaves the live schema as it is, and what it left is swept."""

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from backup_sets import back_up
from real_servers import Server

from keepwell.backup.restore import temporary_prefix
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.facts import read_schema
from keepwell.progress import silent
from keepwell.restore.parts import restore_tables
from keepwell.restore.parts_choice import TablesWanted
from keepwell.settings import Platform

SCRIPT = Path(__file__).parent / "restore_tables_then_die.py"
STAGES = ("restoring definitions", "filling", "building indexes", "comparing", "naming")
LEFT = "SELECT datname::text FROM pg_database UNION ALL SELECT nspname::text FROM pg_namespace"


@pytest.mark.parametrize("stage", STAGES)
def test_whatever_it_left_is_none_of_the_live_schema_and_the_next_one_sweeps_it(
    stage: str, server: Server, platform: Platform, tmp_path: Path
) -> None:
    with server.connect(platform.database.name) as live:
        live.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 5000) n")
        live.execute("CREATE INDEX ON people (id)")
        manifest, before = back_up(platform), read_schema(live)
        pickled = tmp_path / "platform.pickle"
        pickled.write_bytes(pickle.dumps(platform))
        call = [sys.executable, str(SCRIPT), str(pickled), manifest.backup_id, "restored", stage]
        ended = subprocess.run(call, capture_output=True, check=False, timeout=300, cwd=Path.cwd())
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        prefix = temporary_prefix(platform)
        assert [line for line in read_schema(live) if prefix not in line.identity] == before
        store = open_store(platform)
        with hold_platform(platform, store, Procedure.RESTORE):
            wanted = TablesWanted(("people",), (), "restored")
            assert restore_tables(platform, store, manifest.backup_id, wanted, silent, allow_unproven=True).rows == 5000
        assert not [name for (name,) in live.execute(LEFT).fetchall() if name.startswith(prefix)]
