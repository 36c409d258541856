"""Communicate: the team, the status page, and when people hear again (guide item DR-2).

Whoever tells writes it down behind it: a run that is killed in between tells twice rather than never. A channel or a
webhook that fails stops nothing; the journal says who did not hear.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import SecretStr

from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.report import describe_safety
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.incident.documents import LONGEST_TEXT, Case, Entry, Kind, Step, StepOutcome
from keepwell.incident.journal import Incident, append, shorten, write_step
from keepwell.notify import Delivery, Message, send
from keepwell.notify.status_page import post_status
from keepwell.objectstore.store import Store
from keepwell.settings import NotifySettings, Platform
from keepwell.verdict import Verdict, worst

DRILL_MARK = "DRILL"
_DRILL_SENTENCE = "This is an exercise; nothing is wrong."

Sender = Callable[[NotifySettings, Message], Delivery]
Poster = Callable[[SecretStr, Mapping[str, object]], None]


class Phase(StrEnum):
    """How far it is, in the words of status pages."""

    INVESTIGATING = "investigating"
    IDENTIFIED = "identified"
    MONITORING = "monitoring"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class Told:
    """What became of an update.

    Attributes:
        entry: As it was written into the journal; its verdict says whether everybody heard.
        delivery: On each channel of the team.
        heard: Who heard and who did not, in words.
        status_text: For the status page, to be copied where no webhook took it.
        posted: Whether the status page's webhook took it; None where none was asked.
        fault: Why the webhook did not take it; empty otherwise.
    """

    entry: Entry
    delivery: Delivery
    heard: str
    status_text: str
    posted: bool | None
    fault: str = ""

    @property
    def was_heard(self) -> bool:
        """Whether anybody of the team heard, so far as there are channels to hear by."""
        return not self.delivery.outcomes or any(outcome.delivered for outcome in self.delivery.outcomes)


def render_status_text(
    case: Case, phase: Phase, words: str, *, service: str, now: datetime, next_update_at: datetime | None
) -> str:
    """The text for the public: what they notice and when they hear again; nothing of the machinery.

    Args:
        case: Its impact is told; its title is the team's.
        phase: How far it is.
        words: What is being done, in a person's words.
        service: What the public calls the platform.
        now: Aware.
        next_update_at: When they hear again; None where nothing is promised.
    """
    lines = [f"{phase.value.capitalize()}: {service} ({now.astimezone(UTC):%Y-%m-%d %H:%M} UTC)"]
    if case.drill:
        lines.insert(0, f"{DRILL_MARK}: {_DRILL_SENTENCE}")
    if case.impact and phase is not Phase.RESOLVED:
        lines.append(case.impact)
    lines.append(words)
    if next_update_at is not None:
        lines.append(f"We will tell you more by {next_update_at.astimezone(UTC):%H:%M} UTC.")
    return "\n".join(lines)


def build_update_message(
    case: Case,
    phase: Phase,
    words: str,
    *,
    safe: str,
    status_text: str,
    next_update_at: datetime | None,
    status_page_url: str | None = None,
) -> Message:
    """What the team reads: the same, with what is safe, what to type, and the public's text to copy.

    Args:
        case: Which.
        phase: How far it is.
        words: What is being done.
        safe: From `describe_safety`.
        status_text: From `render_status_text`.
        next_update_at: When they hear again; None where nothing is promised.
        status_page_url: Of the public page; None where there is none.
    """
    over = phase is Phase.RESOLVED
    details = [f"Case {case.case_id}."]
    if next_update_at is not None:
        details.append(f"The next update is promised for {next_update_at.astimezone(UTC):%H:%M} UTC.")
    if status_page_url:
        details.append(f"Status page: {status_page_url}")
    details += ["", "For the status page:", *status_text.splitlines()]
    command = "post-mortem --case" if over else "status --case"
    return Message(
        title=_title(case, f"{phase} – {case.title}"),
        cause=_marked(case, " ".join(part for part in ("" if over else case.impact, words) if part)),
        still_safe=safe,
        next_command=f"keepwell incident {command} {case.case_id} --platform {case.platform}",
        since=f"{case.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        verdict=Verdict.NOT_APPLICABLE if case.drill else Verdict.OK if over else Verdict.ALERT,
        details=tuple(details),
    )


def build_reminder(case: Case, due_at: datetime) -> Message:
    """What the team reads when an update that was promised is due.

    Args:
        case: Which.
        due_at: When it was promised for.
    """
    return Message(
        title=_title(case, f"an update is due – {case.title}"),
        cause=_marked(case, f"People were promised to hear again by {due_at.astimezone(UTC):%H:%M} UTC, and did not."),
        still_safe="this changes nothing; it repeats until somebody tells them, or the case is resolved.",
        next_command=f"keepwell incident update TEXT --case {case.case_id} --platform {case.platform}",
        verdict=Verdict.NOT_APPLICABLE if case.drill else Verdict.WARN,
        details=(f"Case {case.case_id}.",),
    )


def tell(
    platform: Platform,
    store: Store,
    incident: Incident,
    words: str,
    *,
    phase: Phase,
    next_update_at: datetime | None,
    by: str | None,
    now: datetime,
    sender: Sender = send,
    poster: Poster = post_status,
) -> Told:
    """Tell the team and the status page, and write down who heard.

    Args:
        platform: Whose channels.
        store: Its folder in the bucket.
        incident: Which case.
        words: What is being done, a sentence or two; goes to the public as it is.
        phase: How far it is; `resolved` ends the case.
        next_update_at: When people hear again; None where nothing is promised.
        by: Who tells, by their own account; None for a run.
        now: Aware.
        sender: Sends to every channel.
        poster: Posts to the status page's webhook; asked in no drill, since the public reads it.

    Returns:
        What became of it. The step is done where somebody of the team heard, or where there is no channel to hear by;
        it failed where every channel did.

    Raises:
        PreconditionFailed: There are no words or too many, the promise lies in the past, or what is said to be over was
            not seen to serve.
        KeepwellError: The store takes nothing, so nothing could be written down; people may have been told.
    """
    words = " ".join(words.split())
    _require_tellable(incident, words, phase, next_update_at, now)
    case = incident.case
    promised = None if phase is Phase.RESOLVED else next_update_at
    service = platform.incident.service_name or platform.name
    text = render_status_text(case, phase, words, service=service, now=now, next_update_at=promised)
    message = build_update_message(
        case,
        phase,
        words,
        safe=read_safety(platform, store),
        status_text=text,
        next_update_at=promised,
        status_page_url=platform.incident.status_page_url,
    )
    delivery = sender(platform.notify, message)
    document = build_status_document(case, phase, text, service=service, next_update_at=promised)
    posted, fault = _post(platform, case, document, poster)
    return _write_down(
        store, incident, phase, words, by=by, now=now, promised=promised, told=(delivery, text, posted, fault)
    )


def read_safety(platform: Platform, store: Store) -> str:
    """What a restore could bring back, one sentence; also where the store cannot be asked."""
    try:
        return describe_safety(read_catalogue(store), platform.backup.proven_level)
    except KeepwellError as error:
        return f"not known, since the store could not be asked: {error.message}"


def _require_tellable(
    incident: Incident, words: str, phase: Phase, next_update_at: datetime | None, now: datetime
) -> None:
    if not words:
        raise PreconditionFailed("There is nothing to tell.", hint="Say what is being done, in a sentence or two.")
    if len(words) > LONGEST_TEXT // 2:
        raise PreconditionFailed(f"The text has {len(words)} signs.", hint=f"Tell people in {LONGEST_TEXT // 2}.")
    if next_update_at is not None and next_update_at <= now:
        raise PreconditionFailed("The next update would be in the past.", hint="Promise a time that is still to come.")
    if not incident.standing.is_open:
        raise PreconditionFailed(
            f"The case {incident.case.case_id} is resolved.", hint="If it is back: keepwell incident open."
        )
    if phase is Phase.RESOLVED and not incident.standing.steps[Step.VERIFY].is_over:
        raise PreconditionFailed(
            "Nothing has shown yet that it serves again.",
            hint="`keepwell incident verify` asks; or say why not: keepwell incident skip verify REASON.",
        )


def build_status_document(
    case: Case, phase: Phase, text: str, *, service: str, next_update_at: datetime | None
) -> dict[str, object]:
    """What a status page's webhook gets, as JSON takes it.

    Args:
        case: Which.
        phase: How far it is.
        text: From `render_status_text`.
        service: What the public calls the platform.
        next_update_at: When they hear again; None where nothing is promised.
    """
    return {
        "case_id": case.case_id,
        "platform": case.platform,
        "service": service,
        "status": phase.value,
        "text": text,
        "next_update_at": None if next_update_at is None else next_update_at.isoformat(),
    }


def _post(platform: Platform, case: Case, document: Mapping[str, object], poster: Poster) -> tuple[bool | None, str]:
    """Whether the webhook took it, and why not."""
    address = platform.incident.status_webhook_url
    if address is None or case.drill:
        return None, ""
    try:
        poster(address, document)
    except KeepwellError as error:
        return False, error.message
    return True, ""


def _write_down(
    store: Store,
    incident: Incident,
    phase: Phase,
    words: str,
    *,
    by: str | None,
    now: datetime,
    promised: datetime | None,
    told: tuple[Delivery, str, bool | None, str],
) -> Told:
    delivery, text, posted, fault = told
    heard = describe_delivery(delivery, posted, fault)
    verdict = worst([delivery.verdict, Verdict.WARN if posted is False else Verdict.OK])
    entry = Entry(
        case_id=incident.case.case_id,
        kind=Kind.UPDATE,
        at=now,
        verdict=verdict,
        message=shorten(f"{phase}: {words} ({heard})"),
        by=by,
        next_update_at=promised,
        published=text[:LONGEST_TEXT],
    )
    result = Told(append(store, entry), delivery, heard, text, posted, fault)
    over = phase is Phase.RESOLVED
    step = Step.RESOLVE if over else Step.COMMUNICATE
    # It is over whether or not a channel took the news: what is not over is that they do not know.
    outcome = StepOutcome.DONE if over or result.was_heard else StepOutcome.FAILED
    write_step(store, incident.case.case_id, step, outcome, heard, now=now, by=by, verdict=verdict)
    return result


def describe_delivery(delivery: Delivery, posted: bool | None, fault: str) -> str:
    """Who heard, one sentence's worth."""
    failed = [outcome for outcome in delivery.outcomes if not outcome.delivered]
    if not delivery.outcomes:
        parts = ["no channel is configured, so nobody of the team was told"]
    elif failed:
        named = "; ".join(f"{outcome.channel} {outcome.reason}" for outcome in failed)
        parts = [f"{len(failed)} of {len(delivery.outcomes)} channels did not take it: {named}"]
    else:
        parts = [f"{len(delivery.outcomes)} of {len(delivery.outcomes)} channels took it"]
    if posted is not None:
        parts.append("the status page's webhook took it" if posted else f"not on the status page: {fault}")
    return "; ".join(parts)


def _title(case: Case, rest: str) -> str:
    mark = f"{DRILL_MARK}: " if case.drill else ""
    return f"{mark}{case.platform}: {rest}"


def _marked(case: Case, text: str) -> str:
    return f"{_DRILL_SENTENCE} {text}" if case.drill else text
