"""A full restore drill through a real server and a real worker, with the sample's backend on what was restored."""

import pytest
from runs import Api, last_evidence

from keepwell.drill.documents import read_history, report_key
from keepwell.objectstore.store import Store
from keepwell.verdict import Verdict


@pytest.mark.long
def test_measures_damages_and_lets_the_application_answer(api: Api, store: Store) -> None:
    backup = api.wait(api.start("backup-and-verify"), 240)
    assert backup["state"]["type"] == "COMPLETED", backup["state"]["message"]
    run_id = api.start("restore-drill", kind="full", seed=7)
    run = api.wait(run_id, 480)
    drill = read_history(store).drills[-1]
    assert drill.flow_run == run_id
    assert {outcome.verdict for outcome in drill.damages} == {Verdict.OK}, drill.damages
    assert len(drill.damages) == 7
    main = drill.main
    assert main is not None
    stages = {stage.name: stage.verdict for stage in main.stages}
    assert stages == dict.fromkeys(("uploaded files", "redis", "application"), Verdict.OK), main.stages
    assert main.whole_seconds is not None
    assert drill.communication is not None
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]

    shown = api.artifacts(run_id)
    assert shown["esn-drill-report"]["data"].startswith("# Restore drill of esn: ")
    assert shown["esn-drill-plot"]["data"].startswith("data:image/png;base64,")
    assert b"<svg" in store.get_bytes(report_key(drill.drill_id, "html"))
    assert last_evidence(store, "QUARTERLY-4").flow_run == run_id
