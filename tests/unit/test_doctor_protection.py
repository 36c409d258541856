"""An orchestrator that strangers reach is told, each way by itself."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from fake_prefect import FakePrefect, fake_prefect

from keepwell.doctor import protection
from keepwell.doctor.protection import Listener, examine_protection, judge_listeners, parse_listeners, read_listeners
from keepwell.orchestrator import Orchestrator
from keepwell.served import STATE_VARIABLE, Served, render_served, served_file
from keepwell.verdict import Finding, Verdict

LOGIN = "keepwell:hush"
LOOPBACK, ANYWHERE = ip_address("127.0.0.1"), ip_address("0.0.0.0")
PORTS = {"prefect-server": 4200, "orchestrator-database": 23_000}
# Port 4200 of loopback, 5432 of everywhere, a connection that is no listener, and 8080 of every IPv6 address.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1068 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 00000000:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:1068 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 3
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: 0000000000000000FFFF00000100007F:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


@pytest.fixture
def server() -> Iterator[FakePrefect]:
    with fake_prefect() as fake:
        fake.auth_string, fake.csrf = LOGIN, True
        yield fake


def examine(url: str, login: str | None = LOGIN) -> dict[str, Finding]:
    with Orchestrator(url, login) as client:
        return {finding.name: finding for finding in examine_protection(client)}


def served(listen: str = "127.0.0.1") -> Served:
    return Served("http://127.0.0.1:4200/api", "http://127.0.0.1:4200", "/login", listen, "/etc/keepwell", PORTS)


class TestServer:
    def test_one_that_is_kept_from_strangers_is_well(self, server: FakePrefect) -> None:
        assert {found.verdict for found in examine(server.url).values()} == {Verdict.OK}

    def test_one_without_a_login_is_told(self, server: FakePrefect) -> None:
        server.auth_string = None
        found = examine(server.url)
        assert found[protection.LOGIN].verdict is Verdict.ALERT
        assert "PREFECT_SERVER_API_AUTH_STRING" in found[protection.LOGIN].hint

    def test_a_login_in_the_address_is_not_taken_for_a_stranger(self, server: FakePrefect) -> None:
        address = server.url.replace("://", f"://{LOGIN}@")
        assert examine(address, None)[protection.LOGIN].verdict is Verdict.OK

    def test_one_without_csrf_protection_is_told(self, server: FakePrefect) -> None:
        server.csrf = False
        assert examine(server.url)[protection.CSRF].verdict is Verdict.ALERT

    def test_one_that_fails_is_unknown_rather_than_well(self, server: FakePrefect) -> None:
        server.failing = lambda _: 500
        assert examine(server.url)[protection.LOGIN].verdict is Verdict.OK
        server.auth_string = None
        assert examine(server.url)[protection.LOGIN].verdict is Verdict.UNKNOWN


class TestListeners:
    def test_tables_of_the_kernel_are_read(self) -> None:
        assert parse_listeners(TCP) == [Listener(LOOPBACK, 4200), Listener(ANYWHERE, 5432)]
        assert [(str(one), one.is_loopback) for one in parse_listeners(TCP6)] == [
            ("[::]:8080", False),
            ("[::1]:8081", True),
            ("[::ffff:7f00:1]:8082", True),
        ]

    def test_a_real_listener_beyond_loopback_is_seen_and_told(self, server: FakePrefect) -> None:
        with socket.create_server(("0.0.0.0", 0)) as open_to_all:
            port = open_to_all.getsockname()[1]
            assert read_listeners([port]) == [Listener(ANYWHERE, port)]
        with socket.create_server(("127.0.0.1", 0)) as ours:
            assert read_listeners([ours.getsockname()[1]])[0].is_loopback

    def test_on_loopback_alone_all_is_well(self) -> None:
        found = [Listener(LOOPBACK, port) for port in PORTS.values()]
        assert judge_listeners(found, PORTS, served()).verdict is Verdict.OK

    @pytest.mark.parametrize("port", PORTS.values())
    def test_beyond_it_unasked_is_told(self, port: int) -> None:
        found = [Listener(LOOPBACK, one) for one in PORTS.values() if one != port] + [Listener(ANYWHERE, port)]
        judged = judge_listeners(found, PORTS, served())
        assert judged.verdict is Verdict.ALERT
        assert f"0.0.0.0:{port}" in judged.message
        assert judge_listeners(found, PORTS, None).verdict is Verdict.ALERT

    @pytest.mark.parametrize(
        ("published", "verdict"),
        [("127.0.0.1", Verdict.OK), ("0.0.0.0", Verdict.ALERT), ("10.0.0.7", Verdict.ALERT), ("here", Verdict.UNKNOWN)],
    )
    def test_within_a_container_the_stack_tells_where_it_publishes(
        self, published: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(protection.PUBLISHED_VARIABLE, published)
        assert protection._examine_listeners("http://server:4200/api").verdict is verdict

    def test_beyond_it_as_asked_is_a_warning(self) -> None:
        found = [Listener(ip_address("10.0.0.7"), 4200), Listener(LOOPBACK, 23_000)]
        assert judge_listeners(found, PORTS, served("10.0.0.7")).verdict is Verdict.WARN
        # Asked for one address, it listens on all.
        found[0] = Listener(ANYWHERE, 4200)
        assert judge_listeners(found, PORTS, served("10.0.0.7")).verdict is Verdict.ALERT

    def test_what_cannot_be_seen_is_unknown(self) -> None:
        judged = judge_listeners([Listener(LOOPBACK, 4200)], PORTS, served())
        assert judged.verdict is Verdict.UNKNOWN
        assert "orchestrator-database" in judged.message

    def test_the_database_of_what_is_served_here_counts_too(
        self, server: FakePrefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
        port = int(server.url.split(":")[2].removesuffix("/api"))
        with socket.create_server(("0.0.0.0", 0)) as database:
            ports = {"prefect-server": port, "orchestrator-database": database.getsockname()[1]}
            one = Served(server.url, server.url, "/login", "127.0.0.1", "/etc/keepwell", ports)
            (tmp_path / "serve").mkdir()
            served_file(tmp_path / "serve").write_text(render_served(one))
            assert examine(server.url)[protection.LISTENERS].verdict is Verdict.ALERT

    @pytest.mark.parametrize(
        ("url", "verdict"),
        [("http://192.0.2.7:4200/api", Verdict.WARN), ("https://192.0.2.7/api", Verdict.NOT_APPLICABLE)],
    )
    def test_on_another_machine_only_the_way_to_it_is_judged(self, url: str, verdict: Verdict) -> None:
        assert protection._examine_listeners(url).verdict is verdict
