import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, SSLError
from fake_prefect import deployment, fake_prefect, worker
from pydantic import SecretStr

from keepwell.doctor import GROUPS, Group, examine
from keepwell.doctor.clock import judge_clock
from keepwell.doctor.database import examine_database
from keepwell.doctor.outcome import guarded, ok
from keepwell.doctor.store import examine_store, store_hint
from keepwell.doctor.surroundings import (
    examine_keys,
    examine_messages,
    examine_orchestrator,
    examine_uploads,
    judge_queues,
    judge_workers,
)
from keepwell.errors import ConfigurationError, KeepwellError, ServiceUnavailable
from keepwell.keyring import make_key_files, read_identities
from keepwell.objectstore.bucket import translate
from keepwell.orchestrator import Queue, Worker
from keepwell.sealing import make_identity
from keepwell.settings import (
    BucketSettings,
    DatabaseSettings,
    NotifySettings,
    OrchestratorSettings,
    Platform,
    SealingSettings,
    UploadsSettings,
)
from keepwell.verdict import Finding, Verdict

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def _platform(**parts: object) -> Platform:
    return Platform.model_construct(name="esn", **parts)


def _verdicts(findings: Iterator[Finding]) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in findings}


# How the groups are run.


def test_a_group_that_hangs_or_fails_takes_no_other_with_it() -> None:
    def hangs(_: Platform) -> Iterator[Finding]:
        yield ok("first", "came before")
        threading.Event().wait()

    def fails(_: Platform) -> Iterator[Finding]:
        yield ok("second", "came before")
        raise ZeroDivisionError

    def works(_: Platform) -> Iterator[Finding]:
        yield ok("third", "fine")

    groups = [Group("hanging", hangs, 0.2), Group("failing", fails, 5), Group("working", works, 5)]
    found = examine(_platform(), groups)
    assert [(finding.name, finding.verdict.value) for finding in found] == [
        ("first", "ok"),
        ("hanging", "unknown"),
        ("second", "ok"),
        ("failing", "unknown"),
        ("third", "ok"),
    ]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(ConfigurationError("m", hint="h"), Verdict.ALERT), (ServiceUnavailable("m", hint="h"), Verdict.UNKNOWN)],
)
def test_an_error_in_a_check_is_a_finding(error: KeepwellError, verdict: Verdict) -> None:
    def check() -> Iterator[Finding]:
        yield ok("before", "fine")
        raise error

    found = list(guarded("check", check))
    assert [(f.name, f.verdict, f.hint) for f in found] == [("before", Verdict.OK, ""), ("check", verdict, "h")]


# Clocks.


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [(0, "ok"), (2, "ok"), (-2.1, "warn"), (60, "warn"), (-60.1, "alert"), (3600, "alert")],
)
def test_clocks(offset: float, verdict: str) -> None:
    finding = judge_clock("clock", "the server", offset)
    assert finding.verdict.value == verdict
    assert ("behind" if offset <= 0 else "ahead") in finding.message


# The database, as far as it can be told without one.


def _database(**changes: object) -> Platform:
    known = {"host": "127.0.0.1", "port": 1, "name": "n", "user": "u"}
    return _platform(database=DatabaseSettings.model_validate(known | changes))


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"port": 1}, "Nothing listens there"),
        ({"host": "no-such-host.invalid"}, "host's name is not known"),
        ({"host": "/no/such/folder"}, "no such socket"),
    ],
)
def test_a_database_out_of_reach(changes: dict[str, object], hint: str) -> None:
    login, rest = examine_database(_database(**changes))
    assert (login.verdict, rest.verdict) == (Verdict.ALERT, Verdict.UNKNOWN)
    assert hint in login.hint


def test_a_server_without_tls_where_tls_is_required() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse_tls() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")

        thread = threading.Thread(target=refuse_tls)
        thread.start()
        login, _ = examine_database(_database(port=listener.getsockname()[1], sslmode="require"))
        thread.join()
    assert login.verdict is Verdict.ALERT
    assert "sslmode" in login.hint


# The object store's words.


def _answer(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (_answer("InvalidAccessKeyId", 403), "Were the keys rotated?"),
        (_answer("SignatureDoesNotMatch", 403), "Were the keys rotated?"),
        (_answer("AccessDenied", 403), "Were the keys rotated?"),
        (_answer("Odd", 403), "Were the keys rotated?"),
        (_answer("RequestTimeTooSkewed", 403), "clock"),
        (_answer("NoSuchBucket", 404), "bucket.name"),
        (_answer("PermanentRedirect", 301), "region"),
        (_answer("AuthorizationHeaderMalformed", 400), "region"),
        (NoCredentialsError(), "access_key_id_file"),
        (SSLError(endpoint_url="https://x", error="e"), "ca_bundle"),
        (EndpointConnectionError(endpoint_url="https://x"), "endpoint_url"),
    ],
)
def test_each_refusal_of_the_store_has_its_own_hint(error: Exception, hint: str) -> None:
    wrapped = translate(error, "trying the bucket")  # type: ignore[arg-type]
    wrapped.__cause__ = error
    assert hint in store_hint(wrapped)


def test_a_store_out_of_reach() -> None:
    bucket = BucketSettings.model_validate(
        {"name": "b", "endpoint_url": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "hush"}
    )
    found = list(examine_store(_platform(bucket=bucket)))
    assert [finding.verdict for finding in found] == [Verdict.ALERT, Verdict.UNKNOWN]
    assert "endpoint_url" in found[0].hint
    assert "hush" not in repr(found)


# Keys.


def test_keys_that_hold_are_fine_and_looked_at_by_every_examination(tmp_path: Path) -> None:
    keys = make_key_files(tmp_path)
    settings = SealingSettings(
        recipients=(keys.recipient, make_identity()[1]),
        identities=tuple(SecretStr(str(identity)) for identity in read_identities(keys.identities_file)),
        identities_file=keys.identities_file,
        signing_key=SecretStr(keys.signing_key_file.read_text()),
        signing_key_file=keys.signing_key_file,
    )
    assert set(_verdicts(examine_keys(_platform(sealing=settings))).values()) == {Verdict.OK}
    keys.signing_key_file.chmod(0o644)
    found = {f.name: f for f in examine(_platform(sealing=settings), [g for g in GROUPS if g.name == "keys"])}
    assert found["signing.key"].verdict is Verdict.ALERT
    assert found["signing.key"].hint.startswith("chmod 600")
    assert {f.verdict for f in found.values() if f.name != "signing.key"} == {Verdict.OK}


def test_without_keys_and_without_sealing() -> None:
    missing = _verdicts(examine_keys(_platform(sealing=SealingSettings())))
    assert missing == dict.fromkeys(("recipients", "identity", "offline recipient", "signing key"), Verdict.ALERT)
    assert _verdicts(examine_keys(_platform(sealing=SealingSettings(mode="none")))) == {"sealing": Verdict.WARN}


def test_a_key_that_cannot_be_read_is_a_finding_and_not_shown() -> None:
    broken = SealingSettings(identities=(SecretStr("marked-secret"),))
    (found,) = examine_keys(_platform(sealing=broken))
    assert (found.name, found.verdict) == ("keys", Verdict.ALERT)
    assert "marked-secret" not in found.message + found.hint


# Uploads and messages.


def test_uploads_that_can_be_read(tmp_path: Path) -> None:
    """A link that leads nowhere is none of the unreadable: a set keeps it as the link that it is."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "latest.jpg").symlink_to(tmp_path / "gone")
    (found,) = examine_uploads(_platform(uploads=UploadsSettings(directory=tmp_path)))
    assert (found.verdict, found.message) == (Verdict.OK, f"2 files in {tmp_path} can be read.")


def test_an_uploads_folder_without_a_file_may_be_a_volume_that_is_not_mounted(tmp_path: Path) -> None:
    (found,) = examine_uploads(_platform(uploads=UploadsSettings(directory=tmp_path)))
    assert found.verdict is Verdict.WARN
    assert "mounted" in found.hint


def test_no_uploads_configured_or_none_there(tmp_path: Path) -> None:
    assert _verdicts(examine_uploads(_platform(uploads=None))) == {"uploads": Verdict.NOT_APPLICABLE}
    gone = UploadsSettings(directory=tmp_path / "gone")
    assert _verdicts(examine_uploads(_platform(uploads=gone))) == {"uploads": Verdict.ALERT}


def test_uploads_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, whom tests may run as, may read everything."""
    (tmp_path / "photo.jpg").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (found,) = examine_uploads(_platform(uploads=UploadsSettings(directory=tmp_path)))
    assert found.verdict is Verdict.ALERT
    assert "photo.jpg" in found.message


def test_nobody_told_is_a_warning() -> None:
    nobody = _verdicts(examine_messages(_platform(notify=NotifySettings())))
    assert nobody == {"notifications": Verdict.WARN, "dead-man's switch": Verdict.WARN}
    both = NotifySettings.model_validate({"urls": ["json://hush"], "dead_mans_switch_url": "http://hush"})
    found = list(examine_messages(_platform(notify=both)))
    assert {finding.verdict for finding in found} == {Verdict.OK}
    assert "hush" not in repr(found)


# The orchestrator.


def test_no_orchestrator_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    found = _verdicts(examine_orchestrator(_platform(orchestrator=OrchestratorSettings())))
    assert found == {"orchestrator": Verdict.NOT_APPLICABLE}


def test_an_orchestrator_that_is_down() -> None:
    settings = OrchestratorSettings(api_url="http://127.0.0.1:1/api")
    found = _verdicts(examine_orchestrator(_platform(orchestrator=settings)))
    assert found == {"orchestrator": Verdict.ALERT, "schedule": Verdict.UNKNOWN}


def test_an_orchestrator_that_is_well_and_one_that_is_not() -> None:
    with fake_prefect() as server:
        server.auth_string, server.csrf = "keepwell:hush", True
        settings = OrchestratorSettings(api_url=server.url, auth_string=SecretStr(server.auth_string))
        platform = _platform(orchestrator=settings)
        well = {"orchestrator": Verdict.OK, "worker": Verdict.OK, "deployment backup-and-verify": Verdict.OK}
        well |= dict.fromkeys(("orchestrator login", "orchestrator CSRF", "orchestrator listeners"), Verdict.OK)
        assert _verdicts(examine_orchestrator(platform)) == well | {"queues": Verdict.OK}
        # The worker that is online is the watch's, on another machine.
        server.queues["platform-esn"] = "NOT_READY"
        assert _verdicts(examine_orchestrator(platform)) == well | {"queues": Verdict.ALERT}
        server.last_run = server._run("CRASHED")
        server.workers = [worker(status="OFFLINE")]
        ill = {"worker": Verdict.ALERT, "deployment backup-and-verify": Verdict.ALERT}
        assert _verdicts(examine_orchestrator(platform)) == well | ill
        server.deployments = [deployment(paused=True)]
        assert _verdicts(examine_orchestrator(platform))["deployment backup-and-verify"] is Verdict.WARN
        server.deployments = []
        assert _verdicts(examine_orchestrator(platform))["deployments"] is Verdict.ALERT


def test_a_server_that_nothing_was_registered_with_gets_the_command_that_does_it() -> None:
    with fake_prefect() as server:
        server.deployments, server.has_pool = [], False
        platform = _platform(orchestrator=OrchestratorSettings(api_url=server.url))
        hints = {finding.name: finding.hint for finding in examine_orchestrator(platform)}
    for name in ("worker", "deployments"):
        assert hints[name] == (
            "Register pool and deployments: `keepwell serve reload`; with a server of your own: "
            "`python -m deployments.register`."
        )


@pytest.mark.parametrize(
    ("workers", "verdict", "says"),
    [
        ([], "alert", "none ever polled it"),
        ([Worker(name="w", status="OFFLINE", last_heartbeat_time=NOW - timedelta(seconds=90))], "alert", "for 90 s"),
        ([Worker(name="w", status="ONLINE", last_heartbeat_time=NOW)], "ok", "1 online"),
    ],
)
def test_workers(workers: list[Worker], verdict: str, says: str) -> None:
    finding = judge_workers(workers, "keepwell", NOW)
    assert finding.verdict.value == verdict
    assert says in finding.message


@pytest.mark.parametrize(
    ("queues", "verdict", "says"),
    [
        ({"procedures": "READY", "watch": "READY", "default": "NOT_READY"}, "ok", "procedures, watch"),
        ({"procedures": "NOT_READY", "watch": "READY"}, "alert", "No worker polls procedures of pool keepwell"),
        ({"procedures": "PAUSED", "watch": "READY"}, "alert", "Paused: procedures"),
        ({"watch": "READY"}, "alert", "No worker polls procedures"),
    ],
)
def test_queues(queues: dict[str, str], verdict: str, says: str) -> None:
    known = [Queue(name=name, status=status) for name, status in queues.items()]
    finding = judge_queues(known, {"procedures", "watch"}, "keepwell")
    assert finding.verdict.value == verdict
    assert says in finding.message
