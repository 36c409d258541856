"""Keys of Redis in a set: each type there and back, what damage looks like, and what cannot be judged."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from backup_sets import back_up, copy_set, failed_level, part_of, prove, read_content, replace_content
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import RunningRedis, running_redis
from keepwell.backup import cache_keys, layout
from keepwell.backup.cache_keys import KeysChecked, check_keys, store_keys
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.create import create_backup
from keepwell.backup.manifest import Manifest, new_backup_id
from keepwell.backup.read_back import SetReader
from keepwell.cache import (
    CacheRehearsal,
    Comparison,
    KeyRecord,
    find_cache_programs,
    read_keys,
    read_server,
    throwaway_cache,
)
from keepwell.cache import keys as cache_keys_adapter
from keepwell.cache.keys import describe_server, read_values
from keepwell.cache.rehearsal import payload_is_whole
from keepwell.errors import AccessDenied, ConfigurationError, PreconditionFailed, ServiceUnavailable
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.postgres import isolation
from keepwell.progress import silent
from keepwell.settings import Platform, RedisSettings
from keepwell.verdict import Verdict

SECRET_NAME = "sess:marked-session-id"
FAR_MS = 4_000_000_000_000


@dataclass(frozen=True)
class Case:
    """A platform with a Redis that holds one of everything, and a set of it."""

    platform: Platform
    store: Store
    settings: RedisSettings
    manifest: Manifest


def fill(client: redis.Redis) -> None:
    client.set("string", b"\x00\xff binary")
    client.set("empty", b"")
    client.set("number", 12345)
    client.set(b"\xff\x00 a name that is no text", "x")
    client.set(SECRET_NAME, "the user", pxat=FAR_MS)
    client.setbit("bits", 100_000, 1)
    client.pfadd("estimate", *range(5000))
    client.rpush("list", *range(1000), "")
    client.sadd("set of numbers", *range(300))
    client.sadd("set", *(f"member {n}" for n in range(1000)))
    client.zadd("zset", {"a": 1.5, "b": float("inf"), "c": -0.1, "d": 3e300})
    client.zadd("large zset", {f"m{n}": n / 7 for n in range(1000)})
    client.geoadd("places", (13.4, 52.5, "Berlin"))
    client.hset("hash", mapping={f"f{n}": n for n in range(1000)})
    client.hset("hash with a passing field", mapping={"stays": 1, "goes": 2})
    client.hexpire("hash with a passing field", 100_000, "goes")
    for n in range(200):
        client.xadd("stream", {"n": n, "m": "x"})
    client.xgroup_create("stream", "workers", "0")
    client.xreadgroup("workers", "one", {"stream": ">"}, count=50)
    client.xgroup_create("empty stream", "waiting", "$", mkstream=True)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        for database in (0, 7):
            with redis.Redis(port=running.port, password=running.password, db=database) as client:
                fill(client)
        yield running


def settings_of(running: RunningRedis) -> RedisSettings:
    return RedisSettings(port=running.port, password=SecretStr(running.password))


@pytest.fixture(scope="module")
def case(
    filled: RunningRedis,
    servers: Callable[[int], Server],
    objectstore: RunningObjectStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    running, settings = servers(17), settings_of(filled)
    with fresh_database(running) as database:
        with running.connect(database) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        spool = tmp_path_factory.mktemp("spool")
        platform = build_platform(running, database, bucket_settings(objectstore), spool, redis=settings)
        yield Case(platform, open_store(platform), settings, back_up(platform))


def check(case: Case, manifest: Manifest, folder: Path) -> KeysChecked:
    """The keys' share of a proof."""
    (folder / "read").mkdir()
    reader = SetReader(case.store, manifest, folder / "read", silent)
    return check_keys(manifest, reader, case.settings, folder / "read", silent)


def change_record(case: Case, key: bytes, change: Callable[[dict[str, object]], object]) -> Manifest:
    """A copy of the set whose record of one key says something else, and whose manifest agrees."""

    def damage(content: bytes) -> bytes:
        lines = content.splitlines()
        for number, line in enumerate(lines):
            record = json.loads(line)
            if b64decode(record["key"]) == key and record["database"] == 0:
                change(record)
                lines[number] = json.dumps(record).encode()
                return b"\n".join(lines) + b"\n"
        pytest.fail(f"{key!r} is not in the set")

    copied = copy_set(case.store, case.manifest.backup_id)
    return replace_content(case.store, copied, part_of(copied, layout.CACHE_KEYS), damage, rebuild=True)


def payload_of(case: Case, key: bytes) -> str:
    content = read_content(case.store, case.manifest, part_of(case.manifest, layout.CACHE_KEYS))
    return next(r["payload"] for r in map(json.loads, content.splitlines()) if b64decode(r["key"]) == key)


# There and back.


def test_a_set_is_proven_with_its_keys_and_says_what_they_are(case: Case) -> None:
    proof = prove(case.platform, case.manifest.backup_id)
    assert proof.reached == "serving"
    keys = case.manifest.cache
    assert keys is not None
    assert (keys.records, keys.databases, keys.expiring) == (34, {"0": 17, "7": 17}, 2)
    assert keys.types == {"string": 14, "list": 2, "set": 4, "zset": 6, "hash": 4, "stream": 4}
    equal = next(outcome for outcome in proof.levels if outcome.level == "equal")
    assert "34 of 34 keys of Redis loaded and equal in type, expiry and value" in equal.summary
    # A passing field is not compared, and that is said.
    assert equal.verdict is Verdict.WARN
    assert [finding.name for finding in equal.findings] == ["redis"]
    assert case.manifest.snapshot_at < keys.began_at <= keys.finished_at


def test_names_of_keys_are_in_no_evidence(case: Case) -> None:
    manifest = change_record(case, SECRET_NAME.encode(), lambda record: record.update(digest="0" * 64))
    level = failed_level(prove(case.platform, manifest.backup_id))
    assert (level.level, level.verdict) == ("equal", Verdict.ALERT)
    assert "sess:…" in level.summary
    assert "marked-session-id" not in level.model_dump_json()


def test_each_type_comes_back_on_a_server_that_holds_nothing_else(case: Case, tmp_path: Path) -> None:
    facts = read_server(case.settings)
    records = list(read_keys(case.settings, facts))
    assert {record.type for record in records} == {"string", "list", "set", "zset", "hash", "stream"}
    assert all(KeyRecord.from_line(record.to_line()) == record for record in records)
    assert all(payload_is_whole(record.payload) for record in records)
    program = find_cache_programs()[0]
    with throwaway_cache(program, tmp_path, databases=16) as socket:
        rehearsal = CacheRehearsal(socket, int(time.time() * 1000))
        compared = rehearsal.compare(records)
        assert {one.comparison for one in compared} == {Comparison.EQUAL}
        # An old set: everything that expires has done so by now, and its value is compared all the same.
        later = CacheRehearsal(socket, FAR_MS + 1).compare(records)
        assert {one.comparison for one in later} == {Comparison.EQUAL}
        rehearsal.close()
        with redis.Redis(unix_socket_path=socket) as client:
            assert client.info("keyspace") == {}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("string", lambda c: c.set("string", "other")),
        ("string", lambda c: c.append("string", "x")),
        ("list", lambda c: c.lset("list", 5, "other")),
        ("list", lambda c: c.rpoplpush("list", "list")),
        ("set", lambda c: c.srem("set", "member 1")),
        ("zset", lambda c: c.zincrby("zset", 0.0000001, "a")),
        ("hash", lambda c: c.hset("hash", "f1", "other")),
        ("hash", lambda c: c.hdel("hash", "f1")),
        ("stream", lambda c: c.xdel("stream", c.xrange("stream", count=1)[0][0])),
        ("stream", lambda c: c.xack("stream", "workers", c.xrange("stream", count=1)[0][0])),
        ("stream", lambda c: c.xgroup_create("stream", "more", "0")),
    ],
)
def test_any_change_of_a_value_changes_its_digest(
    key: str, change: Callable[[redis.Redis], object], tmp_path: Path
) -> None:
    with (
        throwaway_cache(find_cache_programs()[0], tmp_path, databases=1) as socket,
        redis.Redis(unix_socket_path=socket) as client,
    ):
        fill(client)
        raw = cache_keys_adapter.connect_raw(unix_socket_path=socket)
        facts = describe_server(raw, cache_keys_adapter.parse_info(raw.execute_command("INFO")))
        (before,) = read_values(raw, [key.encode()], facts, database=0)
        (again,) = read_values(raw, [key.encode()], facts, database=0)
        change(client)
        (after,) = read_values(raw, [key.encode()], facts, database=0)
        raw.close()
    assert before is not None
    assert again is not None
    assert after is not None
    assert before.digest == again.digest != after.digest


# Damage.


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case, record: record.update(payload=payload_of(case, b"number")), "has another value"),
        (lambda case, record: record.update(payload=payload_of(case, b"list")), "came back as list"),
        (lambda case, record: record.update(type="list"), "came back as string"),
        (lambda case, record: record.update(digest="0" * 64), "has another value"),
        (
            lambda case, record: record.update(
                payload=b64encode(b"\x00\x02no\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00").decode()
            ),
            "does not fit its checksum",
        ),
    ],
)
def test_a_key_that_was_changed_in_the_archive_turns_red_although_the_manifest_agrees(
    case: Case, tmp_path: Path, change: Callable[[Case, dict[str, object]], None], told: str
) -> None:
    checked = check(case, change_record(case, b"string", lambda record: change(case, record)), tmp_path)
    assert [finding.verdict for finding in checked.equal[:1]] == [Verdict.ALERT]
    assert told in checked.equal[0].message


def test_another_expiry_turns_red(case: Case, tmp_path: Path) -> None:
    """The payload does not hold it, so only the counts of the manifest can tell, and they do."""
    manifest = change_record(case, SECRET_NAME.encode(), lambda record: record.update(expires_at_ms=None))
    checked = check(case, manifest, tmp_path)
    assert checked.complete[0].verdict is Verdict.ALERT


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: b"\n".join(content.splitlines()[:-1]) + b"\n", "the manifest says"),
        (lambda content: content + content.splitlines()[0] + b"\n", "the manifest says"),
        (lambda content: content[:-5], "cannot be read"),
        (lambda content: b"", "the manifest says"),
        (lambda content: b"{}\n" + content, "line 1 is damaged"),
    ],
)
def test_a_list_that_is_cut_or_longer_turns_red(
    case: Case, tmp_path: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    manifest = replace_content(case.store, copied, part_of(copied, layout.CACHE_KEYS), damage, rebuild=True)
    checked = check(case, manifest, tmp_path)
    assert checked.complete[0].verdict is Verdict.ALERT
    assert told in checked.complete[0].message


def test_a_flipped_byte_of_the_stored_part_is_seen_when_it_is_read_back(case: Case) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    part = part_of(copied, layout.CACHE_KEYS)
    key = layout.set_folder(copied.backup_id) + part.name
    content = bytearray(case.store.get_bytes(key))
    content[len(content) // 2] ^= 1
    case.store.put_bytes(key, bytes(content))
    level = failed_level(prove(case.platform, copied.backup_id))
    assert (level.level, level.verdict) == ("readable", Verdict.ALERT)
    assert level.findings[0].name == part.name


# What cannot be judged here.


def test_a_payload_that_the_scratch_server_does_not_know_is_unknown_and_never_green(case: Case) -> None:
    def newer(record: dict[str, object]) -> None:
        payload = b64decode(str(record["payload"]))[:-10] + (0x7F).to_bytes(2, "little")
        record["payload"] = b64encode(payload + checksum(payload)).decode()

    manifest = change_record(case, b"string", newer)
    proof = prove(case.platform, manifest.backup_id)
    assert (proof.reached, proof.verdict) == ("equal", Verdict.UNKNOWN)
    level = failed_level(proof)
    assert (level.level, level.verdict) == ("sound", Verdict.UNKNOWN)
    assert "1 keys of Redis could not be loaded here" in level.summary
    assert "RDB version 127" in level.summary
    assert "33 of 34 keys" in proof.levels[4].summary


def checksum(content: bytes) -> bytes:
    """CRC-64/Jones bit by bit, as Redis appends it."""
    value = 0
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x95AC9329AC4BC9B5 if value & 1 else 0)
    return value.to_bytes(8, "little")


def test_without_a_server_program_the_keys_are_named_as_unproven(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_keys, "find_cache_programs", lambda configured: [])
    proof = prove(case.platform, case.manifest.backup_id)
    equal = next(outcome for outcome in proof.levels if outcome.level == "equal")
    assert equal.verdict is Verdict.WARN
    assert "Not proven: 34 keys of Redis" in equal.findings[0].message
    assert "keys of Redis were not compared" in equal.summary
    assert proof.reached == "serving"


def test_a_scratch_server_that_does_not_start_is_unknown(case: Case, tmp_path: Path) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text(
        '#!/bin/sh\ntest "$1" = --version && echo "Valkey server v=9.1.0 sha=0" && exit 0\necho no room; exit 1\n'
    )
    broken.chmod(0o755)
    settings = case.settings.model_copy(update={"server_program": broken})
    checked = check(replace(case, settings=settings), case.manifest, tmp_path)
    assert [finding.verdict for finding in checked.unjudged] == [Verdict.UNKNOWN]
    assert "no room" in checked.unjudged[0].message


def test_a_configured_program_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.server_program"):
        find_cache_programs(tmp_path / "missing")


def test_a_throwaway_server_listens_on_no_port_and_is_gone_afterwards(tmp_path: Path) -> None:
    with (
        throwaway_cache(find_cache_programs()[0], tmp_path, databases=3) as socket,
        redis.Redis(unix_socket_path=socket) as client,
    ):
        info = client.info()
    assert info["tcp_port"] == 0
    assert not Path(f"/proc/{info['process_id']}").exists()


@pytest.mark.parametrize("apart", [("unshare", "--net"), ()])
def test_it_is_kept_apart_in_whichever_way_the_machine_offers(
    apart: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = find_cache_programs()[0]
    ways = tuple((prefix, network) for prefix, network in isolation._REALLY_NOBODY if network is not bool(apart))
    monkeypatch.setattr(isolation, "_REALLY_NOBODY", ways)
    with TemporaryDirectory(dir="/tmp") as folder:
        chosen = isolation.isolate_program(str(program.path), Path(folder))
        with (
            throwaway_cache(program, Path(folder), databases=1, isolation=chosen) as socket,
            redis.Redis(unix_socket_path=socket) as client,
        ):
            pid = client.info()["process_id"]
            owner = isolation.UNPRIVILEGED_ID if chosen.owns_its_files else os.geteuid()
            assert Path(f"/proc/{pid}").stat().st_uid == owner


# The source.


@pytest.mark.long
def test_many_keys_need_little_memory_on_both_ways(case: Case, tmp_path: Path) -> None:
    other_id = new_backup_id(case.manifest.snapshot_at)
    count, value_bytes, most_bytes = 20_000, 2000, 36_000_000  # a few parts of 8 MiB are on their way at a time
    with running_redis(tmp_path) as running, redis.Redis(port=running.port, password=running.password) as client:
        pipeline = client.pipeline(transaction=False)
        for n in range(count):
            pipeline.set(f"key:{n}", os.urandom(value_bytes), ex=100_000 if n % 2 else None)
        pipeline.execute()
        pipeline.reset()
        with traced_memory() as peak, Uploads(2) as uploads:
            stored = store_keys(settings_of(running), case.store, uploads, other_id, silent, level=3)
        assert peak() < most_bytes
    assert stored.part.content_size_bytes > count * value_bytes > most_bytes
    changes = {"backup_id": other_id, "parts": (stored.part,), "cache": stored.summary}
    manifest = case.manifest.model_copy(update=changes)
    with traced_memory() as peak:
        checked = check(case, manifest, tmp_path)
    assert peak() < most_bytes
    assert (checked.complete, checked.equal, checked.unjudged) == ([], [], [])
    assert f"{count:,} of {count:,} keys" in checked.summary
    assert stored.summary.expiring == count // 2


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """The most that Python's own objects took meanwhile."""
    peaks: list[int] = []
    tracemalloc.start()
    try:
        yield lambda: peaks[0]
    finally:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def test_keys_that_come_and_go_while_they_are_read_do_no_harm(case: Case, tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as running,
        redis.Redis(port=running.port, password=running.password) as client,
    ):
        for n in range(3000):
            client.set(f"stays:{n}", n)
            client.set(f"goes:{n}", n)
        settings = settings_of(running)
        found = set()
        for number, record in enumerate(read_keys(settings, read_server(settings))):
            found.add(record.key)
            if number % 3 == 0:
                client.delete(f"goes:{number}")
                client.set(f"comes:{number}", "x", px=1)
                client.lpush(f"goes:{number + 1}x", 1)
    assert {f"stays:{n}".encode() for n in range(3000)} <= found


def test_a_key_that_changes_its_type_under_the_reader_is_read_again(tmp_path: Path) -> None:
    with (
        throwaway_cache(find_cache_programs()[0], tmp_path, databases=1) as socket,
        redis.Redis(unix_socket_path=socket) as client,
    ):
        client.set("turning", "x")
        raw = cache_keys_adapter.connect_raw(unix_socket_path=socket)
        facts = describe_server(raw, cache_keys_adapter.parse_info(raw.execute_command("INFO")))
        original = cache_keys_adapter._ask_whole
        turned: list[int] = []

        def turn(*arguments: object) -> object:
            if not turned:
                turned.append(1)
                client.delete("turning")
                client.rpush("turning", "a")
            return original(*arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache_keys_adapter, "_ask_whole", turn)
            (record,) = read_values(raw, [b"turning"], facts, database=0)
        raw.close()
    assert record is not None
    assert (record.type, bool(record.digest)) == ("list", True)


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_password_fails_before_anything_is_stored(case: Case, password: str | None) -> None:
    settings = RedisSettings(port=case.settings.port, password=SecretStr(password) if password else None)
    before = [entry.backup_id for entry in read_catalogue(case.store)]
    with pytest.raises(AccessDenied, match="refused us") as raised:
        create_backup(case.platform.model_copy(update={"redis": settings}), case.store, silent)
    assert "wrong" not in str(raised.value).replace("WRONGPASS", "")
    assert [entry.backup_id for entry in read_catalogue(case.store)] == before
    assert list(case.store.list_objects(layout.UNFINISHED)) == []


def test_a_redis_that_is_down_fails_before_anything_is_stored(case: Case) -> None:
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        create_backup(case.platform.model_copy(update={"redis": RedisSettings(port=1)}), case.store, silent)
    assert list(case.store.list_objects(layout.UNFINISHED)) == []


def test_a_login_that_may_not_read_keys_whole_is_refused_early(case: Case) -> None:
    assert case.settings.password is not None
    with redis.Redis(port=case.settings.port, password=case.settings.password.get_secret_value()) as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">weak", "~*", "+@all", "-dump")
        client.execute_command("ACL", "SETUSER", "shy", "on", ">shy", "~*", "+@all", "-xinfo", "-memory")
    weak = RedisSettings(port=case.settings.port, user="weak", password=SecretStr("weak"))
    with pytest.raises(AccessDenied):
        read_server(weak)
    # One that may only not ask about groups and sizes reads everything, and says what it could not compare.
    shy = RedisSettings(port=case.settings.port, user="shy", password=SecretStr("shy"))
    records = list(read_keys(shy, read_server(shy)))
    assert len(records) == 34
    assert {record.type for record in records if record.digest is None} == {"stream"}
    assert {record.unproven for record in records} == {"", "XINFO is not allowed or not known"}


def test_the_page_on_restoring_brings_every_key_back(case: Case, tmp_path: Path) -> None:
    content = read_content(case.store, case.manifest, part_of(case.manifest, layout.CACHE_KEYS))
    page = case.store.get_bytes(layout.set_folder(case.manifest.backup_id) + layout.RESTORE_PAGE).decode()
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / layout.CACHE_KEYS).write_bytes(content)
    (tmp_path / "restore.py").write_text(code.replace("redis.Redis(", "redis.Redis(unix_socket_path=SOCKET, "))
    with throwaway_cache(find_cache_programs()[0], tmp_path, databases=16) as socket:
        script = f"SOCKET = {socket!r}\n" + (tmp_path / "restore.py").read_text()
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
        for number in (0, 7):
            with redis.Redis(unix_socket_path=socket, db=number) as client:
                assert client.dbsize() == 17
                assert client.pexpiretime(SECRET_NAME) == FAR_MS
                assert client.get("string") == b"\x00\xff binary"


def test_a_cluster_is_refused_rather_than_kept_in_part(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_keys_adapter, "parse_info", lambda answer: {"cluster_enabled": "1"})
    with pytest.raises(PreconditionFailed, match="part of a cluster"):
        read_server(case.settings)


def test_a_set_without_redis_says_so(case: Case, tmp_path: Path) -> None:
    manifest = create_backup(case.platform.model_copy(update={"redis": None}), case.store, silent)
    assert manifest.cache is None
    assert check(case, manifest, tmp_path) == KeysChecked()


def test_an_old_server_is_read_by_what_it_knows(case: Case) -> None:
    """As one without PEXPIRETIME would be: by PTTL and the server's own clock."""
    facts = replace(read_server(case.settings), tells_expiry=False, expires_fields=False)
    found = {record.key: record for record in read_keys(case.settings, facts) if record.database == 0}
    expires_at_ms = found[SECRET_NAME.encode()].expires_at_ms
    assert expires_at_ms is not None
    assert abs(expires_at_ms - FAR_MS) < 5
    assert found[b"string"].expires_at_ms is None
