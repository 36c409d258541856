"""A store that falls silent for ever: whatever a run is at, it ends within the stall limit and lets go of everything.

And one whose credentials run out in the middle of a run, and one whose clock is not ours.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import botocore.auth
import pytest
from backup_sets import back_up, back_up_and_prove, prove
from faulty_proxy import Fault, FaultyProxy, Request, faulty_proxy
from real_servers import Server

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue, read_entry
from keepwell.backup.create import create_backup
from keepwell.errors import AccessDenied, ServiceUnavailable
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.postgres.advisory_locks import open_locks
from keepwell.progress import Step
from keepwell.settings import Platform

# Long enough for an honest answer of a machine that is busy.
STALL_LIMIT_SECONDS = 3
# For what a run does besides, such as giving back its lease, on a machine that is busy.
SLACK_SECONDS = 12
DATA_FILE = re.compile(r"/database/\d+\.dat\.zst\.age")


@pytest.fixture
def rows(server: Server, platform: Platform) -> None:
    """More than one part of a multipart upload, however well it is compressed."""
    with server.connect(platform.database.name) as connection:
        connection.execute(
            "CREATE TABLE noise AS SELECT string_agg(sha256((n || '-' || m)::text::bytea), '') AS body"
            " FROM generate_series(1, 40) n, generate_series(1, 9400) m GROUP BY n"
        )


@pytest.fixture
def proxy(objectstore: RunningObjectStore) -> Iterator[FaultyProxy]:
    with faulty_proxy(objectstore.endpoint_url) as running:
        yield running


def reached_by(platform: Platform, endpoint_url: str) -> Platform:
    """The platform with its store elsewhere, and little patience."""
    return platform.model_copy(
        update={
            "bucket": platform.bucket.model_copy(update={"endpoint_url": endpoint_url}),
            "backup": platform.backup.model_copy(update={"stall_limit_seconds": STALL_LIMIT_SECONDS}),
        }
    )


@pytest.fixture
def behind(platform: Platform, proxy: FaultyProxy) -> Platform:
    return reached_by(platform, proxy.endpoint_url)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of the client that takes all of the limit, and little patience with giving a lease back."""
    monkeypatch.setattr("keepwell.objectstore.bucket._ATTEMPTS", 1)
    monkeypatch.setattr("keepwell.objectstore.lease._GIVE_BACK_SECONDS", 0.5)


@contextmanager
def ends_in_time(told: str) -> Iterator[None]:
    """A block that must end in a clear error, soon."""
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=told):
        yield
    assert time.monotonic() - began < STALL_LIMIT_SECONDS + SLACK_SECONDS


def require_let_go(platform: Platform, server: Server) -> None:
    """No place, no snapshot and no temporary file is held any more."""
    with open_locks(platform.database, platform.name, "look") as locks:
        assert locks.holders() == []
    with server.connect() as connection:
        held = connection.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = %s AND backend_xmin IS NOT NULL",
            (platform.database.name,),
        ).fetchall()
    assert held == []
    assert platform.backup.spool_directory is not None
    assert list(platform.backup.spool_directory.iterdir()) == []


@contextmanager
def blackhole() -> Iterator[str]:
    """An address where no connection is ever taken: its queue is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_store_to_which_no_connection_comes_about(platform: Platform, server: Server) -> None:
    with blackhole() as url:
        far = reached_by(platform, url)
        with ends_in_time("did not answer while"):
            back_up(far)
        require_let_go(platform, server)


Place = Callable[[Request], bool]
PLACES: dict[str, tuple[Place, str]] = {
    "before anything": (lambda request: request.method == "GET", "did not answer while"),
    "when a set is begun": (lambda request: "/unfinished/" in request.path, "did not answer while writing unfinished/"),
    "when an upload is begun": (lambda request: request.path.endswith("?uploads"), "did not answer|has taken no byte"),
    "in the middle of a part": (
        lambda request: "partNumber=1" in re.split(r"[?&]", request.path),
        "did not answer|has taken no byte",
    ),
    "when an upload is completed": (
        lambda request: request.method == "POST" and "uploadId=" in request.path,
        "did not answer while writing backups/.*dat",
    ),
    "at the table of contents": (lambda request: "toc.dat" in request.path, "did not answer while writing .*toc.dat"),
    "at the manifest": (
        lambda request: request.method == "PUT" and request.path.endswith("/manifest.json"),
        "did not answer while writing .*manifest.json",
    ),
}


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_falls_silent_during_a_backup(
    place: str, behind: Platform, proxy: FaultyProxy, store: Store, server: Server
) -> None:
    chosen, told = PLACES[place]
    silent_since: list[Request] = []

    def fall_silent(request: Request) -> Fault | None:
        if silent_since or chosen(request):
            silent_since.append(request)
            return Fault(hang=True)
        return None

    proxy.decide = fall_silent
    with ends_in_time(told):
        back_up(behind)
    assert silent_since
    require_let_go(behind, server)
    # Whatever was half sent stays until the next run, which finds it by its mark.
    assert read_catalogue(store) == []
    silent_since.clear()
    proxy.decide = lambda request: None
    written = back_up(behind).backup_id
    assert [entry.backup_id for entry in read_catalogue(store)] == [written]
    assert {found.key.split("/")[1] for found in store.list_objects(layout.BACKUPS)} == {written}
    assert list(store.list_objects(layout.UNFINISHED)) == []
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.key(""))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(hang_half_way=True)], ids=["no answer", "half an answer"])
def test_a_store_that_falls_silent_while_a_set_is_read_back(
    fault: Fault, behind: Platform, proxy: FaultyProxy, store: Store, server: Server
) -> None:
    manifest = back_up(behind)
    proxy.decide = lambda request: fault if request.method == "GET" and DATA_FILE.search(request.path) else None
    with ends_in_time("did not answer|connection to the object store broke while reading"):
        prove(behind, manifest.backup_id)
    require_let_go(behind, server)
    entry = read_entry(store, manifest.backup_id)
    assert (entry.last_attempt, entry.damaged) == (None, False)


# Credentials that run out.


def test_credentials_that_run_out_in_the_middle_end_the_run_clearly_and_the_next_one_sweeps(
    behind: Platform, platform: Platform, proxy: FaultyProxy, store: Store, server: Server
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id FROM generate_series(1, 1000) n")
    proven = back_up_and_prove(behind).backup_id
    calls = len(proxy.requests)
    assert calls > 30
    for number in (1, calls // 6, calls // 4, calls // 2):
        begun = len(proxy.requests)
        proxy.decide = lambda request, last=begun + number: (  # type: ignore[misc]
            Fault(status=403, code="ExpiredToken") if request.number >= last else None
        )
        with pytest.raises(AccessDenied, match="ExpiredToken") as raised:
            back_up_and_prove(behind)
        assert "get new ones" in raised.value.hint
        require_let_go(platform, server)
        proxy.decide = lambda request: None
        assert read_entry(store, proven).is_proven("equal")
        assert not any(e.is_proven("equal") for e in read_catalogue(store) if e.backup_id != proven), number
        back_up(behind)
        assert list(store.list_objects(layout.UNFINISHED)) == []
        assert all(entry.manifest is not None for entry in read_catalogue(store))
    assert prove(behind, read_catalogue(store)[0].backup_id).reached == "serving"


# A clock that is not the store's.


def back_up_watched(platform: Platform, store: Store, watch: Callable[[Step], None]) -> None:
    with hold_platform(platform, store, Procedure.BACKUP):
        create_backup(platform, store, watch)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_hours_off_is_named_and_nothing_is_removed_or_half_done(
    hours: int, platform: Platform, store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store takes no request of another hour, so that a run whose clock jumps ends where it is."""
    proof = back_up_and_prove(platform)
    kept = {stored.key for stored in store.list_objects(layout.BACKUPS)}
    now = botocore.auth.get_current_datetime
    jumped = False

    def clock(*arguments: object, **named: object) -> datetime:
        return now(*arguments, **named) + timedelta(hours=hours if jumped else 0)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", clock)

    def jump(step: Step) -> None:
        nonlocal jumped
        jumped = jumped or step.stage == "dumping"

    with pytest.raises(AccessDenied, match="RequestTimeTooSkewed") as raised:
        back_up_watched(platform, store, jump)
    assert "clock" in raised.value.hint
    with pytest.raises(AccessDenied, match="RequestTimeTooSkewed"):
        back_up(platform)
    jumped = False
    require_let_go(platform, server)
    assert {stored.key for stored in open_store(platform).list_objects(layout.BACKUPS)} == kept
    assert read_entry(store, proof.backup_id).is_proven("equal")
    assert prove(platform, back_up(platform).backup_id).reached == "serving"
