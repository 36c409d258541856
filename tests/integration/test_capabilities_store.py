"""The probe on the store that the tests run against: real answers, and nothing left behind."""

from pydantic import SecretStr

from keepwell.doctor.store import examine_store
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.capabilities import Answer, probe_capabilities
from keepwell.settings import Platform
from keepwell.verdict import Verdict


def test_what_backups_need_is_there_and_nothing_is_left(platform: Platform) -> None:
    store = open_store(platform)
    store.put_bytes("backups/neighbour", b"stays")
    seen = probe_capabilities(store)
    assert seen.multipart is seen.ranged_reads is seen.deletes is Answer.YES
    assert seen.refuses_damaged_bodies
    assert [entry.key for entry in store.list_objects("")] == ["backups/neighbour"]
    assert store.get_bytes("backups/neighbour") == b"stays"


def test_a_good_store_has_no_alert(platform: Platform) -> None:
    assert Verdict.ALERT not in {finding.verdict for finding in examine_store(platform)}


def test_rotated_keys_are_asked_about(platform: Platform) -> None:
    bucket = platform.bucket.model_copy(update={"secret_access_key": SecretStr("rotated")})
    first, rest = examine_store(platform.model_copy(update={"bucket": bucket}))
    assert (first.verdict, rest.verdict) == (Verdict.ALERT, Verdict.UNKNOWN)
    assert "Were the keys rotated?" in first.hint


def test_a_bucket_that_is_not_there(platform: Platform) -> None:
    bucket = platform.bucket.model_copy(update={"name": "no-such-bucket"})
    first, _ = examine_store(platform.model_copy(update={"bucket": bucket}))
    assert first.verdict is Verdict.ALERT
    assert "bucket.name" in first.hint
