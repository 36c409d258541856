"""The store's lease, where it holds a platform by itself: it knows when it ran out, and what it does not know binds."""

import json
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from memory_store import MemoryStore
from pydantic import SecretStr
from waiting import wait_until

from keepwell.errors import Busy, KeepwellError, ServiceUnavailable
from keepwell.holding import hold_platform, hold_sets
from keepwell.interlock import Procedure
from keepwell.objectstore import lease
from keepwell.objectstore.store import Store
from keepwell.settings import BackupSettings, DatabaseSettings, Platform


@pytest.fixture
def platform() -> Platform:
    """One whose server does not answer, and who waits for nobody."""
    return Platform.model_construct(
        name="esn",
        database=DatabaseSettings(name="esn_db", user="esn", host="127.0.0.1", port=9, password=SecretStr("x")),
        backup=BackupSettings(interlock_wait_seconds=0),
    )


def test_a_lease_that_could_not_be_renewed_is_noticed(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.01)
    told: list[KeepwellError] = []

    def refuse(relative: str, content: bytes) -> None:
        del relative, content
        raise KeepwellError("It is full.")

    def has_run_out() -> bool:
        return hold._lease is not None and hold._lease.has_run_out

    with hold_platform(platform, cast("Store", store), Procedure.SWAP, on_lease_alone=told.append) as hold:
        hold.require_held()
        assert len(told) == 1
        monkeypatch.setattr(store, "put_bytes", refuse)
        monkeypatch.setattr(lease, "_LIFETIME", timedelta(seconds=0.05))
        wait_until(has_run_out)
        with pytest.raises(ServiceUnavailable, match="ran out"):
            hold.require_held()
        hold.end_early()


def test_what_is_done_does_not_fail_any_more_by_a_lost_lease(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cast("Store", MemoryStore())
    with hold_platform(platform, store, Procedure.SWAP, on_lease_alone=lambda _: None) as hold:
        monkeypatch.setattr(lease, "_LIFETIME", timedelta(0))
        hold.end_early()


def test_a_procedure_of_a_newer_release_binds(platform: Platform) -> None:
    store, now = MemoryStore(), datetime.now(UTC)
    fields = {
        "procedure": "merge",
        "token": "other",
        "cluster": "",
        "expires_at": (now + timedelta(hours=1)).isoformat(),
    }
    store.put_bytes("leases/merge-other.json", json.dumps(fields).encode())
    with pytest.raises(Busy, match="“merge” of a newer release holds"), hold_sets(platform, cast("Store", store)):
        pass
