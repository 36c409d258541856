"""What the platform's users notice of a backup: response times of the sample application, with and without one.

Run by `make bench-politeness`, interleaved in one run: nothing, the guide's script, ours with its proof, ours set to go
gently. Requests come at a fixed rate whether or not the last was answered, and a response time counts from when its
request was due, so that a server which stops for a second is not measured once but by everybody who came meanwhile.
"""

import json
import os
import pickle
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
from real_servers import Server, bucket_settings, build_platform, fresh_database, reachable_folder
from test_backup_speed import SCRIPT, Rivals

from deployments.local.objectstore import RunningObjectStore
from deployments.running.ports import find_free_port
from keepwell import command
from keepwell.command import Command
from keepwell.settings import Platform
from sample.generate import create_schema, load
from sample.write_load import WriteLoad

# 5 makes 300 MB.
SCALE = float(os.environ.get("BENCH_SCALE", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
REQUESTS_PER_SECOND = 25
WRITES_PER_SECOND = 5
WARM_UP_SECONDS = 3
QUIET_SECONDS = 12
# What an operator sets whose platform shares its processors with the backup, and whose nights are long.
GENTLY = {"jobs": 1, "nice": 19, "most_bytes_per_second": 16 * 1024 * 1024}
QUERY = {"query": "{ events { id title startDate location } }"}
_WAITING = 64


@dataclass
class Answers:
    """What visitors met, in the order in which they were due.

    Attributes:
        seconds: From when a request was due until its answer was whole.
        errors: Requests that were not answered as they should be.
    """

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1] * 1000


class Visitors:
    """People who look at the calendar and the health page, at a fixed rate."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_connections=_WAITING))

    def visit_while(self, busy: Callable[[], bool]) -> Answers:
        """Visit for as long as something goes on."""
        answers, due, number = Answers(), time.monotonic(), 0
        with ThreadPoolExecutor(_WAITING) as people:
            while busy():
                people.submit(self._visit, answers, due, number)
                number, due = number + 1, due + 1 / REQUESTS_PER_SECOND
                time.sleep(max(due - time.monotonic(), 0))
        return answers

    def _visit(self, answers: Answers, due: float, number: int) -> None:
        try:
            answer = self._client.get("/health") if number % 5 == 0 else self._client.post("/graphql", json=QUERY)
            well = answer.status_code == 200 and "errors" not in answer.json()
        except (httpx.HTTPError, ValueError):
            well = False
        answers.seconds.append(time.monotonic() - due)
        answers.errors += not well


@contextmanager
def application(database_url: str) -> Iterator[str]:
    """The sample platform's backend and its writers."""
    port = find_free_port()
    settings = {"DATABASE_URL": database_url, "HOST": "127.0.0.1", "PORT": str(port), "SAMPLE_THROTTLE": "off"}
    backend = command.start(Command((sys.executable, "-m", "sample.backend"), settings), stderr=subprocess.DEVNULL)
    writers = WriteLoad(database_url, None, rate_per_second=WRITES_PER_SECOND)
    writing = threading.Thread(target=writers.run, kwargs={"report": lambda _: None})
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        writing.start()
        yield url
        assert writers.totals.failures == 0
    finally:
        writers.stop()
        writing.join()
        command.stop(backend)


def quietly(seconds: float) -> Callable[[], bool]:
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() < ends


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Something that goes on; it must succeed."""
    with ThreadPoolExecutor(1) as worker:
        going_on = worker.submit(work)
        yield lambda: not going_on.done()
        going_on.result()


def test_the_platforms_users_hardly_notice_a_backup_and_its_proof(
    servers: Callable[[int], Server], objectstore: RunningObjectStore
) -> None:
    server = servers(17)
    with fresh_database(server) as database, reachable_folder() as folder:
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            create_schema(connection)
            load(connection, scale=SCALE)
        spool = folder / "spool"
        spool.mkdir(mode=0o711)
        platform = build_platform(server, database, bucket_settings(objectstore), spool)
        rivals = Rivals(server, database, folder)
        gently = platform.model_copy(update={"backup": platform.backup.model_copy(update=GENTLY)})
        ours, gentle = Measured(platform, folder / "platform.pickle"), Measured(gently, folder / "gentle.pickle")
        with application(server.url(database)) as url:
            visitors = Visitors(url)
            visitors.visit_while(quietly(WARM_UP_SECONDS))
            rounds = [run_round(visitors, rivals, ours, gentle) for _ in range(ROUNDS)]
    names = list(rounds[0])
    report = {name: statistics.median(one[name].p95_ms for one in rounds) for name in names}
    errors = {name: sum(one[name].errors for one in rounds) for name in names}
    print(f"\n{REQUESTS_PER_SECOND} requests/s, {WRITES_PER_SECOND} writes/s, medians of {ROUNDS} rounds, one machine")
    print(render(report, errors, sum(len(one[name].seconds) for one in rounds for name in names)))
    figures = {f"{name}_p95_ms": round(value, 1) for name, value in report.items()}
    print(json.dumps(figures | {f"{name}_errors": count for name, count in errors.items()}))
    assert not any(errors.values())


def run_round(visitors: Visitors, rivals: Rivals, ours: "Measured", gentle: "Measured") -> dict[str, Answers]:
    """Everybody once, with a quiet time in between to compare with."""
    found = {"quiet": visitors.visit_while(quietly(QUIET_SECONDS))}
    for name, work in {"guide": rivals.guide, "keepwell": ours.run, "keepwell_gently": gentle.run}.items():
        with beside(work) as busy:
            found[name] = visitors.visit_while(busy)
    return found


@dataclass(frozen=True)
class Measured:
    """A backup with its proof in a process and a session of its own, as a worker's is."""

    platform: Platform
    pickled: Path

    def run(self) -> None:
        self.pickled.write_bytes(pickle.dumps(self.platform))
        call = [sys.executable, str(SCRIPT), str(self.pickled)]
        said = subprocess.run(call, stdout=subprocess.PIPE, check=True, start_new_session=True)
        assert json.loads(said.stdout)["reached"] == "serving"


def render(report: dict[str, float], errors: dict[str, int], requests: int) -> str:
    told = {
        "quiet": "nothing beside it",
        "guide": "during the guide's pg_dump | gzip",
        "keepwell": "during keepwell's backup and proof",
        "keepwell_gently": f"the same with {', '.join(f'{name} = {value}' for name, value in GENTLY.items())}",
    }
    lines = [f"{'':75}{'p95 ms':>8}{'of quiet':>10}{'errors':>8}"]
    lines += [
        f"{told[name]:<75}{value:>8.1f}{value / report['quiet']:>10.2f}{errors[name]:>8}"
        for name, value in report.items()
    ]
    return "\n".join([*lines, f"{requests:,} requests in all"])
