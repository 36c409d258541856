"""Telling people: what they read, who heard, and that a channel or a webhook that fails stops nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_store import MemoryStore
from pydantic import SecretStr
from stored_sets import put_set

from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.incident.documents import Case, Entry, Kind, Step, StepOutcome, new_case_id
from keepwell.incident.journal import Incident, open_case, read_incident, skip_step
from keepwell.incident.reminding import find_next_reminder, remind
from keepwell.incident.telling import (
    Phase,
    Told,
    build_reminder,
    build_update_message,
    read_safety,
    render_status_text,
    tell,
)
from keepwell.notify import ChannelOutcome, Delivery, Message, render_body
from keepwell.settings import BackupSettings, IncidentSettings, NotifySettings, Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=30)
HOOK = SecretStr("https://status.example/hush-token")
PLATFORM = Platform.model_construct(
    name="esn",
    backup=BackupSettings(),
    notify=NotifySettings(),
    incident=IncidentSettings(
        service_name="ESN events", status_webhook_url=HOOK, status_page_url="https://status.example"
    ),
)


class People:
    """The team's channels and the status page: each may refuse."""

    def __init__(self, *channels: bool, page: KeepwellError | None = None) -> None:
        self.channels, self.page = channels, page
        self.messages: list[Message] = []
        self.posts: list[Mapping[str, Any]] = []

    def send(self, settings: NotifySettings, message: Message) -> Delivery:
        self.messages.append(message)
        return Delivery(tuple(ChannelOutcome(f"{n} json", taken, "refused") for n, taken in enumerate(self.channels)))

    def post(self, address: SecretStr, document: Mapping[str, object]) -> None:
        assert address == HOOK
        if self.page is not None:
            raise self.page
        self.posts.append(document)


def opened(store: MemoryStore, **options: Any) -> Incident:
    return open_case(PLATFORM, store, "sign-in answers 500", now=NOW, impact="Nobody can sign in.", **options)


def told(store: MemoryStore, incident: Incident, people: People, **changes: Any) -> Told:
    plain: dict[str, Any] = {"phase": Phase.INVESTIGATING, "next_update_at": LATER, "by": "ann", "now": NOW}
    words = changes.pop("words", "We are restoring.")
    return tell(PLATFORM, store, incident, words, **(plain | changes), sender=people.send, poster=people.post)


def again(store: MemoryStore, incident: Incident) -> Incident:
    return read_incident(store, incident.case.case_id)


def a_case(*, drill: bool = False) -> Case:
    return Case(
        case_id="20261129T030000Z-abcdef",
        platform="esn",
        title="sign-in answers 500",
        impact="Nobody can sign in.",
        since=NOW,
        opened_at=NOW,
        drill=drill,
    )


class TestWords:
    def text(self, *, drill: bool = False, phase: Phase = Phase.INVESTIGATING) -> str:
        promised = None if phase is Phase.RESOLVED else LATER
        words = "It is back." if phase is Phase.RESOLVED else "We are looking into it."
        return render_status_text(
            a_case(drill=drill), phase, words, service="ESN events", now=NOW, next_update_at=promised
        )

    def test_the_public_reads_what_it_notices_and_when_it_hears_again(self) -> None:
        assert self.text() == (
            "Investigating: ESN events (2026-11-29 03:00 UTC)\n"
            "Nobody can sign in.\n"
            "We are looking into it.\n"
            "We will tell you more by 03:30 UTC."
        )
        assert self.text(phase=Phase.RESOLVED) == "Resolved: ESN events (2026-11-29 03:00 UTC)\nIt is back."

    def test_the_team_reads_what_is_safe_and_what_to_type(self) -> None:
        message = build_update_message(
            a_case(),
            Phase.IDENTIFIED,
            "We restore.",
            safe="the data as of 02:00.",
            status_text=self.text(),
            next_update_at=LATER,
            status_page_url="https://status.example",
        )
        assert f"{message.title}\n{render_body(message)}" == (
            "esn: identified – sign-in answers 500\n"
            "What happened: Nobody can sign in. We restore.\n"
            "Since: 2026-11-29 03:00 UTC\n"
            "Still safe: the data as of 02:00.\n"
            "Next: keepwell incident status --case 20261129T030000Z-abcdef --platform esn\n"
            "\n"
            "Case 20261129T030000Z-abcdef.\n"
            "The next update is promised for 03:30 UTC.\n"
            "Status page: https://status.example\n"
            "\n"
            "For the status page:\n" + self.text()
        )
        assert message.verdict is Verdict.ALERT

    @pytest.mark.parametrize("phase", Phase)
    def test_every_text_of_a_drill_says_so_first(self, phase: Phase) -> None:
        case, text = a_case(drill=True), self.text(drill=True, phase=phase)
        update = build_update_message(case, phase, "x", safe="s", status_text=text, next_update_at=LATER)
        assert text.startswith("DRILL: This is an exercise")
        for message in (update, build_reminder(case, LATER)):
            assert message.title.startswith("DRILL: ")
            assert message.cause.startswith("This is an exercise; nothing is wrong.")
            assert message.verdict is Verdict.NOT_APPLICABLE
        assert "DRILL" not in self.text(phase=phase)


class TestTelling:
    def test_everybody_hears_and_the_journal_keeps_the_promise(self) -> None:
        store, people = MemoryStore(), People(True, True)
        put_set(store, NOW - timedelta(hours=1))
        incident = opened(store)
        result = told(store, incident, people)
        found = again(store, incident)
        assert (result.posted, result.was_heard, result.entry.verdict) == (True, True, Verdict.OK)
        assert found.standing.next_update_at == LATER
        assert found.standing.steps[Step.COMMUNICATE].outcome is StepOutcome.DONE
        assert people.posts == [
            {
                "case_id": incident.case.case_id,
                "platform": "esn",
                "service": "ESN events",
                "status": "investigating",
                "text": result.status_text,
                "next_update_at": LATER.isoformat(),
            }
        ]
        assert "the data as of 2026-11-29 02:00" in people.messages[0].still_safe

    def test_a_channel_that_fails_is_said_and_the_step_is_done_all_the_same(self) -> None:
        store, people = MemoryStore(), People(True, False)
        incident = opened(store)
        result = told(store, incident, people)
        assert (result.was_heard, result.entry.verdict) == (True, Verdict.ALERT)
        state = again(store, incident).standing.steps[Step.COMMUNICATE]
        assert state.outcome is StepOutcome.DONE
        assert state.message.startswith("1 of 2 channels did not take it: 1 json refused")

    def test_where_nobody_heard_the_step_failed_and_the_case_goes_on(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        result = told(store, incident, People(False, False))
        found = again(store, incident)
        assert (result.was_heard, found.standing.steps[Step.COMMUNICATE].outcome) == (False, StepOutcome.FAILED)
        assert found.standing.next_update_at == LATER
        told(store, found, People(True, True))
        assert again(store, incident).standing.steps[Step.COMMUNICATE].outcome is StepOutcome.DONE

    def test_without_a_channel_the_text_is_there_to_be_copied_and_it_is_a_warning(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        result = told(store, incident, People())
        assert result.entry.verdict is Verdict.WARN
        assert "nobody of the team was told" in result.heard
        assert again(store, incident).entries[0].published == result.status_text

    @pytest.mark.parametrize("error", [ServiceUnavailable("It is down."), KeepwellError("It answered HTTP 403.")])
    def test_a_webhook_that_fails_is_said_and_stops_nothing(self, error: KeepwellError) -> None:
        store = MemoryStore()
        incident = opened(store)
        result = told(store, incident, People(True, page=error))
        assert (result.posted, result.fault, result.entry.verdict) == (False, error.message, Verdict.WARN)
        assert f"not on the status page: {error.message}" in again(store, incident).entries[-1].message

    def test_the_public_reads_nothing_of_a_drill(self) -> None:
        store, people = MemoryStore(), People(True)
        result = told(store, opened(store, drill=True), people)
        assert (result.posted, people.posts, len(people.messages)) == (None, [], 1)

    def test_it_is_over_only_once_it_was_seen_to_serve(self) -> None:
        store, people = MemoryStore(), People(True)
        incident = opened(store)
        with pytest.raises(PreconditionFailed, match="shown yet") as caught:
            told(store, incident, people, phase=Phase.RESOLVED, next_update_at=None)
        assert "keepwell incident verify" in caught.value.hint
        assert people.messages == []
        skip_step(store, incident, Step.VERIFY, "I looked at it.", by="ann", now=NOW)
        told(store, again(store, incident), people, phase=Phase.RESOLVED, next_update_at=LATER)
        found = again(store, incident)
        assert (found.standing.is_open, found.standing.next_update_at) == (False, None)
        with pytest.raises(PreconditionFailed, match="is resolved"):
            told(store, found, people)

    def test_it_is_over_although_no_channel_took_the_news(self) -> None:
        store = MemoryStore()
        incident = opened(store)
        skip_step(store, incident, Step.VERIFY, "I looked at it.", by="ann", now=NOW)
        result = told(store, again(store, incident), People(False), phase=Phase.RESOLVED, next_update_at=None)
        assert (again(store, incident).standing.is_open, result.entry.verdict) == (False, Verdict.ALERT)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"words": " "}, "nothing to tell"),
            ({"words": "x" * 1001}, "1001 signs"),
            ({"next_update_at": NOW}, "in the past"),
        ],
    )
    def test_what_is_of_no_use_is_told_to_nobody(self, changes: dict[str, Any], says: str) -> None:
        store, people = MemoryStore(), People(True)
        incident = opened(store)
        with pytest.raises(PreconditionFailed, match=says):
            told(store, incident, people, **changes)
        assert (people.messages, again(store, incident).entries) == ([], ())

    def test_what_is_safe_is_unknown_where_the_store_is_away(self) -> None:
        class Away(MemoryStore):
            def list_folders(self, folder: str) -> list[str]:
                raise ServiceUnavailable("It is away.")

        assert read_safety(PLATFORM, Away()).startswith("not known")  # type: ignore[arg-type]

    def test_killed_between_telling_and_writing_it_down_it_is_told_twice_rather_than_never(self) -> None:
        class Dying(MemoryStore):
            dying = False

            def put_bytes(self, relative: str, content: bytes) -> None:
                if self.dying:
                    raise KeyboardInterrupt
                super().put_bytes(relative, content)

        store, people = Dying(), People(True)
        incident = opened(store)
        store.dying = True
        with pytest.raises(KeyboardInterrupt):
            told(store, incident, people)
        store.dying = False
        assert again(store, incident).standing.next_step is Step.IDENTIFY
        assert not again(store, incident).standing.steps[Step.COMMUNICATE].is_over
        told(store, incident, people)
        assert len(people.messages) == 2


class TestReminders:
    def remind(self, store: MemoryStore, people: People, minute: int) -> int:
        at = NOW + timedelta(minutes=minute)
        return len(remind(PLATFORM, store, now=at, sender=people.send))  # type: ignore[arg-type]

    def test_the_team_is_reminded_when_due_and_again_until_people_hear(self) -> None:
        store, people = MemoryStore(), People(True)
        incident = opened(store)
        told(store, incident, people)
        assert [self.remind(store, people, minute) for minute in (5, 30, 40, 45)] == [0, 1, 0, 1]
        told(
            store,
            again(store, incident),
            people,
            now=NOW + timedelta(minutes=46),
            next_update_at=NOW + timedelta(hours=2),
        )
        assert self.remind(store, people, 60) == 0
        assert people.messages[1].title == "esn: an update is due – sign-in answers 500"

    def test_a_reminder_that_nobody_took_is_sent_again_at_the_next_look(self) -> None:
        store = MemoryStore()
        told(store, opened(store), People(True))
        assert [self.remind(store, People(taken), 31) for taken in (False, True, True)] == [1, 1, 0]

    def test_each_case_is_reminded_of_by_itself_and_none_that_is_over(self) -> None:
        store, people = MemoryStore(), People(True)
        first, second = opened(store), opened(store, another=True)
        told(store, first, people)
        told(store, second, people)
        skip_step(store, second, Step.RESOLVE, "the same as the other", by="ann", now=NOW)
        (sent,) = remind(PLATFORM, store, now=LATER, sender=people.send)  # type: ignore[arg-type]
        assert sent.case_id == first.case.case_id

    def test_when_the_next_one_is_due(self) -> None:
        def case(*entries: Entry) -> Incident:
            return Incident(a_case(), entries)

        def entry(kind: Kind, minute: int, due: int | None = None) -> Entry:
            due_at = None if due is None else NOW + timedelta(minutes=due)
            at = NOW + timedelta(minutes=minute)
            return Entry(case_id=new_case_id(NOW), kind=kind, at=at, message="x", next_update_at=due_at)

        def find(now: int, *incidents: Incident) -> float | None:
            at = find_next_reminder(incidents, now=NOW + timedelta(minutes=now), repeat_after=timedelta(minutes=15))
            return None if at is None else (at - NOW).total_seconds() / 60

        promised = case(entry(Kind.UPDATE, 0, 30))
        reminded = case(entry(Kind.UPDATE, 0, 30), entry(Kind.REMINDER, 31))
        assert find(0) is None
        assert find(0, case(entry(Kind.UPDATE, 0))) is None
        assert find(0, promised) == 30
        assert find(40, promised) == 55
        assert find(32, reminded) == 46
        assert find(0, promised, case(entry(Kind.UPDATE, 0, 20))) == 20
