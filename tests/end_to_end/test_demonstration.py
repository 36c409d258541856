import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.running.processes import find_by_variable
from deployments.running.state import MARKER_VARIABLE, StateFolder

LIMIT_SECONDS = 600


@pytest.mark.long
def test_the_demonstration_ends_with_a_proven_backup_found_damage_and_no_process(tmp_path: Path) -> None:
    """What `make demo` runs, on less data."""
    state = StateFolder.at(tmp_path / "demo")
    argv = [sys.executable, "-m", "deployments.local", "demo", "--state", str(state.folder), "--scale", "0.02"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert list(summary) == [
        "backup_id",
        "level",
        "tables",
        "rows",
        "bytes_source",
        "bytes_stored",
        "seconds_backup",
        "seconds_proof",
        "damaged_copy_detected",
    ]
    assert (summary["level"], summary["damaged_copy_detected"]) == ("L6", True)
    assert summary["tables"] >= 9
    assert summary["rows"] > 1_000
    assert 0 < summary["bytes_stored"] < summary["bytes_source"]
    assert summary["seconds_backup"] > 0
    assert summary["seconds_proof"] > 0

    assert list(find_by_variable(MARKER_VARIABLE, str(state.folder))) == []
    named = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(state.folder) in read(path)]
    assert named == []
    assert {path.suffix for path in state.folder.iterdir()} == {".lock"}


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
