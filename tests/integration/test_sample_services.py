import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from sample.event_store import CACHE_KEY
from sample.generate import create_schema, load
from sample.write_load import WriteLoad

REPOSITORY = Path(__file__).parents[2]
UNREACHABLE_DATABASE = "postgresql://nobody:secret@127.0.0.1:1/nothing"
UNREACHABLE_REDIS = "redis://127.0.0.1:1/0"


@dataclass
class Service:
    process: subprocess.Popen[str]
    address: str
    first_lines: list[str]

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=20)
        return output


Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    services: list[Service] = []

    def start_one(module: str, **environment: str) -> Service:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module],
            cwd=REPOSITORY, env={**os.environ, "PORT": "0", **environment}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        services.append(Service(process, "", []))
        assert process.stdout is not None
        for line in process.stdout:
            services[-1].first_lines.append(line)
            if found := re.search(r"running on: (http://[\d.]+:\d+)", line):
                services[-1].address = found[1]
                return services[-1]
        pytest.fail(f"{module} ended: {services[-1].first_lines}")

    yield start_one
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
        service.process.communicate()


@pytest.fixture
def platform_url(database_url: str) -> str:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        create_schema(connection)
        load(connection, scale=0.05)
    return database_url


@pytest.fixture
def cache(redis_url: str) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    client.delete(CACHE_KEY)
    yield client
    client.close()


def ask(url: str, query: str | None = None) -> tuple[int, str]:
    data = None if query is None else json.dumps({"query": query}).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ask_graphql(address: str, query: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask(f"{address}/graphql", query)[1])
    return document


def test_a_healthy_backend_says_so_in_all_three_shapes(
    start: Start, platform_url: str, redis_url: str, cache: "redis.Redis"
) -> None:
    backend = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL=redis_url)
    status, text = ask(f"{backend.address}/health")
    health = json.loads(text)
    assert (status, health["status"], health["database"], health["redis"]) == (200, "ok", "connected", "connected")
    assert health["memory"]["total"] >= health["memory"]["used"] > 0
    status, text = ask(f"{backend.address}/health/terminus")
    assert (status, json.loads(text)["status"]) == (200, "ok")
    assert json.loads(text)["details"] == {"database": {"status": "up"}, "redis": {"status": "up"}}
    status, text = ask(f"{backend.address}/health/basic")
    assert (status, set(json.loads(text))) == (200, {"status", "timestamp", "environment", "uptime"})
    output = backend.stop()
    assert backend.process.returncode == 0
    assert re.search(
        r"^\[Nest\] \d+  - \d+/\d+/\d{4}, \d+:\d\d:\d\d [AP]M     LOG \[HTTP\] GET /health 200", output, re.MULTILINE
    )


def test_a_backend_without_its_stores_is_degraded_not_dead(start: Start) -> None:
    backend = start(
        "sample.backend", DATABASE_URL=UNREACHABLE_DATABASE, REDIS_URL=UNREACHABLE_REDIS, SAMPLE_LOG_FORMAT="json"
    )
    status, text = ask(f"{backend.address}/health")
    health = json.loads(text)
    assert (status, health["status"]) == (200, "degraded")
    assert (health["database"], health["redis"]) == ("disconnected", "disconnected")
    status, text = ask(f"{backend.address}/health/terminus")
    assert (status, json.loads(text)["status"]) == (503, "error")
    assert set(json.loads(text)["error"]) == {"database", "redis"}
    assert ask(f"{backend.address}/health/basic")[0] == 200
    assert ask(f"{backend.address}/calendar/feed")[0] == 500
    assert ask_graphql(backend.address, "{events{id}}")["data"] is None
    lines = [json.loads(line) for line in backend.stop().splitlines()]
    assert any("FAILED QUERY: health" in line["message"] for line in lines)
    assert not any("secret" in line["message"] for line in lines)


def test_the_smoke_paths(start: Start, platform_url: str, redis_url: str, cache: "redis.Redis") -> None:
    backend = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL=redis_url)
    assert ask(f"{backend.address}/")[0] == 200
    status, calendar = ask(f"{backend.address}/calendar/feed")
    assert status == 200
    assert calendar.startswith("BEGIN:VCALENDAR")
    assert calendar.count("BEGIN:VEVENT") > 0
    assert ask_graphql(backend.address, "{healthCheck}") == {"data": {"healthCheck": "OK"}}
    events = ask_graphql(backend.address, "{events{id title startDate status}}")["data"]["events"]
    assert set(events[0]) == {"id", "title", "startDate", "status"}
    refused = ask_graphql(backend.address, "{me{id}}")
    assert (refused["data"], refused["errors"][0]["extensions"]["code"]) == (None, "UNAUTHENTICATED")
    assert ask_graphql(backend.address, "{secrets}")["errors"]
    assert ask(f"{backend.address}/nothing")[0] == 404
    assert 0 < int(str(cache.ttl(CACHE_KEY))) <= 30


def test_the_eleventh_request_in_a_second_is_refused_even_for_health(start: Start, platform_url: str) -> None:
    backend = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL="")
    statuses = [ask(f"{backend.address}/health/basic")[0] for _ in range(40)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses
    backend.stop()
    free = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL="", SAMPLE_THROTTLE="off")
    assert {ask(f"{free.address}/health/basic")[0] for _ in range(40)} == {200}


def test_a_slow_query_is_noted(start: Start, platform_url: str) -> None:
    backend = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL="", SAMPLE_SLOW_QUERY_MS="0")
    ask(f"{backend.address}/calendar/feed")
    assert re.search(r"WARN \[Performance\] ⚠️  SLOW QUERY: event.findMany took \d+ms", backend.stop())


def test_the_backend_outlives_the_loss_of_its_connections(start: Start, platform_url: str) -> None:
    backend = start("sample.backend", DATABASE_URL=platform_url, REDIS_URL="")
    assert ask(f"{backend.address}/calendar/feed")[0] == 200
    terminate_connections(platform_url, "esn_backend")
    assert ask(f"{backend.address}/calendar/feed")[0] == 200


def test_a_missing_database_url_is_explained() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    for module in ("sample.backend", "sample.write_load"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", module],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"{module}: DATABASE_URL is missing: set it to postgresql://user:password@host:port/database\n"
        )


def test_the_frontend_serves_its_page_and_its_health(start: Start) -> None:
    frontend = start("sample.frontend", BACKEND_URL="http://127.0.0.1:4567")
    status, page = ask(f"{frontend.address}/")
    assert (status, 'content="http://127.0.0.1:4567"' in page) == (200, True)
    assert ask(f"{frontend.address}/health") == (200, "healthy\n")
    assert ask(f"{frontend.address}/nothing")[0] == 404
    frontend.stop()
    assert frontend.process.returncode == 0


def terminate_connections(database_url: str, application: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            (application,),
        )


def test_the_write_load_keeps_its_rate_and_survives_lost_connections(platform_url: str, redis_url: str) -> None:
    load_under_test = WriteLoad(platform_url, redis_url, rate_per_second=50)
    lines: list[str] = []
    runner = threading.Thread(target=load_under_test.run, kwargs={"for_seconds": 3, "report": lines.append})
    started = time.monotonic()
    runner.start()
    time.sleep(1)
    terminate_connections(platform_url, "esn_write_load")
    runner.join(20)
    assert not runner.is_alive()
    totals = load_under_test.totals
    assert totals.reconnections == 1
    assert 20 < totals.transactions <= 50 * (time.monotonic() - started) + 1
    assert totals.cache_writes > 0
    assert any(line.startswith("database: ") for line in lines)
    with psycopg.connect(platform_url) as connection:
        counted = connection.execute(
            """
            SELECT count(*) FROM "registrations"
            WHERE "updatedAt" - (now() AT TIME ZONE 'UTC') BETWEEN interval '-1 minute' AND interval '1 second'
            """
        ).fetchone()
    assert counted is not None
    assert counted[0] > 0


def test_the_write_load_stops_on_sigterm(platform_url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "sample.write_load", "--rate", "20"],
        cwd=REPOSITORY, env={**os.environ, "DATABASE_URL": platform_url}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert "transactions" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output.startswith("stopped: ")


def test_the_write_load_waits_patiently_for_a_database_that_is_away() -> None:
    load_under_test = WriteLoad(UNREACHABLE_DATABASE, None, rate_per_second=5)
    lines: list[str] = []
    totals = load_under_test.run(for_seconds=1, report=lines.append)
    assert totals.transactions == 0
    assert 1 < totals.failures < 6
    assert not any("secret" in line for line in lines)
