"""How long a proven backup takes, beside what the guide's script needs to dump and what stock tools can do.

Run by `make bench-backup`, interleaved in one run, as medians: absolute seconds are this machine's, the ratios travel.
"""

import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from real_servers import PASSWORD, Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import connect_to
from keepwell.postgres.server import throwaway_server
from keepwell.settings import Platform
from sample.generate import create_schema, load

SCRIPT = Path(__file__).parent / "measured_backup.py"
# 25 makes the sample's 1.5 GB.
SCALE = float(os.environ.get("BENCH_SCALE", "25"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


@dataclass(frozen=True)
class Rivals:
    """Stock tools on the same database; they write to a local disk and prove nothing."""

    server: Server
    database: str
    folder: Path

    def guide(self) -> Path:
        return self._piped("guide.sql.gz", [], ["gzip"])

    def zstd(self) -> Path:
        return self._piped("dump.zst", ["-Fc", "-Z0"], ["zstd", "-q", "-3", "-T1"])

    def directory(self) -> Path:
        target = self.folder / "directory"
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(self._dump("-Fd", "-j2", "-Z", "zstd:3", "-f", str(target)), env=self._environment, check=True)
        return target

    def restore(self, archive: Path) -> None:
        """Into a server tuned like ours, in parallel."""
        call = [self.server.binaries.program("pg_restore"), "--exit-on-error", "-j2", "--no-owner", str(archive)]
        with scratch_database(self.server.binaries, self.folder / "scratch") as target:
            subprocess.run([*call, "--dbname", target], check=True)

    def _piped(self, name: str, options: list[str], filter_call: list[str]) -> Path:
        target = self.folder / name
        call = self._dump(*options)
        with target.open("wb") as file, subprocess.Popen(call, env=self._environment, stdout=subprocess.PIPE) as dump:
            subprocess.run(filter_call, stdin=dump.stdout, stdout=file, check=True)
        assert dump.returncode == 0
        return target

    def _dump(self, *options: str) -> list[str]:
        program, port = self.server.binaries.program("pg_dump"), str(self.server.port)
        return [program, "-h", "127.0.0.1", "-p", port, "-U", "postgres", *options, self.database]

    @property
    def _environment(self) -> dict[str, str]:
        return dict(os.environ) | {"PGPASSWORD": PASSWORD}


@contextmanager
def scratch_database(binaries: Binaries, folder: Path) -> Iterator[str]:
    """A database on a server of its own."""
    folder.mkdir(mode=0o711)
    with throwaway_server(binaries, folder) as server:
        with connect_to(server) as connection:
            connection.execute("CREATE DATABASE restored TEMPLATE template0")
        yield make_conninfo(server, dbname="restored")
    shutil.rmtree(folder)


@pytest.mark.major(15)
def test_a_proven_backup_beside_the_guides_script(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path: Path
) -> None:
    if shutil.which("zstd") is None:
        pytest.fail("The rival `pg_dump -Fc -Z0 | zstd -3` needs zstd. Hint: apt-get install zstd")
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
        rivals = Rivals(server, database, tmp_path)
        rounds = [run_round(rivals, platform, tmp_path) for _ in range(ROUNDS)]
    report = {name: statistics.median(one[name] for one, _ in rounds) for name in rounds[0][0]}
    profile = {name: statistics.median(one[name] for _, one in rounds) for name in rounds[0][1]}
    print(f"\ndatabase {size[0] / 1e6:,.0f} MB, PostgreSQL {server.binaries.version}, medians of {ROUNDS} rounds")
    print(render(report))
    print("where ours goes: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in profile.items()))
    print(
        json.dumps(
            {name: round(value, 1) if name.endswith("seconds") else int(value) for name, value in report.items()}
        )
    )


def run_round(rivals: Rivals, platform: Platform, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Every rival once, ours among them.

    Returns:
        What is compared, and ours step by step, in seconds.
    """
    seconds: dict[str, float] = {}
    guide = timed(seconds, "guide_seconds", rivals.guide)
    directory = timed(seconds, "dump_directory_seconds", rivals.directory)
    timed(seconds, "dump_zstd_seconds", rivals.zstd)
    timed(seconds, "stock_restore_seconds", lambda: rivals.restore(directory))
    pickled = folder / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    said = subprocess.run(
        [sys.executable, str(SCRIPT), str(pickled)], stdout=subprocess.PIPE, check=True, cwd=Path.cwd()
    )
    ours = json.loads(said.stdout)
    assert ours["reached"] == "serving"
    profile = {name: ours["steps"][name] for name in ("dump", "fingerprint", "upload")} | ours["levels"]
    names = ("backup_seconds", "proven_seconds", "stored_bytes")
    names += ("peak_memory_bytes", "peak_temp_bytes", "peak_scratch_bytes")
    return seconds | {"guide_bytes": guide.stat().st_size} | {name: ours[name] for name in names}, profile


def timed(seconds: dict[str, float], name: str, action: Callable[[], object]) -> Path:
    began = time.monotonic()
    result = action()
    seconds[name] = time.monotonic() - began
    return result  # type: ignore[return-value]


def render(report: dict[str, float]) -> str:
    guide = report["guide_seconds"]
    stock = min(report["dump_directory_seconds"], report["dump_zstd_seconds"]) + report["stock_restore_seconds"]
    rows = [
        ("guide: pg_dump | gzip, on local disk, unproven", guide),
        ("pg_dump -Fd -j2 -Z zstd:3, unproven", report["dump_directory_seconds"]),
        ("pg_dump -Fc -Z0 | zstd -3, unproven", report["dump_zstd_seconds"]),
        ("best stock dump and stock parallel restore", stock),
        ("keepwell: dumped, hashed, sealed, in the store", report["backup_seconds"]),
        ("keepwell: the same, restored and proven sound", report["proven_seconds"]),
    ]
    lines = [f"{'':50}{'seconds':>9}{'of guide':>10}"]
    lines += [f"{name:<50}{seconds:>9.1f}{seconds / guide:>10.2f}" for name, seconds in rows]
    ratio = report["stored_bytes"] / report["guide_bytes"]
    memory, temporary, scratch = (
        f"{report[name] / 1e6:,.0f} MB" for name in ("peak_memory_bytes", "peak_temp_bytes", "peak_scratch_bytes")
    )
    lines += [
        f"stored {report['stored_bytes'] / 1e6:,.0f} MB, {ratio:.2f} of gzip's",
        f"proven in {report['proven_seconds'] / stock:.2f} of the best stock dump and restore",
        f"memory {memory}, temporary disk {temporary}, scratch server {scratch}",
    ]
    return "\n".join(lines)
