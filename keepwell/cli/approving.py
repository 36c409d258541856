"""How a person approves at the console: who, why, and a word that is typed, or all of it as options.

How a command uses it:

    def apply(..., approve: Approve = None, approver: Approver = None, reason: Reason = None, typed: Typed = None):
        ...show the plan on console.stderr()...
        approval = obtain_approval(planned.subject, Given(approve, approver, reason, typed))
"""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.errors import PreconditionFailed

if TYPE_CHECKING:
    from keepwell.approval import Approval, Subject

Approve = Annotated[
    str | None, typer.Option("--approve", metavar="PLAN", help="The plan that was shown, where nobody can be asked.")
]
Approver = Annotated[
    str | None, typer.Option("--approver", metavar="NAME", help="Who approves; recorded as self-declared.")
]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the evidence.")]
Typed = Annotated[
    str | None, typer.Option("--typed", metavar="NAME", help="The live database's name, where nobody can be asked.")
]


@dataclass(frozen=True)
class Given:
    """What the options say of an approval; None is asked for where there is a terminal.

    Attributes:
        approve: Digest of the plan.
        approver: Who.
        reason: Why.
        typed: The word.
    """

    approve: str | None = None
    approver: str | None = None
    reason: str | None = None
    typed: str | None = None


@dataclass(frozen=True)
class Said:
    """What a person said, whole.

    Attributes:
        approver: Who.
        reason: Why.
        typed: The word, as the plan wants it.
        was_asked: Whether any of it was typed at a terminal just now.
    """

    approver: str
    reason: str
    typed: str
    was_asked: bool


def obtain_approval(subject: "Subject", given: Given) -> "Approval":
    """An approval of a plan that was just shown, from the options or by asking.

    Raises:
        PreconditionFailed: It is for another plan, another word was typed, it is malformed, or nobody can be asked.
    """
    from keepwell.approval import Place, build_approval, require_approval

    said = ask(subject.digest, subject.typed, given)
    approval = build_approval(
        approver=said.approver,
        reason=said.reason,
        typed=said.typed,
        digest=subject.digest,
        approved_at=datetime.now(UTC),
        given_at=Place.TERMINAL if said.was_asked else Place.COMMAND_LINE,
    )
    return require_approval(subject, approval)


def ask(digest: str, word: str, given: Given) -> Said:
    """Who approves a plan and why, with the word typed.

    Args:
        digest: Of the plan that was just shown.
        word: What has to be typed.
        given: By options.

    Raises:
        PreconditionFailed: It is for another plan, another word was typed, or something is missing and nobody can be
            asked.
    """
    if given.approve is not None and given.approve != digest:
        raise PreconditionFailed(
            f"The plan is {digest}, not {given.approve}. Nothing was changed.",
            hint=f"Look at it, then --approve {digest}.",
        )
    can_ask = console.is_interactive()
    if not can_ask and None in (given.approve, given.approver, given.reason, given.typed):
        raise PreconditionFailed(
            "This needs an approval, and there is no terminal to ask on.",
            hint=f"Pass --approve {digest} --approver NAME --reason TEXT --typed {word}.",
        )
    if given.typed is not None and given.approve is None:
        raise PreconditionFailed(
            "--typed says yes to a plan that it does not name. Nothing was changed.",
            hint=f"Look at it, then --approve {digest}; or leave --typed out, and be asked.",
        )
    approver, reason = ask_who_and_why(given)
    typed = given.typed if given.typed is not None else typer.prompt(f"Type {word} to approve", err=True)
    if typed.strip() != word:
        raise PreconditionFailed(f"What was typed is not {word}. Nothing was changed.", hint="Nothing else is a yes.")
    return Said(approver, reason, word, was_asked=None in (given.approver, given.reason, given.typed))


def ask_who_and_why(given: Given) -> tuple[str, str]:
    """Name and reason, which are asked for where the options lack them.

    Raises:
        PreconditionFailed: One is missing, and nobody can be asked.
    """
    if not console.is_interactive() and None in (given.approver, given.reason):
        raise PreconditionFailed(
            "Who decides, and why? There is no terminal to ask on.", hint="Pass --approver NAME --reason TEXT."
        )
    approver = given.approver if given.approver is not None else _prompt("Your name", default=getpass.getuser())
    return approver, given.reason if given.reason is not None else _prompt("The reason")


def _prompt(question: str, default: str | None = None) -> str:
    return str(typer.prompt(question, default=default, err=True))
