import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.running.processes import find_by_variable
from deployments.running.state import MARKER_VARIABLE, StateFolder

LIMIT_SECONDS = 600


@pytest.mark.long
def test_lost_rows_come_back_by_an_approved_run_of_the_deployment_and_that_is_undone(tmp_path: Path) -> None:
    """What `make demo-restore` runs, on less data: server, worker, suspension, the console's answer, swap and undo."""
    state = StateFolder.at(tmp_path / "demo")
    argv = [sys.executable, "-m", "deployments.local", "demo-restore", "--state", str(state.folder), "--scale", "0.02"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "The run is Suspended: it holds nothing" in ended.stdout
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert list(summary) == ["rows_lost", "rows_back", "seconds_rto", "undone"]
    assert 0 < summary["rows_lost"] == summary["rows_back"]
    assert summary["seconds_rto"] > 0
    assert summary["undone"] is True
    assert list(find_by_variable(MARKER_VARIABLE, str(state.folder))) == []
