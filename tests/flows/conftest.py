"""Flows on Prefect's test server, with the engine replaced at its seam: here only order and failure paths matter."""

from collections.abc import Iterator

import pytest
from engine_double import Engine, a_platform
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tasks import (
    backup_steps,
    check_steps,
    evidence_steps,
    failure_steps,
    interlock_steps,
    notify_steps,
    platforms,
    retention_steps,
)
from tasks.retries import retry_when_transient


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: True}),
    ):
        yield


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Everything below the steps, replaced."""
    made = Engine()
    platform = a_platform()
    monkeypatch.setattr(platforms, "load_platform", lambda name: platform)
    for module in (backup_steps, evidence_steps, check_steps, failure_steps, interlock_steps, retention_steps):
        monkeypatch.setattr(module, "open_store", lambda platform: made.store)
    monkeypatch.setattr(interlock_steps, "hold_platform", made.hold)
    monkeypatch.setattr(backup_steps, "engine_require_ready", made.require_ready)
    monkeypatch.setattr(backup_steps, "create_backup", made.create)
    monkeypatch.setattr(backup_steps, "verify_backup", made.verify)
    monkeypatch.setattr(backup_steps, "hold_sets", made.hold_sets)
    monkeypatch.setattr(notify_steps, "ping_dead_mans_switch", made.ping)
    monkeypatch.setattr(notify_steps, "send", made.send)
    for step in (interlock_steps.take_turn, backup_steps.require_ready, backup_steps.write, backup_steps.prove):
        assert step.retry_condition_fn is retry_when_transient
        monkeypatch.setattr(step, "retry_delay_seconds", [0.0, 0.0])
    return made
