"""The stack's object store: its part, its bucket, and a way to start one alone."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.local.objectstore_server import (
    ACCESS_KEY_VARIABLE,
    REGION,
    SECRET_KEY_VARIABLE,
    require_extended_attributes,
)
from deployments.running.parts import Part
from deployments.running.ports import HOST, find_free_port
from deployments.running.probes import answers_http
from deployments.running.standalone import RunningServer, start_server
from keepwell.command import Command

NAME = "objectstore"
# Its user store wants account and user, with a colon between.
ACCESS_KEY_ID = "keepwell:local"
_ENDPOINT_VARIABLE, _BUCKET_VARIABLE = "OBJECTSTORE_ENDPOINT_URL", "OBJECTSTORE_BUCKET"


@dataclass(frozen=True)
class RunningObjectStore:
    """An object store of our own: how to reach it, and the process to kill."""

    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    port: int
    server: RunningServer


def objectstore_part(folder: Path, port: int, secret_access_key: str) -> Part:
    """The server on a folder of its own.

    Args:
        folder: For its configuration and its objects.
        port: On loopback.
        secret_access_key: Belongs to `ACCESS_KEY_ID`.
    """

    def build() -> Command:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_extended_attributes(folder)
        argv = (sys.executable, "-m", "deployments.local.objectstore_server", str(folder), str(port))
        return Command(argv, _credentials(secret_access_key))

    return Part(NAME, build, ready=answers_http(port, "/healthcheck"), address=endpoint_url(port))


def bucket_part(port: int, secret_access_key: str, bucket: str) -> Part:
    """The step that creates a bucket where there is none."""
    environment = {_ENDPOINT_VARIABLE: endpoint_url(port), _BUCKET_VARIABLE: bucket}

    def build() -> Command:
        return Command((sys.executable, "-m", __name__), environment | _credentials(secret_access_key))

    return Part("create-bucket", build, needs=(NAME,))


def endpoint_url(port: int) -> str:
    """Of the S3 interface."""
    return f"http://{HOST}:{port}"


def start_objectstore(
    folder: Path, *, port: int | None = None, secret_access_key: str | None = None
) -> RunningObjectStore:
    """Start an object store alone; with the folder of one that died, its objects are back.

    Args:
        folder: For its configuration, its objects and its log; created when missing.
        port: A free one by default.
        secret_access_key: A random one by default.

    Raises:
        ConfigurationError: The file system cannot hold it.
        ServiceUnavailable: It does not start.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, secret = port or find_free_port(), secret_access_key or secrets.token_urlsafe(24)
    server = start_server(objectstore_part(folder, port, secret), folder)
    return RunningObjectStore(endpoint_url(port), REGION, ACCESS_KEY_ID, secret, port, server)


@contextmanager
def running_objectstore(folder: Path) -> Iterator[RunningObjectStore]:
    """An object store for the length of a block."""
    store = start_objectstore(folder)
    try:
        yield store
    finally:
        store.server.stop()


def create_bucket(endpoint: str, access_key_id: str, secret_access_key: str, bucket: str) -> None:
    """Create a bucket unless it exists."""
    import boto3  # noqa: PLC0415 - slow to import, and only the step needs it
    from botocore.config import Config  # noqa: PLC0415

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    existing = {found["Name"] for found in client.list_buckets()["Buckets"]}
    if bucket not in existing:
        client.create_bucket(Bucket=bucket)


def _credentials(secret_access_key: str) -> dict[str, str]:
    return {ACCESS_KEY_VARIABLE: ACCESS_KEY_ID, SECRET_KEY_VARIABLE: secret_access_key}


if __name__ == "__main__":
    create_bucket(
        os.environ[_ENDPOINT_VARIABLE],
        os.environ[ACCESS_KEY_VARIABLE],
        os.environ[SECRET_KEY_VARIABLE],
        os.environ[_BUCKET_VARIABLE],
    )
