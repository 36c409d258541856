"""A disaster on real servers, led by the flow: rows are gone, somebody approves, they are back, and it is told."""

from collections.abc import Iterator
from typing import Any

import pytest
from deployed_runs import DeployedRun
from prefect.settings import PREFECT_API_URL
from real_servers import PASSWORD
from restored_platforms import Stricken, stricken_platform

from flows.recover_from_disaster import recover_from_disaster
from keepwell import settings
from keepwell.evidence import read_last_evidence
from keepwell.incident.documents import Step
from keepwell.incident.journal import read_incidents
from keepwell.settings import Platform
from keepwell.verdict import Verdict
from tasks import platforms

pytestmark = pytest.mark.long


@pytest.fixture
def struck(platform: Platform, server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stricken]:
    monkeypatch.setattr(platforms, "load_platform", lambda name: platform)
    monkeypatch.setattr(settings, "load_platform", lambda name=None: platform)
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    with stricken_platform(server, platform) as made:
        yield made


def test_rows_are_gone_and_come_back(struck: Stricken) -> None:
    before = struck.ids()
    run = DeployedRun(
        recover_from_disaster, platform=struck.platform.name, title="people are gone", impact="Nobody can sign in."
    )
    assert run.go_on().name == "Suspended", run.state
    assert struck.ids() == before
    assert run.answer()["status"] == "ACCEPT"
    state = run.go_on()
    assert state.type == "COMPLETED", state
    assert struck.ids() == (100, 0)

    (incident,) = read_incidents(struck.store)
    assert not incident.standing.is_open
    assert all(one.is_over for one in incident.standing.steps.values())
    assert incident.standing.steps[Step.IDENTIFY].attempts == 1
    text = struck.store.get_bytes(f"incidents/{incident.case.case_id}/post-mortem.md").decode()
    assert struck.backup_id in text
    assert "approved by Ada (self-declared)" in text
    assert "not known of data lost" not in text
    assert "Exchanged" in text or "exchanged" in text
    assert PASSWORD not in text
    evidence = read_last_evidence(struck.store, "DR-3")
    assert evidence is not None
    assert evidence.verdict in (Verdict.OK, Verdict.WARN)
    assert float(evidence.numbers["rpo_seconds"] or 0) > 0
