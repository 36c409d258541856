import logging
import time
from uuid import UUID

import pytest
from engine_double import SECRET, URL_TOKEN, Engine, a_platform, failing
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State

from flows.backup_and_verify import backup_and_verify
from keepwell.errors import CommandFailed, KeepwellError, PartialFailure, ServiceUnavailable
from tasks import redaction
from tasks.redaction import HIDDEN, collect_secrets, redact, scrub

MARKER = "control-marker-that-must-be-found"
FORMS = [SECRET, "marked-secret%2Fof%20the%20database%257", "marked-pass", URL_TOKEN, "s3-marked-key", "AKIDMARKED"]


def logs_of(flow_run_id: UUID, until: str) -> str:
    """Everything the API keeps of a run's log; loggers send in batches."""
    deadline = time.monotonic() + 20
    while True:
        with get_client(sync_client=True) as client:
            wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
            text = "\n".join(log.message for log in client.read_logs(wanted, limit=200))
        if until in text or time.monotonic() > deadline:
            return text
        time.sleep(0.3)


def run_with(engine: Engine, error: Exception) -> State:
    engine.write = failing(error, then=lambda: None)
    return backup_and_verify("esn", return_state=True)


@pytest.mark.parametrize("secret", FORMS)
def test_nothing_of_a_secret_reaches_the_orchestrator(engine: Engine, secret: str) -> None:
    try:
        raise OSError(f"could not log in with {secret}")
    except OSError as cause:
        error = ServiceUnavailable(f"{MARKER}: refused {secret}", hint=f"not {secret}")
        error.__cause__ = cause
    engine.write = failing(error, error, error, then=lambda: None)
    state = backup_and_verify("esn", return_state=True)
    assert state.is_failed()
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    logs = logs_of(flow_run_id, "Finished in state Failed")
    with get_client(sync_client=True) as client:
        body = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}}
        tasks = client.request("POST", "/task_runs/filter", json=body).text
        run = client.request("GET", f"/flow_runs/{flow_run_id}").text
    for place, text in {"logs": logs, "tasks": tasks, "run": run, "state": str(state)}.items():
        assert secret not in text, place
        assert MARKER in text, place
    assert "Traceback" in logs
    assert HIDDEN in logs


def test_an_error_that_cannot_be_cleaned_is_replaced(engine: Engine) -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"{MARKER} {SECRET}"

    state = run_with(engine, Stubborn())
    assert MARKER in (state.message or "")
    assert SECRET not in (state.message or "")


def test_the_control_without_the_filter_the_secret_would_be_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_pattern", None)
    monkeypatch.setattr(redaction, "hide", lambda platform: None)
    state = run_with(engine, KeepwellError(f"refused {SECRET}"))
    assert SECRET in (state.message or "")
    assert state.state_details.flow_run_id is not None
    assert SECRET in logs_of(state.state_details.flow_run_id, "Finished in state Failed")


class TestAlone:
    """Without a run."""

    @pytest.fixture(autouse=True)
    def known(self) -> None:
        redaction.hide(a_platform())

    @pytest.mark.parametrize("secret", FORMS)
    def test_every_form_is_known(self, secret: str) -> None:
        assert redact(f"a {secret} b") == f"a {HIDDEN} b"

    @pytest.mark.parametrize(
        "variable",
        ["PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
    )
    def test_what_clients_take_from_the_environment_is_known(
        self, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, f"marked:of {variable}/x")
        redaction.hide(a_platform())
        assert redact(f"a marked:of {variable}/x b, marked%3Aof%20{variable}%2Fx") == f"a {HIDDEN} b, {HIDDEN}"

    def test_words_are_left_alone(self) -> None:
        text = "the database esn_db of platform esn at chat.example"
        assert redact(text) == text

    def test_short_values_are_not_taken_for_secrets(self) -> None:
        assert all(len(form) >= 6 for form in collect_secrets(a_platform()))

    def test_errors_stay_what_they_are(self) -> None:
        error = CommandFailed(f"pg_dump: {SECRET}", exit_code=3, hint=f"{SECRET}!")
        assert scrub(error) is error
        assert (error.message, error.hint, error.exit_code) == (f"pg_dump: {HIDDEN}", f"{HIDDEN}!", 3)

    def test_what_an_error_carries_is_cleaned(self) -> None:
        error = PartialFailure("x", outcomes={"a": SECRET})
        scrub(error)
        assert error.outcomes == {"a": HIDDEN}

    def test_causes_are_cleaned(self) -> None:
        error = ServiceUnavailable("x")
        error.__cause__ = ValueError(SECRET)
        assert scrub(error) is error
        assert str(error.__cause__) == HIDDEN

    def test_log_arguments_and_tracebacks(self) -> None:
        handler = logging.StreamHandler()
        handler.addFilter(redaction.RedactingFilter())
        try:
            raise ValueError(SECRET)
        except ValueError:
            import sys

            record = logging.LogRecord("x", logging.ERROR, "f", 1, "a %s", (SECRET,), sys.exc_info())
        assert handler.filter(record)
        text = handler.format(record)
        assert SECRET not in text
        assert "Traceback" in text
        assert f"a {HIDDEN}" in text

    def test_a_faulty_log_call_stops_nothing(self) -> None:
        record = logging.LogRecord("x", logging.INFO, "f", 1, "a %d", ("no number",), None)
        assert redaction.RedactingFilter().filter(record)
