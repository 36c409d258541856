import hashlib
from pathlib import Path

from sample.population import Population
from sample.rows import COLUMNS, row_blocks
from sample.uploads import write_uploads

SMALL = 0.05


def read_folder(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_folders_of_one_seed_are_equal(tmp_path: Path) -> None:
    totals = write_uploads(tmp_path / "one", scale=SMALL, seed=3)
    write_uploads(tmp_path / "other", scale=SMALL, seed=3)
    files = read_folder(tmp_path / "one")
    assert files == read_folder(tmp_path / "other")
    assert totals.files == totals.written == len(files)
    assert totals.size_bytes == sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file())


def test_a_second_run_writes_only_what_is_missing_or_wrong(tmp_path: Path) -> None:
    write_uploads(tmp_path, scale=SMALL)
    before = read_folder(tmp_path)
    assert write_uploads(tmp_path, scale=SMALL).written == 0
    names = sorted(before)
    (tmp_path / names[0]).unlink()
    (tmp_path / names[-1]).write_bytes(b"damaged")
    assert write_uploads(tmp_path, scale=SMALL).written == 2
    assert read_folder(tmp_path) == before


def test_the_awkward_files_are_there(tmp_path: Path) -> None:
    write_uploads(tmp_path, scale=SMALL)
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert min(sizes.values()) == 0
    assert max(sizes.values()) > 300_000
    assert any(not name.isascii() for name in sizes)
    assert {path.name for path in tmp_path.iterdir()} == {"avatars", "events", "receipts"}


def test_every_file_the_database_names_exists(tmp_path: Path) -> None:
    write_uploads(tmp_path, scale=SMALL)
    named = []
    for table, rows in row_blocks(Population.plan(scale=SMALL)):
        if table == "users":
            named += [row[COLUMNS[table].index("avatar")] for row in rows]
        if table == "events":
            named += [image for row in rows for image in row[COLUMNS[table].index("images")]]
    own = [name for name in named if name and name.startswith("/uploads/")]
    assert own
    assert all((tmp_path / name.removeprefix("/uploads/")).is_file() for name in own)
