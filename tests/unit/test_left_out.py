"""What the tests do where a PostgreSQL or an engine is missing: one line and no failure, but a failure under CI."""

import os
import re
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
# Everything is there but an engine's programs.
WITHOUT_AN_ENGINE = """
import sys
sys.path.insert(0, "tests")
import real_servers
from deployments.local import engine
engine._FOR_ROOT = "/nowhere"
real_servers.find_installation = lambda major: "found"
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
IN_CONTAINERS = "tests/integration/test_scratch_image.py"


def run(*arguments: str, ci: bool, machine: str = ON_A_BARE_MACHINE) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"PATH": "/nowhere"} | ({"CI": "true"} if ci else {})
    call = [sys.executable, "-c", machine, *arguments]
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


def test_without_a_docker_engine_tests_in_containers_are_left_out_with_one_line() -> None:
    _, said = run("--collect-only", IN_CONTAINERS, ci=False, machine=WITHOUT_AN_ENGINE)
    assert re.match(r"Left out: \d+ tests in containers; missing here: dockerd, iptables", said)
    assert "::" not in said


def test_under_ci_a_missing_docker_engine_fails() -> None:
    named = f"{IN_CONTAINERS}::test_a_program_in_a_container_is_as_if_it_ran_here"
    code, said = run(named, ci=True, machine=WITHOUT_AN_ENGINE)
    assert code == 1
    assert "Failed: No Docker Engine can be started here; missing: dockerd, iptables" in said
