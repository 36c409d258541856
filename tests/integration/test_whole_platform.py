"""The full drill: files, Redis and the application restored beside the database, on a network that leads nowhere."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from backup_sets import back_up_and_prove
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database
from waiting import wait_until

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import RunningRedis
from keepwell.drill.documents import Rehearsal
from keepwell.drill.enclosed import require_enclosed
from keepwell.drill.rehearsing import begin_drill, rehearse
from keepwell.drill.whole_platform import rehearse_telling
from keepwell.errors import KeepwellError, VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent
from keepwell.settings import (
    DrillSettings,
    NotifySettings,
    Platform,
    RedisSettings,
    RestoreSettings,
    SmokePath,
    UploadsSettings,
)
from keepwell.verdict import Verdict

APPLICATION = Path(__file__).with_name("drilled_application.py")


@pytest.fixture(scope="module")
def platform(
    servers: Callable[[int], Server],
    objectstore: RunningObjectStore,
    redis_server: RunningRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    """One with a proven set that holds rows, files and keys; its application says how many it sees of each."""
    folder, server = tmp_path_factory.mktemp("whole"), servers(17)
    (folder / "spool").mkdir()
    (folder / "uploads").mkdir()
    (folder / "uploads" / "one.txt").write_text("one")
    login = {"host": "127.0.0.1", "port": redis_server.port, "password": SecretStr(redis_server.password)}
    with redis.Redis(host="127.0.0.1", port=redis_server.port, password=redis_server.password) as client:
        client.set("drilled", "a value")
    with fresh_database(server) as database:
        with server.connect(database) as connection:
            connection.execute("CREATE TABLE people AS SELECT n FROM generate_series(1, 7) n")
        made = build_platform(
            server,
            database,
            bucket_settings(objectstore),
            folder / "spool",
            redis=RedisSettings(**login),  # type: ignore[arg-type]
            uploads=UploadsSettings(directory=folder / "uploads"),
        )
        back_up_and_prove(made)
        yield made


def configured(platform: Platform, *arguments: str) -> Platform:
    drill = DrillSettings(
        application_command=(sys.executable, str(APPLICATION), *arguments),
        application_environment=(
            "DATABASE_URL={database_url}",
            "REDIS_URL={redis_url}",
            "UPLOADS={uploads}",
            "PORT={port}",
            f"KEEPWELL_DRILLED={os.getpid()}",
        ),
    )
    paths = (SmokePath(path="/seen", contains="7 rows, 1 files, a value"),)
    restore = RestoreSettings(base_url="http://127.0.0.1:1", smoke_paths=paths, smoke_wait_seconds=60)
    return platform.model_copy(update={"drill": drill, "restore": restore})


def drilled(platform: Platform) -> Rehearsal:
    plan = begin_drill(platform, kind="full", seed=1)
    return rehearse(platform, open_store(platform), plan, "newest", silent)


def verdicts(rehearsal: Rehearsal) -> dict[str, Verdict]:
    return {stage.name: stage.verdict for stage in rehearsal.stages}


def test_the_application_serves_what_was_restored_and_reaches_nobody(platform: Platform) -> None:
    rehearsal = drilled(configured(platform))
    assert verdicts(rehearsal) == dict.fromkeys(("uploaded files", "redis", "application"), Verdict.OK), (
        rehearsal.stages
    )
    assert rehearsal.rto_seconds is not None
    assert rehearsal.whole_seconds is not None
    assert rehearsal.whole_seconds > rehearsal.rto_seconds


def test_an_application_that_does_not_serve_turns_it_red(platform: Platform) -> None:
    rehearsal = drilled(configured(platform, "die"))
    stage = rehearsal.stages[-1]
    assert (stage.name, stage.verdict) == ("application", Verdict.ALERT)
    assert "exit code 3" in stage.message
    assert "I cannot go on" not in stage.message, "what it says may hold anything"
    assert rehearsal.whole_seconds is None


def test_where_no_network_of_its_own_can_be_made_it_is_not_started(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwell.command.succeeds", lambda *_, **__: False)
    stage = drilled(configured(platform)).stages[-1]
    assert (stage.name, stage.verdict) == ("application", Verdict.UNKNOWN)
    assert "not started" in stage.message


def test_without_an_application_the_rest_is_restored(platform: Platform) -> None:
    assert verdicts(drilled(platform)) == {
        "uploaded files": Verdict.OK,
        "redis": Verdict.OK,
        "application": Verdict.WARN,
    }


def test_an_application_that_hangs_turns_it_red_and_leaves_nobody_behind(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwell.drill.whole_platform._STARTING_SECONDS", 0)
    hanging = configured(platform, "hang")
    restore = hanging.restore.model_copy(update={"smoke_wait_seconds": 8})
    stage = drilled(hanging.model_copy(update={"restore": restore})).stages[-1]
    assert (stage.name, stage.verdict) == ("application", Verdict.ALERT)
    assert "was stopped" in stage.message
    wait_until(lambda: not left_behind(), 10)


def test_what_an_application_leaves_behind_ends_with_it(platform: Platform) -> None:
    assert drilled(configured(platform, "daemon")).stages[-1].verdict is Verdict.OK
    wait_until(lambda: not left_behind(), 10)


def left_behind() -> list[str]:
    # Ours alone: others' tests may run the same application.
    mark = f"KEEPWELL_DRILLED={os.getpid()}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                found.append(entry.name)
    return found


def test_without_its_files_the_application_is_not_started(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise VerificationFailed("one.txt is damaged.")

    monkeypatch.setattr("keepwell.drill.whole_platform.restore_uploads", fail)
    stages = drilled(configured(platform)).stages
    assert [stage.verdict for stage in stages] == [Verdict.ALERT, Verdict.OK, Verdict.UNKNOWN]
    assert "Not started: uploaded files" in stages[-1].message


def test_keys_that_read_otherwise_turn_it_red(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwell.cache.loading.digest_value", lambda *_: "another")
    stages = {stage.name: stage for stage in drilled(configured(platform)).stages}
    assert stages["redis"].verdict is Verdict.ALERT
    assert "has another value" in stages["redis"].message
    assert stages["application"].verdict is Verdict.UNKNOWN


def test_nothing_is_started_where_a_way_leads_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    with pytest.raises(KeepwellError, match="more than loopback"):
        require_enclosed()


@pytest.fixture
def channel() -> Iterator[tuple[str, list[bytes]]]:
    taken: list[bytes] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_address[1]}/", taken
        server.shutdown()


def test_people_are_told_that_it_is_a_drill(platform: Platform, channel: tuple[str, list[bytes]]) -> None:
    address, taken = channel
    told = platform.model_copy(update={"notify": NotifySettings(urls=(SecretStr(address),))})
    assert rehearse_telling(told, "20261101T050000Z-0d0d0d").verdict is Verdict.OK
    assert b"DRILL: esn is NOT down" in taken[0]


def test_a_channel_that_takes_nothing_turns_it_red_and_none_at_all_is_told(platform: Platform) -> None:
    broken = platform.model_copy(update={"notify": NotifySettings(urls=(SecretStr("json://127.0.0.1:9/"),))})
    assert rehearse_telling(broken, "20261101T050000Z-0d0d0d").verdict is Verdict.ALERT
    assert rehearse_telling(platform, "20261101T050000Z-0d0d0d").verdict is Verdict.WARN
