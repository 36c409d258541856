from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from runs import Api
from screenshot import photograph

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def run_id(stack: "Stack") -> str:
    api = Api(stack.api_url)
    run_id = api.start("backup-and-verify")
    api.wait(run_id)
    return run_id


def test_a_run_s_page_shows_its_steps_and_its_evidence(stack: "Stack", run_id: str, tmp_path: Path) -> None:
    picture = tmp_path / "run.png"
    page = photograph(f"{stack.ui_url}/runs/flow-run/{run_id}", picture, ("backup-and-verify/esn", "dump and store"))
    assert "Completed" in page
    assert picture.stat().st_size > 20_000


def test_the_evidence_page_can_be_read(stack: "Stack", run_id: str, tmp_path: Path) -> None:
    artifact = Api(stack.api_url).artifacts(run_id)["esn-backup-evidence"]
    page = photograph(f"{stack.ui_url}/artifacts/artifact/{artifact['id']}", tmp_path / "evidence.png", ("Safe:",))
    assert "keepwell backup restore" in page
    assert "public.registrations" in page
