"""Which sets stay and which go: golden files (tests/cases/retention), and what must hold whatever the facts."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from keepwell.backup.proof import LEVELS, reaches
from keepwell.backup.retention import (
    RetentionPlan,
    Rule,
    Standing,
    StoredSet,
    describe_age,
    plan_retention,
)
from keepwell.settings import RetentionSettings
from keepwell.verdict import Verdict

CASES = sorted((Path(__file__).parent.parent / "cases" / "retention").glob("*.json"))
NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)
MAX_AGE = timedelta(hours=26)


def plan_of_case(case: dict[str, Any]) -> RetentionPlan:
    return plan_retention(
        TypeAdapter(list[StoredSet]).validate_python(case["sets"]),
        RetentionSettings(**case["rules"]),
        max_age=timedelta(hours=case["max_age_hours"]),
        now=datetime.fromisoformat(case["now"]),
    )


def describe(plan: RetentionPlan) -> dict[str, Any]:
    """A plan as the golden files hold it: in its order, each set with all its reasons."""
    return {
        "verdict": plan.verdict.value,
        "remove": {d.stored.backup_id: [f"{r.rule.value}: {r.words}" for r in d.reasons] for d in plan.remove},
        "keep": {d.stored.backup_id: [f"{r.rule.value}: {r.words}" for r in d.reasons] for d in plan.keep},
        "findings": [f"{f.verdict.value}: {f.name}: {f.message}" for f in plan.findings],
    }


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_facts_in_plan_out(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    plan = plan_of_case(case)
    assert describe(plan) == case["plan"], case["says"]
    assert list(describe(plan)["remove"]) == list(case["plan"]["remove"])
    assert list(describe(plan)["keep"]) == list(case["plan"]["keep"])


def test_there_are_cases() -> None:
    assert len(CASES) > 20
    used = {rule for path in CASES for rule in rules_in(json.loads(path.read_text(encoding="utf-8")))}
    assert used == {rule.value for rule in Rule}


def rules_in(case: dict[str, Any]) -> set[str]:
    plan = case["plan"]
    return {
        said.partition(":")[0] for side in ("keep", "remove") for reasons in plan[side].values() for said in reasons
    }


@pytest.mark.parametrize("empty", [{"keep_days": 0}, {"keep_days": 0, "keep_newest": 1000}, {"keep_newest": 0}])
def test_rules_that_keep_nothing_cannot_be_made(empty: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RetentionSettings(**empty)  # type: ignore[arg-type]


def a_set(hours: float, standing: Standing = Standing.PROVEN, **changes: Any) -> StoredSet:
    at = NOW - timedelta(hours=hours)
    level = "sound" if standing is Standing.PROVEN else None
    return replace(StoredSet(f"{at:%Y%m%dT%H%M%SZ}-000000", standing, level, at, at), **changes)


def plan(sets: list[StoredSet], rules: RetentionSettings | None = None, now: datetime = NOW) -> RetentionPlan:
    return plan_retention(sets, rules or RetentionSettings(), max_age=MAX_AGE, now=now)


def ids(sets: Any) -> set[str]:
    return {getattr(one, "stored", one).backup_id for one in sets}


def test_a_set_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named twice: 20260331T020000Z-000000"):
        plan([a_set(1), a_set(1)])


def test_what_is_approved_is_which_sets_go_and_why_and_nothing_else() -> None:
    sets = [a_set(1), a_set(25), a_set(49), a_set(24 * 40), a_set(24 * 41)]
    digest = plan(sets).digest
    assert plan(sets, now=NOW + timedelta(minutes=59)).digest == digest
    assert plan([a_set(0.5, backup_id="another"), *sets]).digest == digest
    assert plan(sets[:-1]).digest != digest
    assert plan([*sets[:-1], replace(sets[-1], pin="pinned")]).digest != digest
    found_damaged = replace(sets[-1], standing=Standing.DAMAGED, damaged_at=NOW - timedelta(days=20))
    assert ids(plan([*sets[:-1], found_damaged]).remove) == ids(plan(sets).remove)
    assert plan([*sets[:-1], found_damaged]).digest != digest


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(0), "0 h"),
        (timedelta(hours=47.4), "47 h"),
        (timedelta(hours=48), "2 d"),
        (timedelta(days=-3), "-3 d"),
    ],
)
def test_ages_at_a_glance(age: timedelta, words: str) -> None:
    assert describe_age(age) == words


# What must hold whatever lies in the bucket.

MOMENTS = st.integers(min_value=-400 * 24, max_value=24 * 40).map(lambda hours: NOW + timedelta(hours=hours))
LEVEL = st.sampled_from([None, *LEVELS])


@st.composite
def stored_sets(draw: st.DrawFn) -> list[StoredSet]:
    """Buckets of any state; often with a fresh proven set, so that something may go."""
    sets = []
    for number in range(draw(st.integers(0, 24))):
        standing = draw(st.sampled_from([Standing.PROVEN, Standing.PROVEN, *Standing]))
        at = draw(MOMENTS)
        sets.append(
            StoredSet(
                # In no order that would tell anything.
                backup_id=f"{draw(st.integers(0, 9999)):04}-{number}",
                standing=standing,
                level=draw(st.sampled_from(["equal", "sound", "serving"]))
                if standing is Standing.PROVEN
                else draw(LEVEL),
                snapshot_at=draw(st.sampled_from([at, at, at, None])) if standing is Standing.DAMAGED else at,
                stored_at=draw(st.sampled_from([at, at, at + timedelta(minutes=3), at - timedelta(days=90)])),
                damaged_at=draw(st.none() | MOMENTS) if standing is Standing.DAMAGED else None,
                pin=draw(st.sampled_from([None, None, None, "pinned"])),
            )
        )
    if draw(st.integers(0, 3)):
        sets.append(a_set(3, backup_id="fresh"))
    return sets


@st.composite
def rule_sets(draw: st.DrawFn) -> RetentionSettings:
    counts = st.integers(0, 4)
    return RetentionSettings(
        keep_days=draw(st.integers(1, 60)),
        keep_newest=draw(st.integers(1, 5)),
        keep_daily=draw(counts),
        keep_weekly=draw(counts),
        keep_monthly=draw(counts),
        keep_yearly=draw(counts),
        unproven_days=draw(st.integers(1, 60)),
        damaged_days=draw(st.integers(1, 60)),
        most_removals=draw(st.integers(1, 30)),
    )


def counting(sets: list[StoredSet]) -> list[StoredSet]:
    """Proven sets whose time can be right, newest first; written once more, in other words than the product's."""
    believable = [
        s for s in sets if s.standing is Standing.PROVEN and (s.snapshot_at or s.stored_at) <= NOW + timedelta(hours=1)
    ]
    return sorted(believable, key=lambda s: (min(s.stored_at, s.snapshot_at or s.stored_at), s.backup_id), reverse=True)


@given(stored_sets(), rule_sets())
def test_every_set_has_its_place_and_its_reasons(sets: list[StoredSet], rules: RetentionSettings) -> None:
    made = plan(sets, rules)
    assert sorted(ids(made.keep) | ids(made.remove)) == sorted(ids(sets))
    assert len(made.keep) + len(made.remove) == len(sets)
    assert all(reason.words and reason.rule for one in (*made.keep, *made.remove) for reason in one.reasons)
    assert all(one.reasons for one in (*made.keep, *made.remove))


@given(stored_sets(), rule_sets())
def test_the_newest_proven_sets_never_go(sets: list[StoredSet], rules: RetentionSettings) -> None:
    gone = ids(plan(sets, rules).remove)
    assert gone.isdisjoint(ids(counting(sets)[: rules.keep_newest]))


@given(stored_sets(), rule_sets())
def test_the_newest_set_that_was_shown_equal_never_goes(sets: list[StoredSet], rules: RetentionSettings) -> None:
    shown = [
        replace(s, standing=Standing.PROVEN)
        for s in sets
        if s.standing in (Standing.PROVEN, Standing.UNPROVEN) and reaches(s.level, "equal")
    ]
    assert ids(plan(sets, rules).remove).isdisjoint(ids(counting(shown)[:1]))


@given(stored_sets(), rule_sets())
def test_what_is_pinned_being_written_not_readable_or_from_the_future_never_goes(
    sets: list[StoredSet], rules: RetentionSettings
) -> None:
    ahead = NOW + timedelta(hours=1)
    safe = [
        s
        for s in sets
        if s.pin is not None
        or s.standing in (Standing.UNFINISHED, Standing.UNREADABLE)
        or (s.snapshot_at or s.stored_at) > ahead
    ]
    assert ids(plan(sets, rules).remove).isdisjoint(ids(safe))


@given(stored_sets(), rule_sets())
def test_without_a_fresh_proven_set_nothing_goes(sets: list[StoredSet], rules: RetentionSettings) -> None:
    made = plan(sets, rules)
    newest = counting(sets)[:1]
    fresh = bool(newest) and NOW - min(newest[0].stored_at, newest[0].snapshot_at or NOW) <= MAX_AGE
    assert (made.verdict is Verdict.ALERT) is not fresh
    assert fresh or not made.remove


@given(stored_sets(), rule_sets(), st.integers(1, 30))
def test_a_larger_cap_removes_the_same_and_more(sets: list[StoredSet], rules: RetentionSettings, cap: int) -> None:
    fewer, more = plan(sets, rules), plan(sets, rules.model_copy(update={"most_removals": rules.most_removals + cap}))
    assert [d.stored for d in fewer.remove] == [d.stored for d in more.remove][: len(fewer.remove)]
    assert len(fewer.remove) <= rules.most_removals
    assert fewer.held_back == 0 or len(fewer.remove) == rules.most_removals


@given(stored_sets(), rule_sets())
def test_run_again_it_removes_only_what_the_cap_held_back(sets: list[StoredSet], rules: RetentionSettings) -> None:
    once = plan(sets, rules)
    again = plan([d.stored for d in once.keep], rules)
    held_back = {d.stored.backup_id for d in once.keep if d.reasons[0].rule is Rule.HELD_BACK}
    assert ids(again.remove) <= held_back
    assert len(again.remove) == min(len(held_back), rules.most_removals)


@given(stored_sets(), rule_sets(), st.randoms(use_true_random=False))
def test_the_order_in_which_sets_are_told_changes_nothing(
    sets: list[StoredSet], rules: RetentionSettings, dice: Any
) -> None:
    shuffled = list(sets)
    dice.shuffle(shuffled)
    assert plan(shuffled, rules) == plan(sets, rules)


@given(stored_sets(), rule_sets())
def test_what_is_not_proven_evicts_nothing(sets: list[StoredSet], rules: RetentionSettings) -> None:
    """Failed, truncated and unverified sets beside proven ones: the proven ones' fate is the same without them."""
    uncapped = rules.model_copy(update={"most_removals": 1000})
    proven = [s for s in sets if s.standing is Standing.PROVEN]
    alone, among = plan(proven, uncapped), plan(sets, uncapped)
    assert ids(among.remove) & ids(proven) <= ids(alone.remove)


@given(stored_sets(), rule_sets(), st.data())
def test_names_decide_nothing(sets: list[StoredSet], rules: RetentionSettings, data: st.DataObject) -> None:
    """An upgrade may change how names begin. Sets of one and the same moment are told apart by name alone, so: none."""
    distinct = list({s.at: s for s in sets}.values())
    names = data.draw(st.permutations([f"n{number}" for number in range(len(distinct))]))
    renamed = [replace(s, backup_id=name) for s, name in zip(distinct, names, strict=True)]
    before = {(d.stored.at, d.reasons[0].rule) for d in plan(distinct, rules).remove}
    assert {(d.stored.at, d.reasons[0].rule) for d in plan(renamed, rules).remove} == before


@given(stored_sets(), rule_sets(), st.integers(1, 24 * 400))
def test_a_clock_of_ours_that_fell_behind_removes_nothing_that_is_not_due(
    sets: list[StoredSet], rules: RetentionSettings, hours: int
) -> None:
    assert due(plan(sets, rules, now=NOW - timedelta(hours=hours))) <= due(plan(sets, rules))


def due(made: RetentionPlan) -> set[str]:
    """What no rule keeps, whether or not it goes."""
    waiting = (Rule.NOTHING_FRESH, Rule.HELD_BACK)
    held = {one.stored.backup_id for one in made.keep if one.reasons[0].rule in waiting}
    return held | {one.stored.backup_id for one in made.remove}


@given(stored_sets(), rule_sets(), st.integers(1, 24 * 400))
def test_a_clock_of_ours_that_is_ahead_by_more_than_a_set_may_be_old_removes_nothing(
    sets: list[StoredSet], rules: RetentionSettings, hours: int
) -> None:
    """Ahead by less, it removes early by as much; the store refuses a clock that is off by more than minutes anyway."""
    past = [one for one in sets if one.claims <= NOW]
    assert plan(past, rules, now=NOW + MAX_AGE + timedelta(hours=hours)).remove == ()
