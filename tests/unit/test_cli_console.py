import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner, Result

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import (
    Busy,
    CommandFailed,
    ConfigurationError,
    KeepwellError,
    PartialFailure,
    ServiceUnavailable,
    Throttled,
)
from keepwell.verdict import Finding, Verdict


def _invoke(function: Callable[[], Outcome], *words: str) -> Result:
    app = console.group("Try.")

    @app.callback()
    def root() -> None:
        """Try."""

    @app.command("try")
    @console.command("deep.try")
    def attempt(number: int = 0, platform: console.PlatformName = None) -> Outcome:
        """Try it."""
        del number, platform
        return function()

    return CliRunner().invoke(app, ["try", *words])


def _fail(error: BaseException) -> Callable[[], Outcome]:
    def function() -> Outcome:
        raise error

    return function


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("ok", 0), ("warn", 0), ("not_applicable", 0), ("alert", 1), ("unknown", 2)],
)
def test_the_verdict_decides_the_exit_code(verdict: str, code: int) -> None:
    for words in ((), ("--json",)):
        assert _invoke(lambda: Outcome(Verdict(verdict)), *words).exit_code == code


def test_json_is_one_envelope_on_stdout() -> None:
    class Model(BaseModel):
        at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
        path: Path = Path("/x")
        secret: SecretStr = SecretStr("hush")

    findings = [Finding(name="n", verdict=Verdict.WARN, message="ü")]

    def function() -> Outcome:
        console.say("progress")
        return Outcome(Verdict.WARN, data={"model": Model(), "findings": findings}, hint="next", show=lambda _: 1 / 0)

    result = _invoke(function, "--json")
    envelope = json.loads(result.stdout)
    assert list(envelope) == ["schema", "verdict", "data", "hint"]
    assert (envelope["schema"], envelope["verdict"], envelope["hint"]) == ("keepwell.deep.try/1", "warn", "next")
    assert envelope["data"]["model"]["at"] == "2026-01-02T00:00:00Z"
    assert "hush" not in result.stdout
    assert "ü" in result.stdout
    assert "progress" in result.stderr


def test_text_shows_the_result_and_then_the_hint() -> None:
    result = _invoke(lambda: Outcome(Verdict.OK, hint="[do] this", show=lambda screen: screen.print("result")))
    assert result.stdout == "result\n[do] this\n"


@pytest.mark.parametrize(
    ("error", "code", "verdict"),
    [
        (KeepwellError("It [broke].", hint="Mend it."), 1, "alert"),
        (ConfigurationError("It [broke].", hint="Mend it."), 1, "alert"),
        (Busy("It [broke].", hint="Mend it."), 1, "alert"),
        (ServiceUnavailable("It [broke].", hint="Mend it."), 2, "unknown"),
        (Throttled("It [broke].", hint="Mend it."), 2, "unknown"),
    ],
)
def test_an_error_is_two_lines_or_an_envelope(error: KeepwellError, code: int, verdict: str) -> None:
    result = _invoke(_fail(error))
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "keepwell: It [broke].\n   hint: Mend it.\n"
    result = _invoke(_fail(error), "--json")
    envelope = json.loads(result.stdout)
    assert (result.exit_code, envelope["verdict"], envelope["hint"]) == (code, verdict, "Mend it.")
    assert envelope["data"]["message"] == "It [broke]."
    assert result.stderr == ""


def test_details_of_an_error_are_in_the_envelope() -> None:
    failed = json.loads(_invoke(_fail(CommandFailed("m", exit_code=7)), "--json").stdout)
    assert failed["data"] == {"error": "CommandFailed", "message": "m", "exit_code": 7}
    partial = json.loads(_invoke(_fail(PartialFailure("m", outcomes={"a": "b"})), "--json").stdout)
    assert partial["data"]["outcomes"] == {"a": "b"}


def test_a_fault_of_ours_shows_its_traceback_only_when_asked() -> None:
    result = _invoke(_fail(ValueError("oops")))
    assert result.exit_code == 2
    assert "ValueError: oops" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in _invoke(_fail(ValueError("oops")), "--debug").stderr
    assert json.loads(_invoke(_fail(ValueError("oops")), "--json").stdout)["verdict"] == "unknown"


def test_an_interrupt_is_no_fault() -> None:
    result = _invoke(_fail(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_an_exit_code_chosen_by_the_command_stands() -> None:
    assert _invoke(_fail(typer.Exit(5))).exit_code == 5


def test_asking_without_a_terminal_is_refused_with_the_way_out() -> None:
    def ask() -> Outcome:
        console.confirm("Sure?", without_terminal="Pass --approve x.")
        return Outcome(Verdict.OK)

    result = _invoke(ask)
    assert result.exit_code == 1
    assert "Pass --approve x." in result.stderr


def test_findings_of_others_are_no_markup() -> None:
    finding = Finding(name="[red]n", verdict=Verdict.UNKNOWN, message="[/] m", hint="[x]")
    result = _invoke(lambda: Outcome(Verdict.OK, show=lambda screen: screen.print(console.findings_table([finding]))))
    for word in ("unknown", "[red]n", "[/] m", "→ [x]"):
        assert word in result.stdout
