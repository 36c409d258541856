"""The page's own dialog answers a run that waits, as `keepwell approve` does, and refuses what does not fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployed_runs import DeployedRun
from prefect import flow
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from screenshot import open_page

from keepwell.approval import Subject
from keepwell.settings import Platform
from tasks import approval_steps

if TYPE_CHECKING:
    from conftest import Stack

pytestmark = pytest.mark.chromium

SUBJECT = Subject("restore", "esn", {"backup_id": "20261129T020000Z-abcdef", "mode": "swap"}, "esn_db_prod")
APPROVED_BY: list[str] = []


@flow(name="asks-for-approval-on-its-page", persist_result=False)
def asks(platform: str) -> None:
    summary = "20261129T020000Z-abcdef takes the place of esn_db_prod, then esn_db_prod_replaced_<UTC>."
    APPROVED_BY.append(approval_steps.obtain(platform, SUBJECT, summary).approver)


@pytest.fixture
def waiting_run(stack: "Stack", platform: Platform) -> Iterator[DeployedRun]:
    with temporary_settings({PREFECT_API_URL: stack.api_url, PREFECT_API_AUTH_STRING: stack.login}):
        run = DeployedRun(asks, platform=platform.name)
        assert run.go_on().name == "Suspended"
        yield run


def test_its_dialog_shows_the_plan_refuses_another_word_and_takes_the_right_one(
    stack: "Stack", waiting_run: DeployedRun, tmp_path: Path
) -> None:
    with open_page(f"{stack.ui_url}/runs/flow-run/{waiting_run.id}", login=stack.login) as page:
        page.get_by_role("button", name="Resume").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("takes the place of esn_db_prod, then esn_db_prod_replaced_<UTC>.").wait_for()
        approver, reason, plan, typed = (dialog.locator("textarea").nth(number) for number in range(4))
        approver.fill("Ada")
        reason.fill("rows were deleted by mistake")
        plan.fill(SUBJECT.digest)
        typed.fill("esn_db")
        dialog.get_by_role("button", name="Submit").click()
        page.get_by_text("does not match").first.wait_for()
        page.screenshot(path=tmp_path / "refused.png")
        assert waiting_run.state.name == "Suspended"

        typed.fill("esn_db_prod")
        dialog.get_by_role("button", name="Submit").click()
        dialog.wait_for(state="hidden")
    assert waiting_run.state.name == "Resuming"
    assert waiting_run.go_on().is_completed()
    assert APPROVED_BY == ["Ada"]
