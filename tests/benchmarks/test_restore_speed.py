"""How long a restore from the store takes, and its proof, beside stock tools that restore from a local disk.

Run by `make bench-restore`, interleaved in one run, as medians: absolute seconds are this machine's, the ratios travel.
"""

import json
import os
import pickle
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from real_servers import Server, bucket_settings, build_platform, fresh_database
from test_backup_speed import Rivals, scratch_database, timed

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.create import create_backup
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.connection import connect_to
from keepwell.progress import silent
from keepwell.settings import Platform
from sample.generate import create_schema, load

SCRIPT = Path(__file__).parent / "measured_restore.py"
# 25 makes the sample's 1.5 GB.
SCALE = float(os.environ.get("BENCH_SCALE", "25"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
# Of the speed, and of the time, of `pg_restore -Fd -j2` from a local disk.
LEAST_SPEED, MOST_TIME = 0.85, 1.6


@pytest.mark.major(15)
def test_a_restore_beside_stock_tools(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    tmp_path.chmod(0o711)
    server = servers(17)
    with fresh_database(server) as database:
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            create_schema(connection)
            load(connection, scale=SCALE)
            size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        spool = tmp_path / "spool"
        spool.mkdir(mode=0o711)
        platform = build_platform(server, database, bucket_settings(objectstore), spool)
        # Stock tools stand back for nobody, and so that a busy machine does not decide, neither do we.
        backup = platform.backup.model_copy(update={"nice": 0})
        platform = platform.model_copy(update={"backup": backup})
        rivals = Rivals(server, database, tmp_path)
        script, directory = rivals.guide(), rivals.directory()
        store = open_store(platform)
        with hold_platform(platform, store, Procedure.BACKUP):
            backup_id = create_backup(platform, store, silent).backup_id
        rounds = [run_round(rivals, script, directory, platform, backup_id) for _ in range(ROUNDS)]
    report = {name: statistics.median(one[name] for one, _ in rounds) for name in rounds[0][0]}
    profile = {name: statistics.median(one[name] for _, one in rounds) for name in rounds[0][1]}
    speed = statistics.median(one["stock_seconds"] / one["restored_seconds"] for one, _ in rounds)
    whole = statistics.median(one["sound_seconds"] / one["stock_seconds"] for one, _ in rounds)
    print(f"\ndatabase {size[0] / 1e6:,.0f} MB, PostgreSQL {server.binaries.version}, medians of {ROUNDS} rounds")
    print(render(report, speed, whole))
    print("where ours goes: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in profile.items()))
    told = {name: round(value, 1) if name.endswith("seconds") else int(value) for name, value in report.items()}
    print(json.dumps(told | {"speed_of_stock": round(speed, 2), "proven_of_stock": round(whole, 2)}))


def run_round(
    rivals: Rivals, script: Path, directory: Path, platform: Platform, backup_id: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Every rival once, ours among them; each starts a scratch server, which counts.

    Returns:
        What is compared, and ours level by level, in seconds.
    """
    seconds: dict[str, float] = {}
    timed(seconds, "guide_seconds", lambda: restore_script(rivals, script))
    timed(seconds, "stock_seconds", lambda: rivals.restore(directory))
    pickled = rivals.folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    argv = [sys.executable, str(SCRIPT), str(pickled), backup_id]
    said = subprocess.run(argv, stdout=subprocess.PIPE, check=True, cwd=Path.cwd())
    ours = json.loads(said.stdout)
    assert ours["reached"] == "serving"
    names = ("restored_seconds", "sound_seconds", "peak_memory_bytes", "peak_temp_bytes")
    return seconds | {name: ours[name] for name in names}, ours["levels"]


def restore_script(rivals: Rivals, script: Path) -> None:
    """The guide's way back: one session, and nothing is compared."""
    psql = [rivals.server.binaries.program("psql"), "-X", "-q", "-o", os.devnull]
    with scratch_database(rivals.server.binaries, rivals.folder / "scratch") as target:
        with connect_to(target) as connection:
            connection.execute("CREATE ROLE postgres")  # the owner of everything
        with subprocess.Popen(["gunzip", "-c", str(script)], stdout=subprocess.PIPE) as content:
            subprocess.run([*psql, "-d", target], stdin=content.stdout, check=True)
        assert content.returncode == 0


def render(report: dict[str, float], speed: float, whole: float) -> str:
    stock = report["stock_seconds"]
    rows = [
        ("guide: gunzip | psql, from local disk, unproven", report["guide_seconds"]),
        ("pg_restore -Fd -j2, from local disk, unproven", stock),
        ("keepwell: from the store, opened, hashed, restored", report["restored_seconds"]),
        ("keepwell: the same, proven sound", report["sound_seconds"]),
    ]
    lines = [f"{'':52}{'seconds':>9}{'of pg_restore':>15}"]
    lines += [f"{name:<52}{seconds:>9.1f}{seconds / stock:>15.2f}" for name, seconds in rows]
    memory, temporary = (f"{report[name] / 1e6:,.0f} MB" for name in ("peak_memory_bytes", "peak_temp_bytes"))
    lines += [
        f"restored at {speed:.2f} of pg_restore's speed (at least {LEAST_SPEED}: {verdict(speed >= LEAST_SPEED)})",
        f"proven sound in {whole:.2f} of its time (at most {MOST_TIME}: {verdict(whole <= MOST_TIME)})",
        f"memory {memory}, temporary disk {temporary}",
    ]
    return "\n".join(lines)


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"
