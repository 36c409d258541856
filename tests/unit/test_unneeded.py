"""Which contents of uploaded files may go: decided from keys, ages and what sets name, and from nothing else."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.unneeded import Unneeded, find_content_key, find_oldest_kept, is_content, plan_unneeded
from keepwell.objectstore.store import StoredObject
from keepwell.settings import RetentionSettings
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)
RULES = RetentionSettings()
OLD = NOW - timedelta(days=30)


def key_of(number: int, ending: str = ".zst.age") -> str:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return f"uploads/{sha256[:2]}/{sha256}{ending}"


def content(number: int, at: datetime = OLD, size: int = 10) -> StoredObject:
    return StoredObject(key_of(number), size, at)


def keys(plan: Unneeded) -> list[str]:
    return [one.key for one in plan.remove]


def test_what_no_set_names_goes_oldest_first_and_what_one_names_stays() -> None:
    stored = [content(1, OLD), content(2, OLD - timedelta(days=1), 7), content(3)]
    plan = plan_unneeded(stored, {key_of(3)}, RULES, NOW)
    assert (keys(plan), plan.size_bytes, plan.findings) == ([key_of(2), key_of(1)], 17, ())


@pytest.mark.parametrize(("hours", "goes"), [(0, False), (24 * 7, False), (24 * 7 + 2, False), (24 * 7 + 4, True)])
def test_what_was_stored_lately_stays_until_its_day_is_over(hours: int, goes: bool) -> None:
    plan = plan_unneeded([content(1, NOW - timedelta(hours=hours))], frozenset(), RULES, NOW)
    assert bool(plan.remove) is goes


def test_a_plan_holds_for_as_long_as_its_day() -> None:
    stored = [content(n, NOW - timedelta(days=7, hours=n)) for n in range(48)]
    plans = [plan_unneeded(stored, frozenset(), RULES, NOW + timedelta(hours=h)).digest for h in (-3, 0, 20.9, 21)]
    assert plans[0] == plans[1] == plans[2] != plans[3]


@pytest.mark.parametrize(
    "key",
    [
        "uploads/readme.txt",
        "uploads/ab/notes.zst",
        "uploads/" + key_of(1).removeprefix("uploads/").upper(),
        key_of(1) + ".bak",
        key_of(1).replace("uploads/", "uploads/x/"),
        "uploads/00/" + "ff" * 32 + ".zst",
        key_of(1) + "\n",
    ],
)
def test_what_is_not_of_our_making_is_left_and_told(key: str) -> None:
    assert not is_content(key)
    plan = plan_unneeded([StoredObject(key, 1, OLD), content(2)], frozenset(), RULES, NOW)
    assert keys(plan) == [key_of(2)]
    (told,) = plan.findings
    assert (told.verdict, ascii(key) in told.message) == (Verdict.WARN, True)


@pytest.mark.parametrize("ending", ["", ".zst", ".age", ".zst.age"])
def test_contents_are_known_by_their_names_and_their_marks_lead_back(ending: str) -> None:
    key = key_of(1, ending)
    assert is_content(key)
    assert find_content_key(f"damaged-uploads/{key.rpartition('/')[2]}") == key


def test_a_run_removes_no_more_than_it_may_and_says_what_waits() -> None:
    plan = plan_unneeded([content(n) for n in range(5)], frozenset(), RetentionSettings(most_upload_removals=2), NOW)
    assert len(plan.remove) == 2
    assert [finding.message for finding in plan.findings] == [
        "5 contents of uploaded files are needed by no set, and a run removes 2 at most, the oldest first."
    ]


ages = st.timedeltas(timedelta(0), timedelta(days=30))


@given(
    st.lists(st.tuples(st.integers(0, 20), ages), unique_by=lambda one: one[0]),
    st.sets(st.integers(0, 20)),
    st.integers(1, 20),
    st.integers(1, 5),
    st.randoms(),
)
def test_whatever_lies_there_nothing_needed_young_or_too_much_goes(
    facts: Sequence[tuple[int, timedelta]], named: set[int], days: int, most: int, dice: object
) -> None:
    rules = RetentionSettings(unneeded_uploads_days=days, most_upload_removals=most)
    stored = [content(number, NOW - age) for number, age in facts]
    needed = {key_of(number) for number in named}
    plan = plan_unneeded(stored, needed, rules, NOW)
    assert len(plan.remove) <= most
    assert not needed & set(keys(plan))
    assert all(one.modified_at <= NOW - timedelta(days=days) for one in plan.remove)
    due = [one for one in stored if one.key not in needed and one.modified_at < find_oldest_kept(rules, NOW)]
    assert len(plan.remove) == min(most, len(due))
    shuffled = list(stored)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_unneeded(shuffled, needed, rules, NOW) == plan
    # One more set can only keep more of them.
    more = plan_unneeded(stored, needed | {key_of(0)}, RetentionSettings(unneeded_uploads_days=days), NOW)
    assert set(keys(more)) <= {one.key for one in due}
