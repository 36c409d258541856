"""Evidence: every source fails alone, in every way, and what it then says is unknown and never fine."""

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_prefect import FakePrefect, fake_prefect
from memory_store import MemoryStore
from stored_sets import put_set

from keepwell.containers.state import ContainerState, read_states
from keepwell.errors import AccessDenied, KeepwellError, ServiceUnavailable
from keepwell.evidence import Evidence, write_evidence
from keepwell.incident import sources
from keepwell.incident.documents import Observation
from keepwell.incident.gathering import Source, gather
from keepwell.incident.identify import summarise
from keepwell.incident.sources import build_sources
from keepwell.incident.verifying import build_questions
from keepwell.postgres.server_state import DatabaseState, ServerState
from keepwell.settings import (
    BackupSettings,
    DatabaseSettings,
    OrchestratorSettings,
    Platform,
    RedisSettings,
    RestoreSettings,
)
from keepwell.verdict import Verdict, worst

NOW = datetime.now(UTC)
NAMES = [
    "application",
    "database",
    "redis",
    "containers",
    "backups",
    "restores",
    "at work",
    "maintenance",
    "runs",
    "logs",
    "deploys",
]


def a_platform(**changes: object) -> Platform:
    plain: dict[str, Any] = {
        "name": "esn",
        "database": DatabaseSettings(name="esn_db", user="esn", port=1),
        "redis": None,
        "backup": BackupSettings(),
        "restore": RestoreSettings(),
        "orchestrator": OrchestratorSettings(),
    }
    return Platform.model_construct(**(plain | changes))


def look(name: str, platform: Platform | None = None, store: Any = None) -> tuple[Observation, ...]:
    built = build_sources(platform or a_platform(), store or MemoryStore(), NOW)
    return gather([one for one in built if one.name == name], limit_seconds=60, now=NOW)


def verdict_of(found: Iterable[Observation]) -> Verdict:
    return worst(one.verdict for one in found)


class TestGathering:
    def test_sources_that_fail_hang_or_tell_nothing_are_unknown_alone(self) -> None:
        released = threading.Event()

        def hang() -> Iterable[Observation]:
            released.wait()
            return ()

        def refuse() -> Iterator[Observation]:
            yield Observation(at=NOW, source="denied", verdict=Verdict.OK, message="half of it")
            raise AccessDenied("Our login is refused.", hint="Check the password.")

        def break_down() -> Iterable[Observation]:
            raise ZeroDivisionError("secret")

        def fine() -> Iterable[Observation]:
            for minute in (1, 0):
                at = NOW + timedelta(minutes=minute)
                yield Observation(at=at, source="fine", verdict=Verdict.OK, message=f"{minute}")

        asked = [
            Source("hanging", hang),
            Source("denied", refuse),
            Source("broken", break_down),
            Source("silent", lambda: ()),
            Source("fine", fine),
        ]
        try:
            found = gather(asked, limit_seconds=2, now=NOW)
        finally:
            released.set()
        assert [(one.source, one.verdict) for one in found] == [
            ("hanging", Verdict.UNKNOWN),
            ("denied", Verdict.UNKNOWN),
            ("broken", Verdict.UNKNOWN),
            ("silent", Verdict.UNKNOWN),
            ("fine", Verdict.OK),
            ("fine", Verdict.OK),
        ]
        assert "within 2 s" in found[0].message
        assert found[1].hint == "Check the password."
        assert "secret" not in str(found[2])
        assert [one.message for one in found[4:]] == ["0", "1"]
        assert summarise(found) == (
            "5 sources were asked; unknown: hanging, denied, broken, silent; the other 1 are fine."
        )

    def test_nothing_to_ask(self) -> None:
        assert gather([], limit_seconds=1, now=NOW) == ()

    def test_with_everything_gone_every_source_still_has_its_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Gone:
            def __getattr__(self, name: str) -> Any:
                raise ServiceUnavailable("The store is away.")

        def away(*_: object, **__: object) -> Any:
            raise ServiceUnavailable("It is away.")

        for asked in ("ask_application", "read_server_state", "read_cache", "connect", "open_engine"):
            monkeypatch.setattr(sources, asked, away)
        monkeypatch.setattr(sources, "find_address", lambda: "unix:///nowhere")
        platform = a_platform(
            database=DatabaseSettings(name="esn_db", user="esn", container="esn_postgres"),
            redis=RedisSettings(),
            restore=RestoreSettings(base_url="http://127.0.0.1:1"),
        )
        gone: Any = Gone()
        found = gather(build_sources(platform, gone, NOW), limit_seconds=60, now=NOW)
        assert [one.source for one in found] == NAMES
        assert {one.verdict for one in found} == {Verdict.UNKNOWN}


def test_an_application_that_does_not_answer_is_red_and_one_that_nobody_named_is_not_asked() -> None:
    (found,) = look("application", a_platform(restore=RestoreSettings(base_url="http://127.0.0.1:1")))
    assert (found.verdict, found.message) == (
        Verdict.ALERT,
        "GET /health: The application did not answer: ConnectError.",
    )
    (found,) = look("application")
    assert found.verdict is Verdict.NOT_APPLICABLE


class TestDatabase:
    def server(self, **changes: object) -> ServerState:
        plain: dict[str, Any] = {
            "version": "17.10",
            "started_at": NOW - timedelta(days=9),
            "in_recovery": False,
            "connections": 3,
            "connections_allowed": 100,
            "longest_transaction_seconds": 1.0,
            "databases": (DatabaseState("esn_db", True, 1000), DatabaseState("postgres", True, None)),
        }
        return ServerState(**(plain | changes))

    @pytest.mark.parametrize(
        ("changes", "verdict", "says"),
        [
            ({}, Verdict.OK, "1.0 kB"),
            ({"databases": (DatabaseState("esn_db", True, None),)}, Verdict.OK, "size is not known"),
            ({"databases": (DatabaseState("postgres", True, 1),)}, Verdict.ALERT, "esn_db is not there"),
            ({"databases": (DatabaseState("esn_db", False, 1),)}, Verdict.ALERT, "lets nobody in"),
            ({"connections": 90}, Verdict.ALERT, "90 of 100"),
            ({"longest_transaction_seconds": 1000.0}, Verdict.WARN, "17 min"),
            ({"in_recovery": True}, Verdict.WARN, "takes no writes"),
            ({"started_at": NOW - timedelta(hours=1)}, Verdict.WARN, "was started"),
        ],
    )
    def test_what_is_wrong_is_red(
        self, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], verdict: Verdict, says: str
    ) -> None:
        monkeypatch.setattr(sources, "read_server_state", lambda settings: self.server(**changes))
        found = look("database")
        assert verdict_of(found) is verdict
        assert says in " ".join(one.message for one in found)

    def test_a_standby_is_no_server_that_serves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "read_server_state", lambda settings: self.server(in_recovery=True))
        asked = [one for one in build_questions(a_platform(), NOW) if one.name == "database"]
        assert verdict_of(gather(asked, limit_seconds=60, now=NOW)) is Verdict.ALERT

    def test_one_that_does_not_answer_is_unknown(self) -> None:
        (found,) = look("database")
        assert (found.verdict, "127.0.0.1:1" in found.message) == (Verdict.UNKNOWN, True)


class TestContainers:
    STATE = ContainerState("esn_postgres", "running", "healthy", 0, False, 0, NOW - timedelta(days=3), None)

    class Container:
        def __init__(self, name: str, project: str | None, **state: Any) -> None:
            restarts = state.pop("RestartCount", 0)
            self.name, self.status = name, state.get("Status", "running")
            self.labels = {"com.docker.compose.project": project, "com.docker.compose.service": name}
            if project is None:
                self.labels = {}
            self.attrs = {"State": state, "RestartCount": restarts}

    class Client:
        def __init__(self, *containers: Any) -> None:
            self.containers, self._all = self, containers

        def get(self, name: str) -> Any:
            from docker.errors import NotFound

            for one in self._all:
                if one.name == name:
                    return one
            raise NotFound("no")

        def list(self, *, all: bool, filters: dict[str, Any]) -> list[Any]:  # noqa: A002
            labels = [filters["label"]] if isinstance(filters["label"], str) else filters["label"]
            wanted = {tuple(label.split("=")) for label in labels}
            return [one for one in self._all if wanted <= set(one.labels.items())]

    def test_those_that_ended_and_all_of_their_project_are_read(self) -> None:
        client = self.Client(
            self.Container(
                "postgres",
                "esn",
                Status="exited",
                ExitCode=137,
                OOMKilled=True,
                StartedAt="2026-11-28T01:02:03.123456789Z",
                FinishedAt="2026-11-29T01:02:03Z",
            ),
            self.Container("backend", "esn", Status="restarting", RestartCount=7, FinishedAt="0001-01-01T00:00:00Z"),
            self.Container("postgres", "other"),
            self.Container("alone", None, Status="running", Health={"Status": "unhealthy"}),
        )
        found = {one.name: one for one in read_states(client, [("postgres", "esn"), ("alone", None), ("redis", "esn")])}
        assert set(found) == {"alone", "backend", "postgres", "redis"}
        assert (found["postgres"].exit_code, found["postgres"].killed_for_memory) == (137, True)
        assert found["postgres"].ended_at == datetime(2026, 11, 29, 1, 2, 3, tzinfo=UTC)
        assert (found["backend"].restarts, found["backend"].ended_at) == (7, None)
        assert found["alone"].health == "unhealthy"
        assert found["redis"].status == "missing"

    @pytest.mark.parametrize(
        ("changes", "verdict", "says"),
        [
            ({}, Verdict.OK, "is running, healthy."),
            ({"health": "unhealthy"}, Verdict.ALERT, "unhealthy"),
            ({"status": "missing", "started_at": None}, Verdict.ALERT, "is missing"),
            ({"restarts": 3}, Verdict.WARN, "restarted 3 times"),
            ({"status": "exited", "exit_code": 2, "ended_at": NOW}, Verdict.ALERT, "exit code 2"),
            (
                {"status": "exited", "killed_for_memory": True, "ended_at": NOW},
                Verdict.ALERT,
                "because memory ran out",
            ),
            ({"killed_for_memory": True}, Verdict.ALERT, "because memory ran out"),
            ({"started_at": NOW - timedelta(minutes=5)}, Verdict.WARN, "was started"),
        ],
    )
    def test_what_is_wrong_is_red(
        self, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], verdict: Verdict, says: str
    ) -> None:
        from contextlib import nullcontext
        from dataclasses import replace

        monkeypatch.setattr(sources, "find_address", lambda: "unix:///here")
        monkeypatch.setattr(sources, "open_engine", lambda address: nullcontext(None))
        monkeypatch.setattr(sources, "read_states", lambda client, places: (replace(self.STATE, **changes),))
        found = look("containers", a_platform(redis=RedisSettings(container="redis")))
        assert verdict_of(found) is verdict
        assert says in " ".join(one.message for one in found)

    def test_no_container_is_named(self) -> None:
        (found,) = look("containers")
        assert found.verdict is Verdict.NOT_APPLICABLE

    def test_no_engine_answers(self) -> None:
        (found,) = look("containers", a_platform(redis=RedisSettings(container="redis")))
        assert (found.verdict, "systemctl status docker" in found.hint) == (Verdict.UNKNOWN, True)


class TestStore:
    def test_without_a_proven_set_it_is_red(self) -> None:
        assert verdict_of(look("backups")) is Verdict.ALERT
        store = MemoryStore()
        put_set(store, NOW - timedelta(hours=1), proven=False)
        assert verdict_of(look("backups", store=store)) is Verdict.ALERT

    def test_the_newest_proven_set_is_named_and_its_moment_is_an_event(self) -> None:
        store = MemoryStore()
        at = (NOW - timedelta(hours=1)).replace(microsecond=0)
        backup_id = put_set(store, at)
        found = look("backups", store=store)
        assert verdict_of(found) is Verdict.OK
        assert [one.at for one in found if "The newest proven set" in one.message] == [at]
        assert all(backup_id in one.message for one in found)

    def test_an_old_one_is_red(self) -> None:
        store = MemoryStore()
        put_set(store, NOW - timedelta(hours=40))
        assert verdict_of(look("backups", store=store)) is Verdict.ALERT

    def test_the_last_evidence_of_each_item_is_told_once_for_a_run_that_answers_several(self) -> None:
        store = MemoryStore()
        for items, hours, verdict in (
            (("BK-1", "DB-6"), 5, Verdict.OK),
            (("BK-1", "DB-6"), 2, Verdict.ALERT),
            (("BK-2",), 24 * 9, Verdict.OK),
        ):
            at = NOW - timedelta(hours=hours)
            write_evidence(
                store,
                Evidence(
                    items=items, platform="esn", verdict=verdict, summary="It ran.", started_at=at, finished_at=at
                ),
            )
        (found,) = look("maintenance", store=store)
        assert (found.at, found.verdict) == (NOW - timedelta(hours=2), Verdict.ALERT)
        assert found.message == "BK-1, DB-6: It ran."

    def test_no_evidence_and_nobody_at_work(self) -> None:
        assert verdict_of(look("maintenance")) is Verdict.OK
        assert verdict_of(look("at work")) is Verdict.OK


class TestRuns:
    @pytest.fixture
    def prefect(self) -> Iterator[FakePrefect]:
        with fake_prefect() as fake:
            fake.deployments = [
                {"id": "d1", "name": "esn", "flow_id": "backup-and-verify", "tags": ["platform:esn"]},
                {"id": "d2", "name": "other", "flow_id": "backup-and-verify", "tags": ["platform:other"]},
            ]
            yield fake

    def run(self, state: str, message: str | None = None) -> dict[str, Any]:
        return {
            "id": "r1",
            "name": "red-fox",
            "deployment_id": "d1",
            "state_type": state,
            "state_name": state.title(),
            "state": {"message": message},
            "start_time": (NOW - timedelta(hours=2)).isoformat(),
            "end_time": (NOW - timedelta(hours=1)).isoformat(),
        }

    @pytest.mark.parametrize(
        ("state", "verdict"),
        [("COMPLETED", Verdict.OK), ("FAILED", Verdict.ALERT), ("CRASHED", Verdict.ALERT), ("CANCELLED", Verdict.WARN)],
    )
    def test_how_the_last_ones_ended(self, prefect: FakePrefect, state: str, verdict: Verdict) -> None:
        prefect.last_run = self.run(state, "the store was full")
        (found,) = look("runs", a_platform(orchestrator=OrchestratorSettings(api_url=prefect.url)))
        assert (found.verdict, found.at) == (verdict, NOW - timedelta(hours=1))
        assert found.message.startswith("backup-and-verify/esn ended")
        assert ("the store was full" in found.message) is (verdict is Verdict.ALERT)

    def test_runs_that_only_wait_are_none_that_began(self, prefect: FakePrefect) -> None:
        prefect.last_run = self.run("SCHEDULED") | {"start_time": None, "end_time": None}
        (found,) = look("runs", a_platform(orchestrator=OrchestratorSettings(api_url=prefect.url)))
        assert (found.verdict, "began" in found.message) == (Verdict.OK, True)

    def test_an_orchestrator_that_is_gone_is_unknown(self) -> None:
        platform = a_platform(orchestrator=OrchestratorSettings(api_url="http://127.0.0.1:1/api"))
        (found,) = look("runs", platform)
        assert found.verdict is Verdict.UNKNOWN

    def test_none_is_configured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        (found,) = look("runs")
        assert found.verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize("name", ["logs", "deploys"])
def test_what_keepwell_cannot_read_yet_is_unknown_and_says_where_to_look(name: str) -> None:
    (found,) = look(name)
    assert (found.verdict, "docker" in found.hint) == (Verdict.UNKNOWN, True)


def test_redis_that_is_down_or_not_configured() -> None:
    (found,) = look("redis", a_platform(redis=RedisSettings(port=1)))
    assert found.verdict is Verdict.UNKNOWN
    (found,) = look("redis")
    assert found.verdict is Verdict.NOT_APPLICABLE


def test_looking_writes_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    put_set(store, NOW - timedelta(hours=1))
    before = dict(store.objects)
    gather(build_sources(a_platform(), store, NOW), limit_seconds=60, now=NOW)
    assert store.objects == before


def test_errors_of_ours_keep_their_hint() -> None:
    def fail() -> Iterable[Observation]:
        raise KeepwellError("No.", hint="Do this.")

    (found,) = gather([Source("x", fail)], limit_seconds=60, now=NOW)
    assert (found.message, found.hint) == ("No.", "Do this.")
