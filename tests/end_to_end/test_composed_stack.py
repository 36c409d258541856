"""The production compose files themselves, on an engine of the tests', by both generations of compose."""

import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from compose_programs import fetch_second_generation, find_first_generation
from composed_stack import Composed, Maintained, composed_stack, maintained_platform, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from docker_engine import running_engine
from production_images import IMAGE, build_keepwell, build_others
from real_servers import installation
from runs import FINAL, SILENT, SILENT_SECONDS, Api, impatient_automation

from deployments.local.engine import RunningEngine
from deployments.local.objectstore import RunningObjectStore
from deployments.running.ports import find_free_port
from keepwell.backup.catalogue import read_catalogue
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store

pytestmark = [
    pytest.mark.composed,
    pytest.mark.docker,
    pytest.mark.long,
    pytest.mark.major(15),
    pytest.mark.timeout(1800),
]
BACKUP, EXPIRY = "backup-and-verify", "expire-backups"
CONFINED = "no files but its own, no other processes, no network, empty environment"


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    """An engine with every image that the compose files name."""
    with running_engine() as running:
        build_keepwell(running.client, installation(15))
        build_others(running.client, installation(15))
        yield running


@pytest.fixture(scope="module")
def maintained(
    engine: RunningEngine, objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Maintained]:
    with maintained_platform(engine, objectstore, tmp_path_factory.mktemp("maintained")) as made:
        yield made


@pytest.fixture(scope="module")
def first(engine: RunningEngine, maintained: Maintained) -> Iterator[Composed]:
    """Brought up by compose 1."""
    program = find_first_generation()
    assert program is not None, "docker-compose of Debian is not installed"
    with composed_stack(program, engine, maintained) as stack:
        stack.compose("up", "-d")
        wait_for(stack.serves, stack)
        yield stack


@pytest.fixture(scope="module")
def second(engine: RunningEngine, maintained: Maintained) -> Iterator[Composed]:
    """Brought up by compose 2."""
    with composed_stack(fetch_second_generation(), engine, maintained) as stack:
        stack.compose("up", "--detach", "--quiet-pull")
        wait_for(stack.serves, stack)
        yield stack


def api_of(stack: Composed) -> Api:
    return Api(f"http://127.0.0.1:{stack.port}/api", stack.read_login())


def back_up(stack: Composed, maintained: Maintained) -> None:
    """A run in the worker's container, to one proven set more than before."""
    api, before = api_of(stack), proven(maintained)
    run_id = api.start(BACKUP, platform="esn")
    wait_for(lambda: api.read(run_id)["state"]["type"] in FINAL, stack)
    assert api.read(run_id)["state"]["type"] == "COMPLETED", stack.describe()
    assert len(proven(maintained) - before) == 1


def proven(maintained: Maintained) -> set[str]:
    store = open_store(maintained.platform)
    return {entry.backup_id for entry in read_catalogue(store) if entry.is_proven("serving")}


def test_a_backup_is_proven_through_the_stack_of_compose_1(first: Composed, maintained: Maintained) -> None:
    back_up(first, maintained)
    # The console is at hand there, and needs to be told nothing.
    said = first.compose("exec", "-T", "worker", "keepwell", "backup", "list", "--json")
    assert json.loads(said)["verdict"] == "ok"


def test_a_backup_is_proven_through_the_stack_of_compose_2(second: Composed, maintained: Maintained) -> None:
    back_up(second, maintained)


def test_nobody_gets_in_without_the_login(first: Composed) -> None:
    address = f"http://127.0.0.1:{first.port}/api"
    assert httpx.get(f"{address}/health", timeout=30).status_code == 200
    for login in (None, ("keepwell", "wrong"), ("admin", "admin")):
        assert httpx.get(f"{address}/admin/version", auth=login, timeout=30).status_code == 401
    # With it, a page of somebody else's still changes nothing.
    user, _, password = first.read_login().partition(":")
    answer = httpx.post(f"{address}/flows/count", json={}, auth=(user, password), timeout=30)
    assert (answer.status_code, "CSRF" in answer.text) == (403, True)
    assert api_of(first).post("/flows/count") > 0


def test_the_pages_are_served(first: Composed) -> None:
    page = httpx.get(f"http://127.0.0.1:{first.port}/v2/", timeout=30).text
    assert "<title>" in page
    (script, *_) = re.findall(r'src="([^"]+\.js)"', page)
    assert httpx.get(f"http://127.0.0.1:{first.port}{script}", timeout=30).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{first.port}/ui-settings", timeout=30).json()["api_url"] == "/api"


def test_no_password_can_be_seen_by_whoever_inspects_a_container(first: Composed, maintained: Maintained) -> None:
    passwords = [
        first.read_login().partition(":")[2],
        first.compose("exec", "-T", "server", "cat", "/run/keepwell/server/database-password").strip(),
        *(path.read_text().strip() for path in (maintained.configuration / "secrets").iterdir()),
    ]
    for container in first.containers():
        container.reload()
        seen = f"{container.attrs}{container.logs().decode(errors='replace')}"
        assert [number for number, password in enumerate(passwords) if password in seen] == [], container.name


def test_each_container_runs_without_a_privilege(first: Composed) -> None:
    for service in ("database", "server", "worker"):
        container = first.container(service)
        status = container.exec_run(["cat", "/proc/1/status"]).output.decode()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert facts["Uid"].split()[0] != "0", service
        assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, service
        assert facts["NoNewPrivs"] == "1", service
        assert container.exec_run(["sh", "-c", "echo > /opt/x || echo > /etc/x"]).exit_code != 0, service
        limits = container.attrs["HostConfig"]
        assert min(limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) > 0, service
        assert limits["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}, service
        assert not any("docker.sock" in mount["Source"] for mount in container.attrs["Mounts"]), service


def test_only_loopback_is_listened_on(first: Composed, engine: RunningEngine) -> None:
    front = f"{first.settings['COMPOSE_PROJECT_NAME']}_front"
    network = engine.client.networks.get(front)
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    published = {
        binding["HostIp"]
        for container in first.containers()
        for bindings in container.attrs["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    assert published == {"127.0.0.1"}
    assert listens("127.0.0.1", first.port)
    # Another address of this machine, and the container's own from another network: another network namespace.
    assert not listens(gateway, first.port)
    server = first.container("server").attrs["NetworkSettings"]["Networks"]
    asked = [(gateway, first.port), *((found["IPAddress"], 4200) for found in server.values())]
    other = engine.client.networks.create("elsewhere", driver="bridge")
    try:
        for host, port in asked:
            said = engine.client.containers.run(IMAGE, [TRY, host, str(port)], entrypoint=["python", "-c"],
                                                network=other.name, remove=True).decode()  # fmt: skip
            assert said.strip() == "nothing", (host, port)
    finally:
        other.remove()


TRY = """
import socket, sys
connection = socket.socket()
connection.settimeout(3)
print("answered" if connection.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0 else "nothing")
"""


def listens(host: str, port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(5)
        return connection.connect_ex((host, port)) == 0


def test_a_killed_worker_comes_back_and_its_run_is_noticed(first: Composed, maintained: Maintained) -> None:
    api = api_of(first)
    with (
        impatient_automation(api, SILENT, SILENT_SECONDS),
        hold_platform(maintained.platform, open_store(maintained.platform), Procedure.RESTORE),
    ):
        run_id = api.start(BACKUP, platform="esn")
        wait_for(lambda: is_waiting(api, run_id), first)
        kill(first, "worker")
        wait_for(first.serves, first)
        wait_for(lambda: api.read(run_id)["state"]["type"] == "CRASHED", first)
    back_up(first, maintained)


def test_a_server_that_is_restarted_loses_no_run(first: Composed, maintained: Maintained) -> None:
    api, before = api_of(first), proven(maintained)
    # Nobody hears a run while the server is away, and a busy machine takes its time to bring it back.
    with (
        impatient_automation(api, SILENT, 900),
        hold_platform(maintained.platform, open_store(maintained.platform), Procedure.RESTORE),
    ):
        run_id = api.start(BACKUP, platform="esn")
        wait_for(lambda: is_waiting(api, run_id), first)
        first.compose("restart", "server")
        wait_for(first.serves, first)
    wait_for(lambda: api.read(run_id)["state"]["type"] in FINAL, first)
    assert api.read(run_id)["state"]["type"] == "COMPLETED"
    assert len(proven(maintained) - before) == 1


def is_waiting(api: Api, run_id: str) -> bool:
    return api.tasks(run_id).get("wait for our turn: backup") == "RUNNING"


def kill(stack: Composed, service: str) -> None:
    """kill -9 of what the container runs, from outside: to the engine it has died, and nobody has stopped it."""
    container = stack.container(service)
    container.reload()
    started = container.attrs["State"]["StartedAt"]
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)

    def is_another() -> bool:
        container.reload()
        return bool(container.attrs["State"]["Running"] and container.attrs["State"]["StartedAt"] != started)

    wait_for(is_another, stack)


def test_everything_comes_back_after_a_restart_of_the_engine(
    first: Composed, engine: RunningEngine, maintained: Maintained
) -> None:
    login, deployments = first.read_login(), api_of(first).post("/deployments/count")
    engine.restart()
    wait_for(first.serves, first)
    assert first.read_login() == login
    assert api_of(first).post("/deployments/count") == deployments
    back_up(first, maintained)


def test_up_a_second_time_changes_nothing(first: Composed) -> None:
    before = {container.id for container in first.containers()}
    first.compose("up", "-d")
    wait_for(first.serves, first)
    assert {container.id for container in first.containers()} == before


def test_several_servers_behind_tls_and_a_confined_worker(
    second: Composed, maintained: Maintained, tmp_path: Path
) -> None:
    """What was brought up plain becomes it, with its history."""
    api = api_of(second)
    back_up(second, maintained)
    expiries = len(api.runs(EXPIRY))
    assert isolation_of(proven(maintained), maintained) == {"this user, a socket only, empty environment"}
    certificate = make_certificate(tmp_path)
    grown = second.with_overlays(
        *("compose.scaled.yaml", "compose.tls.yaml", "compose.confined.yaml"),
        STACK_PORT=f"{second.port}-{second.port + 1}",
        STACK_TLS_PORT=str(find_free_port()),
        STACK_CERTIFICATES=str(tmp_path),
    )
    grown.compose("up", "--detach", "--scale", "server=2")
    wait_for(grown.serves, grown)
    # One process of all does what must be done once; the servers only answer, each the same.
    login, runs = grown.read_login(), len(api.runs(BACKUP))
    addresses = [f"http://{address}:4200/api" for address in addresses_of(grown, "server")]
    assert len(addresses) == 2
    assert [len(Api(address, login).runs(BACKUP)) for address in addresses] == [runs, runs]
    before = proven(maintained)
    back_up(grown, maintained)
    assert isolation_of(proven(maintained) - before, maintained) == {CONFINED}
    wait_for(lambda: len(Api(addresses[0], login).runs(EXPIRY)) > expiries, grown)
    require_tls(grown, certificate, login)


def addresses_of(stack: Composed, service: str) -> list[str]:
    """Of each container of a service, in the network that the worker is in too."""
    networks = [container.attrs["NetworkSettings"]["Networks"] for container in stack.containers(service)]
    return [found[f"{stack.settings['COMPOSE_PROJECT_NAME']}_front"]["IPAddress"] for found in networks]


def isolation_of(backup_ids: set[str], maintained: Maintained) -> set[str | None]:
    """How the scratch servers that proved them were kept apart."""
    entries = read_catalogue(open_store(maintained.platform))
    return {entry.proof.isolation for entry in entries if entry.proof and entry.backup_id in backup_ids}


def require_tls(stack: Composed, certificate: ssl.SSLContext, login: str) -> None:
    """The certificate counts, nothing goes without it, and pages and API are there behind it."""
    address = f"https://127.0.0.1:{stack.settings['STACK_TLS_PORT']}"
    user, _, password = login.partition(":")
    with httpx.Client(base_url=address, verify=certificate, timeout=30) as client:
        answer = client.get("/api/admin/version", auth=(user, password))
        assert (answer.status_code, answer.json()) == (200, "3.8.8")
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert client.get("/api/admin/version", auth=(user, "wrong")).status_code == 401
        assert "<title>" in client.get("/v2/").text
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(address, timeout=30)
    assert httpx.get(address.replace("https", "http"), timeout=30).status_code == 400


def make_certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for loopback that nobody knows, and what believes it; in a folder that nginx's user gets into."""
    folder.chmod(0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keepwell")]), datetime.now(UTC)
    places = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = builder.add_extension(places, critical=False).sign(key, hashes.SHA256())
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ssl.create_default_context(cafile=folder / "certificate.pem")
