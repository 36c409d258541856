"""How many users and events the sample platform has, when each appeared, and what each is called.

Everything here is a pure function of the seed, the scale and an index. So any row can name any other row's id
without remembering it, which keeps the generator's memory constant.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate

DEFAULT_AS_OF = date(2026, 11, 1)
FIRST_DAY = date(2019, 9, 1)
DAY_MILLISECONDS = 86_400_000
PLANNED_AHEAD_DAYS = 45

USERS_AT_SCALE_1 = 12_500
EVENTS_AT_SCALE_1 = 1_900
ORGANIZERS_AT_SCALE_1 = 75
LARGEST_UPLOAD_COUNT = 1_500

# Erasmus life follows the semesters: January is the reference month.
_MONTH_WEIGHTS = (1.0, 1.6, 1.3, 1.2, 1.1, 0.6, 0.3, 0.4, 2.6, 2.2, 1.5, 0.7)
# Spring 2020 to spring 2021: hardly any event took place.
_QUIET_MONTHS = frozenset({(2020, month) for month in range(4, 13)} | {(2021, month) for month in range(1, 5)})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE36_PAIRS = [first + second for first in _BASE36 for second in _BASE36]
_FOUR_DIGITS = 36**4
_FINGERPRINT = "esn0"
_MASK_64 = (1 << 64) - 1

USER_KIND = 1
EVENT_KIND = 2
REGISTRATION_KIND = 3
PAYMENT_KIND = 4
REVIEW_KIND = 5
COMMENT_KIND = 6
FEEDBACK_KIND = 7
PREFERENCES_KIND = 8


def naive_time(milliseconds: int) -> datetime:
    """A UTC time without its zone, as the platform's timestamp(3) columns hold it."""
    return _NAIVE_EPOCH + timedelta(milliseconds=milliseconds)


def day_milliseconds(day: date) -> int:
    """Milliseconds since 1970 at which a day begins in UTC."""
    return (day - _EPOCH.date()).days * DAY_MILLISECONDS


def mix(seed: int, kind: int, index: int) -> int:
    """Scatter (seed, kind, index) over 64 bits (splitmix64): far cheaper than a generator object for each row."""
    value = (seed * 0x9E3779B97F4A7C15 + kind * 0xD1B54A32D192ED03 + index * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def cuid(created_ms: int, counter: int, entropy: int) -> str:
    """A 25-character id in the layout of cuid: c, time, counter, machine, random."""
    pairs = _BASE36_PAIRS
    early, late = divmod(created_ms, _FOUR_DIGITS)
    count = counter % _FOUR_DIGITS
    return (
        f"c{pairs[early // 1296]}{pairs[early % 1296]}{pairs[late // 1296]}{pairs[late % 1296]}"
        f"{pairs[count // 1296]}{pairs[count % 1296]}{_FINGERPRINT}{entropy & 0xFFFFFFFF:08x}"
    )


class Timeline:
    """Maps a share of the whole history (0-1) to a moment, so that later and semester months hold more."""

    def __init__(self, first_day: date, last_day: date, *, quiet: float = 1.0) -> None:
        months = _months_between(first_day, last_day)
        weights = [_month_weight(month, years=(month - first_day).days / 365, quiet=quiet) for month in months]
        starts = [day_milliseconds(month) for month in months]
        starts[0] = day_milliseconds(first_day)
        self._edges_ms = [*starts, day_milliseconds(last_day)]
        lengths = [later - earlier for earlier, later in zip(self._edges_ms, self._edges_ms[1:], strict=False)]
        masses = [weight * length for weight, length in zip(weights, lengths, strict=True)]
        total = sum(masses)
        self._shares = [0.0, *(mass / total for mass in accumulate(masses))]

    def at(self, share: float) -> int:
        """Milliseconds since 1970 by which `share` of all things had happened."""
        month = min(bisect_right(self._shares, share), len(self._shares) - 1) - 1
        low, high = self._shares[month], self._shares[month + 1]
        start, end = self._edges_ms[month], self._edges_ms[month + 1]
        return start + int((share - low) / (high - low) * (end - start))

    def share_before(self, moment_ms: int) -> float:
        """The share of all things that had happened by a moment; the inverse of `at`."""
        month = min(max(bisect_right(self._edges_ms, moment_ms), 1), len(self._edges_ms) - 1) - 1
        start, end = self._edges_ms[month], self._edges_ms[month + 1]
        low, high = self._shares[month], self._shares[month + 1]
        return min(max(low + (moment_ms - start) / (end - start) * (high - low), 0.0), 1.0)


def _months_between(first_day: date, last_day: date) -> Sequence[date]:
    months = []
    month = first_day.replace(day=1)
    while month < last_day:
        months.append(month)
        month = (month + timedelta(days=32)).replace(day=1)
    return months


def _month_weight(month: date, *, years: float, quiet: float) -> float:
    growth = 1.0 + 0.35 * years
    return growth * _MONTH_WEIGHTS[month.month - 1] * (quiet if (month.year, month.month) in _QUIET_MONTHS else 1.0)


@dataclass(frozen=True)
class Population:
    """One sample platform: its seed, its last day and its numbers of users, events and files."""

    seed: int
    as_of_ms: int
    users: int
    events: int
    organizers: int
    avatar_files: int
    event_image_files: int
    receipt_files: int
    _joining: Timeline
    _happening: Timeline

    @classmethod
    def plan(cls, *, scale: float, seed: int = 1, as_of: date = DEFAULT_AS_OF) -> "Population":
        """Size a platform.

        Args:
            scale: 1 makes a database of about 60 MB; the rows grow in proportion.
            seed: The same seed, scale and day always make the same rows.
            as_of: The day the data pretend to be of; at least a year after the platform's first day.

        Raises:
            ValueError: The scale is not positive, or the day is too early.
        """
        if scale <= 0:
            raise ValueError(f"scale must be positive, not {scale}")
        if as_of < FIRST_DAY + timedelta(days=365):
            raise ValueError(f"as_of must be at least a year after {FIRST_DAY}, not {as_of}")
        users = max(20, round(USERS_AT_SCALE_1 * scale))
        events = max(5, round(EVENTS_AT_SCALE_1 * scale))
        return cls(
            seed=seed,
            as_of_ms=day_milliseconds(as_of),
            users=users,
            events=events,
            organizers=max(3, round(ORGANIZERS_AT_SCALE_1 * scale)),
            avatar_files=min(LARGEST_UPLOAD_COUNT, max(4, users // 40)),
            event_image_files=min(LARGEST_UPLOAD_COUNT, max(3, events // 10)),
            receipt_files=min(LARGEST_UPLOAD_COUNT, max(3, events // 15)),
            _joining=Timeline(FIRST_DAY, as_of, quiet=0.5),
            _happening=Timeline(FIRST_DAY + timedelta(days=30), as_of + timedelta(days=PLANNED_AHEAD_DAYS), quiet=0.05),
        )

    def user_key(self, index: int) -> tuple[int, str]:
        """When a user joined and the user's id; users are numbered in the order in which they joined."""
        entropy = mix(self.seed, USER_KIND, index)
        created_ms = self._joining.at((index + _unit(entropy)) / self.users)
        return created_ms, cuid(created_ms, index, entropy)

    def users_joined_before(self, moment_ms: int) -> int:
        """How many users had surely joined by a moment: each index below it belongs to one."""
        return max(0, int(self._joining.share_before(moment_ms) * self.users) - 1)

    def event_start_ms(self, index: int) -> int:
        """When an event starts: on a half hour; events are numbered roughly in the order of their start."""
        entropy = mix(self.seed, EVENT_KIND, index)
        day_ms = self._happening.at((index + _unit(entropy)) / self.events) // DAY_MILLISECONDS * DAY_MILLISECONDS
        half_hours = 16 + (entropy >> 8) % 28
        return day_ms + half_hours * 1_800_000

    def event_created_ms(self, index: int) -> int:
        """When an event was entered: weeks before its start, and never after the platform's last day."""
        entropy = mix(self.seed, EVENT_KIND, index)
        lead_ms = (10 * DAY_MILLISECONDS) + (entropy >> 4) % (18 * DAY_MILLISECONDS)
        return min(self.event_start_ms(index) - lead_ms, self.as_of_ms - 3_600_000 - entropy % DAY_MILLISECONDS)

    def event_id(self, index: int) -> str:
        """The id of an event, known without making the event's row."""
        return cuid(self.event_created_ms(index), index, mix(self.seed, EVENT_KIND, index))


def _unit(entropy: int) -> float:
    return (entropy >> 11) / (1 << 53)
