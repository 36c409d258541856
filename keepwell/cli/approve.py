"""`keepwell approve` and `keepwell reject`: answer a run that waits for an approval, as its page's own dialog does."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.approving import Approve, Approver, Given, Reason, Typed, ask, ask_who_and_why
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError, PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.orchestrator import FlowRun, Orchestrator, Question

Run = Annotated[str, typer.Argument(help="Its id, or the beginning of it, or its name.", metavar="RUN")]
_SHORTEST_ID = 4


@console.command("approve")
def approve(
    run: Annotated[
        str | None, typer.Argument(help="As for `reject`; without one, all that waits is listed.", metavar="RUN")
    ] = None,
    *,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Approve what a suspended run plans, once it was shown; without RUN, list what waits."""
    from keepwell.orchestrator import answer_question, read_questions

    with _connected(platform) as client:
        if run is None:
            return _list(client, read_questions(client))
        question = choose_question(client, run)
        show_question(console.stderr(), client, question)
        said = ask(question.plan, question.word, Given(approve, approver, reason, typed))
        now = answer_question(
            client, question, approve=True, approver=said.approver, reason=said.reason, typed=said.typed
        )
        return _describe(client, question, now, f"Approved by {said.approver}: the run goes on.")


@console.command("reject")
def reject(
    run: Run, *, approver: Approver = None, reason: Reason = None, platform: console.PlatformName = None
) -> Outcome:
    """Say no to what a suspended run plans: it ends, and nothing is changed."""
    from keepwell.orchestrator import answer_question

    with _connected(platform) as client:
        question = choose_question(client, run)
        show_question(console.stderr(), client, question)
        who, why = ask_who_and_why(Given(approver=approver, reason=reason))
        now = answer_question(client, question, approve=False, approver=who, reason=why, typed="")
        return _describe(client, question, now, f"Rejected by {who}: the run ends, and changes nothing.")


@contextmanager
def _connected(platform: str | None) -> "Iterator[Orchestrator]":
    from keepwell import orchestrator
    from keepwell.cli.run_flow import load_settings

    settings = load_settings(platform)
    client = orchestrator.connect(settings.orchestrator if settings else None)
    if client is None:
        raise ConfigurationError(
            "No Prefect server is configured, so no run waits for an approval here.",
            hint="orchestrator.api_url or PREFECT_API_URL names one; `keepwell serve` runs one here.",
        )
    with client:
        yield client


def choose_question(client: "Orchestrator", wanted: str) -> "Question":
    """The question of the run that somebody means.

    Raises:
        PreconditionFailed: No such run waits, or several do; the hint lists what does.
    """
    from keepwell.orchestrator import read_questions

    questions = read_questions(client)
    found = [one for one in questions if _is_meant(one.run, wanted)]
    if len(found) == 1:
        return found[0]
    waiting = "; ".join(f"{one.run.id} ({one.run.name})" for one in found or questions)
    hint = f"These wait: {waiting}." if waiting else "No run waits for an approval."
    if found:
        raise PreconditionFailed(f"{len(found)} runs that wait are called {wanted}.", hint=hint)
    raise PreconditionFailed(f"No run {wanted} waits for an approval{_how_it_stands(client, wanted)}.", hint=hint)


def _is_meant(run: "FlowRun", wanted: str) -> bool:
    return run.name == wanted or (len(wanted) >= _SHORTEST_ID and run.id.startswith(wanted.lower()))


def _how_it_stands(client: "Orchestrator", wanted: str) -> str:
    """Of a run that does not wait, as somebody else may have answered it; nothing where there is no such run."""
    from uuid import UUID

    from keepwell.errors import KeepwellError

    try:
        return f": it is {client.read_run(str(UUID(wanted))).state_name}"
    except (ValueError, KeepwellError):
        return ""


def show_question(screen: "Console", client: "Orchestrator", question: "Question") -> None:
    """The plan as its page shows it, and until when it waits."""
    from rich.markdown import Markdown

    for text in filter(None, (question.page, question.text)):
        screen.print(Markdown(text))
    console.print_plain(screen, f"Run {question.run.name}: {client.address(question.run)}")
    if question.until is not None:
        console.print_plain(
            screen, f"It waits until {question.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC, then ends as failed."
        )


def _list(client: "Orchestrator", questions: "Sequence[Question]") -> Outcome:
    from keepwell.verdict import Verdict

    def show(screen: "Console") -> None:
        from rich.text import Text

        table = console.table("run", "name", "plan", "waits until (UTC)")
        for one in questions:
            until = f"{one.until.astimezone(UTC):%Y-%m-%d %H:%M}" if one.until else ""
            table.add_row(one.run.id, Text(one.run.name), one.plan, until)
        if questions:
            screen.print(table)

    hint = "Look at one and decide: keepwell approve RUN, or keepwell reject RUN" if questions else "Nothing waits."
    data = {"waiting": [_facts(client, one) for one in questions]}
    return Outcome(Verdict.OK, data=data, hint=hint, show=show)


def _facts(client: "Orchestrator", question: "Question") -> dict[str, Any]:
    return {
        "id": question.run.id,
        "name": question.run.name,
        "plan": question.plan,
        "typed": question.word,
        "until": question.until,
        "text": question.text,
        "address": client.address(question.run),
    }


def _describe(client: "Orchestrator", question: "Question", now: "FlowRun", hint: str) -> Outcome:
    from keepwell.verdict import Verdict

    data = {
        "id": now.id,
        "name": now.name,
        "plan": question.plan,
        "state": now.state_name,
        "address": client.address(now),
    }
    return Outcome(Verdict.OK, data=data, hint=f"{hint} Follow it: {client.address(now)}")
