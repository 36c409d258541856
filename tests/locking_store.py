"""A store with versions, Object Lock, storage classes and policies: moto's server, on loopback, forgetful and quick."""

import json
import logging
import secrets
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from pydantic import SecretStr

from keepwell.objectstore.store import Store, open_store
from keepwell.sealing import NO_SEAL
from keepwell.settings import BackupSettings, BucketSettings, Platform, RetentionSettings, SealingSettings

_ROOT = {"aws_access_key_id": "root", "aws_secret_access_key": "of-the-tests", "region_name": "us-east-1"}
_MANY = 1_000_000_000


@dataclass(frozen=True)
class LockingStore:
    """The running server.

    Attributes:
        endpoint_url: On loopback.
    """

    endpoint_url: str

    @property
    def root(self) -> Any:
        """An S3 client that may do everything."""
        return boto3.client("s3", endpoint_url=self.endpoint_url, **_ROOT)

    def make_bucket(self, *, lock: bool = True, versions: bool = True) -> str:
        """A fresh bucket; one with locks has versions as well."""
        name = f"locking-{secrets.token_hex(6)}"
        self.root.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
        if versions:
            self.root.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def make_key(self, policy: Mapping[str, Any]) -> dict[str, SecretStr]:
        """A user with one policy, and the key of it."""
        iam, name = boto3.client("iam", endpoint_url=self.endpoint_url, **_ROOT), f"user-{secrets.token_hex(6)}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {
            "access_key_id": SecretStr(key["AccessKeyId"]),
            "secret_access_key": SecretStr(key["SecretAccessKey"]),
        }

    @contextmanager
    def enforcing(self) -> Iterator[None]:
        """For the block, each request needs a key whose policy allows it."""
        self._allow(0)
        try:
            yield
        finally:
            self._allow(_MANY)

    def _allow(self, requests: int) -> None:
        url, plain = f"{self.endpoint_url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        asked = urllib.request.Request(url, str(requests).encode(), plain, method="POST")
        urllib.request.urlopen(asked).close()

    def platform(self, bucket: str, **settings: Any) -> Platform:
        """A platform without a database, whose sets lie in a bucket of this server."""
        keys = {"access_key_id": SecretStr("root"), "secret_access_key": SecretStr("of-the-tests")}
        return Platform.model_construct(
            name="esn",
            bucket=BucketSettings.model_validate(
                {"name": bucket, "endpoint_url": self.endpoint_url, "addressing": "path"} | keys | settings
            ),
            sealing=SealingSettings(mode="none"),
            backup=BackupSettings(),
            retention=RetentionSettings(),
        )

    def open(self, bucket: str, **settings: Any) -> Store:
        """The platform's folder in a bucket of this server."""
        store = open_store(self.platform(bucket, **settings))
        assert store.seal == NO_SEAL
        return store


@contextmanager
def running_locking_store() -> Iterator[LockingStore]:
    """The server on a free port for as long as the block."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        running = LockingStore(f"http://127.0.0.1:{port}")
        running._allow(_MANY)
        yield running
    finally:
        server.stop()
