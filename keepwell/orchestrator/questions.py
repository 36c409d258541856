"""Runs that wait for an approval: what each asks, and answering it with a look at what became of the answer.

The form is made by `tasks/approval_steps.py`; the server itself refuses an answer that does not fit it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keepwell.errors import KeepwellError
from keepwell.orchestrator.client import FlowRun, Orchestrator

# How the key of a plan's page ends.
_PLAN_PAGE = "-plan"
_FIELDS = {"approver", "reason", "plan", "typed"}
# What is typed in place of the word to say no.
REJECTION = "REJECT"


@dataclass(frozen=True)
class Question:
    """What a run waits for.

    Attributes:
        run: The run.
        plan: The digest that an approval names.
        word: What the approver has to type.
        text: The plan in a sentence, as Markdown.
        page: The whole plan, as Markdown; empty where the run shows none.
        until: When the run ends as failed if nobody answers; None where the server does not say.
    """

    run: FlowRun
    plan: str
    word: str
    text: str
    page: str
    until: datetime | None


def read_questions(client: Orchestrator) -> list[Question]:
    """Every run that waits for an approval, the oldest first; runs that others suspended for something else are none.

    Raises:
        KeepwellError: The server cannot be asked.
    """
    return [question for run in client.read_suspended_runs() for question in _read_question(client, run)]


def answer_question(
    client: Orchestrator, question: Question, *, approve: bool, approver: str, reason: str, typed: str
) -> FlowRun:
    """Approve or reject; the run goes on, or ends, in a process of its own.

    Args:
        client: The server.
        question: From `read_questions`.
        approve: No rejects.
        approver: Who, self-declared.
        reason: Why.
        typed: The word; anything for a rejection.

    Returns:
        The run as it stands now.

    Raises:
        PreconditionFailed: The server refused the answer; the run waits still, or somebody else has answered it.
    """
    answer = {
        "approver": approver,
        "reason": reason,
        "plan": question.plan,
        "typed": typed if approve else REJECTION,
    }
    return client.resume_run(question.run, answer)


def _read_question(client: Orchestrator, run: FlowRun) -> Iterator[Question]:
    keys = run.state_details.get("run_input_keyset") or {}
    if "schema" not in keys:
        return
    fields: dict[str, Any] = client.read_input(run, keys["schema"]).get("properties", {})
    if not set(fields) >= _FIELDS:
        return
    try:
        plan, word = str(fields["plan"]["examples"][0]), str(fields["typed"]["examples"][0])
    except (KeyError, IndexError) as error:
        raise KeepwellError(
            f"What the run {run.name} asks was not understood: {error}.",
            hint=f"It was started by another release; answer it on its page: {client.address(run)}",
        ) from None
    pages = client.read_pages(run.id)
    until = run.state_details.get("pause_timeout")
    yield Question(
        run=run,
        plan=plan,
        word=word,
        text=str(client.read_input(run, keys["description"])),
        page=next((page for key, page in pages.items() if key.endswith(_PLAN_PAGE)), ""),
        until=datetime.fromisoformat(until) if until else None,
    )
