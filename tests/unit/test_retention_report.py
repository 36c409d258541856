from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keepwell.backup.collect import Collected
from keepwell.backup.expire import Expiry, Removal, Result
from keepwell.backup.retention import RetentionPlan, Standing, StoredSet, plan_retention
from keepwell.backup.retention_report import build_retention_evidence, render_expiry, summarize
from keepwell.settings import RetentionSettings
from keepwell.verdict import Finding, Verdict

NOW = datetime(2026, 3, 31, 3, 0, tzinfo=UTC)


def a_plan(*days: float, pin: str | None = None) -> RetentionPlan:
    sets = [
        StoredSet(f"set-{day}", Standing.PROVEN, "sound", NOW - timedelta(days=day), NOW - timedelta(days=day))
        for day in days
    ]
    if pin is not None:
        sets[-1] = replace(sets[-1], pin=pin)
    return plan_retention(sets, RetentionSettings(keep_newest=1), max_age=timedelta(hours=26), now=NOW)


REMOVED = Removal("set-40", Result.REMOVED, "proven, 40 d old, and no rule keeps it", 2_000_000)
REFUSED = Removal("set-50", Result.REFUSED, "The store kept x: AccessDenied.", hint="Look at its locks.")
PINNED = Removal("set-60", Result.KEPT, "it was pinned meanwhile.")
THERE = Finding(name="sets that stay", verdict=Verdict.OK, message="All 1 are still there.")
UNSEEN = Finding(name="sets that stay", verdict=Verdict.UNKNOWN, message="Not looked at: it is away.")
COLLECTED = Collected(3, 4_000_000)

OUTCOMES = {
    "nothing due": (Expiry(a_plan(0.1, 5), looks=(THERE,)), Verdict.OK, "No set is due; all 2 stay."),
    "removed": (Expiry(a_plan(0.1, 40), (REMOVED,)), Verdict.OK, "1 of 1 sets were removed, 2.0 MB; 1 stay."),
    "pinned meanwhile": (Expiry(a_plan(0.1, 60), (PINNED,)), Verdict.OK, "0 of 1 sets were removed"),
    "contents": (
        Expiry(a_plan(0.1, 5), collected=COLLECTED),
        Verdict.OK,
        "all 2 stay. 3 contents of uploaded files that no set needed are gone, 4.0 MB.",
    ),
    "refused": (Expiry(a_plan(0.1, 40, 50), (REFUSED, REMOVED)), Verdict.ALERT, "1 of 2 sets were removed"),
    "not looked at": (Expiry(a_plan(0.1, 40), (REMOVED,), looks=(UNSEEN,)), Verdict.UNKNOWN, "1 of 1"),
    "nothing fresh": (Expiry(a_plan(30, 40)), Verdict.ALERT, "Nothing was removed: set-30 is 30 d old"),
    "no set": (Expiry(a_plan()), Verdict.ALERT, "Nothing was removed: No set counts as proven"),
}


@pytest.mark.parametrize(("expiry", "verdict", "says"), OUTCOMES.values(), ids=OUTCOMES)
def test_what_came_of_it_in_one_sentence(expiry: Expiry, verdict: Verdict, says: str) -> None:
    assert expiry.verdict is verdict
    assert says in summarize(expiry)
    assert says in render_expiry(expiry, platform="esn").replace("\\", "")


def test_every_set_is_in_the_evidence_with_its_reasons() -> None:
    expiry = Expiry(a_plan(0.1, 40, 50), (REFUSED, REMOVED), swept=("set-9",), looks=(THERE,), collected=COLLECTED)
    evidence = build_retention_evidence(expiry, platform="esn", started_at=NOW, finished_at=NOW)
    assert (evidence.items, evidence.verdict) == (("BK-2",), Verdict.ALERT)
    assert {finding.name: (finding.verdict.value, finding.message) for finding in evidence.findings} == {
        "newest proven set": ("ok", "set-0.1 is 2 h old; 26 h are allowed."),
        "set-50": ("alert", "Not removed: The store kept x: AccessDenied."),
        "sets that stay": ("ok", "All 1 are still there."),
        "set-40": ("ok", "Removed: proven, 40 d old, and no rule keeps it"),
        "set-0.1": ("ok", "Stays: proven, and no older than 30 days; the newest proven set"),
    }
    assert evidence.numbers == {
        "sets_kept": 1,
        "sets_removed": 1,
        "sets_refused": 1,
        "sets_held_back": 0,
        "unfinished_sets_swept": 1,
        "freed_bytes": 2_000_000,
        "upload_contents_removed": 3,
        "upload_bytes_freed": 4_000_000,
        "newest_proven_age_seconds": 8640.0,
        "plan": expiry.plan.digest,
    }


def test_what_people_wrote_is_no_markdown() -> None:
    page = render_expiry(Expiry(a_plan(0.1, 99, pin="pinned: a | <b>b</b> *c*")), platform="esn")
    assert "pinned: a \\| &lt;b&gt;b&lt;/b&gt; \\*c\\*" in page
