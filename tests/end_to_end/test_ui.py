from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from runs import Api
from screenshot import photograph

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def run_id(api: Api) -> str:
    run_id = api.start("backup-and-verify")
    api.wait(run_id)
    return run_id


def test_a_run_s_page_shows_its_steps_and_its_evidence(stack: "Stack", run_id: str, tmp_path: Path) -> None:
    address, picture = f"{stack.ui_url}/runs/flow-run/{run_id}", tmp_path / "run.png"
    page = photograph(address, picture, ("backup-and-verify/esn", "dump and store"), login=stack.login)
    assert "Completed" in page
    assert picture.stat().st_size > 20_000
    shown = photograph(address, picture, ("esn-backup-evidence",), tab="Artifacts", login=stack.login)
    for key in ("esn-backup-progress", "esn-proof-progress"):
        assert key in shown


def test_the_evidence_page_can_be_read(stack: "Stack", api: Api, run_id: str, tmp_path: Path) -> None:
    artifact = api.artifacts(run_id)["esn-backup-evidence"]
    address = f"{stack.ui_url}/artifacts/artifact/{artifact['id']}"
    page = photograph(address, tmp_path / "evidence.png", ("Safe:",), login=stack.login)
    assert "keepwell backup restore" in page
    assert "public.registrations" in page
