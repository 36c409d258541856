"""Real servers and settings for them: what the fixtures are made of, and tests that need more than one."""

import itertools
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from deployments.local.objectstore import RunningObjectStore
from deployments.running.ports import find_free_port
from keepwell import command
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.server import ServerOptions, build_server_command, create_cluster, wait_until_ready
from keepwell.sealing import make_identity, make_signing_key
from keepwell.settings import (
    BackupSettings,
    BucketSettings,
    DatabaseSettings,
    NotifySettings,
    OrchestratorSettings,
    Platform,
    SealingSettings,
    SmokeQuery,
)

MAJORS = (15, 17)
BUCKET = "keepwell-tests"
PASSWORD = "marked-secret-of-the-database"
_numbers = itertools.count(1)


def make_sealing(**changes: object) -> SealingSettings:
    """A pair of keys for this machine, a recipient whose secret is offline, and a signing key."""
    identity, recipient = make_identity()
    _, offline = make_identity()
    keys = {"recipients": (recipient, offline), "identities": (identity,), "signing_key": make_signing_key()[0]}
    return SealingSettings.model_validate(keys | changes)


SEALING = make_sealing()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of the tests: superuser `postgres`, durable enough to be killed."""

    binaries: Binaries
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def connect(self, database: str = "postgres", **options: object) -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True, **options)


def find_installation(major: int) -> Binaries | None:
    return next((found for found in find_installations() if found.major == major and found.has_server), None)


def installation(major: int) -> Binaries:
    """The programs of one major version; a missing one fails, it never skips."""
    return find_installation(major) or pytest.fail(f"PostgreSQL {major} is not installed: the tests need {MAJORS}.")


@contextmanager
def running_postgres(major: int, folder: Path) -> Iterator[Server]:
    binaries, port = installation(major), find_free_port()
    options = ServerOptions(
        superuser="postgres",
        password=PASSWORD,
        port=port,
        parameters={
            "fsync": "off",
            "shared_buffers": "64MB",
            "max_connections": "60",
            "log_statement": "none",
            "wal_level": "logical",
            "max_locks_per_transaction": "256",
            "max_prepared_transactions": "4",
        },
    )
    sockets = folder / "s"
    sockets.mkdir()
    create_cluster(binaries, folder / "data", options)
    log = folder / "server.log"
    with log.open("wb") as stream:
        call = build_server_command(binaries, folder / "data", Path("/tmp"), options)
        process = command.start(call, stdout=stream, stderr=stream, cwd=folder)
    try:
        server = Server(binaries, port)
        wait_until_ready(make_conninfo(server.url("postgres")), process, log)
        yield server
    finally:
        command.stop(process)


def is_nobody_for_real(binaries: Binaries) -> bool:
    """Whether a scratch server in a reachable folder is another user: we are root, and nobody gets to its programs."""
    places = [binaries.folder.resolve(), *binaries.folder.resolve().parents]
    return os.geteuid() == 0 and all(place.stat().st_mode & stat.S_IXOTH for place in places)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that every user can pass through, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="keepwell-tests-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def fresh_database(server: Server, name: str | None = None) -> Iterator[str]:
    name = name or f"app_{os.getpid()}_{next(_numbers)}"
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield name
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def bucket_settings(objectstore: RunningObjectStore) -> BucketSettings:
    return BucketSettings(
        name=BUCKET,
        endpoint_url=objectstore.endpoint_url,
        region=objectstore.region,
        prefix=f"t{secrets.token_hex(4)}",
        access_key_id=SecretStr(objectstore.access_key_id),
        secret_access_key=SecretStr(objectstore.secret_access_key),
        addressing="path",
    )


def build_platform(server: Server, database: str, bucket: BucketSettings, spool: Path, **other: object) -> Platform:
    return Platform.model_construct(
        name="esn",
        database=DatabaseSettings(
            host="127.0.0.1", port=server.port, name=database, user="postgres", password=SecretStr(PASSWORD)
        ),
        bucket=bucket,
        redis=other.get("redis"),
        uploads=other.get("uploads"),
        sealing=SEALING,
        backup=BackupSettings(
            spool_directory=spool,
            interlock_wait_seconds=5,
            lock_wait_seconds=3,
            smoke_queries=(SmokeQuery(name="the database answers", sql="SELECT true"),),
        ),
        notify=NotifySettings(),
        orchestrator=OrchestratorSettings(),
    )
