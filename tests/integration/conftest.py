"""Dumps of the sample platform, made once for all tests that read them; a test that damages one copies it first."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from dump_files import Dumps, dumped_sample
from real_servers import Server


@pytest.fixture(scope="session")
def dumps(
    servers: Callable[[int], Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Dumps]]:
    """Dumps by the server's major version, each set made when first asked for."""
    made: dict[int, Dumps] = {}
    with ExitStack() as stack:

        def of(major: int) -> Dumps:
            if major not in made:
                folder = tmp_path_factory.mktemp(f"dumps{major}")
                made[major] = stack.enter_context(dumped_sample(servers(major), folder))
            return made[major]

        yield of
