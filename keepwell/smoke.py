"""Asking the application whether it serves: its health address, then pages that need its database.

Nothing is sent but GET, without a login, and no redirect is followed: the question is what this address answers.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from keepwell.settings import RestoreSettings, SmokePath
from keepwell.verdict import Finding, Verdict

# At its usual level it writes each address that it asks, with its query.
logging.getLogger("httpx").setLevel(logging.WARNING)

_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 10.0
# Of an answer, as far as it is searched for a text: a page, not a download.
_LONGEST_ANSWER = 1_000_000
_HINT = "Look at the application's own log: has it found its database again, and is its migration that of the data?"


@dataclass(frozen=True)
class SmokeAnswer:
    """What came of one page.

    Attributes:
        path: That was asked for.
        fault: What is wrong with the answer, one sentence's end; empty when it is as it should be.
        seconds: From the first request to the last answer, waiting and further tries included.
    """

    path: str
    fault: str
    seconds: float


def smoke_paths(settings: RestoreSettings) -> tuple[SmokePath, ...]:
    """Every page that is asked for, the health address first."""
    return (SmokePath(path=settings.health_path), *settings.smoke_paths)


def ask_application(
    base_url: str, paths: Sequence[SmokePath], *, wait_seconds: float, answer_seconds: float = _ANSWER_SECONDS
) -> tuple[SmokeAnswer, ...]:
    """Ask for pages, again and again until each answers as it should, or the time is over.

    An application whose sessions were ended takes a moment to log in again, so one wrong answer says little.

    Args:
        base_url: Where the application answers, such as http://127.0.0.1:3000.
        paths: In this order.
        wait_seconds: For all of them together; each is asked once, however little is left.
        answer_seconds: How long one answer may take.

    Returns:
        One for each path; nothing is raised for an application that is down.
    """
    deadline = time.monotonic() + wait_seconds
    # Whatever proxy the environment names, the application is asked itself.
    with httpx.Client(timeout=answer_seconds, trust_env=False) as client:
        return tuple(_ask_until(client, base_url.rstrip("/"), path, deadline, answer_seconds) for path in paths)


def judge_answers(answers: Sequence[SmokeAnswer]) -> tuple[Finding, ...]:
    """One finding for each page: alert where its answer is wrong or missing."""
    return tuple(
        Finding(name=f"GET {one.path}", verdict=Verdict.ALERT, message=f"The application {one.fault}.", hint=_HINT)
        if one.fault
        else Finding(
            name=f"GET {one.path}", verdict=Verdict.OK, message=f"Answered as it should, after {one.seconds:.1f} s."
        )
        for one in answers
    )


def _ask_until(
    client: httpx.Client, base_url: str, path: SmokePath, deadline: float, answer_seconds: float
) -> SmokeAnswer:
    started = time.monotonic()
    while fault := _ask(client, base_url + path.path, path, answer_seconds):
        if time.monotonic() + _POLL_SECONDS >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    return SmokeAnswer(path.path, fault, time.monotonic() - started)


def _ask(client: httpx.Client, url: str, path: SmokePath, answer_seconds: float) -> str:
    """What is wrong with one answer; its text goes nowhere, since it may hold anything."""
    deadline = time.monotonic() + answer_seconds
    try:
        with client.stream("GET", url) as answer:
            if answer.status_code != path.status:
                return f"answered {_named(answer.status_code)}, not {path.status}"
            is_right = not path.contains or _holds(answer, path.contains, deadline)
            return "" if is_right else f"answered without “{path.contains}”"
    except httpx.TimeoutException:
        return "did not answer in time"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"did not answer: {type(error).__name__}"


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _holds(answer: httpx.Response, text: str, deadline: float) -> bool:
    held = bytearray()
    for piece in answer.iter_bytes():
        held += piece
        if time.monotonic() >= deadline:  # the client's own limit is for each piece of it
            raise httpx.ReadTimeout("the answer trickles")
        if len(held) >= _LONGEST_ANSWER:
            break
    return text in held[:_LONGEST_ANSWER].decode(answer.encoding or "utf-8", errors="replace")
