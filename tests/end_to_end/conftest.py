"""One whole stack for the end-to-end tests: the same that `make up` starts."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from people import People, listening_people
from runs import Api

from deployments.local.stack import StackOptions, plan_stack
from deployments.running.lifecycle import bring_up, take_down
from deployments.running.orchestrator import login_file
from deployments.running.state import StateFolder, write_private
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.settings import CONFIG_VARIABLE, Platform, load_platform
from keepwell.verdict import Verdict

LOGIN = "operator:marked-login/of the orchestrator"


@dataclass(frozen=True)
class Stack:
    """A running local stack.

    Attributes:
        state: Its folder.
        platform_file: What `KEEPWELL_CONFIG` names.
        api_url: Of the Prefect server.
        ui_url: Of its pages.
        login: What the Prefect server asks for.
        environment: To run the console and Prefect's client with.
    """

    state: Path
    platform_file: Path
    api_url: str
    ui_url: str
    login: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state = StateFolder.at(tmp_path_factory.mktemp("stack") / "state")
    state.prepare()
    write_private(login_file(state), LOGIN)
    try:
        report = bring_up(plan_stack(StackOptions(scale=0.05)), state)
        assert report.verdict is Verdict.OK, f"{report.hint}: {report.data}"
        yield Stack(
            state=state.folder,
            platform_file=state.platform_file,
            api_url=report.data["api_url"],
            ui_url=report.data["ui_url"],
            login=LOGIN,
            environment=os.environ
            | {
                CONFIG_VARIABLE: str(state.platform_file),
                "PREFECT_API_URL": report.data["api_url"],
                "PREFECT_API_AUTH_STRING": LOGIN,
            },
        )
    finally:
        take_down(plan_stack(), state, purge=True)


@pytest.fixture(scope="session")
def api(stack: Stack) -> Api:
    return Api(stack.api_url, stack.login)


@pytest.fixture
def platform(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The stack's platform, in this process."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(stack.platform_file))
    return load_platform("esn")


@pytest.fixture
def store(platform: Platform) -> Store:
    return open_store(platform)


@pytest.fixture
def people(stack: Stack, tmp_path: Path) -> Iterator[People]:
    """Those who are told, named by the platform file for this test."""
    with listening_people(stack.platform_file, tmp_path) as listening:
        yield listening
