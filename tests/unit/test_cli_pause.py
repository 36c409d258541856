from datetime import UTC, datetime

import pytest

from keepwell.cli.pause import read_time
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.pausing import Pause, Span, parse_pause

NOW = datetime(2026, 12, 1, 22, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90m", "2026-12-02T00:00"),
        ("3h", "2026-12-02T01:30"),
        ("2d", "2026-12-03T22:30"),
        ("2026-12-02T06:00", "2026-12-02T06:00"),
        ("2026-12-02 06:00+01:00", "2026-12-02T05:00"),
        ("23:00", "2026-12-01T23:00"),
        # Tomorrow's.
        ("06:00", "2026-12-02T06:00"),
        ("06:00+01:00", "2026-12-02T05:00"),
    ],
)
def test_times(text: str, at: str) -> None:
    assert read_time(text, NOW) == datetime.fromisoformat(at).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tomorrow", "is no time"),
        ("3w", "is no time"),
        ("0m", "is past"),
        ("2026-12-01T06:00", "is past"),
        ("", "is no"),
    ],
)
def test_times_that_are_none(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_time(text, NOW)


def test_which_moments_were_in_a_pause_and_the_record_of_a_present_one_excuses_none() -> None:
    def at(hour: int) -> datetime:
        return NOW.replace(hour=hour)

    record = Pause(since=at(20), earlier=(Span(since=at(2), resumed_at=at(4)),))
    assert [hour for hour in range(24) if record.covers(at(hour))] == [2, 3, 4]
    assert not Pause().covers(NOW)


def test_when_a_pause_is_over() -> None:
    assert not Pause().is_over(NOW)
    assert not Pause(since=NOW).is_over(NOW)
    assert Pause(since=NOW, until=NOW).is_over(NOW)


def test_a_record_that_is_not_ours_is_not_guessed_at() -> None:
    assert parse_pause(None) == Pause()
    assert parse_pause(Pause(since=NOW).model_dump(mode="json")) == Pause(since=NOW)
    with pytest.raises(KeepwellError, match="not understood"):
        parse_pause({"since": "yesterday"})
