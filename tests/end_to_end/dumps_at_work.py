"""A backup that is stopped in the middle of its dump, and what must be true of the sets afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runs import Api, last_evidence, wait_until

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.objectstore.store import Store
from keepwell.postgres.connection import connect
from keepwell.settings import Platform


@contextmanager
def stopped_dump(platform: Platform) -> Iterator[None]:
    """pg_dump waits where nobody else looks; by then the tables are locked, and the set is marked."""
    locking = connect(platform.database, autocommit=False)
    try:
        locking.execute("LOCK TABLE pg_catalog.pg_transform IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        locking.close()


def wait_for_the_stopped_dump(platform: Platform) -> None:
    waiting = "SELECT 1 FROM pg_locks WHERE relation = 'pg_catalog.pg_transform'::regclass AND NOT granted"
    with connect(platform.database) as looking:
        wait_until(lambda: looking.execute(waiting).fetchone() is not None, poll_seconds=0.1)


def programs_named(name: str) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == name:
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def unfinished(store: Store) -> list[str]:
    return [stored.key for stored in store.list_objects(layout.UNFINISHED)]


def assert_only_proven_sets(store: Store) -> None:
    entries = read_catalogue(store)
    assert entries
    assert {entry.backup_id: entry.level for entry in entries if not entry.is_proven("serving")} == {}
    stored = {stored.key.split("/")[1] for stored in store.list_objects(layout.BACKUPS)}
    assert stored == {entry.backup_id for entry in entries}
    assert unfinished(store) == []


def assert_completed(run: dict[str, Any]) -> None:
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]


def assert_the_next_run_succeeds(api: Api, store: Store) -> None:
    run = api.wait(api.start("backup-and-verify"))
    assert_completed(run)
    assert last_evidence(store, "BK-1").flow_run == run["id"]
    assert_only_proven_sets(store)
