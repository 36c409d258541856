"""The production stack, brought up by its own compose files, beside a platform whose database publishes no port."""

import json
import os
import secrets
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from docker.models.containers import Container
from production_images import FOLDER, IMAGE, NGINX, POSTGRES, REDIS
from real_servers import BUCKET

from deployments.local.engine import RunningEngine
from deployments.local.objectstore import RunningObjectStore
from deployments.running.ports import find_free_port
from keepwell.keyring import IDENTITIES, SIGNING_KEY, make_key_files, make_offline_file
from keepwell.settings import Platform, load_platform_file

CONTAINER_ID = 10001
DATABASE_PASSWORD = "marked-secret-of-the-database"
SECRETS = "secrets"
# As the stack's containers see it.
_SEEN = Path("/etc/keepwell")
_COMPOSE_SECONDS = 400


@dataclass(frozen=True)
class Maintained:
    """A platform as compose runs it, and what is needed to back it up.

    Attributes:
        network: Of its containers; the database's port is published nowhere.
        configuration: Folder with its platform file, keys and secrets, for the stack to mount.
        platform: The same as this process reaches it.
    """

    network: str
    configuration: Path
    platform: Platform


@contextmanager
def maintained_platform(engine: RunningEngine, store: RunningObjectStore, folder: Path) -> Iterator[Maintained]:
    """A database in a container of its own network, with some rows, and a bucket that is reached from there."""
    network = engine.client.networks.create(f"esn_{secrets.token_hex(3)}", driver="bridge")
    network.reload()
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    container = engine.client.containers.run(
        POSTGRES,
        name=f"{network.name}_postgres",
        network=network.name,
        environment={"POSTGRES_PASSWORD": DATABASE_PASSWORD, "POSTGRES_DB": "esn_db_prod"},
        restart_policy={"Name": "unless-stopped"},
        detach=True,
    )
    network.disconnect(container)
    network.connect(container, aliases=["postgres"])
    prefix = f"t{secrets.token_hex(4)}"
    own = folder / "own"
    _write_secrets(folder / "configuration", store)
    _write_secrets(own, store, like=folder / "configuration")
    with _relay(gateway, store.port) as port:
        places = ((folder / "configuration", _SEEN, "postgres", f"http://{gateway}:{port}"),)
        places += ((own, own, address_of(container), store.endpoint_url),)
        for place, seen, host, endpoint_url in places:
            text = _render(seen, host=host, endpoint_url=endpoint_url, region=store.region, prefix=prefix, keys=own)
            (place / "keepwell.toml").write_text(text)
        for path in [folder / "configuration", *(folder / "configuration").rglob("*")]:
            os.chown(path, CONTAINER_ID, CONTAINER_ID)
        platform = load_platform_file(own / "keepwell.toml")
        _fill(platform)
        yield Maintained(network.name, folder / "configuration", platform)
        container.remove(force=True, v=True)


def address_of(container: Container) -> str:
    """Of a container in its one network."""
    container.reload()
    (found,) = container.attrs["NetworkSettings"]["Networks"].values()
    return str(found["IPAddress"])


def _write_secrets(folder: Path, store: RunningObjectStore, *, like: Path | None = None) -> None:
    (folder / SECRETS).mkdir(parents=True)
    (folder / SECRETS / "database-password").write_text(DATABASE_PASSWORD)
    (folder / SECRETS / "access-key-id").write_text(store.access_key_id)
    (folder / SECRETS / "secret-access-key").write_text(store.secret_access_key)
    if like is None:
        keys = make_key_files(folder / "keys")
        recipients = [keys.recipient, make_offline_file(folder / "keys/offline", keys.signer)]
        (folder / "keys/recipients").write_text(json.dumps(recipients))
    else:
        (folder / "keys").symlink_to(like / "keys")


def _render(folder: Path, *, host: str, endpoint_url: str, region: str, prefix: str, keys: Path) -> str:
    return f"""name = "esn"
[database]
host = "{host}"
name = "esn_db_prod"
user = "postgres"
password_file = "{folder}/{SECRETS}/database-password"
[bucket]
name = "{BUCKET}"
endpoint_url = "{endpoint_url}"
region = "{region}"
prefix = "{prefix}"
addressing = "path"
access_key_id_file = "{folder}/{SECRETS}/access-key-id"
secret_access_key_file = "{folder}/{SECRETS}/secret-access-key"
[sealing]
recipients = {(keys / "keys/recipients").read_text()}
identities_file = "{folder}/keys/{IDENTITIES}"
signing_key_file = "{folder}/keys/{SIGNING_KEY}"
[backup]
interlock_wait_seconds = 300
[[backup.smoke_queries]]
name = "people are there"
sql = "SELECT count(*) FROM people"
at_least = 5000
"""


def _fill(platform: Platform) -> None:
    deadline = time.monotonic() + 120
    while True:
        with suppress(psycopg.OperationalError), closing(_connect(platform)) as connection:
            connection.execute(
                "CREATE TABLE people AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 5000) n"
            )
            connection.execute("ALTER TABLE people ADD PRIMARY KEY (id)")
            return
        assert time.monotonic() < deadline, "the platform's database does not come up"
        time.sleep(0.5)


def _connect(platform: Platform) -> "psycopg.Connection[Any]":
    database = platform.database
    return psycopg.connect(
        host=database.host, dbname=database.name, user=database.user, password=DATABASE_PASSWORD, autocommit=True
    )


@contextmanager
def _relay(host: str, port: int) -> Iterator[int]:
    """What containers of a network reach at its gateway, and this machine at loopback alone."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as onward:
                back = threading.Thread(target=_pass_on, args=(onward, self.request), daemon=True)
                back.start()
                _pass_on(self.request, onward)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Composed:
    """One stack, and the compose that it is brought up with.

    Attributes:
        program: Compose.
        engine: Where.
        settings: What `.env` would say otherwise.
        files: The compose files, the stack's own first.
        port: Of the pages and the API, on loopback.
    """

    program: Path
    engine: RunningEngine
    settings: Mapping[str, str]
    files: tuple[str, ...]
    port: int = field(default_factory=find_free_port)

    def compose(self, *arguments: str) -> str:
        """Run it as an operator does, in the folder of its files; what it printed."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nowhere",
            "DOCKER_HOST": self.engine.address,
            "COMPOSE_FILE": ":".join(self.files),
            "STACK_PORT": str(self.port),
            **self.settings,
        }
        ended = subprocess.run(
            [self.program, *arguments],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMPOSE_SECONDS,
        )
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}\n{ended.stderr}\n{self.describe()}"
        return ended.stdout

    def with_overlays(self, *files: str, **settings: str) -> "Composed":
        """The same stack with more files and settings."""
        return replace(self, files=(*self.files, *files), settings={**self.settings, **settings})

    def containers(self, service: str | None = None) -> list[Container]:
        """Of the stack, or of one of its services."""
        labels = [f"com.docker.compose.project={self.settings['COMPOSE_PROJECT_NAME']}"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        found: list[Container] = self.engine.client.containers.list(all=True, filters={"label": labels})
        return found

    def container(self, service: str) -> Container:
        """The one of a service."""
        (found,) = self.containers(service)
        return found

    def read_login(self) -> str:
        """As docs/compose.md says how."""
        return self.compose("exec", "-T", "server", "cat", "/run/keepwell/login/prefect-login").strip()

    def serves(self) -> bool:
        """Whether all that is to run is healthy, as the engine sees it."""
        states = [_health(container) for container in self.containers()]
        return bool(states) and all(state in ("healthy", "running", "ended well") for state in states)

    def describe(self) -> str:
        """How its containers stand and what they last said, for a test that fails."""
        return "\n".join(
            f"== {container.name}: {_health(container)}\n{container.logs(tail=15).decode(errors='replace')}"
            for container in self.containers()
        )


def _health(container: Container) -> str:
    container.reload()
    state = container.attrs["State"]
    if state["Status"] == "exited":
        return "ended well" if state["ExitCode"] == 0 else f"ended with {state['ExitCode']}"
    return str(state.get("Health", {}).get("Status", state["Status"]))


@contextmanager
def composed_stack(program: Path, engine: RunningEngine, maintained: Maintained) -> Iterator[Composed]:
    """A stack with the overlay that joins the platform's network; the block brings it up, and it is gone afterwards."""
    settings = {
        "COMPOSE_PROJECT_NAME": f"keepwell{secrets.token_hex(3)}",
        "STACK_CONFIGURATION": str(maintained.configuration),
        "STACK_PLATFORM_NETWORK": maintained.network,
        "STACK_IMAGE": IMAGE,
        "STACK_POSTGRES_IMAGE": POSTGRES,
        "STACK_REDIS_IMAGE": REDIS,
        "STACK_NGINX_IMAGE": NGINX,
    }
    stack = Composed(program, engine, settings, ("compose.yaml", "compose.platform.yaml"))
    try:
        yield stack
    finally:
        for container in stack.containers():
            container.remove(force=True, v=True)
        project = {"label": f"com.docker.compose.project={settings['COMPOSE_PROJECT_NAME']}"}
        for network in engine.client.networks.list(filters=project):
            network.remove()
        for volume in engine.client.volumes.list(filters=project):
            volume.remove(force=True)


def wait_for(happened: Callable[[], bool], stack: Composed, limit_seconds: float = 400) -> None:
    """Wait for something of a stack, looking again and again; when it does not happen, show how the stack stands."""
    deadline = time.monotonic() + limit_seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {limit_seconds:.0f} s\n{stack.describe()}"
        time.sleep(0.5)
