"""kill -9 before and after every effect of an expiry on a real store: whole sets or none, and the next run finishes."""

import pickle
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from memory_store import WatchedStore
from stored_sets import assert_whole_or_unlisted, keys_of, put_history, put_set

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import Expiry, apply_plan, read_expiring, read_plan
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.settings import Platform
from keepwell.verdict import Verdict

SCRIPT = Path(__file__).parent / "expire_then_die.py"


@dataclass(frozen=True)
class Bucket:
    """A platform's folder with sets to keep, one to remove, and one that an earlier run left half removed."""

    platform: Platform
    store: Store
    keep: Sequence[str]
    gone: Sequence[str]


def fill(platform: Platform) -> Bucket:
    fresh = platform.bucket.model_copy(update={"prefix": f"t{secrets.token_hex(4)}"})
    filled = platform.model_copy(update={"bucket": fresh})
    store, now = open_store(filled), datetime.now(UTC).replace(microsecond=0)
    *keep, old = put_history(store, now, 0.1, 1, 20, 31)
    half_gone = put_set(store, now.replace(year=now.year - 1))
    store.put_bytes(layout.expiring_key(half_gone), b"mark")
    store.delete([layout.manifest_key(half_gone)])
    return Bucket(filled, store, keep, (old, half_gone))


def expire(bucket: Bucket, store: Store) -> Expiry:
    now = datetime.now(UTC)
    with hold_platform(bucket.platform, bucket.store, Procedure.EXPIRE):
        return apply_plan(bucket.platform, store, read_plan(bucket.platform, store, now).digest, now)


def assert_finished(bucket: Bucket) -> None:
    assert [entry.backup_id for entry in read_catalogue(bucket.store)] == bucket.keep
    assert read_expiring(bucket.store) == {}
    assert list(bucket.store.list_objects(layout.EXPIRING)) == []
    assert [keys_of(bucket.store, backup_id) for backup_id in bucket.gone] == [[], []]
    assert_whole_or_unlisted(bucket.store)


@pytest.mark.timeout(900)
def test_an_expiry_killed_at_any_effect_is_finished_by_the_next(platform: Platform, tmp_path: Path) -> None:
    healthy = fill(platform)
    recorded = WatchedStore(healthy.store)
    assert expire(healthy, cast("Store", recorded)).verdict is Verdict.OK
    assert_finished(healthy)
    assert len(recorded.effects) > 12
    for number in range(len(recorded.effects)):
        for moment in ("before", "after"):
            bucket = fill(platform)
            pickled = tmp_path / "platform.pickle"
            pickled.write_bytes(pickle.dumps(bucket.platform))
            call = [sys.executable, str(SCRIPT), str(pickled), str(number), moment]
            ended = subprocess.run(call, capture_output=True, check=False, timeout=60, cwd=Path.cwd())
            struck = f"{moment} {ended.stdout.decode()}"
            assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
            assert_whole_or_unlisted(bucket.store)
            assert set(bucket.keep) <= {entry.backup_id for entry in read_catalogue(bucket.store)}, struck
            # Its lock went with its session, and its lease counts for nothing beside that.
            assert expire(bucket, bucket.store).verdict is Verdict.OK, struck
            assert_finished(bucket)
