"""A store that fails, lies, crawls or dies: the right kind of error, and never a set that only seems to be one."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backup_sets import back_up, back_up_and_prove, failed_level, prove
from botocore.config import Config
from faulty_proxy import Fault, FaultyProxy, Request, faulty_proxy
from pydantic import SecretStr
from real_servers import BUCKET, Server

from deployments.local.objectstore import RunningObjectStore, create_bucket, start_objectstore
from keepwell.backup.catalogue import read_catalogue, read_entry
from keepwell.backup.create import create_backup
from keepwell.errors import AccessDenied, KeepwellError, ServiceUnavailable, Throttled, VerificationFailed, is_transient
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import Store
from keepwell.progress import Step
from keepwell.settings import Platform

DATA_FILE = re.compile(r"/database/\d+\.dat\.zst\.age")


@pytest.fixture(autouse=True)
def some_rows(server: Server, platform: Platform) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 20000) n")


@pytest.fixture
def proxy(objectstore: RunningObjectStore) -> Iterator[FaultyProxy]:
    with faulty_proxy(objectstore.endpoint_url) as running:
        yield running


@pytest.fixture
def behind(platform: Platform, proxy: FaultyProxy) -> Platform:
    """The platform, its store reached through the proxy."""
    bucket = platform.bucket.model_copy(update={"endpoint_url": proxy.endpoint_url})
    return platform.model_copy(update={"bucket": bucket})


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own pauses between its tries, without the waiting."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)


def on_data(fault: Fault, method: str) -> Callable[[Request], Fault | None]:
    """A fault for the tables' streams only."""
    return lambda request: fault if request.method == method and DATA_FILE.search(request.path) else None


def test_through_an_honest_proxy_everything_works(behind: Platform) -> None:
    assert back_up_and_prove(behind).reached == "serving"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=500), ServiceUnavailable),
        (Fault(status=503, code="SlowDown"), Throttled),
        (Fault(status=429, code="TooManyRequests"), Throttled),
        (Fault(reset=True), ServiceUnavailable),
        (Fault(status=403, code="AccessDenied"), AccessDenied),
        (Fault(status=403, code="SignatureDoesNotMatch"), AccessDenied),
        (Fault(status=507, code="InsufficientStorage"), ServiceUnavailable),
        (Fault(status=400, code="EntityTooLarge"), KeepwellError),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Fault) else value.__name__,
)
def test_a_write_that_fails_ends_the_backup_in_the_fitting_error_and_no_set(
    fault: Fault, kind: type[KeepwellError], behind: Platform, proxy: FaultyProxy, store: Store
) -> None:
    proxy.decide = on_data(fault, "PUT")
    with pytest.raises(KeepwellError) as raised:
        back_up(behind)
    assert type(raised.value) is kind
    assert is_transient(raised.value) is (kind in (ServiceUnavailable, Throttled))
    assert read_catalogue(store) == []
    proxy.decide = lambda request: None
    proof = back_up_and_prove(behind)
    assert [entry.backup_id for entry in read_catalogue(store)] == [proof.backup_id]
    assert list(store.list_objects("unfinished/")) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=500), ServiceUnavailable),
        (Fault(status=503, code="SlowDown"), Throttled),
        (Fault(reset=True), ServiceUnavailable),
        (Fault(cut_body=True), ServiceUnavailable),
        (Fault(status=403, code="AccessDenied"), AccessDenied),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Fault) else value.__name__,
)
def test_a_read_that_fails_leaves_the_set_unjudged(
    fault: Fault, kind: type[KeepwellError], behind: Platform, proxy: FaultyProxy, store: Store
) -> None:
    manifest = back_up(behind)
    proxy.decide = on_data(fault, "GET")
    with pytest.raises(KeepwellError) as raised:
        prove(behind, manifest.backup_id)
    assert type(raised.value) is kind
    entry = read_entry(store, manifest.backup_id)
    assert (entry.last_attempt, entry.damaged) == (None, False)


def test_a_store_that_gives_half_an_object_and_calls_it_whole_does_not_get_the_set_proven(
    behind: Platform, proxy: FaultyProxy
) -> None:
    manifest = back_up(behind)
    proxy.decide = on_data(Fault(short_body=True), "GET")
    proof = prove(behind, manifest.backup_id)
    assert (failed_level(proof).level, proof.damaged) == ("readable", True)


def test_a_store_that_says_200_and_keeps_nothing_does_not_get_the_set_proven(
    behind: Platform, proxy: FaultyProxy
) -> None:
    proxy.decide = on_data(Fault(swallow=True), "PUT")
    manifest = back_up(behind)
    proof = prove(behind, manifest.backup_id)
    assert (failed_level(proof).level, proof.damaged) == ("uploaded", True)


def test_a_store_that_keeps_nothing_of_the_manifest_fails_the_backup(
    behind: Platform, proxy: FaultyProxy, store: Store
) -> None:
    proxy.decide = lambda request: (
        Fault(swallow=True) if request.method == "PUT" and request.path.endswith("/manifest.json") else None
    )
    with pytest.raises(KeepwellError):
        back_up(behind)
    assert read_catalogue(store) == []


def test_a_manifest_that_reads_back_shortened_fails_the_backup(behind: Platform, proxy: FaultyProxy) -> None:
    proxy.decide = lambda request: (
        Fault(short_body=True) if request.method == "GET" and request.path.endswith("/manifest.json") else None
    )
    with pytest.raises(VerificationFailed):
        back_up(behind)


def test_single_failures_are_retried_within_the_same_run(behind: Platform, proxy: FaultyProxy) -> None:
    failed: set[str] = set()

    def once(request: Request) -> Fault | None:
        place = request.path.partition("?")[0]
        if request.method not in ("PUT", "GET") or place in failed or "/backups/" not in place:
            return None
        failed.add(place)
        return Fault(status=500) if len(failed) % 2 else Fault(reset=True)

    proxy.decide = once
    assert back_up_and_prove(behind).reached == "serving"
    assert len(failed) > 5


def test_a_slow_store_is_only_slow(behind: Platform, proxy: FaultyProxy) -> None:
    proxy.decide = lambda request: Fault(delay_seconds=0.2)
    assert back_up_and_prove(behind).reached == "serving"


def test_a_store_that_does_not_answer_in_time_is_unavailable(
    behind: Platform, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.decide = lambda request: Fault(delay_seconds=5)
    monkeypatch.setattr("keepwell.objectstore.bucket.Config", lambda **usual: Config(**usual | {"read_timeout": 0.2}))
    impatient = open_store(behind)
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        impatient.put_bytes("x", b"x")
    with pytest.raises(ServiceUnavailable, match="did not answer"):
        list(impatient.list_objects(""))


def test_a_backup_during_which_the_store_is_gone_is_a_transient_error(behind: Platform, proxy: FaultyProxy) -> None:
    def vanish(step: Step) -> None:
        if step.stage == "dumping":
            proxy.decide = lambda request: Fault(reset=True)

    with pytest.raises(ServiceUnavailable):
        create_backup(behind, open_store(behind), vanish)


def test_a_store_that_is_killed_while_it_is_written_to_and_comes_back_holds_no_false_set(
    platform: Platform, server: Server, tmp_path: Path
) -> None:
    with server.connect(platform.database.name) as connection:
        # More than one part of a multipart upload, however well it is compressed.
        connection.execute(
            "CREATE TABLE noise AS SELECT string_agg(encode(sha256((n || '-' || m)::text::bytea), 'hex'), '') AS body"
            " FROM generate_series(1, 1000) n, generate_series(1, 600) m GROUP BY n"
        )
    running = start_objectstore(tmp_path / "store")
    try:
        create_bucket(running.endpoint_url, running.access_key_id, running.secret_access_key, BUCKET)
        secret = SecretStr(running.secret_access_key)
        bucket = platform.bucket.model_copy(update={"endpoint_url": running.endpoint_url, "secret_access_key": secret})
        doomed = platform.model_copy(update={"bucket": bucket})
        with faulty_proxy(running.endpoint_url) as proxy:
            killed = threading.Event()

            def kill_at_the_first_part(request: Request) -> Fault | None:
                if "partNumber=1" in request.path and not killed.is_set():
                    killed.set()
                    running.server.process.kill()
                    running.server.process.wait()
                return None

            proxy.decide = kill_at_the_first_part
            through = bucket.model_copy(update={"endpoint_url": proxy.endpoint_url})
            with pytest.raises(ServiceUnavailable):
                back_up(doomed.model_copy(update={"bucket": through}))
            assert killed.is_set()
        running = start_objectstore(tmp_path / "store", port=running.port, secret_access_key=running.secret_access_key)
        store = open_store(doomed)
        assert read_catalogue(store) == []
        proof = back_up_and_prove(doomed)
        assert proof.reached == "serving"
        assert [entry.backup_id for entry in read_catalogue(store)] == [proof.backup_id]
        folders = {stored.key.split("/")[1] for stored in store.list_objects("backups/")}
        assert folders == {proof.backup_id}
        assert "Uploads" not in store.client.list_multipart_uploads(Bucket=BUCKET, Prefix=store.key("backups/"))
    finally:
        running.server.stop()
