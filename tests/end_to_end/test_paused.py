"""A pause on a running stack: the hourly check tells of it, and it ends by itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from people import People
from runs import Api, last_evidence, wait_until

from keepwell.objectstore.store import Store
from keepwell.verdict import Verdict

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.long


def keepwell(stack: "Stack", *words: str) -> dict[str, Any]:
    program = Path(sys.executable).with_name("keepwell")
    done = subprocess.run([program, *words, "--json"], env=stack.environment, check=True, capture_output=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def is_paused(api: Api) -> bool:
    return bool(api.get("/deployments/name/backup-and-verify/esn")["paused"])


@pytest.mark.timeout(900)
def test_a_pause_is_told_and_ends_by_itself(stack: "Stack", api: Api, store: Store, people: People) -> None:
    assert api.wait(api.start("backup-and-verify"))["state"]["type"] == "COMPLETED"
    told = len(people.told)
    keepwell(stack, "pause", "--until", "2h")
    try:
        assert is_paused(api)
        check = api.wait(api.start("check-backups"))
        assert check["state"]["name"] == "Warn", check["state"]["message"]
        evidence = last_evidence(store, "BK-5")
        assert evidence.verdict is Verdict.WARN
        assert "it ends by itself then" in evidence.summary
        print(evidence.summary)  # noqa: T201 - words for the manual
        # Paused anew it ends at another time, and a worker takes the run that was planned for then.
        keepwell(stack, "pause", "--until", "1m")
        wait_until(lambda: not is_paused(api), 600)
    finally:
        keepwell(stack, "resume")
    assert api.wait(api.start("check-backups"))["state"]["name"] == "Completed"
    # Nobody was called for a pause that somebody wanted.
    assert len(people.told) == told
