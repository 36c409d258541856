"""Carrying takes its turn by the leases of both destinations, and needs no database."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore

from keepwell.errors import Busy
from keepwell.holding import hold_carrying, hold_sets
from keepwell.interlock import Procedure
from keepwell.objectstore.lease import LEASES, read_leases
from keepwell.settings import BackupSettings, Platform

PLATFORM = Platform.model_construct(name="esn", backup=BackupSettings(interlock_wait_seconds=0))


@pytest.fixture
def stores() -> tuple[Any, Any]:
    return MemoryStore(), MemoryStore()


def lease(store: MemoryStore, procedure: Procedure, *, expires_in_seconds: float = 60) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=expires_in_seconds)
    fields = {"procedure": procedure, "token": "other", "cluster": "c", "expires_at": expires_at.isoformat()}
    store.put_bytes(f"{LEASES}{procedure}-other.json", json.dumps(fields).encode())


def test_both_destinations_know_of_it_for_as_long_as_it_lasts(stores: tuple[Any, Any]) -> None:
    with hold_carrying(PLATFORM, *stores):
        for store in stores:
            assert [one.procedure for one in read_leases(store, datetime.now(UTC))] == [Procedure.CARRY]
    assert [store.objects for store in stores] == [{}, {}]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("procedure", [Procedure.EXPIRE, Procedure.CARRY])
def test_nobody_may_remove_or_carry_sets_meanwhile(stores: tuple[Any, Any], place: int, procedure: Procedure) -> None:
    lease(stores[place], procedure)
    with pytest.raises(Busy, match="copy cannot start"), hold_carrying(PLATFORM, *stores):
        pytest.fail("two of them at once")
    lease(stores[place], procedure, expires_in_seconds=-1)
    with hold_carrying(PLATFORM, *stores):
        pass


@pytest.mark.parametrize("procedure", [Procedure.BACKUP, Procedure.RESTORE, Procedure.VERIFY])
def test_whoever_writes_the_first_or_reads_either_is_not_in_the_way(
    stores: tuple[Any, Any], procedure: Procedure
) -> None:
    for store in stores:
        lease(store, procedure)
    with hold_carrying(PLATFORM, *stores), hold_sets(PLATFORM, stores[0]), hold_sets(PLATFORM, stores[1]):
        pass
