import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_prefect import FakePrefect, fake_prefect
from typer.testing import CliRunner

from keepwell.cli import console
from keepwell.cli.main import app

RUN, OTHER = "8b0c1c2e-0000-4000-8000-000000000001", "8b0c1c2e-0000-4000-8000-000000000002"
DIGEST = "0123456789ab"
FORM = {
    "page": "# Restore of esn\n\nSeven sessions are ended.",
    "text": "20261129T020000Z-abcdef takes the place of esn_db.",
    "fields": {
        "plan": {"examples": [DIGEST]},
        "approver": {},
        "reason": {},
        "typed": {"examples": ["esn_db"]},
    },
}
ALL = ("--approve", DIGEST, "--approver", "Ada", "--reason", "rows are gone", "--typed", "esn_db")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePrefect]:
    monkeypatch.chdir(tmp_path)
    with fake_prefect() as fake:
        fake.suspended = {RUN: FORM}
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        yield fake


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_interactive", lambda: True)


def run(*words: str, typed: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, words, input=typed)
    return result.exit_code, result.stdout, result.stderr


def test_without_a_run_it_lists_what_waits(server: FakePrefect) -> None:
    code, printed, _ = run("approve")
    assert code == 0
    assert RUN in printed
    assert "2026-11-24 14:00" in printed
    (waiting,) = json.loads(run("approve", "--json")[1])["data"]["waiting"]
    assert (waiting["id"], waiting["plan"], waiting["typed"]) == (RUN, DIGEST, "esn_db")


def test_where_nothing_waits_it_says_so(server: FakePrefect) -> None:
    server.suspended = {}
    assert run("approve")[:2] == (0, "Nothing waits.\n")


def test_what_others_suspended_for_something_else_is_none_of_ours(server: FakePrefect) -> None:
    server.suspended = {RUN: {"page": "", "text": "", "fields": {"name": {}}}}
    assert run("approve")[1] == "Nothing waits.\n"


@pytest.mark.parametrize("called", [RUN, RUN[:8], RUN.upper(), "restore/esn"])
def test_without_a_terminal_everything_is_given(server: FakePrefect, called: str) -> None:
    code, printed, told = run("approve", called, *ALL, "--json")
    assert code == 0
    assert "Seven sessions are ended." in told
    assert "takes the place of esn_db" in told
    data = json.loads(printed)["data"]
    assert (data["id"], data["state"], data["plan"]) == (RUN, "Resuming", DIGEST)
    wanted = {
        "plan": DIGEST, "approver": "Ada", "reason": "rows are gone", "typed": "esn_db"
    }  # fmt: skip
    assert server.answers == [(RUN, wanted)]


@pytest.mark.parametrize("missing", ["--approve", "--approver", "--reason", "--typed"])
def test_without_a_terminal_nothing_may_be_missing(server: FakePrefect, missing: str) -> None:
    place = ALL.index(missing)
    code, _, told = run("approve", RUN, *ALL[:place], *ALL[place + 2 :])
    assert code == 1
    assert f"--approve {DIGEST} --approver NAME --reason TEXT --typed esn_db" in told
    assert server.answers == []


def test_at_a_terminal_it_shows_the_plan_then_asks_who_and_why_and_for_the_word(
    server: FakePrefect, terminal: None
) -> None:
    code, _, told = run("approve", RUN, typed="Ada\nrows are gone\nesn_db\n")
    assert code == 0
    assert told.index("takes the place of esn_db") < told.index("Your name") < told.index("Type esn_db")
    assert [said["approver"] for _, said in server.answers] == ["Ada"]


@pytest.mark.parametrize("word", ["yes", "esn", "ESN_DB"])
def test_another_word_changes_nothing(server: FakePrefect, terminal: None, word: str) -> None:
    code, _, told = run("approve", RUN, typed=f"Ada\nwhy\n{word}\n")
    assert code == 1
    assert "What was typed is not esn_db. Nothing was changed." in told
    assert server.answers == []


def test_another_plan_changes_nothing(server: FakePrefect) -> None:
    code, _, told = run("approve", RUN, "--approve", "ba9876543210", *ALL[2:])
    assert code == 1
    assert f"The plan is {DIGEST}, not ba9876543210" in told
    assert server.answers == []


def test_at_a_terminal_the_word_as_an_option_needs_the_plan_as_well(server: FakePrefect, terminal: None) -> None:
    code, _, told = run("approve", RUN, *ALL[2:])
    assert (code, server.answers) == (1, [])
    assert f"--approve {DIGEST}" in told
    assert run("approve", RUN, *ALL)[0] == 0


def test_a_refused_answer_comes_with_success_and_is_noticed(server: FakePrefect) -> None:
    server.refusal = "Reason: Validation failed for field 'typed'."
    code, _, told = run("approve", RUN, *ALL)
    assert code == 1
    assert "did not take the answer: Reason: Validation failed for field 'typed'. The run restore/esn is" in told
    assert "Suspended" in told


def test_a_rejection_needs_who_and_why_and_no_word(server: FakePrefect) -> None:
    code, _, told = run("reject", RUN, "--approver", "Ada")
    assert (code, server.answers) == (1, [])
    assert "--approver NAME --reason TEXT" in told
    code, printed, _ = run("reject", RUN, "--approver", "Ada", "--reason", "wrong platform")
    assert code == 0
    assert "Rejected by Ada" in printed
    said: dict[str, Any] = server.answers[0][1]
    assert (said["reason"], said["plan"], said["typed"]) == ("wrong platform", DIGEST, "REJECT")


def test_a_run_that_does_not_wait_is_told_with_how_it_stands(server: FakePrefect) -> None:
    server.states = ["COMPLETED"]
    code, _, told = run("approve", "00000000-0000-4000-8000-000000000000", *ALL)
    assert code == 1
    assert "waits for an approval: it is Completed." in told
    assert f"These wait: {RUN} (restore/esn)." in told


def test_several_of_one_name_are_asked_for_by_id(server: FakePrefect) -> None:
    server.suspended[OTHER] = FORM
    code, _, told = run("approve", "restore/esn", *ALL)
    assert (code, server.answers) == (1, [])
    assert RUN in told
    assert OTHER in told
    assert run("approve", OTHER, *ALL)[0] == 0


def test_a_form_of_another_release_is_left_to_its_page(server: FakePrefect) -> None:
    server.suspended[RUN] = {"page": "", "text": "", "fields": FORM["fields"] | {"plan": {}}}
    code, _, told = run("approve")
    assert code == 1
    assert "was not understood" in told
    assert f"/runs/flow-run/{RUN}" in told


def test_without_a_server_the_way_that_needs_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("KEEPWELL_STATE_DIRECTORY", str(tmp_path / "none"))
    (tmp_path / "keepwell.toml").write_text('name = "esn"\n[database]\nname = "d"\nuser = "u"\n[bucket]\nname = "b"\n')
    code, _, told = run("approve")
    assert code == 1
    assert "No Prefect server is configured" in told
