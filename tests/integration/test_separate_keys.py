"""Keys that may only read, write or expire, on a store that enforces the very policies that Keepwell prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from locking_store import LockingStore
from pydantic import SecretStr
from stored_sets import keys_of, put_set

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import Result, apply_plan, read_plan, read_sets
from keepwell.backup.policies import build_policies
from keepwell.backup.sweep import judge_left_over, sweep_unfinished
from keepwell.doctor.store import examine_store
from keepwell.errors import AccessDenied, PreconditionFailed
from keepwell.holding import hold_sets
from keepwell.objectstore.bucket import folder_of, open_store
from keepwell.objectstore.forbidden import THROW_AWAY
from keepwell.objectstore.store import Store
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict


@dataclass(frozen=True)
class Bucket:
    """A bucket, and users with the printed policies."""

    server: LockingStore
    name: str
    keys: dict[str, dict[str, SecretStr]]

    def platform(self, *purposes: str, **settings: Any) -> Platform:
        """The platform on a machine that has some of the keys."""
        named: dict[str, Any] = {"access_key_id": None, "secret_access_key": None}
        for purpose in purposes:
            prefix = "" if purpose == "writing" else f"{purpose}_"
            named |= {f"{prefix}{name}": value for name, value in self.keys[purpose].items()}
        return self.server.platform(self.name, **named | settings)

    def open(self, *purposes: str, **settings: Any) -> Store:
        return open_store(self.platform(*purposes, **settings))

    @property
    def root(self) -> Store:
        """Its owner's, who may do everything; the others cannot tell what one of them may not see."""
        return self.server.open(self.name)


@contextmanager
def bucket_with_keys(server: LockingStore, **how: bool) -> Iterator[Bucket]:
    name = server.make_bucket(**how)
    policies = build_policies(name, folder_of("esn", server.platform(name).bucket))
    # This server asks for the bucket's own name where many objects are deleted by one call, and for no key.
    many = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{name}"}
    policies["expiring"]["Statement"].append(many)
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policies["mighty"] = {"Version": "2012-10-17", "Statement": [everything]}
    policies["forgetful"] = {"Version": "2012-10-17", "Statement": [*policies["writing"]["Statement"], many]}
    keys = {purpose: server.make_key(policy) for purpose, policy in policies.items()}
    with server.enforcing():
        yield Bucket(server, name, keys)


@pytest.fixture
def bucket(locking_store: LockingStore) -> Iterator[Bucket]:
    with bucket_with_keys(locking_store, lock=False) as made:
        yield made


def examined(platform: Platform) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_store(platform)}


def mighty_as(bucket: Bucket, purpose: str) -> Bucket:
    return Bucket(bucket.server, bucket.name, bucket.keys | {purpose: bucket.keys["mighty"]})


# What each key can do.


def test_each_key_does_what_it_is_for_and_no_more(bucket: Bucket) -> None:
    writing = bucket.open("writing")
    backup_id = put_set(writing, datetime.now(UTC).replace(microsecond=0))
    writing.put_bytes(layout.unfinished_key("x"), b"x")
    writing.delete([layout.unfinished_key("x")])
    key = layout.manifest_key(backup_id)
    with pytest.raises(AccessDenied, match="kept backups/"):
        writing.delete([key])
    reading = bucket.open("reading")
    assert reading.get_bytes(key) == writing.get_bytes(key)
    assert (reading.may_write, reading.may_expire) == (False, False)
    with pytest.raises(AccessDenied, match="only one that reads"):
        reading.put_bytes("evidence/x", b"x")
    all_three = bucket.open("writing", "reading", "expiring")
    all_three.delete([key, THROW_AWAY])
    assert all_three.find(key) is None
    all_three.put_bytes("pins/x", b"x")
    all_three.delete(["pins/x", *keys_of(all_three, backup_id)])
    assert [stored.key for stored in all_three.list_objects("")] == []


def test_a_set_can_be_listed_and_held_with_a_key_that_only_reads(bucket: Bucket) -> None:
    backup_id = put_set(bucket.open("writing"), datetime.now(UTC).replace(microsecond=0))
    platform = bucket.platform("reading")
    store = open_store(platform)
    with hold_sets(platform, store):
        assert [entry.backup_id for entry in read_catalogue(store)] == [backup_id]
        assert list(store.list_objects("leases/")) == []


# A backup's machine without the expiring key.


def a_dead_run(store: Store) -> str:
    backup_id = put_set(store, datetime.now(UTC).replace(microsecond=0) - timedelta(days=1), proven=False)
    store.put_bytes(layout.unfinished_key(backup_id), b"mark")
    return backup_id


@pytest.mark.parametrize("declared", [False, True])
def test_what_the_writing_key_cannot_sweep_stops_nothing_and_is_left_for_the_expiring_key(
    declared: bool, bucket: Bucket
) -> None:
    writing = bucket.open("writing", deletes_forbidden=declared)
    fresh = put_set(writing, datetime.now(UTC).replace(microsecond=0))
    dead = a_dead_run(writing)
    bucket.open("expiring", "writing").delete([layout.manifest_key(dead)])
    for _ in range(2):
        assert sweep_unfinished(writing) == []
    assert len(keys_of(writing, dead)) > 2
    (told,) = judge_left_over(writing)
    assert (told.name, told.verdict) == (dead, Verdict.WARN)
    assert [entry.backup_id for entry in read_catalogue(writing)] == [fresh]
    platform = bucket.platform("writing", "expiring")
    now = datetime.now(UTC)
    store = open_store(platform)
    expiry = apply_plan(platform, store, read_plan(platform, store, now).digest, now)
    assert (expiry.swept, expiry.verdict) == ((dead,), Verdict.OK)
    assert keys_of(store, dead) == []
    assert judge_left_over(store) == []


def test_an_expiry_without_the_expiring_key_is_refused_or_red_and_never_half_done(bucket: Bucket) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    writing = bucket.open("writing")
    for day in (0, 1, 2):
        put_set(writing, now - timedelta(days=day))
    old = put_set(writing, now - timedelta(days=40))
    declared = bucket.platform("writing", deletes_forbidden=True)
    store = open_store(declared)
    plan = read_plan(declared, store, now)
    assert [one.stored.backup_id for one in plan.remove] == [old]
    with pytest.raises(PreconditionFailed, match="no key that may delete"):
        apply_plan(declared, store, plan.digest, now)
    undeclared = bucket.platform("writing")
    expiry = apply_plan(undeclared, writing, plan.digest, now)
    assert ([one.result for one in expiry.removals], expiry.verdict) == ([Result.REFUSED], Verdict.ALERT)
    assert "expiring key" in expiry.removals[0].hint or "delete" in expiry.removals[0].hint
    assert old in {one.backup_id for one in read_sets(writing, "equal")}
    assert len(keys_of(writing, old)) > 4


# The doctor tries what must be forbidden.


def test_keys_with_the_printed_policies_are_found_good_and_nothing_is_left(bucket: Bucket) -> None:
    found = examined(bucket.platform("writing", "reading", "expiring"))
    assert found["forbidden delete"].verdict is Verdict.OK, found["forbidden delete"].message
    assert found["reading key"].verdict is Verdict.OK
    assert "or delete" in found["reading key"].message
    bad = {name for name, finding in found.items() if finding.verdict is not Verdict.OK}
    # This server believes any checksum, and nothing was backed up into it yet.
    assert bad == {"store damage check", "newest proven backup"}
    assert [stored.key for stored in bucket.open("reading").list_objects("")] == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_writing_key_that_may_delete_sets_is_an_alert_where_it_should_not(declared: bool, bucket: Bucket) -> None:
    mighty = mighty_as(bucket, "writing")
    purposes = ("writing",) if declared else ("writing", "expiring")
    found = examined(mighty.platform(*purposes, deletes_forbidden=declared))["forbidden delete"]
    assert found.verdict is Verdict.ALERT
    assert "could destroy the backups" in found.message


def test_a_store_that_forbids_one_way_to_delete_and_forgets_another_is_caught(bucket: Bucket) -> None:
    forgetful = Bucket(bucket.server, bucket.name, bucket.keys | {"writing": bucket.keys["forgetful"]})
    found = examined(forgetful.platform("writing", deletes_forbidden=True))["forbidden delete"]
    assert found.verdict is Verdict.WARN  # its versions are kept, and this key cannot name them
    assert "could hide the backups" in found.message


def test_where_no_other_key_is_configured_nothing_is_forbidden_and_it_says_so(bucket: Bucket) -> None:
    found = examined(bucket.platform("writing"))["forbidden delete"]
    assert (found.verdict, "policies" in found.hint) == (Verdict.NOT_APPLICABLE, True)
    assert bucket.open("reading").find(THROW_AWAY) is None


def test_without_an_expiring_key_one_object_is_left_whatever_how_often_and_it_is_no_set(bucket: Bucket) -> None:
    platform = bucket.platform("writing", deletes_forbidden=True)
    for _ in range(3):
        found = examined(platform)
        assert found["forbidden delete"].verdict is Verdict.OK
        assert THROW_AWAY in found["throw-away object"].message
    store = open_store(platform)
    versions = store.reader.list_object_versions(Bucket=store.bucket, Prefix=store.key(layout.BACKUPS))
    assert [entry["Key"] for entry in versions["Versions"]] == [store.key(THROW_AWAY)]
    assert read_catalogue(store) == []
    assert read_sets(store, "equal") == []


def test_an_expiring_key_that_may_not_delete_is_an_alert(bucket: Bucket) -> None:
    weak = Bucket(bucket.server, bucket.name, bucket.keys | {"expiring": bucket.keys["reading"]})
    found = examined(weak.platform("writing", "expiring"))
    assert found["expiring key"].verdict is Verdict.ALERT
    assert "no expiry would remove anything" in found["expiring key"].message


def test_a_reading_key_that_writes_is_an_alert(bucket: Bucket) -> None:
    mighty = mighty_as(bucket, "reading")
    for platform in (mighty.platform("reading"), mighty.platform("writing", "reading")):
        found = examined(platform)["reading key"]
        assert (found.verdict, "writes" in found.message) == (Verdict.ALERT, True)
    found = examined(mighty.platform("writing", "reading", "expiring"))["reading key"]
    assert "writes and deletes" in found.message
    assert [stored.key for stored in bucket.open("reading").list_objects("")] == []


def test_a_machine_that_only_reads_is_told_so_and_what_it_can_do(bucket: Bucket) -> None:
    put_set(bucket.open("writing"), datetime.now(UTC).replace(microsecond=0))
    found = examined(bucket.platform("reading"))
    assert {name: finding.verdict for name, finding in found.items()} == {
        "bucket": Verdict.OK,
        "object store": Verdict.NOT_APPLICABLE,
        "reading key": Verdict.OK,
        "newest proven backup": Verdict.OK,
    }
    assert "1 backup sets" in found["bucket"].message
    assert "proofs are not kept" in found["object store"].message


def test_without_versions_a_stolen_writing_key_could_still_write_over_sets(locking_store: LockingStore) -> None:
    with bucket_with_keys(locking_store, lock=False, versions=False) as bucket:
        found = examined(bucket.platform("writing", "expiring"))["forbidden delete"]
        assert (found.verdict, "write over" in found.message) == (Verdict.WARN, True)
        mighty = mighty_as(bucket, "writing").platform("writing", deletes_forbidden=True)
        assert examined(mighty)["forbidden delete"].verdict is Verdict.ALERT


def test_locks_are_judged_by_what_this_key_can_do_with_them(locking_store: LockingStore) -> None:
    bucket = locking_store.make_bucket()
    platform = locking_store.platform(bucket, lock_days=90)
    found = examined(platform)
    assert found["what is kept"].verdict is Verdict.OK
    assert "locked for 90 days (governance)" in found["what is kept"].message
    assert found["lock"].verdict is Verdict.WARN  # this key bypasses them
    assert found["lock and retention"].verdict is Verdict.WARN
    fitting = examined(locking_store.platform(bucket, lock_days=30, lock_mode="compliance"))
    assert {"lock", "lock and retention"} & set(fitting) == set()
    lacking = examined(locking_store.platform(locking_store.make_bucket(lock=False), lock_days=30))
    assert lacking["what is kept"].verdict is Verdict.ALERT
