"""How long what is locked, decided from a key's folder and two clocks; and which keys make a platform file whole."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from keepwell.backup import layout
from keepwell.backup.policies import build_policies
from keepwell.objectstore.capabilities import PROBES, Answer, judge_keeping
from keepwell.objectstore.forbidden import THROW_AWAY
from keepwell.objectstore.keeping import Keeping, build_keeping, choose_mode
from keepwell.objectstore.lease import LEASES
from keepwell.settings import BucketSettings

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)
SET = "backups/20260331T020000Z-abcdef/"
CONTENT = f"uploads/ab/{'ab' * 32}.zst.age"
LOCKING = Keeping(lock_days=30, storage_class="STANDARD_IA")
PASSING = (layout.UNFINISHED, layout.EXPIRING, layout.PINS, layout.DAMAGED_UPLOADS, LEASES, PROBES)
_COMPACT = str.maketrans("", "", "-:")


@pytest.mark.parametrize(
    "name", ["manifest.json", "manifest.json.sig", "proofs/x.json", "database/toc.dat", "RESTORE.md"]
)
def test_everything_of_a_set_is_locked_from_the_same_moment(name: str) -> None:
    assert LOCKING.find_lock(SET + name, NOW) == datetime(2026, 4, 30, 2, 0, tzinfo=UTC)
    assert LOCKING.find_lock(SET + name, NOW + timedelta(days=29)) == datetime(2026, 4, 30, 2, 0, tzinfo=UTC)
    assert LOCKING.find_lock(SET + name, NOW + timedelta(days=31)) is None
    assert Keeping().find_lock(SET + name, NOW) is None


@pytest.mark.parametrize(
    "key",
    [
        *(f"{folder}x" for folder in PASSING),
        "evidence/BK-1/x.json",
        THROW_AWAY,
        "backups/x/y",
        "backups/20261399T020000Z-abcdef/y",
    ],
)
def test_what_must_be_deletable_is_never_locked_and_of_no_class(key: str) -> None:
    assert LOCKING.find_lock(key, NOW) is None
    if not key.startswith(layout.BACKUPS):
        assert LOCKING.build_class(key) == {}


def test_a_content_is_locked_from_now_and_longer_than_any_set_of_today() -> None:
    until = LOCKING.find_lock(CONTENT, NOW)
    assert until is not None
    assert not LOCKING.needs_longer(until, NOW + timedelta(days=6))
    assert LOCKING.needs_longer(until, NOW + timedelta(days=8))
    assert LOCKING.needs_longer(None, NOW)
    assert not Keeping().needs_longer(None, NOW)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(1, 36500), st.sampled_from([SET, CONTENT, ""]))
def test_no_clock_and_no_name_locks_for_much_longer_than_asked(at: datetime, days: int, folder: str) -> None:
    key = folder or f"backups/{at.isoformat().translate(_COMPACT)[:15]}Z-abcdef/x"
    until = Keeping(lock_days=days).find_lock(key, NOW)
    assert until is None or timedelta(0) < until - NOW <= timedelta(days=days + 7)


def test_a_lock_is_prolonged_in_the_mode_that_it_has() -> None:
    assert choose_mode("COMPLIANCE", "GOVERNANCE") == "COMPLIANCE"
    assert choose_mode(None, "GOVERNANCE") == "GOVERNANCE"


@pytest.mark.parametrize("answer", [Answer.NO, Answer.UNKNOWN])
@pytest.mark.parametrize("of", ["locks", "holds", "keeps"])
def test_what_a_store_does_not_do_or_cannot_tell_is_a_fault(of: str, answer: Answer) -> None:
    good = dict.fromkeys(("locks", "holds", "keeps"), Answer.YES)
    assert judge_keeping(LOCKING, **good) is None
    fault = judge_keeping(LOCKING, **good | {of: answer})
    assert fault is not None
    assert answer.value in fault.message
    assert judge_keeping(Keeping(), **dict.fromkeys(good, answer)) is None


def test_the_platform_file_says_how_sets_are_kept() -> None:
    assert build_keeping(BucketSettings(name="b")) == Keeping()
    asked = BucketSettings(name="b", lock_days=9, lock_mode="compliance", storage_class="STANDARD_IA")
    assert build_keeping(asked) == Keeping(9, "COMPLIANCE", "STANDARD_IA")
    with pytest.raises(ValidationError):
        BucketSettings(name="b", storage_class="standard ia")


@pytest.mark.parametrize("purpose", ["reading", "expiring"])
@pytest.mark.parametrize("half", ["access_key_id", "secret_access_key"])
def test_half_a_key_is_refused_and_never_quoted(purpose: str, half: str) -> None:
    with pytest.raises(ValidationError, match=f"the {purpose} key needs both") as raised:
        BucketSettings.model_validate({"name": "b", f"{purpose}_{half}": "marked-secret"})
    assert "marked-secret" not in str(raised.value)


def test_a_machine_with_a_reading_key_alone_may_not_write() -> None:
    reading = {"reading_access_key_id": SecretStr("r"), "reading_secret_access_key": SecretStr("s")}
    assert not BucketSettings(name="b", **reading).may_write
    assert BucketSettings(name="b").may_write  # a role of the machine's
    assert BucketSettings(name="b", access_key_id=SecretStr("k"), **reading).may_write


def allowed(policy: dict[str, object], action: str) -> list[str]:
    statements = policy["Statement"]
    assert isinstance(statements, list)
    return [place for one in statements if action in one["Action"] for place in one["Resource"]]


def test_only_the_expiring_key_deletes_what_sets_hold_and_no_key_sets_a_lock_aside() -> None:
    policies = build_policies("b", "p/esn/")
    place = "arn:aws:s3:::b/p/esn/"
    assert allowed(policies["expiring"], "s3:DeleteObject") == [f"{place}backups/*", f"{place}uploads/*"]
    assert allowed(policies["writing"], "s3:DeleteObject") == [f"{place}{folder}*" for folder in PASSING]
    assert allowed(policies["reading"], "s3:DeleteObject") == []
    assert allowed(policies["reading"], "s3:PutObject") == allowed(policies["expiring"], "s3:PutObject") == []
    assert all("Bypass" not in str(policy) and "s3:*" not in str(policy) for policy in policies.values())
