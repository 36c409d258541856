import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_prefect import FakePrefect, deployment, fake_prefect, worker
from typer.testing import CliRunner

from keepwell import orchestrator
from keepwell.cli.main import app
from keepwell.cli.run_flow import Watch, choose_deployment, parse_parameters, shorten
from keepwell.errors import AccessDenied, ConfigurationError, ServiceUnavailable
from keepwell.orchestrator import REGISTER_HINT, Deployment, Orchestrator

PLATFORM = """
name = "esn"
[database]
name = "esn_db"
user = "backup"
[bucket]
name = "backups"
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePrefect]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keepwell.cli.run_flow._POLL_SECONDS", 0.0)
    (tmp_path / "keepwell.toml").write_text(PLATFORM)
    with fake_prefect() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        yield fake


@pytest.fixture
def watched(server: FakePrefect) -> Iterator[tuple[Watch, list[str]]]:
    said: list[str] = []
    client = orchestrator.connect(None)
    assert client is not None
    with client:
        chosen = client.read_deployments()[0]
        run = client.create_run(chosen, {})
        yield Watch(client, run, chosen, said.append, poll_seconds=0.01, lost_seconds=0.2, no_worker_seconds=0.1), said


def _run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["run", *words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("last", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CRASHED", 1), ("CANCELLED", 1)])
def test_the_exit_code_tells_how_the_run_ended(server: FakePrefect, last: str, code: int) -> None:
    server.states = ["PENDING", "RUNNING", last]
    exit_code, _, told = _run("backup-and-verify")
    assert exit_code == code
    assert f"brave-owl: {last.title()}" in told
    assert "/runs/flow-run/r1" in told


def test_one_envelope_and_nothing_else_on_stdout(server: FakePrefect) -> None:
    server.states = ["FAILED"]
    code, printed, _ = _run("backup-and-verify", "--json")
    envelope = json.loads(printed)
    assert code == 1
    assert (envelope["schema"], envelope["verdict"]) == ("keepwell.run/1", "alert")
    assert envelope["data"]["message"] == "it broke"


def test_the_platforms_name_and_parameters_are_handed_over(server: FakePrefect) -> None:
    assert _run("backup-and-verify", "--param", "count=3", "--param", "word=x=y")[0] == 0
    assert server.created == [{"platform": "esn", "count": 3, "word": "x=y"}]


def test_a_flow_without_a_platform_gets_none(server: FakePrefect) -> None:
    server.deployments = [deployment(parameter_openapi_schema={"properties": {}})]
    assert _run("backup-and-verify")[0] == 0
    assert server.created == [{}]


def test_not_watching_ends_at_once(server: FakePrefect) -> None:
    server.states = ["FAILED"]
    code, printed, _ = _run("backup-and-verify", "--no-watch")
    assert code == 0
    assert "not watched" in printed
    assert server.looks == 0


def test_a_misspelt_name_gets_the_nearest(server: FakePrefect) -> None:
    code, _, told = _run("backup_and_verfy")
    assert code == 1
    assert "Did you mean backup-and-verify?" in told
    assert server.created == []


def test_a_paused_deployment_is_told_and_run(server: FakePrefect) -> None:
    server.deployments = [deployment(paused=True)]
    code, _, told = _run("backup-and-verify")
    assert code == 0
    assert "paused" in told


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ([], "No worker has ever polled pool keepwell."),
        (
            [worker(status="OFFLINE", last_heartbeat_time="2026-01-01T00:00:00Z")],
            "No worker has polled pool keepwell for",
        ),
    ],
)
def test_a_missing_worker_is_told_beforehand(server: FakePrefect, workers: list[dict[str, object]], says: str) -> None:
    server.workers = workers
    assert says in _run("backup-and-verify", "--no-watch")[2]


def test_a_worker_for_other_queues_only_is_told_beforehand(server: FakePrefect) -> None:
    server.queues["platform-esn"] = "NOT_READY"
    told = _run("backup-and-verify", "--no-watch")[2]
    assert "No worker polls the queue platform-esn of pool keepwell." in told
    server.queues["platform-esn"] = "READY"
    assert "No worker" not in _run("backup-and-verify", "--no-watch")[2]


def test_a_run_that_no_worker_takes_is_given_up(server: FakePrefect, watched: tuple[Watch, list[str]]) -> None:
    server.workers, server.states = [], ["SCHEDULED"]
    with pytest.raises(ServiceUnavailable, match="No worker has ever polled"):
        watched[0].follow()


def test_a_lost_server_is_given_up_without_claiming_an_end(
    server: FakePrefect, watched: tuple[Watch, list[str]]
) -> None:
    server.failing = lambda fake: 503 if fake.looks else None
    with pytest.raises(ServiceUnavailable, match="unknown"):
        watched[0].follow()


def test_a_server_that_comes_back_is_followed_on(server: FakePrefect, watched: tuple[Watch, list[str]]) -> None:
    answers = iter([None] * 4 + [503] * 3)
    server.failing = lambda _: next(answers, None)
    watch, said = watched
    watch.lost_seconds = 60  # on a busy machine a few looks take longer than the fixture waits
    assert watch.follow().state_type == "COMPLETED"
    assert said.count("The Prefect server does not answer; still trying.") == 1


def test_news_is_said_once(server: FakePrefect, watched: tuple[Watch, list[str]]) -> None:
    server.states = ["RUNNING", "RUNNING", "RUNNING", "COMPLETED"]
    server.progress = [40.0]
    server.lines = [
        ("prefect.flow_runs", 20, "dumping\nline two\nline three"),
        ("prefect.flow_runs.runner", 20, "chatter"),
        ("prefect.flow_runs.runner", 40, "the process died"),
    ]
    watch, said = watched
    watch.follow()
    assert len(said) == len(set(said))
    text = "\n".join(said)
    assert "dumping (+2 lines)" in text
    assert "the process died" in text
    assert "chatter" not in text
    assert "dump: 40 %" in text


@pytest.mark.parametrize(("given", "code"), [("user:secret", 0), ("user:wrong", 1), (None, 1)])
def test_basic_authentication(
    server: FakePrefect, monkeypatch: pytest.MonkeyPatch, given: str | None, code: int
) -> None:
    server.auth_string = "user:secret"
    if given:
        monkeypatch.setenv("KEEPWELL_ORCHESTRATOR__AUTH_STRING", given)
    exit_code, printed, told = _run("backup-and-verify")
    assert exit_code == code
    assert "secret" not in printed + told
    assert code == 0 or "auth_string_file" in told


def test_csrf_protection(server: FakePrefect) -> None:
    server.csrf = True
    assert _run("backup-and-verify")[0] == 0


def test_a_server_that_is_down_could_not_be_told(server: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    code, printed, told = _run("backup-and-verify", "--json")
    assert code == 2
    assert json.loads(printed)["verdict"] == "unknown"
    assert told == ""


def test_no_server_configured(server: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    code, _, told = _run("backup-and-verify")
    assert code == 1
    assert "keepwell backup create" in told


def test_an_address_without_api_is_told(server: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server.url.removesuffix("/api") + "/nowhere")
    code, _, told = _run("backup-and-verify")
    assert code == 1
    assert "/api" in told


def test_a_broken_platform_file_is_not_passed_over(server: FakePrefect, tmp_path: Path) -> None:
    (tmp_path / "keepwell.toml").write_text("nmae = 1")
    assert _run("backup-and-verify")[0] == 1
    assert server.created == []


def test_without_any_platform_file_the_environment_suffices(server: FakePrefect, tmp_path: Path) -> None:
    (tmp_path / "keepwell.toml").unlink()
    assert _run("backup-and-verify")[0] == 0
    assert server.created == [{}]


def test_health_is_asked_with_the_login(server: FakePrefect) -> None:
    server.auth_string = "user:secret"
    with Orchestrator(server.url, "user:wrong") as client, pytest.raises(AccessDenied):
        client.require_healthy()


def test_the_address_is_that_of_the_pages_where_they_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_UI_URL", "https://keepwell.example.org/")
    run = orchestrator.FlowRun(id="r1", name="a")
    with orchestrator.Orchestrator("http://server:4200/api", None) as client:
        assert client.address(run) == "https://keepwell.example.org/runs/flow-run/r1"


def test_the_address_keeps_a_login_to_itself() -> None:
    with Orchestrator("http://user:secret@host:4200/api", None) as client:
        run = orchestrator.FlowRun(id="r1", name="n")
        assert client.address(run) == "http://host:4200/runs/flow-run/r1"


@pytest.mark.parametrize(
    ("text", "value"), [("a=1", 1), ("a=[1]", [1]), ("a=true", True), ("a=", ""), ("a=b=c", "b=c"), ('a="1"', "1")]
)
def test_parameters(text: str, value: object) -> None:
    assert parse_parameters([text]) == {"a": value}


@pytest.mark.parametrize("text", ["a", "=1", " =1"])
def test_parameters_without_a_name_or_value(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_parameters([text])


def test_no_deployment_at_all() -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_deployment("x", None, [])
    assert REGISTER_HINT in caught.value.hint
    with pytest.raises(ConfigurationError) as caught:
        choose_deployment("zzz", None, [Deployment(id="1", name="esn", procedure="backup-and-verify")])
    assert "There are: backup-and-verify." in caught.value.hint


def _known(*platforms: str) -> list[Deployment]:
    return [
        Deployment(id=name, name=name, procedure="backup-and-verify", tags=(f"platform:{name}",)) for name in platforms
    ]


def test_each_platform_has_its_own_deployment() -> None:
    known = [*_known("blog", "esn"), Deployment(id="r", name="report-failure", procedure="report-failure")]
    assert choose_deployment("backup-and-verify", "esn", known).title == "backup-and-verify/esn"
    assert choose_deployment("backup-and-verify", None, known[1:]).id == "esn"
    # One for all.
    assert choose_deployment("report-failure", "esn", known).title == "report-failure"


@pytest.mark.parametrize(
    ("platform", "says"),
    [(None, "is registered for: blog, esn"), ("shop", "is not registered for shop, only for: blog, esn")],
)
def test_no_platform_is_taken_for_another(platform: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        choose_deployment("backup-and-verify", platform, _known("blog", "esn"))


def test_one_line_stays_as_it_is() -> None:
    assert shorten("one\n") == "one"
