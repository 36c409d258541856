"""What the tests do on a machine that lacks the older PostgreSQL: one line and no failure, but a failure under CI."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASE = "tests/integration/test_confinement.py::test_a_throwaway_server_of_each_major_runs_confined"
# Only the programs that came with the package are found.
ON_A_BARE_MACHINE = """
import sys
from keepwell.postgres import binaries
binaries._SYSTEM_FOLDERS = ()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def run(*arguments: str, ci: bool) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"PATH": "/nowhere"} | ({"CI": "true"} if ci else {})
    call = [sys.executable, "-c", ON_A_BARE_MACHINE, *arguments]
    ended = subprocess.run(call, env=environment, cwd=ROOT, capture_output=True, check=False, timeout=60, text=True)
    return ended.returncode, ended.stdout


def test_cases_of_a_missing_major_are_left_out_with_one_line_that_says_so() -> None:
    code, said = run("--collect-only", CASE, ci=False)
    assert code == 0
    assert said.startswith("Left out: 1 tests on PostgreSQL 15, which is not installed here.\n")
    assert "[17]" in said
    assert "[15]" not in said


def test_under_ci_a_missing_major_fails() -> None:
    code, said = run(f"{CASE}[15]", ci=True)
    assert code == 1
    assert "Failed: PostgreSQL 15 is not installed" in said
    assert "Left out" not in said
