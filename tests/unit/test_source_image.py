"""Which programs prove a set: those of the source's image, or this machine's, and what is said of it."""

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from real_servers import BucketSettings, Server, build_platform
from requests import Response

from keepwell.backup import source_image
from keepwell.backup.manifest import Manifest
from keepwell.backup.read_back import list_entries
from keepwell.backup.rehearsal import restore_finding
from keepwell.backup.source_image import (
    SCRATCH_IMAGE,
    Provers,
    choose_tools,
    find_client,
    find_provers,
    suggest_container,
    wants_image,
)
from keepwell.containers import engine, run
from keepwell.containers.engine import (
    Image,
    find_address,
    find_container,
    find_container_image,
    find_image,
    sweep_containers,
)
from keepwell.containers.programs import ImageRunner, used_containers
from keepwell.containers.run import FOLDER_LABEL
from keepwell.errors import CommandFailed, ConfigurationError, KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.postgres.archive import (
    build_dump_command,
    build_index_check_command,
    build_restore_command,
    run_index_check,
    run_tool,
)
from keepwell.postgres.binaries import Binaries
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

GOLDEN = Path(__file__).parent.parent / "cases" / "manifest-1.json"
ID = "sha256:3f2a1b9c0d1e" + "0" * 52
OTHER_ID = "sha256:" + "b" * 64
NAME = "postgres:15-alpine"


def container(
    name: str, image: str = ID, *, told: str = NAME, status: str = "running", service: str = "", ports: Any = None
) -> Any:
    return SimpleNamespace(
        name=name,
        id=name,
        status=status,
        labels={"com.docker.compose.service": service},
        ports=ports or {},
        attrs={"Image": image, "Config": {"Image": told}},
        removed=[],
    )


class FakeContainers:
    def __init__(self, *containers: Any) -> None:
        self._containers = containers

    def get(self, name: str) -> Any:
        for found in self._containers:
            if found.name == name:
                return found
        raise NotFound(f"No such container: {name}")

    def list(self, *, all: bool = False, filters: dict[str, Any]) -> list[Any]:  # noqa: A002 - the SDK calls it so
        if "publish" in filters:
            return [found for found in self._containers if found.ports]
        wanted = [filters["label"]] if isinstance(filters["label"], str) else filters["label"]
        labels = dict(label.partition("=")[::2] for label in wanted)
        shown = [found for found in self._containers if all or found.status == "running"]
        return [found for found in shown if labels.items() <= found.labels.items()]


class FakeImages:
    def get(self, reference: str) -> Any:
        if reference in (NAME, ID):
            return SimpleNamespace(id=ID)
        raise ImageNotFound(f"No such image: {reference}")


def client(*containers: Any) -> Any:
    return SimpleNamespace(containers=FakeContainers(*containers), images=FakeImages())


# Finding the image.


@pytest.mark.parametrize("name", ["esn_postgres", "postgres"])
def test_a_container_is_found_by_its_name_or_its_compose_service(name: str) -> None:
    running = client(container("esn_postgres", service="postgres"), container("esn_redis", OTHER_ID, service="redis"))
    assert find_container_image(running, name) == Image(ID, NAME)


def test_copies_of_one_service_have_one_image() -> None:
    twice = client(container("a-1", service="postgres"), container("a-2", service="postgres"))
    assert find_container_image(twice, "postgres").id == ID


@pytest.mark.parametrize(
    ("containers", "words"),
    [
        ([], "No container postgres is running"),
        ([container("postgres", status="exited")], "No container postgres is running"),
        (
            [container("a-1", service="postgres"), container("b-1", OTHER_ID, service="postgres")],
            "from different images",
        ),
    ],
)
def test_what_is_not_the_one_running_server_is_refused(containers: list[Any], words: str) -> None:
    with pytest.raises(PreconditionFailed, match=words):
        find_container_image(client(*containers), "postgres")


def test_a_server_is_one_container_of_one_project() -> None:
    shop = container("shop-1", OTHER_ID, service="postgres")
    shop.labels["com.docker.compose.project"] = "shop"
    once = container("shop-run", OTHER_ID, service="postgres")
    once.labels |= {"com.docker.compose.project": "shop", "com.docker.compose.oneoff": "True"}
    both = client(container("esn-1", service="postgres"), shop, once)
    with pytest.raises(PreconditionFailed, match="are running: esn-1, shop-1") as refused:
        find_container(both, "postgres")
    assert "compose_project" in refused.value.hint
    assert find_container(both, "postgres", "shop") is shop
    assert find_container_image(both, "postgres", "shop").id == OTHER_ID
    # It may be being made anew, so that another try may find it.
    with pytest.raises(ServiceUnavailable, match="nor one of a compose service postgres of the project none"):
        find_container(both, "postgres", "none")


@pytest.mark.parametrize("told", [ID, ID.removeprefix("sha256:")[:12]])
def test_an_image_without_a_name_is_called_by_its_id(told: str) -> None:
    assert find_container_image(client(container("pg", told=told)), "pg").name == "3f2a1b9c0d1e"


def test_an_image_that_the_engine_lacks_is_not_pulled() -> None:
    assert find_image(client(), NAME) == Image(ID, NAME)
    with pytest.raises(ConfigurationError, match="has no image postgres:99") as raised:
        find_image(client(), "postgres:99")
    assert "pulls nothing" in raised.value.hint


def test_an_engine_is_one_whose_socket_somebody_listens_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    for address in ("tcp://127.0.0.1:2375", "ssh://there", f"unix://{path}"):
        monkeypatch.setenv(engine.ADDRESS_VARIABLE, address)
        assert find_address() is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert find_address() is None
        listener.listen()
        assert find_address() == f"unix://{path}"
        monkeypatch.delenv(engine.ADDRESS_VARIABLE)
        monkeypatch.setattr(engine, "_DEFAULT_SOCKET", path)
        assert find_address() == f"unix://{path}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_went_away_is_unavailable() -> None:
    with (
        pytest.raises(ServiceUnavailable, match="does not serve us"),
        engine.open_engine("unix:///nowhere/docker.sock"),
    ):
        pass
    gc.collect()  # the SDK leaves its socket open then


# Sweeping.


@contextmanager
def opened(fake: Any) -> Iterator[Any]:
    yield fake


def refusal(status: int) -> APIError:
    answer = Response()
    answer.status_code = status
    return APIError("refused", response=answer, explanation="it says no")


def test_only_containers_of_the_dead_run_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[tuple[str, bool, bool]] = []

    def dead(name: str, folder: Path, error: Exception | None = None) -> Any:
        def remove(*, force: bool, v: bool) -> None:
            removed.append((name, force, v))
            if error is not None:
                raise error

        return SimpleNamespace(name=name, id=name, status="created", labels={FOLDER_LABEL: str(folder)}, remove=remove)

    going = refusal(409)
    containers = [
        dead("ours", tmp_path),
        dead("gone", tmp_path, NotFound("gone")),
        dead("going", tmp_path, going),
        dead("another run's", tmp_path / "other"),
        container("esn_postgres"),
    ]
    monkeypatch.setattr(engine, "open_engine", lambda address: opened(client(*containers)))
    assert sweep_containers("unix:///x", tmp_path) == 3
    assert removed == [(name, True, True) for name in ("ours", "gone", "going")]
    stuck = dead("stuck", tmp_path, refusal(500))
    monkeypatch.setattr(engine, "open_engine", lambda address: opened(client(stuck)))
    with pytest.raises(KeepwellError, match="stuck of a dead run cannot be removed: it says no"):
        sweep_containers("unix:///x", tmp_path)


def test_a_run_that_used_no_container_asks_no_engine(tmp_path: Path) -> None:
    assert not used_containers(tmp_path)
    ImageRunner("unix:///x", Image(ID, NAME), tmp_path).prepare()
    assert used_containers(tmp_path)


# Suggesting it.


@pytest.mark.parametrize(
    ("changes", "suggested"),
    [
        ({}, True),
        ({"container": "named"}, False),
        ({"host": "db.elsewhere"}, False),
        ({"port": 6000}, False),
    ],
)
def test_a_container_that_publishes_the_databases_port_is_suggested_to_whoever_named_none(
    changes: dict[str, Any], suggested: bool, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"5432/tcp": [{"HostIp": "0.0.0.0", "HostPort": "5432"}], "9187/tcp": None}
    running = client(container("other", ports={"80/tcp": [{"HostPort": "80"}]}), container("pg", ports=published))
    monkeypatch.setattr(source_image, "find_address", lambda: "unix:///x")
    monkeypatch.setattr(source_image, "open_engine", lambda address: opened(running))
    asked = platform.model_copy(update={"database": platform.database.model_copy(update={"container": None} | changes)})
    assert ('set database.container = "pg"' in suggest_container(asked)) is suggested


# The container.


def test_a_container_gets_nothing_but_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class FakeApi:
        def inspect_image(self, image: str) -> dict[str, Any]:
            environment = ["PATH=/pg/bin", "PGDATA=/data", "PASSWORD=told"]
            return {"Config": {"Env": environment, "Volumes": {"/data": {}}}}

        def create_host_config(self, **settings: Any) -> dict[str, Any]:
            return settings

        def create_container(self, image: str, **settings: Any) -> dict[str, str]:
            asked.update(settings, image=image)
            return {"Id": "new"}

    runner = ImageRunner("unix:///x", Image(ID, NAME), tmp_path)
    prefix = runner.prefix(writable=[tmp_path / "own"], readable=[tmp_path / "archive"], user=65534)
    assert prefix[1:4] == ("-I", "-m", "keepwell.containers.run")
    monkeypatch.setattr(run.os, "nice", lambda more: 10)
    wanted = run._parse([*prefix[4:], "postgres", "--version"])
    assert run._create(FakeApi(), wanted) == "new"
    host = asked["host_config"]
    assert (asked["image"], asked["user"], asked["command"]) == (ID, "65534:65534", ["postgres", "--version"])
    assert (host["network_mode"], host["read_only"], host["auto_remove"]) == ("none", True, True)
    assert host["cpu_shares"] == 110  # as much less than 1024 as niceness 10 is
    assert (host["cap_drop"], host["cap_add"], host["security_opt"]) == (["ALL"], [], ["no-new-privileges"])
    assert {(mount["Source"], mount["Target"], mount["Type"], mount["ReadOnly"]) for mount in host["mounts"]} == {
        (str(tmp_path / ".users"), "/etc/passwd", "bind", True),
        (str(tmp_path / "own"), str(tmp_path / "own"), "bind", False),
        (str(tmp_path / "archive"), str(tmp_path / "archive"), "bind", True),
        (None, "/data", "tmpfs", False),  # a volume that the image declares
    }
    assert {"PATH=/pg/bin", "PGDATA", "PASSWORD"} <= set(asked["environment"])
    assert asked["labels"] == {"keepwell.folder": str(tmp_path)}


def test_only_the_variables_that_postgresql_reads_are_handed_on() -> None:
    ours = {"PATH": "/bin", "HOME": "/root", "PGPASSWORD": "p", "LC_ALL": "C", "TZDIR": "/zones", "AWS_KEY": "k"}
    assert list(run._environment([], ours, reads_input=False)) == ["PGPASSWORD=p", "LC_ALL=C"]


# Calls of an image's programs.


class Shown:
    """Shows what a call asked for."""

    def prefix(self, **asked: Any) -> tuple[str, ...]:
        paths = [*(f"w:{path}" for path in asked["writable"]), *(f"r:{path}" for path in asked["readable"])]
        return ("run", *paths, *(["network"] if asked["has_network"] else []))


SHOWN = Binaries(Path("/pg/bin"), (15, 8), f"image {NAME}", Shown())


def test_each_program_of_an_image_is_given_what_it_needs_and_no_more(platform: Platform) -> None:
    folder = Path("/spool/database")
    target = "host=/scratch/socket port=5432 dbname=restored"
    restore = build_restore_command(SHOWN, folder, target, {}, jobs=2)
    assert restore.argv[:4] == ("run", "r:/spool/database", "r:/scratch/socket", "/pg/bin/pg_restore")
    assert restore.name == "pg_restore"
    check = build_index_check_command(SHOWN, target, jobs=2)
    assert check.argv[:3] == ("run", "r:/scratch/socket", "/pg/bin/pg_amcheck")
    asked = {"snapshot_id": "x", "encoding": "UTF8", "jobs": 2, "lock_wait_seconds": 3}
    dump = build_dump_command(SHOWN, platform.database, folder, **asked)
    assert dump.argv[:4] == ("run", "w:/spool", "network", "/pg/bin/pg_dump")
    changes = {"host": "/run/postgresql", "ssl_root_certificate": Path("/etc/ca.pem")}
    elsewhere = platform.database.model_copy(update=changes)
    dump = build_dump_command(SHOWN, elsewhere, folder, **asked)
    assert dump.argv[1:5] == ("w:/spool", "r:/run/postgresql", "r:/etc/ca.pem", "/pg/bin/pg_dump")


# The choice.


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    server = Server(Binaries(Path("/pg"), (15, 8), "system"), 5432)
    made = build_platform(server, "app", BucketSettings(name="b"), tmp_path)
    return made.model_copy(update={"database": made.database.model_copy(update={"container": "esn_postgres"})})


def with_image(platform: Platform, wanted: str) -> Platform:
    return platform.model_copy(update={"backup": platform.backup.model_copy(update={"scratch_image": wanted})})


def installed(*majors: int, tmp_path: Path) -> list[Binaries]:
    """Installations of this machine, with a server and every tool."""
    found = []
    for major in majors:
        folder = tmp_path / str(major)
        folder.mkdir()
        for program in ("initdb", "postgres", "pg_amcheck"):
            (folder / program).touch()
        found.append(Binaries(folder, (major, 1), "system"))
    return found


def image_of(major: int, monkeypatch: pytest.MonkeyPatch) -> Binaries:
    image = Binaries(Path("/pg/bin"), (major, 8), f"image {NAME}", Shown())
    monkeypatch.setattr(source_image, "find_image_programs", lambda platform, folder: image)
    return image


def provers(platform: Platform, installations: list[Binaries], folder: Path, *, archive_major: int = 15) -> Provers:
    return find_provers(platform, folder, installations, source_major=15, archive_major=archive_major)


def test_an_image_is_wanted_where_one_is_known(platform: Platform) -> None:
    unnamed = platform.model_copy(update={"database": platform.database.model_copy(update={"container": None})})
    assert wants_image(platform)
    assert not wants_image(unnamed)
    assert wants_image(with_image(unnamed, NAME))
    assert not wants_image(with_image(platform, "never"))


def test_the_sources_image_comes_first_and_this_machine_stands_by(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, here = image_of(15, monkeypatch), installed(15, 17, tmp_path=tmp_path)
    found = provers(platform, here, tmp_path)
    assert (found.servers, found.findings) == ((image, here[0]), ())
    assert str(found.servers[0]) == "PostgreSQL 15.8 (image postgres:15-alpine)"
    assert provers(with_image(platform, "never"), here, tmp_path).servers == (here[0],)


@pytest.mark.parametrize(("image_major", "archive_major"), [(17, 15), (14, 15), (15, 17)])
def test_an_image_that_is_not_what_the_set_comes_from_is_a_warning(
    image_major: int, archive_major: int, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(image_major, monkeypatch)
    here = installed(15, 17, tmp_path=tmp_path)
    found = provers(platform, here, tmp_path, archive_major=archive_major)
    assert [one.major for one in found.servers] == [max(15, archive_major)]
    assert [(one.name, one.verdict) for one in found.findings] == [(SCRATCH_IMAGE, Verdict.WARN)]


def test_with_neither_image_nor_server_nothing_is_known(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine.ADDRESS_VARIABLE, "unix:///nowhere/docker.sock")
    found = provers(platform, [], tmp_path)
    assert (found.servers, [one.verdict for one in found.findings]) == ((), [Verdict.WARN, Verdict.UNKNOWN])


def test_tools_of_this_machine_are_taken_where_they_are_of_the_images_major(tmp_path: Path) -> None:
    here = installed(15, 17, tmp_path=tmp_path)
    assert choose_tools(SHOWN, here, archive_major=15) == here[0]
    assert choose_tools(SHOWN, here[1:], archive_major=15) == SHOWN
    (here[0].folder / "pg_amcheck").unlink()
    assert choose_tools(SHOWN, here, archive_major=15) == SHOWN
    assert choose_tools(here[1], here, archive_major=17) == here[1]


def test_a_client_comes_from_the_image_only_where_none_here_is_of_its_major(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, here = image_of(15, monkeypatch), installed(15, 17, tmp_path=tmp_path)
    assert find_client(platform, here, server_major=15) == here[0]
    assert find_client(platform, here[1:], server_major=15) == image
    assert find_client(with_image(platform, "never"), here[1:], server_major=15) == here[1]
    monkeypatch.undo()
    monkeypatch.setenv(engine.ADDRESS_VARIABLE, "unix:///nowhere/docker.sock")
    assert find_client(platform, here[1:], server_major=15) == here[1]
    with pytest.raises(ConfigurationError, match=r"15 or newer were found\. No Docker Engine answers"):
        find_client(platform, [], server_major=15)


# Where a container cannot be run, nothing is known of the set.


class CannotRun:
    """Stands for an engine that went away under a proof."""

    def prefix(self, **asked: Any) -> tuple[str, ...]:
        return ("sh", "-c", f"echo '{run.COULD_NOT_RUN_WORDS}: it is gone' >&2; exit {run.COULD_NOT_RUN}")


def test_an_archive_that_no_container_can_read_is_not_called_damaged(tmp_path: Path) -> None:
    gone = Binaries(Path("/pg/bin"), (15, 8), f"image {NAME}", CannotRun())
    found = list_entries(Manifest.from_json(GOLDEN.read_bytes()).main, gone, tmp_path)
    assert isinstance(found, Finding)
    assert (found.verdict, "it is gone" in found.message) == (Verdict.UNKNOWN, True)
    with pytest.raises(CommandFailed) as raised:
        run_tool(build_restore_command(gone, tmp_path, "dbname=restored", {}, jobs=1))
    assert restore_finding("database", raised.value).verdict is Verdict.UNKNOWN
    with pytest.raises(CommandFailed):
        run_index_check(build_index_check_command(gone, "dbname=restored", jobs=1))
