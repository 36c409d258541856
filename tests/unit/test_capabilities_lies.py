"""Stores that say yes and do otherwise: each lie must show in what the probe found."""

import pytest
from lying_store import lying_store

from keepwell.doctor.store import judge_capabilities
from keepwell.errors import AccessDenied, KeepwellError, VerificationFailed
from keepwell.objectstore.capabilities import Answer, probe_capabilities
from keepwell.verdict import Verdict, worst

HONEST = {
    "ranged_reads": Answer.YES,
    "multipart": Answer.YES,
    "conditional_put": Answer.YES,
    "refuses_bad_md5": Answer.YES,
    "refuses_bad_crc32": Answer.YES,
    "refuses_bad_sha256": Answer.YES,
    "versioning": Answer.NO,
    "retention": Answer.NO,
    "refuses_locked_delete": Answer.NO,
    "deletes": Answer.YES,
}


def test_an_honest_store() -> None:
    with lying_store() as store:
        seen = probe_capabilities(store.open())
    assert {name: getattr(seen, name) for name in HONEST} == HONEST
    assert seen.clock_offset_seconds is not None
    assert abs(seen.clock_offset_seconds) < 2
    assert worst(finding.verdict for finding in judge_capabilities(seen)) is Verdict.OK


@pytest.mark.parametrize(
    ("lie", "changed", "verdict"),
    [
        ("ignores-conditions", {"conditional_put": Answer.NO}, Verdict.OK),
        (
            "ignores-checksums",
            dict.fromkeys(("refuses_bad_md5", "refuses_bad_crc32", "refuses_bad_sha256"), Answer.NO),
            Verdict.WARN,
        ),
        ("no-ranges", {"ranged_reads": Answer.NO}, Verdict.WARN),
        ("no-multipart", {"multipart": Answer.NO}, Verdict.ALERT),
        ("accepts-retention", {"retention": Answer.YES}, Verdict.ALERT),
        ("retention-replaces-body", {}, Verdict.OK),
        ("hour-ahead", {}, Verdict.ALERT),
    ],
)
def test_a_lie_shows(lie: str, changed: dict[str, Answer], verdict: Verdict) -> None:
    with lying_store(lie) as store:
        seen = probe_capabilities(store.open())
        assert store.objects == {}
    assert {name: getattr(seen, name) for name in HONEST} == HONEST | changed
    assert worst(finding.verdict for finding in judge_capabilities(seen)) is verdict
    assert ("replaced" in " ".join(seen.notes)) is (lie == "retention-replaces-body")


def test_a_store_that_keeps_what_was_deleted() -> None:
    with lying_store("keeps-deleted") as store:
        seen = probe_capabilities(store.open())
    assert seen.deletes is Answer.NO
    assert "could not all be removed" in " ".join(seen.notes)


def test_a_key_that_may_not_delete() -> None:
    with lying_store("denies-deletes") as store:
        assert probe_capabilities(store.open()).deletes is Answer.UNKNOWN


@pytest.mark.parametrize(
    ("lie", "error"), [("damages", VerificationFailed), ("forgets", VerificationFailed), ("denies", AccessDenied)]
)
def test_a_store_that_cannot_be_used_at_all(lie: str, error: type[KeepwellError]) -> None:
    with lying_store(lie) as store, pytest.raises(error):
        probe_capabilities(store.open())


def test_what_a_killed_probe_left_is_removed_and_other_objects_are_not() -> None:
    with lying_store() as store:
        # The store says that everything is from an earlier day.
        store.objects |= {"esn/probes/old/round-trip": b"x", "esn/backups/one/manifest.json": b"y"}
        probe_capabilities(store.open())
        assert store.objects == {"esn/backups/one/manifest.json": b"y"}
