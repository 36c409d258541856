"""Sets of every format that was ever written are believed, proven and restored by the code as it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_sets import prove
from golden_sets import (
    ANSWER,
    GOLDEN,
    MORE,
    MORE_ANSWER,
    MORE_QUESTION,
    QUESTION,
    UPLOADS,
    put_golden,
    sealing_of,
)
from psycopg import sql
from real_servers import Server

from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest
from keepwell.backup.restore import restore_into
from keepwell.backup.restore_uploads import restore_uploads
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store
from keepwell.progress import silent
from keepwell.settings import Platform

BESIDE = "golden_beside"
SETS = sorted(GOLDEN.iterdir())


@pytest.fixture(params=SETS, ids=lambda golden: golden.name)
def golden(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def keeper(platform: Platform, golden: Path) -> Platform:
    """A platform whose folder of the bucket holds the golden set, with the keys that open it."""
    keeper = platform.model_copy(update={"sealing": sealing_of(golden)})
    put_golden(golden, open_store(keeper))
    return keeper


@pytest.fixture
def kept(keeper: Platform) -> Store:
    return open_store(keeper)


@pytest.fixture
def beside(server: Server) -> Iterator[str]:
    yield BESIDE
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(BESIDE)))


def test_there_is_a_golden_set_of_every_format() -> None:
    newest = Manifest.model_fields["format_version"].default
    assert [golden.name for golden in SETS] == [f"format-{version}" for version in range(1, newest + 1)]


def test_a_golden_set_is_listed_as_proven_and_restores_as_it_was(
    keeper: Platform, kept: Store, server: Server, beside: str
) -> None:
    (entry,) = read_catalogue(kept)
    assert entry.is_proven("serving"), entry
    assert prove(keeper, entry.backup_id).reached == "serving"
    with hold_platform(keeper, kept, Procedure.RESTORE):
        restore_into(keeper, kept, entry.backup_id, beside, silent)
    with server.connect(beside) as connection:
        assert connection.execute(QUESTION).fetchone() == ANSWER


def test_the_further_database_of_a_golden_set_comes_back_where_it_holds_one(
    keeper: Platform, kept: Store, golden: Path, server: Server, beside: str
) -> None:
    (entry,) = read_catalogue(kept)
    assert entry.manifest is not None
    names = [database.name for database in entry.manifest.databases]
    assert names == (["golden"] if golden.name in ("format-1", "format-2") else ["golden", MORE])
    if MORE in names:
        restore_into(keeper, kept, entry.backup_id, beside, silent, source=MORE)
        with server.connect(beside) as connection:
            assert connection.execute(MORE_QUESTION).fetchone() == MORE_ANSWER


def test_the_uploaded_files_of_a_golden_set_come_back(keeper: Platform, kept: Store, tmp_path: Path) -> None:
    (entry,) = read_catalogue(kept)
    assert entry.manifest is not None
    if entry.manifest.uploads is None:
        assert not any(stored.key.startswith("uploads/") for stored in kept.list_objects(""))
        return
    restore_uploads(kept, entry.backup_id, tmp_path / "back", silent)
    assert {name: (tmp_path / "back" / name).read_bytes() for name in UPLOADS} == UPLOADS
