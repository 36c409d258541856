"""Cases and their journal: opened once, folded into how they stand, and whole after a kill at any effect."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore, WatchedStore

from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.incident.advice import advise
from keepwell.incident.documents import Case, Entry, Kind, Observation, Step, StepOutcome, new_case_id
from keepwell.incident.gathering import Source
from keepwell.incident.identify import identify
from keepwell.incident.journal import (
    Incident,
    append,
    choose_incident,
    complete_step,
    find_of_run,
    note,
    open_case,
    read_incident,
    read_incidents,
    skip_step,
    write_step,
)
from keepwell.incident.standing import judge_standing, measure_times
from keepwell.incident.timeline import Event, build_timeline, merge
from keepwell.settings import Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
PLATFORM = Platform.model_construct(name="esn")


def opened(store: MemoryStore, title: str = "sign-in answers 500", **options: object) -> Incident:
    return open_case(PLATFORM, store, title, **({"now": NOW} | options))  # type: ignore[arg-type]


def again(store: MemoryStore, incident: Incident) -> Incident:
    return read_incident(store, incident.case.case_id)


def a_source(name: str = "database", verdict: Verdict = Verdict.OK, at: datetime = NOW) -> Source:
    return Source(name, lambda: [Observation(at=at, source=name, verdict=verdict, message=f"{name} was asked.")])


class TestOpening:
    def test_a_case_reads_back_as_it_was_opened(self) -> None:
        store = MemoryStore()
        incident = opened(
            store, "  sign-in\nanswers 500 ", impact="Nobody can sign in.", since=NOW - timedelta(hours=1)
        )
        assert again(store, incident) == incident
        assert incident.case.title == "sign-in answers 500"
        assert incident.standing.is_open
        assert incident.standing.next_step is Step.IDENTIFY

    def test_while_one_is_open_another_has_to_be_asked_for(self) -> None:
        store = MemoryStore()
        first = opened(store)
        with pytest.raises(PreconditionFailed, match=first.case.case_id) as caught:
            opened(store, "the disk is full")
        assert "--another" in caught.value.hint
        second = opened(store, "the disk is full", another=True, now=NOW + timedelta(seconds=1))
        assert [one.case.case_id for one in read_incidents(store)] == [second.case.case_id, first.case.case_id]
        with pytest.raises(PreconditionFailed, match="2 cases are open") as several:
            choose_incident(store, None)
        assert "--case" in several.value.hint
        assert choose_incident(store, first.case.case_id) == first

    def test_entries_of_two_cases_never_mix(self) -> None:
        store = MemoryStore()
        first, second = opened(store), opened(store, "the disk is full", another=True)
        note(store, first, "one", by="ann", now=NOW)
        note(store, second, "two", by="bob", now=NOW)
        assert [[entry.message for entry in again(store, one).entries] for one in (first, second)] == [["one"], ["two"]]

    def test_a_drill_stands_in_no_real_case_s_way_and_is_never_meant_beside_one(self) -> None:
        store = MemoryStore()
        drill = opened(store, drill=True)
        assert choose_incident(store, None) == drill
        real = opened(store)
        assert choose_incident(store, None) == real

    def test_the_case_of_a_run_is_found_again_by_that_run(self) -> None:
        store = MemoryStore()
        mine = opened(store, flow_run="run-1")
        assert find_of_run(store, "run-1") == mine
        assert find_of_run(store, "run-2") is None

    @pytest.mark.parametrize(
        ("title", "options", "says"),
        [
            (" ", {}, "needs a title"),
            ("x" * 201, {}, "201 signs"),
            ("x", {"impact": "y" * 2001}, "2001 signs"),
            ("x", {"since": NOW + timedelta(minutes=1)}, "in the future"),
        ],
    )
    def test_what_is_of_no_use_is_refused_before_anything_is_written(
        self, title: str, options: dict[str, object], says: str
    ) -> None:
        store = MemoryStore()
        with pytest.raises(PreconditionFailed, match=says):
            opened(store, title, **options)
        assert store.objects == {}

    @pytest.mark.parametrize("case_id", ["", "../backups", "20261129T030000Z-zzzzzz", "20261129T030000Z-abcdef"])
    def test_no_such_case(self, case_id: str) -> None:
        with pytest.raises(PreconditionFailed) as caught:
            read_incident(MemoryStore(), case_id)
        assert "keepwell incident list" in caught.value.hint

    def test_none_is_open(self) -> None:
        with pytest.raises(PreconditionFailed, match="No case is open"):
            choose_incident(MemoryStore(), None)

    def test_a_damaged_case_is_not_guessed_at_and_hides_no_other(self) -> None:
        store = MemoryStore()
        bad, good = opened(store), opened(store, another=True)
        store.objects[f"incidents/{bad.case.case_id}/case.json"] = b"{}"
        with pytest.raises(VerificationFailed):
            read_incident(store, bad.case.case_id)
        assert read_incidents(store) == (good,)

    def test_a_damaged_entry_is_told_and_hides_no_other(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        note(store, incident, "one", by="ann", now=NOW)
        (key,) = [key for key in store.objects if "/entries/" in key]
        store.objects[key] = store.objects[key][:-9]
        note(store, incident, "two", by="ann", now=NOW)
        found = again(store, incident)
        assert (found.unreadable, [entry.message for entry in found.entries]) == ((key,), ["two"])

    def test_a_store_that_keeps_something_else_is_heard(self) -> None:
        class Forgetful(MemoryStore):
            def put_bytes(self, relative: str, content: bytes) -> None:
                super().put_bytes(relative, content.replace(b"sign-in", b"sign-on"))

        with pytest.raises(VerificationFailed, match="reads back differently"):
            opened(Forgetful())


class TestSteps:
    def test_a_step_is_done_or_skipped_with_a_reason_and_then_it_is_over(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        complete_step(store, incident, Step.IDENTIFY, "looked", by="ann", now=NOW)
        skip_step(store, again(store, incident), Step.COMMUNICATE, "nobody is awake", by="ann", now=NOW)
        found = again(store, incident)
        assert found.standing.next_step is Step.RESTORE
        with pytest.raises(PreconditionFailed, match="done already"):
            skip_step(store, found, Step.IDENTIFY, "again", by="ann", now=NOW)
        complete_step(store, found, Step.COMMUNICATE, "told them after all", by="ann", now=NOW)

    @pytest.mark.parametrize("reason", ["", " \n "])
    def test_nothing_is_skipped_or_done_without_a_word(self, reason: str) -> None:
        store = MemoryStore()
        incident = opened(store)
        with pytest.raises(PreconditionFailed):
            skip_step(store, incident, Step.RESTORE, reason, by="ann", now=NOW)
        with pytest.raises(PreconditionFailed):
            complete_step(store, incident, Step.RESTORE, reason, by="ann", now=NOW)
        with pytest.raises(PreconditionFailed):
            note(store, incident, reason, by="ann", now=NOW)
        assert again(store, incident).entries == ()

    def test_a_note_of_the_future_is_refused(self) -> None:
        store = MemoryStore()
        with pytest.raises(PreconditionFailed, match="future"):
            note(store, opened(store), "x", by="ann", now=NOW, at=NOW + timedelta(seconds=1))

    def test_a_failed_or_killed_step_is_tried_again(self) -> None:
        store = MemoryStore()
        case_id = opened(store).case.case_id
        for outcome in (StepOutcome.BEGUN, StepOutcome.FAILED, StepOutcome.BEGUN):
            write_step(store, case_id, Step.IDENTIFY, outcome, "", now=NOW)
            assert read_incident(store, case_id).standing.next_step is Step.IDENTIFY
        assert read_incident(store, case_id).standing.steps[Step.IDENTIFY].attempts == 2

    @pytest.mark.parametrize("outcome", [StepOutcome.BEGUN, StepOutcome.DONE])
    def test_a_restore_makes_what_was_verified_before_it_open_again(self, outcome: StepOutcome) -> None:
        store = MemoryStore()
        case_id = opened(store).case.case_id
        write_step(store, case_id, Step.VERIFY, StepOutcome.DONE, "", now=NOW)
        write_step(store, case_id, Step.RESTORE, StepOutcome.FAILED, "not even begun", now=NOW)
        assert read_incident(store, case_id).standing.steps[Step.VERIFY].is_over
        write_step(store, case_id, Step.RESTORE, outcome, "", now=NOW)
        assert not read_incident(store, case_id).standing.steps[Step.VERIFY].is_over
        write_step(store, case_id, Step.VERIFY, StepOutcome.DONE, "", now=NOW)
        assert read_incident(store, case_id).standing.steps[Step.VERIFY].is_over

    def test_resolving_closes_the_case_and_takes_its_promise_back(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        promise = NOW + timedelta(minutes=30)
        told = Entry(
            case_id=incident.case.case_id, kind=Kind.UPDATE, at=NOW, message="We are on it.", next_update_at=promise
        )
        append(store, told)
        standing = again(store, incident).standing
        assert (standing.next_update_at, standing.is_overdue(promise)) == (promise, True)
        assert "update" in advise(again(store, incident), promise)
        write_step(store, incident.case.case_id, Step.RESOLVE, StepOutcome.DONE, "", now=promise)
        standing = again(store, incident).standing
        assert (standing.is_open, standing.next_update_at, standing.resolved_at) == (False, None, promise)
        assert not standing.is_overdue(promise)

    def test_the_advice_names_the_platform_where_there_are_several_and_ends_with_the_last_step(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        assert advise(incident, NOW, several=" --platform esn").endswith(" --platform esn")
        for step in Step:
            complete_step(store, incident, step, "by hand", by="ann", now=NOW)
        assert advise(again(store, incident), NOW) == ""

    def test_reminders_come_when_due_and_then_again_and_again(self) -> None:
        def entry(kind: Kind, minute: int, due: int | None = None) -> Entry:
            at = NOW + timedelta(minutes=minute)
            due_at = None if due is None else NOW + timedelta(minutes=due)
            return Entry(case_id=new_case_id(NOW), kind=kind, at=at, message="x", next_update_at=due_at)

        def due(entries: list[Entry], minute: int) -> bool:
            return judge_standing(entries).is_reminder_due(NOW + timedelta(minutes=minute), timedelta(minutes=15))

        told = [entry(Kind.UPDATE, 0, 30)]
        assert [due(told, minute) for minute in (0, 29, 30, 50)] == [False, False, True, True]
        reminded = [*told, entry(Kind.REMINDER, 31)]
        assert [due(reminded, minute) for minute in (31, 45, 46)] == [False, False, True]
        assert not due([*reminded, entry(Kind.UPDATE, 40, 70)], 60)
        assert not due([*reminded, entry(Kind.UPDATE, 40)], 600)


class TestTimeline:
    def test_evidence_stands_where_it_happened_and_once_though_it_was_seen_twice(self) -> None:
        store = MemoryStore()
        began = NOW - timedelta(hours=2)
        incident = opened(store, since=NOW - timedelta(hours=1))
        for _ in range(2):
            identify(store, again(store, incident), [a_source(at=began)], limit_seconds=60, now=NOW)
        note(store, incident, "I restarted it.", by="ann", now=NOW, at=NOW - timedelta(minutes=30))
        events = again(store, incident).timeline
        assert [event.at for event in events] == sorted(event.at for event in events)
        said = [event.message for event in events]
        assert said.count("database was asked.") == 1
        assert said[0] == "database was asked."
        assert said[1].startswith("It began")
        assert [event.by for event in events if event.message == "I restarted it."] == ["ann"]

    @given(
        st.lists(
            st.builds(
                Event,
                at=st.integers(0, 5).map(lambda minute: NOW + timedelta(minutes=minute)),
                source=st.sampled_from(["a", "b"]),
                message=st.sampled_from(["x", "y"]),
                verdict=st.sampled_from(Verdict),
            )
        )
    )
    def test_merging_keeps_every_event_once_by_time(self, events: list[Event]) -> None:
        merged = merge(events)
        keys = [(event.at, event.source, event.message) for event in merged]
        assert [key[0] for key in keys] == sorted(key[0] for key in keys)
        assert len(keys) == len(set(keys))
        assert set(keys) == {(event.at, event.source, event.message) for event in events}
        assert merge(merged) == merged

    def test_every_kind_of_entry_is_told(self) -> None:
        case = Case(case_id=new_case_id(NOW), platform="esn", title="t", since=NOW, opened_at=NOW)
        entries = [Entry(case_id=case.case_id, kind=kind, at=NOW, message=f"about {kind}") for kind in Kind]
        said = " ".join(event.message for event in build_timeline(case, entries))
        assert all(f"about {kind}" in said for kind in Kind if kind is not Kind.EVIDENCE)


def test_what_it_cost_is_measured_and_unknown_where_it_did_not_happen() -> None:
    store = MemoryStore()
    incident = opened(store, since=NOW - timedelta(minutes=10))
    case_id = incident.case.case_id

    def times() -> dict[str, float | str | None]:
        found = again(store, incident)
        return measure_times(found.case, found.entries, found.standing)

    assert times() == {
        "seconds_until_opened": 600,
        "seconds_until_told": None,
        "seconds_until_verified": None,
        "seconds_until_resolved": None,
        "rpo_seconds": None,
        "rto_seconds": None,
    }
    write_step(store, case_id, Step.RESTORE, StepOutcome.DONE, "", now=NOW, numbers={"rpo_seconds": 7200.0})
    write_step(store, case_id, Step.VERIFY, StepOutcome.DONE, "", now=NOW + timedelta(minutes=20))
    write_step(store, case_id, Step.RESOLVE, StepOutcome.DONE, "", now=NOW + timedelta(minutes=50))
    measured = times()
    assert (measured["rpo_seconds"], measured["rto_seconds"]) == (7200, 1800)
    assert measured["seconds_until_resolved"] == 3600


class TestKilled:
    """A run that dies at any effect on the store leaves a case that reads whole, and goes on with the same id."""

    def lead(self, store: object) -> None:
        held: MemoryStore = store  # type: ignore[assignment]
        found = find_of_run(held, "run") or opened(held, flow_run="run")
        if not found.standing.steps[Step.IDENTIFY].is_over:
            identify(held, found, [a_source("database"), a_source("redis")], limit_seconds=60, now=NOW)
        for step in (Step.RESTORE, Step.VERIFY, Step.RESOLVE):
            if not again(held, found).standing.steps[step].is_over:
                write_step(held, found.case.case_id, step, StepOutcome.BEGUN, "", now=NOW)
                write_step(held, found.case.case_id, step, StepOutcome.DONE, "", now=NOW)

    def test_at_every_effect(self) -> None:
        whole = WatchedStore(MemoryStore())
        self.lead(whole)
        assert len(whole.effects) == 10
        for number in range(len(whole.effects)):
            for moment in ("before", "after"):
                self.die_and_go_on(number, moment)

    def die_and_go_on(self, number: int, moment: str) -> None:
        def strike(effect: str, at: int, when: str) -> None:
            if (at, when) == (number, moment):
                raise KeyboardInterrupt

        store = MemoryStore()
        with pytest.raises(KeyboardInterrupt):
            self.lead(WatchedStore(store, strike))
        assert all(not one.unreadable for one in read_incidents(store))
        self.lead(store)
        (found,) = read_incidents(store)
        assert not found.standing.is_open
        assert found.standing.steps[Step.IDENTIFY].outcome is StepOutcome.DONE
        assert any(entry.kind is Kind.EVIDENCE for entry in found.entries)
