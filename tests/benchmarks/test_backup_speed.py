"""How long a proven backup takes, beside what the guide's script needs to dump: one run, one machine, as ratios.

Run by `make bench-backup`; absolute seconds are this machine's, the ratios travel.
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from real_servers import PASSWORD, Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.create import create_backup
from keepwell.backup.progress import silent
from keepwell.backup.verify import verify_backup
from keepwell.objectstore.store import open_store
from sample.generate import create_schema, load


@pytest.mark.major(15)
def test_a_proven_backup_beside_the_guides_script(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    scale = float(os.environ.get("BENCH_SCALE", "3"))
    server = servers(15)
    with fresh_database(server) as database:
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            create_schema(connection)
            load(connection, scale=scale)
            size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        platform = build_platform(server, database, bucket_settings(objectstore), tmp_path)
        store = open_store(platform)

        guide = _time(lambda: _dump_as_the_guide_does(server, database, tmp_path / "guide.sql.gz"))
        began = time.monotonic()
        manifest = create_backup(platform, store, silent)
        backup = time.monotonic() - began
        proof = verify_backup(platform, store, manifest.backup_id, silent)
        assert proof.reached == "serving"

    proving = (proof.finished_at - proof.started_at).total_seconds()
    stored = (tmp_path / "guide.sql.gz").stat().st_size
    print(f"\ndatabase {size[0] / 1e6:,.0f} MB, {manifest.rows:,} rows, PostgreSQL {manifest.source.server_version}")
    print(f"{'':44}{'seconds':>9}{'ratio':>8}")
    print(f"{'guide: pg_dump | gzip, unproven, on local disk':<44}{guide:>9.1f}{1:>8.2f}")
    print(f"{'keepwell: dump, hash, compress, store':<44}{backup:>9.1f}{backup / guide:>8.2f}")
    print(f"{'keepwell: the same, and proven equal':<44}{backup + proving:>9.1f}{(backup + proving) / guide:>8.2f}")
    print(f"stored bytes: guide {stored:,}, keepwell {manifest.stored_bytes:,} ({manifest.stored_bytes / stored:.2f})")


def _time(action: Callable[[], None]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _dump_as_the_guide_does(server: Server, database: str, target: Path) -> None:
    call = [server.binaries.program("pg_dump"), "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", database]
    environment = os.environ | {"PGPASSWORD": PASSWORD}
    with target.open("wb") as file, subprocess.Popen(call, env=environment, stdout=subprocess.PIPE) as dump:
        subprocess.run(["gzip"], stdin=dump.stdout, stdout=file, check=True)
    assert dump.returncode == 0
