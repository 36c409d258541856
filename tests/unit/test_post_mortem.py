"""The post-mortem: what the journal knows, nothing that it does not, and places for what only people know."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore, WatchedStore

from keepwell.errors import VerificationFailed
from keepwell.evidence import read_last_evidence
from keepwell.incident.documents import Kind, Observation, Step, StepOutcome
from keepwell.incident.gathering import Source
from keepwell.incident.identify import identify
from keepwell.incident.journal import Incident, note, open_case, read_incident, skip_step, write_step
from keepwell.incident.post_mortem import render_post_mortem
from keepwell.incident.report import build_evidence
from keepwell.incident.telling import Phase, tell
from keepwell.incident.writing_up import write_up
from keepwell.notify import Delivery
from keepwell.settings import BackupSettings, IncidentSettings, NotifySettings, Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
PLATFORM = Platform.model_construct(
    name="esn", backup=BackupSettings(), notify=NotifySettings(), incident=IncidentSettings()
)


def at(minute: int) -> datetime:
    return NOW + timedelta(minutes=minute)


def a_source(name: str, verdict: Verdict, message: str, minute: int) -> Source:
    return Source(name, lambda: [Observation(at=at(minute), source=name, verdict=verdict, message=message)])


@pytest.fixture
def store() -> Any:
    return MemoryStore()


def again(store: Any, incident: Incident) -> Incident:
    return read_incident(store, incident.case.case_id)


def opened(store: Any, **options: Any) -> Incident:
    plain = {"now": NOW, "impact": "Nobody can sign in.", "since": at(-10)}
    return open_case(PLATFORM, store, "sign-in answers | 500 <b>", **(plain | options))


def led_to_its_end(store: Any) -> Incident:
    incident = opened(store)
    case_id = incident.case.case_id
    sources = [
        a_source("database", Verdict.ALERT, "The database esn_db is not there.", -12),
        a_source("logs", Verdict.UNKNOWN, "Keepwell does not read logs.", 0),
    ]
    identify(store, incident, sources, limit_seconds=60, now=at(0))
    tell(
        PLATFORM,
        store,
        again(store, incident),
        "We restore.",
        phase=Phase.IDENTIFIED,
        next_update_at=at(35),
        by="ann",
        now=at(5),
        sender=lambda settings, message: Delivery(()),
    )
    note(store, incident, "Restore rather than repair.", by="bob", now=at(6), kind=Kind.DECISION)
    for outcome in (StepOutcome.BEGUN, StepOutcome.FAILED, StepOutcome.BEGUN):
        write_step(store, case_id, Step.RESTORE, outcome, "", now=at(7))
    numbers: dict[str, float | str | None] = {"rpo_seconds": 3600.0}
    write_step(store, case_id, Step.RESTORE, StepOutcome.DONE, "Restored X.", now=at(15), numbers=numbers)
    skip_step(store, again(store, incident), Step.VERIFY, "I looked at it.", by="ann", now=at(16))
    note(store, incident, "Watch the disk.", by="ann", now=at(17), kind=Kind.ACTION)
    write_step(store, case_id, Step.RESOLVE, StepOutcome.DONE, "", now=at(20))
    return again(store, incident)


def test_everything_that_was_written_down_is_in_it(store: Any) -> None:
    text = render_post_mortem(led_to_its_end(store))
    for words in (
        r"# Post-mortem: sign-in answers \| 500 &lt;b&gt;",
        "- Began: 2026-11-29 02:50:00 UTC",
        "- Resolved: 2026-11-29 03:20:00 UTC",
        "## Impact\n\nNobody can sign in.",
        "- 10 min until the case was opened",
        "- 15 min until people were told",
        "- not known until it was seen to serve again",
        "- 60 min of data lost by the restore (RPO)",
        "- 30 min of outage (RTO)",
        "| restore | done (attempt 2) | 2026-11-29 03:15:00 |  | Restored X. |",
        "| verify | skipped | 2026-11-29 03:16:00 | ann | I looked at it. |",
        "- 2026-11-29 03:06:00: Restore rather than repair. – bob (self-declared)",
        "- 2026-11-29 03:16:00: verify was skipped: I looked at it. – ann (self-declared)",
        "- [ ] Watch the disk. (said by ann); who: ____, until: ____",
        "> Identified: esn (2026-11-29 03:05 UTC)  \n> Nobody can sign in.  \n> We restore.  ",
        "- logs: Keepwell does not read logs.",
        r"| 2026-11-29 02:48:00 | ✗ ALERT | database | The database esn\_db is not there. |",
    ):
        assert words in text, words
    assert text.count("_To be written by a person._") == 2
    assert "still open" not in text
    assert "DRILL" not in text
    rows = [line for line in text.partition("## Timeline")[2].splitlines() if line.startswith("| 2026")]
    assert rows == sorted(rows, key=lambda row: row[:21])


def test_of_an_open_case_and_of_a_drill_it_says_so_and_makes_nothing_up(store: Any) -> None:
    text = render_post_mortem(opened(store, drill=True, impact=""))
    assert "**The case is still open: this is how it stands.**" in text
    assert "**DRILL: this was an exercise; nothing was wrong.**" in text
    assert "## Impact\n\n_To be written by a person._" in text
    assert "| restore | not begun |" in text
    for nothing in ("Nobody wrote one down.", "Nothing was published.", "Every source answered."):
        assert nothing in text


def test_what_is_damaged_is_told(store: Any) -> None:
    incident = led_to_its_end(store)
    key = min(key for key in store.objects if "/entries/" in key)
    store.objects[key] = b"?"
    assert "is damaged; what it told is missing below" in render_post_mortem(again(store, incident))


def test_writing_it_up_asks_again_only_what_tells_of_runs(store: Any) -> None:
    incident = led_to_its_end(store)
    asked = [
        a_source("database", Verdict.OK, "The database is there.", 30),
        a_source("runs", Verdict.OK, "restore-backup/esn ended Completed", 14),
    ]
    written = write_up(store, incident, asked, limit_seconds=60, now=at(30), by="ann")
    assert written.is_final
    assert store.objects[written.key].decode() == written.text
    assert "restore-backup/esn ended Completed" in written.text
    assert "The database is there." not in written.text
    state = again(store, incident).standing.steps[Step.POST_MORTEM]
    assert (state.outcome, state.by) == (StepOutcome.DONE, "ann")
    evidence = read_last_evidence(store, "DR-4")
    assert evidence is not None
    verdicts = {finding.name: finding.verdict for finding in evidence.findings}
    assert verdicts == {
        "identify": Verdict.OK,
        "communicate": Verdict.OK,
        "restore": Verdict.OK,
        "verify": Verdict.WARN,
        "resolve": Verdict.OK,
        "post-mortem": Verdict.OK,
    }
    assert (evidence.verdict, evidence.numbers["rto_seconds"]) == (Verdict.WARN, 1800)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [(StepOutcome.FAILED, Verdict.ALERT), (StepOutcome.BEGUN, Verdict.UNKNOWN), (None, Verdict.UNKNOWN)],
)
def test_a_step_that_failed_or_did_not_end_is_never_fine(
    store: Any, outcome: StepOutcome | None, verdict: Verdict
) -> None:
    incident = opened(store, drill=True)
    if outcome is not None:
        write_step(store, incident.case.case_id, Step.RESTORE, outcome, "", now=at(1))
    evidence = build_evidence(again(store, incident), finished_at=at(2))
    (restore,) = [finding for finding in evidence.findings if finding.name == "restore"]
    assert restore.verdict is verdict
    assert evidence.summary.startswith("DRILL: ")


def test_of_an_open_case_it_is_written_and_not_done(store: Any) -> None:
    incident = opened(store)
    written = write_up(store, incident, [], limit_seconds=60, now=at(1))
    assert not written.is_final
    assert again(store, incident).standing.steps[Step.POST_MORTEM].outcome is None


def test_killed_at_any_effect_it_is_written_by_the_next_try(store: Any) -> None:
    whole = WatchedStore(store)
    incident = led_to_its_end(whole)
    before = dict(store.objects)
    whole.effects.clear()
    write_up(whole, incident, [], limit_seconds=60, now=at(30))  # type: ignore[arg-type]
    for number in range(len(whole.effects)):
        for moment in ("before", "after"):

            def strike(effect: str, place: int, when: str, wanted: tuple[int, str] = (number, moment)) -> None:
                if (place, when) == wanted:
                    raise KeyboardInterrupt

            fresh = MemoryStore()
            fresh.objects |= before
            with pytest.raises(KeyboardInterrupt):
                write_up(WatchedStore(fresh, strike), incident, [], limit_seconds=60, now=at(30))  # type: ignore[arg-type]
            found = read_incident(fresh, incident.case.case_id)  # type: ignore[arg-type]
            done = found.standing.steps[Step.POST_MORTEM].is_over
            assert not done or f"incidents/{incident.case.case_id}/post-mortem.md" in fresh.objects
            again_written = write_up(fresh, found, [], limit_seconds=60, now=at(31))  # type: ignore[arg-type]
            assert again_written.is_final


def test_a_store_that_keeps_something_else_is_heard(store: Any) -> None:
    class Forgetful(MemoryStore):
        def put_bytes(self, relative: str, content: bytes) -> None:
            super().put_bytes(relative, content[:-1] if relative.endswith(".md") else content)

    forgetful: Any = Forgetful()
    with pytest.raises(VerificationFailed, match="reads back differently"):
        write_up(forgetful, opened(forgetful), [], limit_seconds=60, now=at(1))
