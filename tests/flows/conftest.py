"""Flows on a Prefect server, with the engine replaced at its seam: here only order and failure paths matter.

The server keeps its data in PostgreSQL, as everywhere: on the SQLite of Prefect's own test harness, it locks itself up
for a minute every now and then.
"""

import sys
from collections.abc import Iterator

import pytest
from engine_double import Engine
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from real_servers import running_postgres

from deployments.running.orchestrator import api_url
from deployments.running.parts import Part
from deployments.running.ports import HOST, find_free_port
from deployments.running.probes import answers_http
from deployments.running.standalone import start_server
from keepwell.command import Command
from tasks import (
    backup_steps,
    check_steps,
    evidence_steps,
    failure_steps,
    interlock_steps,
    notify_steps,
    platforms,
    retention_steps,
    second_steps,
)
from tasks.retries import retry_when_transient


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder, port = tmp_path_factory.mktemp("prefect"), find_free_port()
    with running_postgres(17, folder) as database:
        environment = {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_DATABASE_CONNECTION_URL": database.url("postgres").replace("://", "+asyncpg://", 1),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        argv = (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port))
        part = Part("prefect-server", lambda: Command(argv, environment), answers_http(port, "/api/health"))
        server = start_server(part, folder)
        settings = {
            PREFECT_API_URL: api_url(port),
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_LOGGING_TO_API_ENABLED: True,
        }
        try:
            with temporary_settings(settings):
                yield
                # What is still to be sent would be tried again and again once the server is gone.
                APILogWorker.instance().drain()
                EventsWorker.drain_all()
        finally:
            server.stop()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Everything below the steps, replaced."""
    made = Engine()
    monkeypatch.setattr(platforms, "load_platform", lambda name: made.platform)
    for module in (backup_steps, evidence_steps, check_steps, failure_steps, notify_steps):
        monkeypatch.setattr(module, "open_store", lambda platform: made.store)
    for module in (backup_steps, evidence_steps, check_steps, interlock_steps, retention_steps, second_steps):
        monkeypatch.setattr(module, "open_destination", lambda platform, destination: made.stores[destination])
    monkeypatch.setattr(second_steps, "carry_set", made.carry)
    monkeypatch.setattr(second_steps, "hold_carrying", made.hold_carrying)
    monkeypatch.setattr(interlock_steps, "hold_platform", made.hold)
    monkeypatch.setattr(backup_steps, "engine_require_ready", made.require_ready)
    monkeypatch.setattr(backup_steps, "create_backup", made.create)
    monkeypatch.setattr(backup_steps, "verify_backup", made.verify)
    monkeypatch.setattr(backup_steps, "hold_sets", made.hold_sets)
    monkeypatch.setattr(notify_steps, "ping_dead_mans_switch", made.ping)
    monkeypatch.setattr(notify_steps, "send", made.send)
    steps = (interlock_steps.take_turn, backup_steps.require_ready, backup_steps.write, backup_steps.prove)
    for step in (*steps, second_steps.plan_copies, second_steps.carry):
        assert step.retry_condition_fn is retry_when_transient
        monkeypatch.setattr(step, "retry_delay_seconds", [0.0, 0.0])
    return made
