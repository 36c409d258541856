"""The platform's objects in a real object store and in a folder: what both must do, and what only a bucket does."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backup_sets import open_multipart
from pydantic import SecretStr

from keepwell.errors import AccessDenied, ConfigurationError, ServiceUnavailable
from keepwell.objectstore.folder import FolderStore, prepare_folder
from keepwell.objectstore.store import ObjectMissing, Store, open_store
from keepwell.objectstore.uploads import Uploads
from keepwell.settings import Platform

MIB = 1024 * 1024


def write(store: Store, key: str, content: bytes) -> None:
    with Uploads(2) as uploads:
        writer = store.open_writer(key, uploads)
        for start in range(0, len(content), MIB):
            writer.write(content[start : start + MIB])
        writer.finish()


def read(store: Store, key: str) -> bytes:
    pieces = []
    with store.open_reader(key) as reader:
        while piece := reader.read(100_000):
            pieces.append(piece)
    return b"".join(pieces)


def changed(platform: Platform, **changes: object) -> Store:
    return open_store(platform.model_copy(update={"bucket": platform.bucket.model_copy(update=changes)}))


@pytest.fixture(params=["bucket", "folder"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store, empty."""
    if request.param == "bucket":
        return request.getfixturevalue("store")
    prepare_folder(tmp_path)
    return FolderStore(tmp_path, "esn")


@pytest.mark.parametrize("key", ["a", "deep/er/b", "with space + plus", "ünïcode/雪", "per%20cent", "quo'te\"s"])
def test_what_was_written_under_any_key_is_listed_found_and_read_back(any_store: Store, key: str) -> None:
    any_store.put_bytes(key, b"content")
    assert any_store.get_bytes(key) == b"content"
    assert [(stored.key, stored.size_bytes) for stored in any_store.list_objects("")] == [(key, 7)]
    found = any_store.find(key)
    assert found is not None
    assert found.size_bytes == 7
    any_store.delete([key, "never was"])
    assert any_store.find(key) is None


def test_a_file_of_several_parts_comes_back_whole_and_can_be_copied(any_store: Store) -> None:
    content = secrets.token_bytes(17 * MIB + 5)
    write(any_store, "large", content)
    assert read(any_store, "large") == content
    any_store.copy("large", "copied")
    assert read(any_store, "copied") == content


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 16 * MIB])
def test_an_object_of_any_size_is_there_once_its_writer_is_done(any_store: Store, size: int) -> None:
    content = secrets.token_bytes(size)
    write(any_store, "object", content)
    assert read(any_store, "object") == content


def test_an_object_that_is_given_up_leaves_neither_itself_nor_parts(store: Store) -> None:
    with Uploads(2) as uploads:
        writer = store.open_writer("cut", uploads)
        for _ in range(20):
            writer.write(b"x" * MIB)
        writer.abort()
    assert store.find("cut") is None
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.key(""))


def test_unfinished_uploads_are_given_up_below_their_folder_only(store: Store) -> None:
    with open_multipart(store, "ours/a"), open_multipart(store, "ours/b"), open_multipart(store, "other/c"):
        assert store.abort_uploads("ours/") == 2
        assert store.abort_uploads("ours/") == 0
        assert store.abort_uploads("other/") == 1


def test_a_platform_sees_and_deletes_nothing_of_another(platform: Platform, store: Store) -> None:
    other = open_store(platform.model_copy(update={"name": "esn2"}))
    other.put_bytes("backups/x", b"theirs")
    store.put_bytes("backups/y", b"ours")
    assert [stored.key for stored in store.list_objects("")] == ["backups/y"]
    store.delete(["backups/x"])
    assert other.get_bytes("backups/x") == b"theirs"


def test_an_object_that_is_given_up_was_never_there(any_store: Store) -> None:
    with Uploads(2) as uploads:
        writer = any_store.open_writer("deep/cut", uploads)
        for _ in range(20):
            writer.write(b"x" * MIB)
        writer.abort()
    assert any_store.find("deep/cut") is None
    assert list(any_store.list_objects("")) == []
    assert any_store.list_folders("") == []
    assert any_store.abort_uploads("") == 0


def test_an_object_takes_the_place_of_an_older_one_whole(any_store: Store) -> None:
    any_store.put_bytes("a", b"older, and longer")
    any_store.put_bytes("a", b"newer")
    assert any_store.get_bytes("a") == b"newer"
    assert [stored.size_bytes for stored in any_store.list_objects("")] == [5]


def test_objects_are_listed_in_the_order_of_their_keys(any_store: Store) -> None:
    keys = ["a-b", "a.b", "a/b", "a/b.c", "a/b/c", "a0", "é"]
    for key in reversed(keys):
        if key != "a/b":  # no file system has a file and a folder of one name
            any_store.put_bytes(key, b"")
    listed = [stored.key for stored in any_store.list_objects("")]
    assert listed == [key for key in keys if key != "a/b"]
    assert [stored.key for stored in any_store.list_objects("a/")] == ["a/b.c", "a/b/c"]
    assert list(any_store.list_objects("b/")) == []


def test_what_is_deleted_leaves_no_folder_behind(any_store: Store) -> None:
    for key in ("sets/a/1", "sets/a/deep/2", "sets/b/1"):
        any_store.put_bytes(key, b"x")
    any_store.delete(["sets/a/1", "sets/a/deep/2", "sets/never/was"])
    assert any_store.list_folders("sets/") == ["b"]
    assert [stored.key for stored in any_store.list_objects("")] == ["sets/b/1"]


def test_the_clock_is_the_one_that_objects_bear_the_times_of(any_store: Store) -> None:
    before = any_store.read_clock()
    any_store.put_bytes("a", b"x")
    found = any_store.find("a")
    assert found is not None
    # A store tells its time to the second.
    assert abs((found.modified_at - before).total_seconds()) < 5
    assert [stored.key for stored in any_store.list_objects("")] == ["a"]


def test_folders_are_listed_by_name(any_store: Store) -> None:
    for key in ("backups/b/1", "backups/a/1", "backups/a/2", "backups/loose"):
        any_store.put_bytes(key, b"")
    assert any_store.list_folders("backups/") == ["a", "b"]
    assert any_store.list_folders("nothing/") == []


@pytest.mark.long
def test_more_objects_than_one_page_are_listed_and_deleted(store: Store) -> None:
    keys = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put_bytes(key, b""), keys))
    assert [stored.key for stored in store.list_objects("many/")] == keys
    store.delete(keys)
    assert list(store.list_objects("many/")) == []


def test_an_object_that_is_not_there_is_told_from_a_store_that_is_not(any_store: Store) -> None:
    with pytest.raises(ObjectMissing):
        any_store.get_bytes("nothing")
    with pytest.raises(ObjectMissing):
        read(any_store, "nothing")


def test_wrong_keys_a_wrong_bucket_and_no_store_at_all_are_three_different_errors(platform: Platform) -> None:
    with pytest.raises(AccessDenied) as denied:
        changed(platform, secret_access_key=SecretStr("marked-wrong-secret")).put_bytes("x", b"")
    assert "marked-wrong-secret" not in str(denied.value)
    with pytest.raises(ConfigurationError, match="bucket does not exist"):
        changed(platform, name="no-such-bucket").put_bytes("x", b"")
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        changed(platform, endpoint_url="http://127.0.0.1:1").put_bytes("x", b"")
