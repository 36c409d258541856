import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from io import TextIOWrapper

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from tasks.lost_worker import outlive_worker


@pytest.fixture
def unread() -> Iterator[TextIOWrapper]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    yield stream
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_log_line_that_nobody_reads_ends_nothing(unread: TextIOWrapper) -> None:
    logger = logging.getLogger("keepwell-test.unread")
    handler = PrefectConsoleHandler(unread)
    logger.addHandler(handler)
    try:
        outlive_worker()
        logger.error("the first")
        logger.error("the second")
    finally:
        logger.removeHandler(handler)


def test_the_control_without_it_the_process_ends() -> None:
    """In a process of its own, since rich closes its standard output."""
    program = (
        "import logging, os\n"
        "from prefect.logging.handlers import PrefectConsoleHandler\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "logging.getLogger().addHandler(PrefectConsoleHandler(os.fdopen(writer, 'w')))\n"
        "logging.error('x')\n"
        "os._exit(7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode not in (0, 7), ended.stderr
