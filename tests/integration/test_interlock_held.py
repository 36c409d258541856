"""Two runs at once, a holder that was killed, and a lease from elsewhere."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_sets import prove
from real_servers import Server

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.errors import Busy, LockTimeout, ServiceUnavailable, is_transient
from keepwell.holding import hold_platform
from keepwell.interlock import Holder, Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.lease import LEASES, keep_lease, read_leases
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import open_locks
from keepwell.progress import silent
from keepwell.settings import Platform

HOLD = """
import pickle, sys, time
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
platform = pickle.load(open(sys.argv[1], "rb"))
with hold_platform(platform, open_store(platform), Procedure.BACKUP):
    print("held", flush=True)
    time.sleep(60)
"""


def waiting(platform: Platform, seconds: int) -> Platform:
    backup = platform.backup.model_copy(update={"interlock_wait_seconds": seconds})
    return platform.model_copy(update={"backup": backup})


def put_lease(store: Store, *, cluster: str, lifetime: timedelta, procedure: str = "backup") -> None:
    fields = {
        "procedure": procedure,
        "token": "elsewhere-1",
        "cluster": cluster,
        "expires_at": (datetime.now(UTC) + lifetime).isoformat(),
    }
    store.put_bytes(f"{LEASES}{procedure}-elsewhere-1.json", json.dumps(fields).encode())


def test_a_second_run_is_told_who_is_at_work_and_since_when(platform: Platform, store: Store) -> None:
    with (
        hold_platform(platform, store, Procedure.BACKUP),
        pytest.raises(Busy, match=r"A restore cannot start: a backup is at work .* since 20\d\d-") as raised,
        hold_platform(waiting(platform, 0), store, Procedure.RESTORE),
    ):
        pytest.fail("both hold the platform")
    assert raised.value.hint


def test_a_second_run_waits_for_the_first_and_says_so_once(platform: Platform, store: Store) -> None:
    seen: list[Holder] = []
    order: list[str] = []
    started = threading.Event()

    def first() -> None:
        with hold_platform(platform, store, Procedure.BACKUP):
            started.set()
            time.sleep(1.5)
            order.append("first ends")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        started.wait(20)
        with hold_platform(waiting(platform, 20), open_store(platform), Procedure.BACKUP, on_wait=seen.append):
            order.append("second starts")
        running.result()
    assert order == ["first ends", "second starts"]
    assert [holder.procedure for holder in seen] == [Procedure.BACKUP]


def test_of_two_whole_backups_at_once_one_waits_and_both_complete(
    platform: Platform, store: Store, server: Server
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 20000) n")
    waited: list[Holder] = []
    spans: list[tuple[float, float]] = []

    def run() -> str:
        own = open_store(platform)
        with hold_platform(waiting(platform, 60), own, Procedure.BACKUP, on_wait=waited.append):
            began = time.monotonic()
            manifest = create_backup(platform, own, silent)
            spans.append((began, time.monotonic()))
        return manifest.backup_id

    with ThreadPoolExecutor(2) as pool:
        written = [running.result(120) for running in [pool.submit(run) for _ in range(2)]]
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began
    assert len(waited) == 1
    assert {entry.backup_id for entry in read_catalogue(store)} == set(written)
    assert list(store.list_objects(layout.UNFINISHED)) == []
    assert [prove(platform, backup_id).reached for backup_id in written] == ["serving", "serving"]


def test_a_gate_that_somebody_never_gives_back_ends_in_a_transient_error(
    platform: Platform, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwell.postgres.advisory_locks._GATE_WAIT_SECONDS", 1)
    with (
        open_locks(platform.database, platform.name, "hanging") as locks,
        locks.gate(),
        pytest.raises(LockTimeout, match="gate was not to be had within 1 s") as raised,
        hold_platform(waiting(platform, 0), store, Procedure.BACKUP),
    ):
        pytest.fail("two are behind the gate")
    assert is_transient(raised.value)
    assert "pg_stat_activity" in raised.value.hint
    with hold_platform(waiting(platform, 0), store, Procedure.BACKUP):
        pass


def test_the_place_and_the_lease_are_given_back_with_the_block(platform: Platform, store: Store) -> None:
    for _ in range(2):
        with hold_platform(waiting(platform, 0), store, Procedure.BACKUP):
            assert len(read_leases(store, datetime.now(UTC))) == 1
        assert read_leases(store, datetime.now(UTC)) == []


def test_a_nested_procedure_with_its_parents_token_is_not_in_its_own_way(platform: Platform, store: Store) -> None:
    at_once = waiting(platform, 0)
    with (
        hold_platform(at_once, store, Procedure.RESTORE) as hold,
        hold_platform(at_once, store, Procedure.BACKUP, token=hold.token) as nested,
    ):
        assert nested.token == hold.token


def test_platforms_do_not_stand_in_each_others_way(platform: Platform, store: Store) -> None:
    other = waiting(platform, 0).model_copy(update={"name": "other"})
    with (
        hold_platform(platform, store, Procedure.BACKUP),
        hold_platform(other, open_store(other), Procedure.RESTORE),
        open_locks(other.database, other.name, "look") as locks,
    ):
        assert [holder.procedure for holder in locks.holders()] == [Procedure.RESTORE]


def test_a_killed_holders_place_is_free_at_once_though_its_lease_is_still_there(
    platform: Platform, store: Store, tmp_path: Path
) -> None:
    import pickle

    pickled = tmp_path / "platform.pickle"
    pickled.write_bytes(pickle.dumps(platform))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, pickled], stdout=subprocess.PIPE, cwd=Path.cwd())
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy), hold_platform(waiting(platform, 0), store, Procedure.BACKUP):
            pytest.fail("both hold the platform")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert len(read_leases(store, datetime.now(UTC))) == 1
    with hold_platform(platform, store, Procedure.BACKUP):
        pass


def end_interlock_sessions(server: Server) -> None:
    """As a restart of the database does."""
    with server.connect() as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'keepwell interlock %'"
        ).fetchall()
    assert ended


def test_a_place_that_is_still_there_is_not_taken_again(platform: Platform, store: Store) -> None:
    with hold_platform(platform, store, Procedure.BACKUP) as hold:
        assert not hold.renew()


def test_a_place_that_was_lost_is_taken_again_and_the_block_ends_well(
    platform: Platform, store: Store, server: Server
) -> None:
    with hold_platform(platform, store, Procedure.BACKUP) as hold:
        end_interlock_sessions(server)
        assert hold.renew()
        with (
            pytest.raises(Busy, match="a backup is at work"),
            hold_platform(waiting(platform, 0), store, Procedure.RESTORE),
        ):
            pytest.fail("both hold the platform")
        assert [lease.token for lease in read_leases(store, datetime.now(UTC))] == [hold.token]
    with hold_platform(waiting(platform, 0), store, Procedure.RESTORE):
        pass


def lose_to_a_restore(platform: Platform, store: Store, server: Server) -> None:
    """Within a backup's block, its place goes and a restore gets its turn."""
    with hold_platform(waiting(platform, 0), store, Procedure.BACKUP) as hold:
        end_interlock_sessions(server)
        with hold_platform(platform, store, Procedure.RESTORE):
            with pytest.raises(Busy, match="A backup cannot start: a restore is at work"):
                hold.renew()
            hold.require_held()


def test_a_place_that_was_lost_to_somebody_else_is_not_taken_from_them(
    platform: Platform, store: Store, server: Server
) -> None:
    with pytest.raises(ServiceUnavailable, match="could not be taken again"):
        lose_to_a_restore(platform, store, server)


def test_a_place_that_was_lost_unnoticed_fails_the_block(platform: Platform, store: Store, server: Server) -> None:
    with pytest.raises(ServiceUnavailable), hold_platform(platform, store, Procedure.BACKUP):
        end_interlock_sessions(server)


def test_a_lease_of_another_server_stands_in_the_way_until_it_runs_out(platform: Platform, store: Store) -> None:
    put_lease(store, cluster="another server", lifetime=timedelta(seconds=3))
    with (
        pytest.raises(Busy, match="holds the store's lease from another server") as raised,
        hold_platform(waiting(platform, 0), store, Procedure.BACKUP),
    ):
        pytest.fail("the lease was ignored")
    assert "ends by itself" in raised.value.hint
    with hold_platform(waiting(platform, 20), store, Procedure.BACKUP):
        assert "elsewhere-1" not in {lease.token for lease in read_leases(store, datetime.now(UTC))}


def test_a_lease_of_the_same_server_does_not_outlive_its_lock(platform: Platform, store: Store, server: Server) -> None:
    with open_locks(platform.database, platform.name, "look") as locks:
        cluster = locks.cluster()
    put_lease(store, cluster=cluster, lifetime=timedelta(hours=1))
    with hold_platform(waiting(platform, 0), store, Procedure.BACKUP):
        pass


def test_torn_and_foreign_documents_among_the_leases_are_passed_over(store: Store) -> None:
    naive = {"procedure": "backup", "token": "t", "cluster": "c", "expires_at": "2999-01-01T00:00:00"}
    for number, content in enumerate([b"", b"{", b"[]", b"null", b'{"a": 1}', json.dumps(naive).encode()]):
        store.put_bytes(f"{LEASES}{number}.json", content)
    put_lease(store, cluster="c", lifetime=timedelta(seconds=30))
    put_lease(store, cluster="c", lifetime=timedelta(seconds=-1), procedure="restore")
    assert [lease.token for lease in read_leases(store, datetime.now(UTC))] == ["elsewhere-1"]


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_lease_of_a_machine_whose_clock_is_hours_off_lasts_as_long_as_any(store: Store, hours: int) -> None:
    """How long it lasts is its writer's to say, and since when the store's."""
    written_at = datetime.now(UTC) + timedelta(hours=hours)
    times = {"written_at": written_at.isoformat(), "expires_at": (written_at + timedelta(seconds=60)).isoformat()}
    fields = {"procedure": "backup", "token": "elsewhere-1", "cluster": "c"} | times
    store.put_bytes(f"{LEASES}backup-elsewhere-1.json", json.dumps(fields).encode())
    now = store.read_clock()
    assert [lease.token for lease in read_leases(store, now)] == ["elsewhere-1"]
    assert read_leases(store, now + timedelta(seconds=62)) == []


def test_leases_of_dead_runs_are_forgotten_once_nobody_goes_by_them(store: Store) -> None:
    put_lease(store, cluster="c", lifetime=timedelta(hours=-2))
    put_lease(store, cluster="c", lifetime=timedelta(minutes=-1), procedure="restore")
    store.put_bytes(f"{LEASES}foreign", b"no lease")
    with keep_lease(store, "backup", "mine", "c"):
        pass
    left = [found.key for found in store.list_objects(LEASES)]
    assert left == [f"{LEASES}foreign", f"{LEASES}restore-elsewhere-1.json"]


def test_a_lease_is_renewed_while_its_block_lasts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwell.objectstore.lease._RENEW_SECONDS", 0.05)
    with keep_lease(store, "backup", "mine", "c"):
        (first,) = read_leases(store, datetime.now(UTC))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and read_leases(store, datetime.now(UTC))[0] == first:
            time.sleep(0.05)
        (later,) = read_leases(store, datetime.now(UTC))
    assert later.expires_at > first.expires_at
    assert read_leases(store, datetime.now(UTC)) == []
