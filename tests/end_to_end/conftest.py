"""One whole stack for the end-to-end tests: the same that `make up` starts."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.local.lifecycle import bring_up, take_down
from deployments.local.stack import StackOptions
from deployments.local.state import StateFolder
from keepwell.settings import CONFIG_VARIABLE
from keepwell.verdict import Verdict


@dataclass(frozen=True)
class Stack:
    """A running local stack.

    Attributes:
        state: Its folder.
        platform_file: What `KEEPWELL_CONFIG` names.
        api_url: Of the Prefect server.
        ui_url: Of its pages.
        environment: To run the console and Prefect's client with.
    """

    state: Path
    platform_file: Path
    api_url: str
    ui_url: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    state = StateFolder.at(tmp_path_factory.mktemp("stack") / "state")
    try:
        report = bring_up(state, StackOptions(scale=0.05))
        assert report.verdict is Verdict.OK, f"{report.hint}: {report.data}"
        yield Stack(
            state=state.folder,
            platform_file=state.platform_file,
            api_url=report.data["api_url"],
            ui_url=report.data["ui_url"],
            environment=os.environ
            | {CONFIG_VARIABLE: str(state.platform_file), "PREFECT_API_URL": report.data["api_url"]},
        )
    finally:
        take_down(state, purge=True)
