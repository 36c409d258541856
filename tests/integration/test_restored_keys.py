"""A set's keys of Redis in a database beside the live one, each read back; what is in use is never written over."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from backup_sets import back_up, copy_set, part_of, replace_content
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform
from typer.testing import CliRunner
from waiting import wait_until

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import running_redis
from keepwell.backup.manifest import Manifest
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.evidence import read_last_evidence
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import silent
from keepwell.restore import cache_beside
from keepwell.restore.apply import ITEM
from keepwell.restore.cache_beside import RestoredKeys, plan_keys, plan_undo, restore_keys
from keepwell.settings import Platform, RedisSettings, UploadsSettings

FAR_MS = 4_000_000_000_000


@dataclass(frozen=True)
class Case:
    """A platform, a set of its keys, and raw clients for the live database and the one beside it."""

    platform: Platform
    store: Store
    manifest: Manifest
    live: redis.Redis
    beside: redis.Redis

    def restore(self, manifest: Manifest | None = None, **numbers: int) -> RestoredKeys:
        backup_id = (manifest or self.manifest).backup_id
        return restore_keys(
            self.platform, self.store, backup_id, silent, **({"target": 5} | numbers), allow_unproven=True
        )


@pytest.fixture
def case(server: Server, database: str, objectstore: RunningObjectStore, tmp_path: Path) -> Iterator[Case]:
    folder, spool, sent_in = tmp_path / "redis", tmp_path / "spool", tmp_path / "uploads"
    for made in (folder, spool, sent_in):
        made.mkdir()
    (sent_in / "picture.txt").write_text("a picture")
    with running_redis(folder) as running:
        url = f"redis://:{running.password}@127.0.0.1:{running.port}"
        with redis.Redis.from_url(f"{url}/0") as live, redis.Redis.from_url(f"{url}/5") as beside:
            live.set("plain", b"\x00\xff value")
            live.set("session", "x", pxat=FAR_MS)
            live.rpush("list", *range(300))
            live.hset("hash", mapping={f"f{n}": n for n in range(300)})
            live.xadd("stream", {"a": 1})
            live.set("gone", "x", px=2000)
            settings = RedisSettings(host="127.0.0.1", port=running.port, password=SecretStr(running.password))
            beside_it = {"redis": settings, "uploads": UploadsSettings(directory=sent_in)}
            platform = build_platform(server, database, bucket_settings(objectstore), spool, **beside_it)
            yield Case(platform, open_store(platform), back_up(platform), live, beside)


def test_keys_come_back_equal_beside_the_live_ones_which_stay(case: Case) -> None:
    held = case.manifest.cache
    assert held is not None
    case.live.set("plain", "changed since")
    wait_until(lambda: not case.live.exists("gone"))
    planned = plan_keys(case.platform, case.store, case.manifest.backup_id, target=5, allow_unproven=True)
    assert (planned.keys, planned.source, case.beside.dbsize()) == (held.records, 0, 0)
    restored = case.restore()
    assert (restored.equal, restored.expired) == (5, held.records - 5)
    assert (case.beside.get("plain"), case.live.get("plain")) == (b"\x00\xff value", b"changed since")
    assert case.beside.pexpiretime("session") == FAR_MS
    assert case.beside.hgetall("hash") == case.live.hgetall("hash")


def test_the_console_loads_keys_and_puts_uploads_into_a_folder(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "load_platform", lambda _: case.platform)

    def keepwell(*arguments: str) -> tuple[int, dict[str, Any]]:
        ended = CliRunner().invoke(app, ["restore", arguments[0], case.manifest.backup_id, *arguments[1:], "--json"])
        return ended.exit_code, json.loads(ended.stdout)

    wait_until(lambda: not case.live.exists("gone"))  # so that nothing ends between loading and taking out
    keys = ("redis", "--into-database", "5", "--unproven")
    assert keepwell(*keys, "--plan")[1]["data"]["target"] == 5
    assert case.beside.dbsize() == 0
    code, loaded = keepwell(*keys)
    assert (code, loaded["data"]["plan"]["keys"]) == (0, loaded["data"]["equal"] + loaded["data"]["expired"])
    waived = read_last_evidence(case.store, ITEM)
    assert waived is not None
    assert [finding.name for finding in waived.findings] == ["proof"]
    code, refused = keepwell(*keys)
    assert (code, refused["data"]["error"]) == (1, "PreconditionFailed")
    case.beside.set("plain", "changed by somebody")
    taken_out = ("redis", "--into-database", "5", "--undo", "--approver", "Ada", "--reason", "done", "--typed")
    digest = plan_undo(case.platform, case.store, case.manifest.backup_id, target=5).subject.digest
    code, undone = keepwell(*taken_out, case.platform.database.name, "--approve", digest)
    assert (code, undone["data"]["left"], undone["data"]["removed"]) == (0, 1, loaded["data"]["equal"] - 1)
    assert case.beside.keys() == [b"plain"]
    kept = read_last_evidence(case.store, ITEM)
    assert kept is not None
    assert [finding.name for finding in kept.findings] == ["approval"]
    assert keepwell("uploads", "--into", str(tmp_path / "restored"))[1]["data"]["error"] == "PreconditionFailed"
    files = ("uploads", "--into", str(tmp_path / "restored"), "--unproven")
    assert keepwell(*files, "--plan")[1]["data"]["uploads"]["files"] == 1
    assert not (tmp_path / "restored").exists()
    assert keepwell(*files)[0] == 0
    assert (tmp_path / "restored" / "picture.txt").read_text() == "a picture"


def test_a_database_in_use_and_one_that_is_not_there_are_refused(case: Case) -> None:
    case.beside.set("mine", "x")
    for number, said in (
        (0, "one of the application's own"),
        (5, "holds 1 keys already"),
        (9999, "has no database 9999"),
    ):
        with pytest.raises(PreconditionFailed, match=said):
            case.restore(target=number)
    with pytest.raises(PreconditionFailed, match="holds keys of the databases 0"):
        case.restore(source=3)
    assert case.live.get("plain") == b"\x00\xff value"


def test_keys_that_would_push_live_ones_out_are_refused(case: Case) -> None:
    case.live.config_set("maxmemory", case.live.info("memory")["used_memory"] + 100)
    with pytest.raises(PreconditionFailed, match="would make it evict or refuse live keys"):
        case.restore()
    assert case.beside.dbsize() == 0


def test_an_altered_key_and_a_damaged_list_are_found(case: Case) -> None:
    copied = copy_set(case.store, case.manifest.backup_id)
    part = part_of(copied, "redis.jsonl")
    swapped = replace_content(case.store, copied, part, _with_another_digest, rebuild=True)
    with pytest.raises(VerificationFailed, match="has another value"):
        case.restore(swapped)
    assert case.beside.dbsize() == 0
    shorter = replace_content(case.store, copied, part, lambda lines: lines.split(b"\n", 1)[1], rebuild=True)
    with pytest.raises(VerificationFailed, match="the manifest says"):
        case.restore(shorter)


def test_a_key_that_somebody_writes_meanwhile_is_never_written_over(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = cache_beside.plan_keys

    def written_after_the_look(*arguments: Any, **numbers: Any) -> cache_beside.KeysPlan:
        found = planned(*arguments, **numbers)
        case.beside.set("session", "of the application")
        return found

    monkeypatch.setattr(cache_beside, "plan_keys", written_after_the_look)
    with pytest.raises(PreconditionFailed, match="Somebody else wrote"):
        case.restore()
    assert (case.beside.get("session"), case.beside.dbsize()) == (b"of the application", 1)


def _with_another_digest(lines: bytes) -> bytes:
    """As if one key had had another value: what reads back is not what it names."""
    documents = [json.loads(line) for line in lines.splitlines()]
    next(one for one in documents if one["type"] == "list")["digest"] = "0" * 64
    return b"".join(json.dumps(one).encode() + b"\n" for one in documents)
