from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_database, a_manifest

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.freshness import (
    FreshnessLimits,
    Notice,
    RunFacts,
    ScheduleFacts,
    SetFacts,
    Unanswered,
    decide_notice,
    describe_sets,
    judge_backups,
    judge_schedule,
    judge_sizes,
)
from keepwell.evidence import Evidence
from keepwell.pausing import Pause
from keepwell.verdict import Finding, Verdict, worst

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LIMITS = FreshnessLimits(platform="esn", max_age=timedelta(hours=26), proven_level="equal")


def a_set(hours: float, size: int = 1000, **other: object) -> SetFacts:
    at = NOW - timedelta(hours=hours)
    facts: dict[str, object] = {
        "backup_id": f"{at:%Y%m%dT%H%M%SZ}-abcdef",
        "snapshot_at": at,
        "content_bytes": size,
        "level": "sound",
        "proven": True,
        "damaged": False,
        "judged": True,
        "attempted": True,
    }
    return SetFacts(**facts | other)  # type: ignore[arg-type]


UNVERIFIED = {"level": None, "proven": False, "judged": False, "attempted": False}
DAMAGED = {"level": "complete", "proven": False, "damaged": True}

BACKUPS = {
    "fresh and proven": ([a_set(7)], Verdict.OK, ""),
    "exactly at the limit": ([a_set(26)], Verdict.OK, ""),
    "a minute over the limit": ([a_set(26.02)], Verdict.ALERT, "too old"),
    "no set at all": ([], Verdict.ALERT, "no backup set"),
    "only sets that nobody proved": ([a_set(1, **UNVERIFIED)], Verdict.ALERT, "None of 1"),
    "newest not proven yet, the one before is fresh": (
        [a_set(0.2, **UNVERIFIED), a_set(24)],
        Verdict.WARN,
        "not verified",
    ),
    "newest could not be judged": (
        [a_set(1, **UNVERIFIED | {"attempted": True}), a_set(24)],
        Verdict.WARN,
        "could not judge",
    ),
    "newest fell short of the wanted level": (
        [a_set(1, level="restored", proven=False), a_set(24)],
        Verdict.WARN,
        "reached restored",
    ),
    "newest damaged, the one before is fresh": ([a_set(1, **DAMAGED), a_set(24)], Verdict.ALERT, "damaged"),
    "newest has no readable manifest": (
        [a_set(1, **DAMAGED | {"snapshot_at": None, "content_bytes": None}), a_set(24)],
        Verdict.ALERT,
        "damaged",
    ),
    "an older one damaged": ([a_set(1), a_set(25, **DAMAGED)], Verdict.WARN, "1 of 1 are damaged"),
    "from the future": ([a_set(-1)], Verdict.UNKNOWN, "future"),
    "clocks a minute apart": ([a_set(-1 / 60)], Verdict.OK, ""),
    "shrunken to less than half": ([a_set(1, 400), *(a_set(h) for h in (25, 49, 73))], Verdict.ALERT, "shrank"),
    "emptied": ([a_set(1, 0), a_set(25), a_set(49)], Verdict.ALERT, "shrank"),
    "grown to more than double": ([a_set(1, 2100), a_set(25), a_set(49)], Verdict.WARN, "grew"),
    "a damaged predecessor is no measure": ([a_set(1, 900), a_set(25, 9, **DAMAGED), a_set(49)], Verdict.WARN, "90%"),
    "all predecessors empty": ([a_set(1), a_set(25, 0)], Verdict.OK, ""),
}


def test_every_command_that_a_hint_names_is_for_this_platform() -> None:
    hints = [finding.hint for sets, *_ in BACKUPS.values() for finding in judge_backups(sets, LIMITS, NOW)]
    hints += [finding.hint for finding in judge_schedule(Unanswered("it is down"), LIMITS, NOW)]
    named = [hint for hint in hints if "keepwell " in hint]
    assert len(named) > 5
    assert all("--platform esn" in hint for hint in named)


@pytest.mark.parametrize(("sets", "verdict", "says"), BACKUPS.values(), ids=BACKUPS)
def test_judging_the_backups(sets: list[SetFacts], verdict: Verdict, says: str) -> None:
    findings = judge_backups(sets, LIMITS, NOW)
    assert worst(finding.verdict for finding in findings) is verdict
    assert says in " ".join(finding.message for finding in findings)
    assert all(finding.hint for finding in findings if finding.verdict is not Verdict.OK)


def test_the_age_is_that_of_the_proven_set_not_of_the_newest() -> None:
    findings = judge_backups([a_set(1, **UNVERIFIED), a_set(30)], LIMITS, NOW)
    assert findings[0].verdict is Verdict.ALERT
    assert "30 h old" in findings[0].message


DUE = NOW.replace(hour=2)
DONE = RunFacts(DUE, DUE, "COMPLETED")
UP = {"deployed": True, "active": True, "expected": (DUE,), "next_at": DUE + timedelta(days=1)}

SCHEDULES = {
    "ran in time": (ScheduleFacts(**UP, runs=(DONE,)), Verdict.OK, "completed"),
    "not asked": (Unanswered("ConnectError."), Verdict.UNKNOWN, "ConnectError"),
    "not deployed": (ScheduleFacts(deployed=False), Verdict.ALERT, "not deployed"),
    "paused": (ScheduleFacts(deployed=True, active=False, runs=(DONE,)), Verdict.ALERT, "paused"),
    "a schedule without a next time": (
        ScheduleFacts(**UP | {"next_at": None}, runs=(DONE,)),
        Verdict.ALERT,
        "No backup",
    ),
    "missed: never created": (ScheduleFacts(**UP, runs=()), Verdict.ALERT, "never created"),
    "missed, although one was run by hand": (
        ScheduleFacts(**UP, runs=(RunFacts(DUE + timedelta(hours=3), DUE, "COMPLETED"),)),
        Verdict.ALERT,
        "never created",
    ),
    "late": (ScheduleFacts(**UP, runs=(RunFacts(DUE, None, "SCHEDULED"),)), Verdict.ALERT, "has not started"),
    "stuck before its process came up": (
        ScheduleFacts(**UP, runs=(RunFacts(DUE, None, "PENDING"),)),
        Verdict.ALERT,
        "has not started",
    ),
    "due a minute ago": (
        ScheduleFacts(**UP | {"expected": (NOW - timedelta(minutes=1),)}, runs=(DONE,)),
        Verdict.OK,
        "completed",
    ),
    "new, nothing was due yet": (ScheduleFacts(**UP | {"expected": ()}), Verdict.WARN, "None has ended yet"),
    "the last one failed": (ScheduleFacts(**UP, runs=(RunFacts(DUE, DUE, "FAILED"),)), Verdict.WARN, "ended failed"),
    "the last one crashed": (ScheduleFacts(**UP, runs=(RunFacts(DUE, DUE, "CRASHED"),)), Verdict.WARN, "crashed"),
    "failed, then repeated by hand": (
        ScheduleFacts(**UP, runs=(RunFacts(DUE, DUE, "FAILED"), RunFacts(NOW, NOW, "COMPLETED"))),
        Verdict.OK,
        "completed",
    ),
    "still running": (
        ScheduleFacts(**UP, runs=(RunFacts(DUE, DUE, "RUNNING"),)),
        Verdict.WARN,
        "None has ended yet",
    ),
}


@pytest.mark.parametrize(("facts", "verdict", "says"), SCHEDULES.values(), ids=SCHEDULES)
def test_judging_the_schedule(facts: ScheduleFacts | Unanswered, verdict: Verdict, says: str) -> None:
    findings = judge_schedule(facts, LIMITS, NOW)
    assert worst(finding.verdict for finding in findings) is verdict
    assert says in " ".join(finding.message for finding in findings)


def a_finding(verdict: Verdict, name: str = "age") -> Finding:
    return Finding(name=name, verdict=verdict, message="x")


def earlier(verdict: Verdict, *, told_hours: float | None = None, name: str = "age") -> Evidence:
    told_at = None if told_hours is None else NOW - timedelta(hours=told_hours)
    return Evidence(
        items=("DAILY-5",),
        platform="esn",
        verdict=verdict,
        summary="x",
        findings=(a_finding(verdict, name),),
        started_at=NOW,
        finished_at=NOW,
        bad_since=NOW - timedelta(hours=30) if verdict in (Verdict.ALERT, Verdict.UNKNOWN) else None,
        told_at=told_at,
    )


NOTICES = {
    "fine, for the first time": (None, Verdict.OK, Notice.NOTHING),
    "bad, for the first time": (None, Verdict.ALERT, Notice.TURNED_BAD),
    "a warning wakes nobody": (None, Verdict.WARN, Notice.NOTHING),
    "unknown does": (None, Verdict.UNKNOWN, Notice.TURNED_BAD),
    "turned bad": (earlier(Verdict.OK), Verdict.ALERT, Notice.TURNED_BAD),
    "bad and told an hour ago": (earlier(Verdict.ALERT, told_hours=1), Verdict.ALERT, Notice.NOTHING),
    "bad and told a day ago": (earlier(Verdict.ALERT, told_hours=24), Verdict.ALERT, Notice.STILL_BAD),
    "bad, but the message never arrived": (earlier(Verdict.ALERT), Verdict.ALERT, Notice.TURNED_BAD),
    "from unknown to alert": (earlier(Verdict.UNKNOWN, told_hours=1), Verdict.ALERT, Notice.TURNED_BAD),
    "from alert to unknown": (earlier(Verdict.ALERT, told_hours=1), Verdict.UNKNOWN, Notice.NOTHING),
    "something else is bad now": (earlier(Verdict.ALERT, told_hours=1, name="size"), Verdict.ALERT, Notice.TURNED_BAD),
    "over": (earlier(Verdict.ALERT, told_hours=1), Verdict.OK, Notice.RECOVERED),
    "over, but nobody had been told": (earlier(Verdict.ALERT), Verdict.OK, Notice.NOTHING),
    "over, and that was told": (earlier(Verdict.OK), Verdict.OK, Notice.NOTHING),
    "over, but that message never arrived": (earlier(Verdict.OK, told_hours=2), Verdict.OK, Notice.RECOVERED),
}


@pytest.mark.parametrize(("previous", "verdict", "notice"), NOTICES.values(), ids=NOTICES)
def test_whom_to_tell(previous: Evidence | None, verdict: Verdict, notice: Notice) -> None:
    decision = decide_notice(previous, [a_finding(verdict)], now=NOW, repeat_after=timedelta(hours=24))
    assert decision.notice is notice
    assert (decision.bad_since is not None) == (verdict in (Verdict.ALERT, Verdict.UNKNOWN))


def test_a_bad_state_remembers_since_when() -> None:
    decision = decide_notice(
        earlier(Verdict.ALERT, told_hours=1), [a_finding(Verdict.ALERT)], now=NOW, repeat_after=timedelta(hours=24)
    )
    assert decision.bad_since == NOW - timedelta(hours=30)


def test_without_any_finding_nothing_was_checked() -> None:
    assert decide_notice(None, [], now=NOW, repeat_after=timedelta(hours=24)).notice is Notice.TURNED_BAD


def sizes(*sets: SetFacts) -> list[tuple[str, Verdict]]:
    return [(finding.name, finding.verdict) for finding in judge_sizes(sets, LIMITS)]


def test_a_small_database_that_shrank_is_not_hidden_by_a_large_one() -> None:
    earlier_sets = [a_set(hours, 10_000_000, further_bytes={"analytics": 1000}) for hours in (24, 48)]
    shrunk = a_set(1, 10_000_000, further_bytes={"analytics": 400})
    assert sizes(shrunk, *earlier_sets) == [("backup size", Verdict.OK), ("analytics: backup size", Verdict.ALERT)]
    (_, finding) = judge_sizes([shrunk, *earlier_sets], LIMITS)
    assert finding.message.startswith("analytics: The newest set shrank: 400 bytes, 40% of the median of 2")


def test_a_database_that_is_new_in_the_sets_is_no_growth_of_them() -> None:
    assert sizes(a_set(1, further_bytes={"analytics": 9_000_000}), a_set(24)) == [("backup size", Verdict.OK)]


def test_a_database_that_the_newest_set_lacks_is_told_once() -> None:
    before = a_set(24, further_bytes={"analytics": 1000})
    assert ("databases in a set", Verdict.WARN) in sizes(a_set(1), before)
    assert ("databases in a set", Verdict.WARN) not in sizes(a_set(1), a_set(2), before)


def test_the_sizes_of_a_set_are_those_of_its_databases() -> None:
    manifest = a_manifest(further=(a_database("analytics", 2),), size=1000)
    (facts,) = describe_sets([BackupEntry(manifest.backup_id, manifest, "", None, None)], "equal")
    assert (facts.content_bytes, facts.further_bytes) == (1000, {"analytics": 1000})


@pytest.mark.parametrize(
    ("until", "verdict", "says"),
    [
        (None, Verdict.WARN, "until somebody resumes it"),
        (NOW + timedelta(hours=3), Verdict.WARN, "until 2026-03-02 12:00 UTC; it ends by itself then"),
        # Its run may need a moment to start.
        (NOW - timedelta(minutes=10), Verdict.WARN, "it ends by itself then"),
        (NOW - timedelta(minutes=16), Verdict.ALERT, "until 2026-03-02 08:44 UTC, and nothing ended it then"),
    ],
)
def test_a_pause_is_told_and_one_that_does_not_end_is_red(until: datetime | None, verdict: Verdict, says: str) -> None:
    facts = ScheduleFacts(deployed=True, paused=Pause(since=NOW - timedelta(hours=9), until=until))
    finding, _ = judge_schedule(facts, LIMITS, NOW)
    assert finding.verdict is verdict
    assert says in finding.message
    assert "keepwell resume --platform esn" in finding.hint


@pytest.mark.parametrize(
    ("sets", "until", "verdict"),
    [
        ([a_set(40)], NOW + timedelta(hours=1), Verdict.WARN),
        # Over, without an end, or nothing to fall back on: then it is no less bad for being paused.
        ([a_set(40)], NOW - timedelta(hours=1), Verdict.ALERT),
        ([a_set(40)], None, Verdict.ALERT),
        ([], NOW + timedelta(hours=1), Verdict.ALERT),
    ],
)
def test_an_age_that_comes_of_a_pause_with_an_end_is_no_surprise(
    sets: list[SetFacts], until: datetime | None, verdict: Verdict
) -> None:
    finding, *_ = judge_backups(sets, replace(LIMITS, paused_until=until), NOW)
    assert finding.verdict is verdict
