"""Leading an incident: thin steps around `keepwell.incident`.

Each step writes into the case's journal what became of it, so that a run which begins anew finds it done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from keepwell import orchestrator
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed, Refused, VerificationFailed
from keepwell.evidence import write_evidence
from keepwell.incident import identify as identifying
from keepwell.incident import reminding, verifying
from keepwell.incident.documents import Case, Entry, Kind, Observation, Step, StepOutcome
from keepwell.incident.gathering import Source
from keepwell.incident.journal import (
    Incident,
    append,
    find_of_run,
    open_case,
    read_incident,
    read_incidents,
    shorten,
    skip_step,
    write_step,
)
from keepwell.incident.reminding import Reminder, find_next_reminder, plan_reminders
from keepwell.incident.report import build_evidence
from keepwell.incident.restores import BAD, RestoreSoFar
from keepwell.incident.restores import begin_restore as begin_restore_of
from keepwell.incident.restores import find_restore as find_restore_so_far
from keepwell.incident.restores import record_restore as record_restore_of
from keepwell.incident.sources import build_sources
from keepwell.incident.telling import Phase, Told, tell
from keepwell.incident.verifying import build_questions, limit_of
from keepwell.incident.writing_up import write_up as write_up_case
from keepwell.notify import Delivery, Message, send
from keepwell.objectstore.bucket import open_store
from keepwell.restore.choice import Choice
from keepwell.restore.plan import RestorePlan
from keepwell.settings import NotifySettings
from keepwell.verdict import Verdict
from tasks import platforms
from tasks.artifacts import show_markdown
from tasks.notify_steps import clean
from tasks.redaction import redact
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step

# A worker starts a run a little before its time.
_AHEAD = timedelta(minutes=1)


@step("open the case, or go on with it", timeout_seconds=10 * MINUTE_SECONDS)
def open_or_go_on(
    platform: str,
    case_id: str | None,
    *,
    title: str,
    impact: str,
    since: datetime | None,
    drill: bool,
    skip: Sequence[Step],
    skip_reason: str,
) -> Case:
    """The case of this run: the one that is named, the one that this run opened before, or a new one.

    Args:
        platform: Its name.
        case_id: Of a case that goes on; None for this run's own.
        title: Of a new case; so are the next three.
        impact: What people notice of it.
        since: Since when; None for now.
        drill: Whether it is an exercise.
        skip: Steps to leave out, each when its turn comes.
        skip_reason: Why.

    Raises:
        PreconditionFailed: There is no such case, it is over and written up, another one is open, or steps are left out
            without a reason; nothing was written.
    """
    if skip and not skip_reason.strip():
        raise PreconditionFailed("Steps are skipped for a reason only.", hint="Say why in skip_reason.")
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    run_id = flow_run.id
    found = read_incident(store, case_id) if case_id else find_of_run(store, str(run_id)) if run_id else None
    if found is None:
        found = open_case(
            loaded,
            store,
            title,
            now=now,
            impact=impact,
            since=since,
            drill=drill,
            flow_run=str(run_id) if run_id else None,
        )
    elif case_id and not found.standing.is_open and found.standing.next_step is not Step.POST_MORTEM:
        raise PreconditionFailed(
            f"The case {case_id} is resolved.", hint="If it is back, it is a new case: no case_id."
        )
    get_run_logger().info("The case is %s: keepwell incident status --case %s", found.case.case_id, found.case.case_id)
    return found.case


@step("is {wanted} to be done", timeout_seconds=10 * MINUTE_SECONDS)
def is_to_do(platform: str, case: Case, wanted: Step, skip: Sequence[Step], skip_reason: str) -> bool:
    """Whether a step of the case is neither done nor skipped yet; its turn has come.

    Args:
        platform: Its name.
        case: Which.
        wanted: The step. Of a case that is over only the post-mortem is left to do.
        skip: Steps to leave out; where this is one of them, it is written down now.
        skip_reason: Why.
    """
    store = open_store(platforms.load(platform))
    incident = read_incident(store, case.case_id)
    state = incident.standing.steps[wanted]
    if state.is_over:
        get_run_logger().info("%s was %s at %s: %s", wanted.value.capitalize(), state.outcome, state.at, state.message)
        return False
    if not incident.standing.is_open and wanted is not Step.POST_MORTEM:
        get_run_logger().warning("%s is left out: the case is resolved.", wanted.value.capitalize())
        return False
    if wanted in skip:
        skip_step(store, incident, wanted, skip_reason, by="whoever started the run", now=datetime.now(UTC))
        return False
    return True


@step("identify", timeout_seconds=HOUR_SECONDS)
def identify(platform: str, case: Case) -> Entry:
    """Ask every source of evidence, and keep what they told; one that fails is unknown, and fails nothing else."""
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    evidence = identifying.identify(
        store,
        read_incident(store, case.case_id),
        _clean(build_sources(loaded, store, now)),
        limit_seconds=loaded.incident.look_seconds,
        now=now,
    )
    for one in evidence.observations:
        get_run_logger().info("%s: %s: %s", one.verdict, one.source, one.message)
    return evidence


@step("communicate", timeout_seconds=HOUR_SECONDS)
def communicate(platform: str, case: Case, words: str) -> Told:
    """Tell the team and the status page that it is being worked on, and promise when they hear again.

    Returns:
        Who heard; a channel or a webhook that fails is in there and never raised.
    """
    promised = timedelta(minutes=platforms.load(platform).incident.next_update_minutes)
    return _tell(platform, case, words, Phase.INVESTIGATING, datetime.now(UTC) + promised)


@step("tell people that it is over", timeout_seconds=HOUR_SECONDS)
def resolve(platform: str, case: Case, words: str) -> Told:
    """Tell the team and the status page that it is over, and close the case.

    Raises:
        PreconditionFailed: Nothing has shown that it serves again.
    """
    return _tell(platform, case, words, Phase.RESOLVED, None)


def find_restore(platform: str, case: Case, choice: Choice) -> RestoreSoFar:
    """What was restored since the case was opened: begun by an earlier run of it, or done by hand.

    Raises:
        PreconditionFailed: It is of another set, or of somebody else and half done; nothing was changed.
        KeepwellError: It cannot be told.
    """
    loaded = platforms.load(platform)
    store = open_store(loaded)
    found = find_restore_so_far(loaded, store, read_incident(store, case.case_id), choice)
    if found.restore_case is not None:
        end = "is done" if found.is_done else "is gone on with"
        get_run_logger().info("The restore %s, begun at %s, %s.", found.restore_case, found.begun_at, end)
    return found


def begin_restore(platform: str, case: Case, planned: RestorePlan, restore_case: str | None) -> str:
    """Write down which restore begins; its id."""
    store, now = open_store(platforms.load(platform)), datetime.now(UTC)
    return begin_restore_of(store, read_incident(store, case.case_id), planned.backup_id, restore_case, now=now)


@contextmanager
def failure_noted(platform: str, case: Case, tried: Step) -> Iterator[None]:
    """Write down why a step failed, and let the failure go on; a refusal, or a run that is suspended, is none."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        said = redact(error.message if isinstance(error, KeepwellError) else type(error).__name__)
        try:
            store = open_store(platforms.load(platform))
            write_step(store, case.case_id, tried, StepOutcome.FAILED, said, now=datetime.now(UTC))
        except KeepwellError as unwritten:
            get_run_logger().warning("The case's journal does not tell of it: %s", unwritten)
        raise


@step("record the restore", timeout_seconds=10 * MINUTE_SECONDS)
def record_restore(platform: str, case: Case, choice: Choice) -> Entry:
    """Write down what was restored, who approved it, and what is lost by it, as the restore's own journal has it.

    Raises:
        VerificationFailed: That journal knows of no restore that is done, or its evidence is not good.
    """
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    incident = read_incident(store, case.case_id)
    found = find_restore_so_far(loaded, store, incident, choice)
    if not found.is_done:
        raise VerificationFailed(
            "The restore ran to its end, and its journal does not say so.", hint="keepwell restore status"
        )
    said = f"{found.backup_id} was restored (restore case {found.restore_case})."
    if found.fault:
        raise VerificationFailed(
            f"{said} {found.fault}",
            hint="If the data are good all the same: keepwell incident done restore HOW; else: keepwell restore status",
        )
    clean_found = replace(found, approved=redact(found.approved))
    return record_restore_of(store, incident, clean_found, said, now=now)


def note_refusal(platform: str, case: Case, message: str) -> None:
    """Write down that a person said no."""
    now, said = datetime.now(UTC), shorten(redact(message))
    store = open_store(platforms.load(platform))
    append(store, Entry(case_id=case.case_id, kind=Kind.DECISION, at=now, verdict=Verdict.WARN, message=said))
    write_step(store, case.case_id, Step.RESTORE, StepOutcome.FAILED, said, now=now)


@step("verify that it serves", timeout_seconds=2 * HOUR_SECONDS)
def verify(platform: str, case: Case) -> Entry:
    """Ask the application, the database with its smoke queries, and Redis; what they say is in the case's journal."""
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    evidence = verifying.verify(
        store,
        read_incident(store, case.case_id),
        _clean(build_questions(loaded, now)),
        limit_seconds=limit_of(loaded),
        now=now,
    )
    for one in evidence.observations:
        get_run_logger().info("%s: %s: %s", one.verdict, one.source, one.message)
    return evidence


@step("require that it serves", timeout_seconds=MINUTE_SECONDS)
def require_serving(case: Case, evidence: Entry) -> None:
    """Go on only when everything answered as it should.

    Raises:
        VerificationFailed: Something did not, or could not be asked.
    """
    if evidence.verdict not in (Verdict.ALERT, Verdict.UNKNOWN):
        return
    bad = [one for one in evidence.observations if one.verdict in (Verdict.ALERT, Verdict.UNKNOWN)]
    raise VerificationFailed(
        "It does not serve: " + " ".join(one.message for one in bad),
        hint=f"Mend it, then go on with the same case: case_id={case.case_id}; or skip verify, and say why.",
    )


@step("write it up", timeout_seconds=HOUR_SECONDS)
def write_up(platform: str, case: Case) -> str:
    """Write the post-mortem beside the case's journal, leave evidence, and show it.

    Returns:
        The post-mortem, as Markdown.
    """
    loaded, now = platforms.load(platform), datetime.now(UTC)
    store = open_store(loaded)
    written = write_up_case(
        store,
        read_incident(store, case.case_id),
        _clean(build_sources(loaded, store, now)),
        limit_seconds=loaded.incident.look_seconds,
        now=now,
        flow_run=flow_run.id,
    )
    show_markdown(f"{platform}-post-mortem", written.text, f"Case {case.case_id}: {case.title}")
    return written.text


@step("leave evidence", timeout_seconds=10 * MINUTE_SECONDS)
def leave_evidence(platform: str, case: Case) -> None:
    """Leave evidence of the guide's four steps where nobody writes the case up."""
    incident, store = _read(platform, case), open_store(platforms.load(platform))
    write_evidence(store, build_evidence(incident, finished_at=datetime.now(UTC), flow_run=flow_run.id))


def judge_end(platform: str, case: Case) -> State[Any]:
    """How the run ends: completed, and named for it where somebody did not hear or a step was skipped.

    It failed where a step failed or is not done although the case is over; that nobody heard stops nothing.
    """
    incident = _read(platform, case)
    evidence = build_evidence(incident, finished_at=datetime.now(UTC))
    unheard = [one for one in incident.entries if one.kind is Kind.UPDATE and one.verdict is not Verdict.OK]
    if not unheard and evidence.verdict is Verdict.OK:
        return Completed(message=evidence.summary)
    said = [evidence.summary, *(one.message for one in unheard)]
    said += [finding.message for finding in evidence.findings if finding.verdict is not Verdict.OK]
    message = redact(" ".join(said))
    steps = [finding.verdict for finding in evidence.findings if finding.name != Step.COMMUNICATE]
    return Failed(message=message) if set(BAD) & set(steps) else Completed(name="Warn", message=message)


@step("remind", timeout_seconds=10 * MINUTE_SECONDS)
def remind(platform: str) -> tuple[Reminder, ...]:
    """Remind the team of every promised update that is due.

    Returns:
        One for each case that somebody was to be reminded of; a channel that fails is in there and never raised.
    """
    loaded = platforms.load(platform)
    sent = reminding.remind(loaded, open_store(loaded), now=datetime.now(UTC), ahead=_AHEAD, sender=_send_clean)
    for one in sent:
        get_run_logger().info("Reminded of the case %s.", one.case_id)
    if not sent:
        get_run_logger().info("No update is due.")
    return sent


@step("plan the next reminder", timeout_seconds=10 * MINUTE_SECONDS)
def plan_next_reminder(platform: str) -> datetime | None:
    """Plan the next run that reminds; None when nothing is promised.

    Raises:
        KeepwellError: The store or the orchestrator does not answer.
    """
    return _plan_next_reminder(platform)


@step("plan the next reminder", timeout_seconds=10 * MINUTE_SECONDS)
def try_to_plan_next_reminder(platform: str) -> datetime | None:
    """Plan the next run that reminds, where that can be done: a case goes on without it, and says so in its log."""
    try:
        return _plan_next_reminder(platform)
    except KeepwellError as error:
        get_run_logger().warning("Nobody will be reminded of the next update: %s", error)
        return None


def _plan_next_reminder(platform: str) -> datetime | None:
    loaded, now = platforms.load(platform), datetime.now(UTC)
    repeat_after = timedelta(minutes=loaded.incident.remind_minutes)
    at = find_next_reminder(read_incidents(open_store(loaded)), now=now, repeat_after=repeat_after)
    client = orchestrator.connect(loaded.orchestrator)
    if client is None:
        raise ConfigurationError("No Prefect server is configured.", hint="PREFECT_API_URL names it to a worker.")
    with client:
        plan_reminders(client, platform, at)
    get_run_logger().info("The next reminder is planned for %s.", at or "no time: nothing is promised")
    return at


def _tell(platform: str, case: Case, words: str, phase: Phase, next_update_at: datetime | None) -> Told:
    loaded = platforms.load(platform)
    store = open_store(loaded)
    told = tell(
        loaded,
        store,
        read_incident(store, case.case_id),
        words,
        phase=phase,
        next_update_at=next_update_at,
        by=None,
        now=datetime.now(UTC),
        sender=_send_clean,
    )
    log = get_run_logger().info if told.entry.verdict is Verdict.OK else get_run_logger().warning
    log("Who heard: %s.", told.heard)
    show_markdown(f"{platform}-status-page", told.status_text, f"{phase}: for the status page")
    return told


def _clean(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The same sources, without secrets in what they tell: the case's journal keeps it for ever."""
    return tuple(Source(source.name, partial(_look_clean, source)) for source in sources)


def _look_clean(source: Source) -> tuple[Observation, ...]:
    try:
        found = tuple(source.look())
    except KeepwellError as error:
        raise KeepwellError(redact(error.message), hint=redact(error.hint)) from None
    return tuple(one.model_copy(update={"message": redact(one.message), "hint": redact(one.hint)}) for one in found)


def _send_clean(settings: NotifySettings, message: Message) -> Delivery:
    return send(settings, clean(message))


def _read(platform: str, case: Case) -> Incident:
    return read_incident(open_store(platforms.load(platform)), case.case_id)
