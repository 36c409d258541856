"""Platforms whose runs are killed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from deadly_runs import Doomed, doomed_platform
from pydantic import SecretStr
from real_servers import Server, bucket_settings

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import RunningRedis
from keepwell.settings import RedisSettings


@pytest.fixture
def doomed(
    server: Server, objectstore: RunningObjectStore, redis_server: RunningRedis, redis_url: str, tmp_path: Path
) -> Iterator[Callable[[str, Sequence[str]], Doomed]]:
    """Platforms that die, each with a bucket folder and a database of its own."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("a key", "a value")
    settings = RedisSettings(host="127.0.0.1", port=redis_server.port, password=SecretStr(redis_server.password))
    with ExitStack() as stack:

        def make(name: str, sql: Sequence[str]) -> Doomed:
            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(doomed_platform(server, bucket_settings(objectstore), settings, folder, sql))

        yield make
