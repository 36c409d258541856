"""How the console finds what is served on this machine, and whose login goes where."""

import os
from pathlib import Path

import pytest
from fake_prefect import fake_prefect

from keepwell import served, settings
from keepwell.errors import AccessDenied
from keepwell.orchestrator import connect
from keepwell.served import STATE_VARIABLE, Served, read_served, render_served, serve_folder, served_file
from keepwell.settings import CONFIG_VARIABLE, OrchestratorSettings, configuration_place

LOGIN = "keepwell:hush"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (CONFIG_VARIABLE, "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


def serve(api_url: str) -> Served:
    """As `keepwell serve` leaves it."""
    folder = serve_folder()
    folder.mkdir(parents=True)
    (folder / "login").write_text(f"{LOGIN}\n")
    one = Served(api_url, api_url.removesuffix("/api"), str(folder / "login"), "127.0.0.1", "/etc/keepwell", {})
    served_file(folder).write_text(render_served(one))
    return one


class TestConnect:
    def test_what_is_served_here_is_found_with_its_login(self) -> None:
        with fake_prefect() as server:
            server.auth_string, server.csrf = LOGIN, True
            serve(server.url)
            client = connect(OrchestratorSettings())
            assert client is not None
            with client:
                client.require_healthy()
                assert client.read_deployments()

    def test_a_server_that_is_named_is_asked_and_never_gets_the_login_of_ours(self) -> None:
        with fake_prefect() as server:
            server.auth_string = LOGIN
            serve("http://127.0.0.1:1/api")
            client = connect(OrchestratorSettings(api_url=server.url))
            assert client is not None
            with client, pytest.raises(AccessDenied):
                client.require_healthy()

    def test_nothing_served_and_nothing_named_is_none(self) -> None:
        assert connect(None) is None

    def test_half_a_document_is_as_none(self, state: Path) -> None:
        one = serve("http://127.0.0.1:1/api")
        assert read_served() == one
        served_file(serve_folder()).write_text(render_served(one)[:40])
        assert read_served() is None


class TestPlaces:
    def test_state_is_the_systems_for_root_and_the_users_own_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(STATE_VARIABLE)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert served.state_directory() == Path("/var/lib/keepwell")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setenv("XDG_STATE_HOME", "/home/ann/state")
        assert served.state_directory() == Path("/home/ann/state/keepwell")

    def test_configuration_is_what_is_named_else_the_file_here_else_the_systems(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        system = tmp_path / "etc"
        monkeypatch.setattr(settings, "SYSTEM_FOLDER", system)
        assert configuration_place() == Path("keepwell.toml")
        system.mkdir()
        assert configuration_place() == Path("keepwell.toml")
        (system / "esn.toml").touch()
        assert configuration_place() == system
        (tmp_path / "keepwell.toml").touch()
        assert configuration_place() == Path("keepwell.toml")
        monkeypatch.setenv(CONFIG_VARIABLE, "/srv/esn.toml")
        assert configuration_place() == Path("/srv/esn.toml")
