"""Objects in a folder: nothing leaves it, nothing is there by halves, and a disk that is not mounted is an error."""

import errno
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepwell.errors import AccessDenied, ConfigurationError, KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.holding import hold_sets
from keepwell.objectstore import folder
from keepwell.objectstore.folder import MARK, UNFINISHED_PREFIX, FolderStore, find_mount_point, prepare_folder
from keepwell.objectstore.store import ObjectMissing
from keepwell.objectstore.uploads import Uploads
from keepwell.settings import BackupSettings, Platform


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.mkdir()
    prepare_folder(made)
    return made


@pytest.fixture
def store(place: Path) -> FolderStore:
    return FolderStore(place, "esn")


def files_below(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir())


def begin(store: FolderStore, key: str, content: bytes = b"half") -> None:
    """An object as a killed run leaves it: begun, on the disk, and never finished."""
    with Uploads(1) as uploads:
        writer = store.open_writer(key, uploads)
        writer.write(content)
        writer._file.close()
        writer._open.close()


def test_files_and_folders_are_their_owner_s_alone(place: Path, store: FolderStore) -> None:
    store.put_bytes("backups/a/b", b"x")
    begin(store, "backups/a/c")
    for path in (place / "esn").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((place / "esn").stat().st_mode) == 0o700


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b", "a/", ".."])
def test_a_name_that_leads_out_or_is_none_is_refused(place: Path, store: FolderStore, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put_bytes(key, b"x"),
        lambda: store.get_bytes(key),
        lambda: store.find(key),
        lambda: store.delete([key]),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError):
            call()
    assert files_below(place.parent) == [f"disk/{MARK}"]


def test_a_name_of_an_unfinished_file_is_no_key(store: FolderStore) -> None:
    with pytest.raises(ConfigurationError):
        store.put_bytes(f"a/{UNFINISHED_PREFIX}x", b"")


def test_no_link_leads_out_of_the_folder(tmp_path: Path, place: Path, store: FolderStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put_bytes("sets/a", b"x")
    (place / "esn" / "linked").symlink_to(outside)
    (place / "esn" / "sets" / "b").symlink_to(outside / "secret")
    for call in (
        lambda: store.get_bytes("linked/secret"),
        lambda: store.get_bytes("sets/b"),
        lambda: store.put_bytes("linked/new", b"x"),
        lambda: store.find("linked/secret"),
        lambda: store.delete(["linked/secret"]),
    ):
        with pytest.raises(KeepwellError, match="stands in the way"):
            call()
    # Listed, so that nobody takes a set for whole that has a link in the place of an object; and never gone through.
    assert [one.key for one in store.list_objects("")] == ["linked", "sets/a", "sets/b"]
    assert store.list_folders("") == ["sets"]
    store.put_bytes("sets/b", b"ours")
    assert (outside / "secret").read_bytes() == b"secret"
    assert store.get_bytes("sets/b") == b"ours"
    store.delete(["linked"])
    assert outside.is_dir()


def test_a_pipe_in_an_object_s_place_blocks_nobody(place: Path, store: FolderStore) -> None:
    store.put_bytes("a/b", b"x")
    os.mkfifo(place / "esn" / "a" / "pipe")
    with pytest.raises(KeepwellError, match="stands in the way"):
        store.get_bytes("a/pipe")


@pytest.mark.parametrize("how", ["mark gone", "folder gone", "a file instead"])
def test_a_disk_that_is_not_mounted_is_an_error_and_nothing_is_written(place: Path, how: str) -> None:
    store = FolderStore(place, "esn")
    store.put_bytes("a", b"x")
    with Uploads(1) as uploads:
        begun = store.open_writer("begun", uploads)
        begun.write(b"x")
    mounted = place.rename(place.parent / "mounted elsewhere")
    if how == "mark gone":
        place.mkdir()
    elif how == "a file instead":
        place.write_text("")
    for call in (
        lambda: store.put_bytes("b", b"x"),
        lambda: store.get_bytes("a"),
        lambda: store.find("a"),
        lambda: list(store.list_objects("")),
        lambda: store.list_folders(""),
        lambda: store.delete(["a"]),
        lambda: store.abort_uploads(""),
        store.free_bytes,
    ):
        with pytest.raises(ServiceUnavailable, match=r"mounted|no folder") as told:
            call()
        assert "prepare-second" in told.value.hint
    if how == "mark gone":
        assert list(place.iterdir()) == []
    # Who began to write stays on the disk that it began on.
    begun.finish()
    assert (mounted / "esn" / "begun").read_bytes() == b"x"


def test_what_a_killed_run_began_is_nowhere_to_be_seen_and_is_swept(place: Path, store: FolderStore) -> None:
    store.put_bytes("backups/a/whole", b"x")
    for key in ("backups/a/half", "backups/b/half", "uploads/half"):
        begin(store, key)
    assert [one.key for one in store.list_objects("")] == ["backups/a/whole"]
    assert store.list_folders("backups/") == ["a"], "a folder that holds no object is none"
    assert store.find("backups/a/half") is None
    with pytest.raises(ObjectMissing):
        store.get_bytes("backups/a/half")
    assert store.abort_uploads("backups/") == 2
    assert store.abort_uploads("backups/") == 0
    assert store.abort_uploads("uploads/") == 1
    assert files_below(place) == ["esn/backups/a/whole", MARK]
    assert not (place / "esn" / "backups" / "b").exists()


def test_file_and_folder_are_on_the_disk_before_the_name_counts(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_replace(*arguments: object, **options: object) -> None:
        done.append("rename")
        replace(*arguments, **options)  # type: ignore[arg-type]

    store.put_bytes("a/first", b"x")
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store.put_bytes("a/b", b"x")
    assert done == ["file", "rename", "folder"]
    done.clear()
    store.put_bytes("new/b", b"x")
    assert done == ["folder", "file", "rename", "folder"], "the new folder's own name comes first"


@pytest.mark.parametrize("strike", ["fsync", "replace"])
def test_a_file_that_cannot_be_brought_to_the_disk_is_no_object(
    store: FolderStore, place: Path, monkeypatch: pytest.MonkeyPatch, strike: str
) -> None:
    store.put_bytes("a", b"older")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folder.os, strike, fail)
    with pytest.raises(ServiceUnavailable, match="writing a"):
        store.put_bytes("a", b"newer")
    monkeypatch.undo()
    assert store.get_bytes("a") == b"older"
    assert files_below(place) == ["esn/a", MARK]


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.ENOSPC, KeepwellError, "disk is full"),
        (errno.EDQUOT, KeepwellError, "disk is full"),
        (errno.EACCES, AccessDenied, "refused"),
        (errno.EROFS, AccessDenied, "refused"),
        (errno.ESTALE, ServiceUnavailable, "failed"),
        (errno.EIO, ServiceUnavailable, "failed"),
    ],
)
def test_errors_of_the_system_are_told_apart(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], says: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder.os, "fsync", fail)
    with pytest.raises(kind, match=says) as told:
        store.put_bytes("a", b"x")
    assert type(told.value) is kind


def test_an_object_that_stays_is_told_and_the_others_go(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("a/1", "b/1", "c/1"):
        store.put_bytes(key, b"x")
    unlink = os.unlink

    def keep_b(name: str, *, dir_fd: int) -> None:
        if Path(f"/proc/self/fd/{dir_fd}").readlink().name == "b":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(folder.os, "unlink", keep_b)
    with pytest.raises(AccessDenied, match="deleting b/1"):
        store.delete(["a/1", "b/1", "c/1"])
    assert [one.key for one in store.list_objects("")] == ["b/1"]


def test_a_folder_that_is_removed_while_somebody_writes_is_made_again(
    store: FolderStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes("a/1", b"x")
    make = folder._make_folder
    raced: list[str] = []

    def race(above: int, name: str) -> None:
        make(above, name)
        if name == "a" and not raced:
            raced.append(name)
            monkeypatch.setattr(folder, "_make_folder", make)
            store.delete(["a/1"])

    monkeypatch.setattr(folder, "_make_folder", race)
    store.put_bytes("a/2", b"y")
    assert raced
    assert [one.key for one in store.list_objects("")] == ["a/2"]


def test_a_folder_is_prepared_once_and_only_where_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="There is no folder"):
        prepare_folder(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "lost+found").mkdir()
    first = prepare_folder(tmp_path)
    assert first.is_new
    assert first.mount_point.is_mount()
    written = (tmp_path / MARK).read_bytes()
    assert not prepare_folder(tmp_path).is_new
    assert (tmp_path / MARK).read_bytes() == written
    assert find_mount_point(Path("/")) == Path("/")


def test_a_folder_that_may_only_be_read_is_listed_and_waited_for_without_a_lease(
    place: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes("sets/a", b"x")
    open_file = os.open

    def refuse(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open_file(path, flags, *arguments, **options)

    monkeypatch.setattr(folder.os, "open", refuse)
    monkeypatch.setattr(folder.os, "access", lambda path, mode: False)
    read_only = FolderStore(place, "esn")
    assert not read_only.may_write
    settings = Platform.model_construct(name="esn", backup=BackupSettings(interlock_wait_seconds=0))
    with hold_sets(settings, read_only):
        assert read_only.get_bytes("sets/a") == b"x"
    assert abs((read_only.read_clock() - datetime.now(UTC)).total_seconds()) < 5
    with pytest.raises(AccessDenied, match="Read-only"):
        read_only.put_bytes("sets/b", b"x")


def test_platforms_share_a_folder_and_see_nothing_of_one_another(place: Path, store: FolderStore) -> None:
    other = FolderStore(place, "esn2")
    store.put_bytes("x", b"ours")
    other.put_bytes("x", b"theirs")
    store.delete(["x"])
    assert list(store.list_objects("")) == []
    assert other.get_bytes("x") == b"theirs"
    assert store.place == f"{place}/esn"
    assert store.free_bytes() > 0
    assert store.keeps_versions() is False
