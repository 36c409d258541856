"""A proven backup has old sets expire, by a run of its own, on a real server and worker."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from runs import Api, wait_until
from stored_sets import keys_of, put_set

from keepwell.evidence import read_last_evidence
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.settings import load_platform
from keepwell.verdict import Verdict

if TYPE_CHECKING:
    from conftest import Stack


@pytest.fixture
def store(stack: "Stack", monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KEEPWELL_CONFIG", str(stack.platform_file))
    return open_store(load_platform("esn"))


@pytest.fixture
def old_sets(store: Store) -> Iterator[list[str]]:
    """Proven sets past their days, the oldest first; gone again for the other tests of this stack."""
    now = datetime.now(UTC).replace(microsecond=0)
    sets = [put_set(store, now - timedelta(days=day)) for day in (34, 33, 32)]
    yield sets
    store.delete([key for backup_id in sets for key in keys_of(store, backup_id)])


def test_old_sets_go_once_a_backup_was_proven(stack: "Stack", store: Store, old_sets: list[str]) -> None:
    api = Api(stack.api_url, stack.login)
    before = {run["id"] for run in api.runs("expire-backups")}

    def new_runs() -> list[dict[str, Any]]:
        return [run for run in api.runs("expire-backups") if run["id"] not in before]

    assert api.wait(api.start("backup-and-verify"))["state"]["type"] == "COMPLETED"
    wait_until(lambda: bool(new_runs()), 30)
    (run,) = new_runs()
    ended = api.wait(run["id"])
    assert ended["state"]["name"] == "Completed", ended["state"]["message"]
    assert ended["parameters"] == {"platform": "esn"}
    assert keys_of(store, old_sets[0]) == []
    evidence = read_last_evidence(store, "BK-2")
    assert evidence is not None
    assert (evidence.verdict, evidence.flow_run) == (Verdict.OK, run["id"])
    assert api.artifacts(run["id"])["esn-retention-evidence"]["data"].startswith("# Retention of esn: ✓ ok")
