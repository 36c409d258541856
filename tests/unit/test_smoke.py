"""The application is asked over loopback: what counts as serving, what does not, and how long is waited for it."""

import socketserver
from contextlib import suppress
from threading import Event, Thread

import pytest
from answering import application

from deployments.running.ports import find_free_port
from keepwell.settings import RestoreSettings, SmokePath
from keepwell.smoke import ask_application, judge_answers, smoke_paths
from keepwell.verdict import Verdict


class Trickle(socketserver.BaseRequestHandler):
    """An answer without an end, each piece of it in time."""

    done: Event

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while not self.done.wait(0.02):
                self.request.sendall(b".")


PAGES = {"/health": (200, b'{"status":"ok"}'), "/events?page=1": (200, "Fête".encode()), "/gone": (410, b"")}


def pages(path: str) -> tuple[int, bytes]:
    return PAGES.get(path, (404, b""))


def test_each_page_is_asked_the_health_address_first() -> None:
    asked = RestoreSettings(
        base_url="http://127.0.0.1:1",
        smoke_paths=(SmokePath(path="/events?page=1", contains="Fête"), SmokePath(path="/gone", status=410)),
    )
    with application(pages) as url:
        answers = ask_application(url, smoke_paths(asked), wait_seconds=30)
    assert [(one.path, one.fault) for one in answers] == [("/health", ""), ("/events?page=1", ""), ("/gone", "")]
    assert {finding.verdict for finding in judge_answers(answers)} == {Verdict.OK}


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (SmokePath(path="/nowhere"), "answered 404 Not Found, not 200"),
        (SmokePath(path="/health", contains="degraded"), "answered without “degraded”"),
        (SmokePath(path="/moved"), "answered 302 Found, not 200"),
    ],
)
def test_a_wrong_answer_turns_red(path: SmokePath, fault: str) -> None:
    with application(lambda asked: (302, b"") if asked == "/moved" else pages(asked)) as url:
        answers = ask_application(url, [path], wait_seconds=0)
    (finding,) = judge_answers(answers)
    assert (answers[0].fault, finding.verdict) == (fault, Verdict.ALERT)
    assert fault in finding.message


def test_an_application_that_is_down_is_a_finding_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answers = ask_application(f"http://127.0.0.1:{find_free_port()}", [SmokePath(path="/health")], wait_seconds=0)
    assert answers[0].fault == "did not answer: ConnectError"


def test_one_that_never_answers_is_waited_for_only_so_long() -> None:
    asked = Event()
    with application(lambda path: (asked.wait(), pages(path))[1]) as url:
        answers = ask_application(url, [SmokePath(path="/health")], wait_seconds=0, answer_seconds=0.2)
        asked.set()
    assert answers[0].fault == "did not answer in time"


def test_an_answer_that_trickles_is_waited_for_only_so_long() -> None:
    done = Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as server:
        server.daemon_threads, Trickle.done = True, done
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        page = SmokePath(path="/health", contains="never")
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (answer,) = ask_application(url, [page], wait_seconds=0, answer_seconds=0.5)
        done.set()
        server.shutdown()
    assert answer.fault == "did not answer in time"


def test_an_application_that_finds_its_database_again_is_waited_for() -> None:
    asked = iter([503, 500])
    with application(lambda _: (next(asked, 200), b"")) as url:
        answers = ask_application(url, [SmokePath(path="/health")], wait_seconds=120)
    assert answers[0].fault == ""
    assert answers[0].seconds >= 1
