"""docs/install.md, run as it stands: from a platform under compose to a proven backup and a message."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.major(15), pytest.mark.timeout(1200)]


def test_the_page_leads_to_a_proven_backup_on_the_sources_own_image_and_a_delivered_message() -> None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "CI") if name in os.environ}
    before = configured()
    ended = subprocess.run(
        ["make", "demo-install"], cwd=ROOT, env=environment, capture_output=True, check=False, text=True
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["commands"] <= 6
    assert summary["seconds"] < 15 * 60
    assert summary["level"] in ("sound", "serving")
    assert "(image keepwell-sample/postgres:15)" in summary["restored_on"]
    assert summary["message_delivered"] is True
    assert 0 < summary["idle_memory_bytes"] < 600 * 1000**2
    # All of it lay in a layer that is gone.
    assert configured() == before


def configured() -> list[bool]:
    return [Path(place).exists() for place in ("/etc/keepwell", "/etc/cron.d/keepwell-demo", "/usr/local/bin/keepwell")]
