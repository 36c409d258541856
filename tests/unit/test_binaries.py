from pathlib import Path

import pytest

from keepwell.errors import ConfigurationError
from keepwell.postgres.binaries import Binaries, choose_client, choose_server, find_installations


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder in which a server could be started from."""
    for program in ("initdb", "postgres"):
        (tmp_path / program).touch()
    return tmp_path


def some(found: list[tuple[int, str]], folder: Path) -> list[Binaries]:
    return [Binaries(folder, (major, 1), origin) for major, origin in found]


@pytest.mark.parametrize(
    ("found", "server_major", "chosen"),
    [
        ([(15, "system"), (17, "package")], 15, (15, "system")),
        ([(15, "system"), (16, "system"), (17, "package")], 14, (17, "package")),
        ([(15, "system"), (17, "package")], 16, (17, "package")),
        ([(17, "configured"), (15, "system")], 15, (17, "configured")),
        ([(14, "configured"), (15, "system")], 15, (15, "system")),
    ],
)
def test_client_tools_are_the_configured_then_the_same_major_then_the_newest(
    found: list[tuple[int, str]], server_major: int, chosen: tuple[int, str], tmp_path: Path
) -> None:
    client = choose_client(some(found, tmp_path), server_major=server_major)
    assert (client.major, client.origin) == chosen


@pytest.mark.parametrize("found", [[], [(15, "system")], [(16, "configured")]])
def test_client_tools_older_than_the_server_are_never_used(found: list[tuple[int, str]], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="version 17 or newer") as raised:
        choose_client(some(found, tmp_path), server_major=17)
    assert "postgresql-client-17" in raised.value.hint


@pytest.mark.parametrize(
    ("found", "source_major", "archive_major", "chosen"),
    [
        ([(15, "system"), (17, "package")], 15, 15, (15, "system")),
        ([(15, "system"), (17, "package")], 15, 17, (17, "package")),
        ([(16, "system"), (17, "package")], 15, 15, (16, "system")),
        ([(17, "system"), (17, "configured")], 17, 17, (17, "configured")),
    ],
)
def test_a_scratch_server_has_the_sources_major_or_the_nearest_that_reads_the_archive(
    found: list[tuple[int, str]], source_major: int, archive_major: int, chosen: tuple[int, str], full: Path
) -> None:
    server = choose_server(some(found, full), source_major=source_major, archive_major=archive_major)
    assert (server.major, server.origin) == chosen


def test_client_tools_alone_make_no_scratch_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is installed to prove with"):
        choose_server(some([(17, "system")], tmp_path), source_major=17, archive_major=17)


def test_a_configured_folder_without_tools_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no pg_dump"):
        find_installations(tmp_path)
