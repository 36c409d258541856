"""The platform's folder in a real object store."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from backup_sets import open_multipart
from pydantic import SecretStr

from keepwell.errors import AccessDenied, ConfigurationError, ServiceUnavailable
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


@pytest.mark.parametrize("key", ["a", "deep/er/b", "with space + plus", "ünïcode/雪", "per%20cent", "quo'te\"s"])
def test_what_was_written_under_any_key_is_listed_found_and_read_back(store: Store, key: str) -> None:
    store.put_bytes(key, b"content")
    assert store.get_bytes(key) == b"content"
    assert [(stored.key, stored.size_bytes) for stored in store.list_objects("")] == [(key, 7)]
    found = store.find(key)
    assert found is not None
    assert found.size_bytes == 7
    store.delete([key, "never was"])
    assert store.find(key) is None


def test_a_file_of_several_parts_comes_back_whole_and_can_be_copied(store: Store) -> None:
    content = secrets.token_bytes(17 * MIB + 5)
    write(store, "large", content)
    assert read(store, "large") == content
    store.copy("large", "copied")
    assert read(store, "copied") == content


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 16 * MIB])
def test_an_object_of_any_size_is_there_once_its_writer_is_done(store: Store, size: int) -> None:
    content = secrets.token_bytes(size)
    write(store, "object", content)
    assert read(store, "object") == content


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


def test_folders_are_listed_by_name(store: Store) -> None:
    for key in ("backups/b/1", "backups/a/1", "backups/a/2", "backups/loose"):
        store.put_bytes(key, b"")
    assert store.list_folders("backups/") == ["a", "b"]
    assert store.list_folders("nothing/") == []


@pytest.mark.long
def test_more_objects_than_one_page_are_listed_and_deleted(store: Store) -> None:
    keys = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put_bytes(key, b""), keys))
    assert [stored.key for stored in store.list_objects("many/")] == keys
    store.delete(keys)
    assert list(store.list_objects("many/")) == []


def test_an_object_that_is_not_there_is_told_from_a_store_that_is_not(store: Store) -> None:
    with pytest.raises(ObjectMissing):
        store.get_bytes("nothing")
    with pytest.raises(ObjectMissing):
        read(store, "nothing")


def test_wrong_keys_a_wrong_bucket_and_no_store_at_all_are_three_different_errors(platform: Platform) -> None:
    with pytest.raises(AccessDenied) as denied:
        changed(platform, secret_access_key=SecretStr("marked-wrong-secret")).put_bytes("x", b"")
    assert "marked-wrong-secret" not in str(denied.value)
    with pytest.raises(ConfigurationError, match="bucket does not exist"):
        changed(platform, name="no-such-bucket").put_bytes("x", b"")
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        changed(platform, endpoint_url="http://127.0.0.1:1").put_bytes("x", b"")
