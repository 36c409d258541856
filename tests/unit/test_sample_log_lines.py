import io
import json
from datetime import UTC, datetime

import pytest

from sample.log_lines import ServiceLog, render_nest, render_nest_json, render_pino, render_winston
from sample.settings import LogFormat

EVENING = datetime(2026, 11, 23, 18, 32, 3, 250_000, tzinfo=UTC)


def test_nest_text() -> None:
    line = render_nest("error", "Performance", "❌ FAILED QUERY: events took 12ms - msg", at=EVENING, pid=1)
    assert line == "[Nest] 1  - 11/23/2026, 6:32:03 PM   ERROR [Performance] ❌ FAILED QUERY: events took 12ms - msg"


def test_nest_text_at_midnight_and_noon() -> None:
    for hour, clock in ((0, "12:32:03 AM"), (12, "12:32:03 PM")):
        assert f", {clock}     LOG [A] b" in render_nest("log", "A", "b", at=EVENING.replace(hour=hour), pid=1)


def test_json_formats() -> None:
    milliseconds = 1_795_458_723_250
    assert json.loads(render_nest_json("warn", "A", "b", at=EVENING, pid=1)) == {
        "level": "warn", "pid": 1, "timestamp": milliseconds, "message": "b", "context": "A",
    }  # fmt: skip
    winston = json.loads(render_winston("log", "A", "b", at=EVENING))
    assert (winston["level"], winston["timestamp"]) == ("info", "2026-11-23T18:32:03.250Z")
    pino = json.loads(render_pino("error", "A", "b", at=EVENING, pid=1))
    assert (pino["level"], pino["time"], pino["msg"]) == (50, milliseconds, "b")


def test_a_pino_request_line_has_its_fields() -> None:
    stream = io.StringIO()
    ServiceLog("pino", stream, now=lambda: EVENING).write_request("GET", "/health", 503, 7)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["req"]["url"], line["res"]["statusCode"], line["responseTime"]) == (
        50,
        "/health",
        503,
        7,
    )


def test_a_failed_query_is_preceded_by_prismas_lines_in_text_only() -> None:
    stream = io.StringIO()
    ServiceLog("nest", stream, now=lambda: EVENING).write_failed_query("event.findMany", 12, "no server\nhint")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("prisma:error")
    assert lines[-1].endswith("ERROR [Performance] ❌ FAILED QUERY: event.findMany took 12ms - no server")


@pytest.mark.parametrize("log_format", ["json", "winston", "pino"])
def test_a_json_format_writes_one_object_for_each_line(log_format: LogFormat) -> None:
    stream = io.StringIO()
    log = ServiceLog(log_format, stream, now=lambda: EVENING)
    log.write_failed_query("events", 12, "two\nlines")
    log.write_slow_query("events", 1200)
    failed, slow = (json.loads(line) for line in stream.getvalue().splitlines())
    assert "❌ FAILED QUERY: events took 12ms - two" in failed.values()
    assert "⚠️  SLOW QUERY: events took 1200ms" in slow.values()
