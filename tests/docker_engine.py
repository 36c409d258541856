"""An engine for the tests in containers, with a PostgreSQL image whose environment they can recognize."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from deployments.local import engine as local_engine
from deployments.local.engine import RunningEngine, missing_for_an_engine
from deployments.local.images import build_image, postgres_recipe
from keepwell.containers.engine import ADDRESS_VARIABLE
from keepwell.postgres.binaries import Binaries

IMAGE = "keepwell-tests/postgres:of-this-machine"


@contextmanager
def running_engine() -> Iterator[RunningEngine]:
    """An engine that the code under test finds too, for the length of a block; where none can be started, it fails."""
    if missing := missing_for_an_engine():
        pytest.fail(f"No Docker Engine can be started here; missing: {', '.join(missing)}.")
    with local_engine.running_engine() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADDRESS_VARIABLE, running.address)
        yield running


def import_postgres(engine: RunningEngine, binaries: Binaries) -> str:
    """Give an engine the image, and tell its id."""
    recipe = postgres_recipe(binaries, IMAGE)
    return build_image(engine.client, replace(recipe, instructions=(*recipe.instructions, "ENV OF_THE_IMAGE=told")))
