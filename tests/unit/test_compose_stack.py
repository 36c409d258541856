"""What the production stack's containers become, and the passwords that they read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from stat import S_IMODE

import pytest

from deployments.production.compose import __main__ as entrypoint
from deployments.production.compose import health
from deployments.production.compose.passwords import DATABASE_PASSWORD, LOGIN, REDIS_PASSWORD, Passwords
from deployments.production.compose.roles import ROLES, build_call
from deployments.running.ports import find_free_port
from keepwell.errors import ConfigurationError, PreconditionFailed, ServiceUnavailable

MARKED = {LOGIN: "keepwell:marked-login", DATABASE_PASSWORD: "marked/database@", REDIS_PASSWORD: "marked/redis@"}


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    for folder in ("login", "server"):
        (tmp_path / folder).mkdir()
    return Passwords(tmp_path)


@pytest.fixture
def environment() -> dict[str, str]:
    return {"ORCHESTRATOR_DATABASE": "database", "ORCHESTRATOR": "server"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("redis", [{}, {"ORCHESTRATOR_REDIS": "redis"}])
def test_no_password_is_an_argument_or_shown(role: str, redis: dict[str, str], environment: dict[str, str]) -> None:
    call = build_call(role, ["--more"], environment | redis, MARKED.__getitem__)
    assert "marked" in str(dict(call.secrets))
    assert "marked" not in repr(call)
    assert "marked" not in " ".join(call.argv)
    assert call.argv[-1] == "--more"


def test_the_server_speaks_to_its_database_alone_and_asks_for_the_login(environment: dict[str, str]) -> None:
    call = build_call("server", [], environment, MARKED.__getitem__)
    assert call.secrets == {
        "PREFECT_SERVER_API_AUTH_STRING": "keepwell:marked-login",
        "PREFECT_API_DATABASE_CONNECTION_URL": (
            "postgresql+asyncpg://keepwell:marked%2Fdatabase%40@database:5432/prefect"
        ),
    }
    assert call.waits_for == (("database", 5432),)


def test_several_servers_share_redis(environment: dict[str, str]) -> None:
    call = build_call("services", [], environment | {"ORCHESTRATOR_REDIS": "redis"}, MARKED.__getitem__)
    assert call.secrets["PREFECT_REDIS_MESSAGING_URL"] == "redis://:marked%2Fredis%40@redis:6379/0"
    assert call.secrets["PREFECT_SERVER_DOCKET_URL"] == "redis://:marked%2Fredis%40@redis:6379/1"
    assert ("redis", 6379) in call.waits_for


def test_a_worker_gets_the_login_and_nothing_of_the_server(environment: dict[str, str]) -> None:
    call = build_call("worker", ["--name", "backup"], environment, MARKED.__getitem__)
    assert call.secrets == {"PREFECT_API_AUTH_STRING": "keepwell:marked-login"}
    assert call.waits_for == (("server", 4200),)


def test_passwords_are_made_once_and_for_few_to_read(passwords: Passwords) -> None:
    assert passwords.make_missing() == [LOGIN, DATABASE_PASSWORD, REDIS_PASSWORD]
    made = {name: passwords.read(name) for name in (LOGIN, DATABASE_PASSWORD, REDIS_PASSWORD)}
    assert made[LOGIN].startswith("keepwell:")
    assert all(len(password) >= 32 for password in made.values())
    assert len(set(made.values())) == 3
    modes = {name: S_IMODE((passwords.folder / name).stat().st_mode) for name in made}
    assert modes == {LOGIN: 0o400, DATABASE_PASSWORD: 0o440, REDIS_PASSWORD: 0o440}
    assert passwords.make_missing() == []
    assert {name: passwords.read(name) for name in made} == made


def test_what_a_killed_container_left_is_in_nobody_s_way(passwords: Passwords) -> None:
    (passwords.folder / "login/.prefect-login.partial").write_text("half")
    passwords.make_missing()
    assert passwords.read(LOGIN).startswith("keepwell:")
    assert [path.name for path in (passwords.folder / "login").iterdir()] == ["prefect-login"]


def test_a_new_login_takes_the_old_one_s_place_alone(passwords: Passwords) -> None:
    passwords.make_missing()
    login, password = passwords.read(LOGIN), passwords.read(DATABASE_PASSWORD)
    passwords.renew_login()
    assert passwords.read(LOGIN) != login
    assert passwords.read(DATABASE_PASSWORD) == password


def test_a_missing_password_names_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed) as raised:
        Passwords(tmp_path).read(LOGIN)
    assert "prepare" in raised.value.hint


def test_an_empty_password_opens_nothing(passwords: Passwords) -> None:
    passwords.make_missing()
    (passwords.folder / LOGIN).write_text("\n")
    with pytest.raises(PreconditionFailed, match="is empty"):
        passwords.read(LOGIN)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="prefect-login cannot be written"):
        Passwords(tmp_path).make_missing()


def test_a_server_that_does_not_listen_is_waited_for_and_named() -> None:
    port = find_free_port()
    with pytest.raises(ServiceUnavailable, match=f"127.0.0.1:{port} has not listened") as raised:
        entrypoint.wait_for("127.0.0.1", port, limit_seconds=0)
    assert raised.value.hint == "docker compose logs 127.0.0.1"


def test_a_server_that_comes_late_is_met() -> None:
    port = find_free_port()
    late = socket.socket()
    timer = threading.Timer(0.2, lambda: (late.bind(("127.0.0.1", port)), late.listen()))
    timer.start()
    try:
        entrypoint.wait_for("127.0.0.1", port, limit_seconds=60)
    finally:
        timer.join()
        late.close()


def test_an_error_is_a_sentence_with_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR", "server")
    assert entrypoint.main(["worker"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("worker: /run/keepwell/login/prefect-login cannot be read")
    assert "hint: The service prepare makes it" in said


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_is_what_the_server_says(status: int, code: int) -> None:
    with answering(status) as address:
        assert health.main([address]) == code


def test_a_server_that_is_gone_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main([f"http://127.0.0.1:{find_free_port()}/health"]) == 1
    assert "refused" in capsys.readouterr().out


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
