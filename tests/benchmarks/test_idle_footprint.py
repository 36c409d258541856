"""What `keepwell serve` costs a machine at rest, in memory and processor time; one JSON object at the end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from deployments.production.footprint import measure_memory_bytes, measure_processor_seconds
from deployments.running.ports import find_free_port
from deployments.running.state import StateFolder
from keepwell.served import STATE_VARIABLE
from keepwell.settings import CONFIG_VARIABLE

MOST_MEMORY_BYTES = 600_000_000
MOST_PROCESSOR_RATIO = 0.02
SETTLE_SECONDS = 30.0
LIMIT_SECONDS = 400


def test_at_rest_it_takes_little(tmp_path: Path) -> None:
    seconds = float(os.environ.get("BENCH_SECONDS", "120"))
    (tmp_path / "esn.toml").write_text(
        'name = "esn"\n[database]\nname = "none"\nuser = "none"\n[bucket]\nname = "none"\n[sealing]\nrecipients = []\n'
    )
    environment = os.environ | {CONFIG_VARIABLE: str(tmp_path / "esn.toml"), STATE_VARIABLE: str(tmp_path / "state")}
    state = StateFolder.at(tmp_path / "state" / "serve")
    keepwell = Path(sys.executable).with_name("keepwell")
    try:
        subprocess.run(
            [keepwell, "serve", "--detach", "--port", str(find_free_port())],
            env=environment,
            check=True,
            timeout=LIMIT_SECONDS,
        )
        # The first schedules are made, and what was imported once is never touched again.
        time.sleep(SETTLE_SECONDS)
        began, processor_seconds = time.monotonic(), measure_processor_seconds(state)
        time.sleep(seconds)
        ratio = (measure_processor_seconds(state) - processor_seconds) / (time.monotonic() - began)
        memory_bytes = measure_memory_bytes(state)
    finally:
        subprocess.run([keepwell, "serve", "stop"], env=environment, check=True, timeout=LIMIT_SECONDS)
    print(f"\nAt rest for {seconds:.0f} s: {memory_bytes / 1e6:.0f} MB, {ratio:.2%} of one processor.")
    print(json.dumps({"idle_memory_bytes": memory_bytes, "idle_processor_ratio": round(ratio, 4), "seconds": seconds}))
    assert memory_bytes <= MOST_MEMORY_BYTES
    assert ratio <= MOST_PROCESSOR_RATIO
