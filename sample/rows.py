"""The sample platform's rows, as plain tuples: no database needed.

Rows come in small blocks, parents before children, so that a loader may write each block as it arrives.
"""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from sample.population import (
    COMMENT_KIND,
    DAY_MILLISECONDS,
    FEEDBACK_KIND,
    PAYMENT_KIND,
    PREFERENCES_KIND,
    REGISTRATION_KIND,
    REVIEW_KIND,
    Population,
    cuid,
    mix,
    naive_time,
)

Row = tuple[Any, ...]

COLUMNS: dict[str, tuple[str, ...]] = {
    "users": (
        "id", "clerkId", "auth0Id", "email", "firstName", "lastName", "phone", "avatar", "bio", "dateOfBirth",
        "nationality", "university", "esnCardNumber", "role", "isActive", "emergencyContactName",
        "emergencyContactPhone", "createdAt", "updatedAt",
    ),
    "user_preferences": (
        "id", "userId", "language", "theme", "emailNotifications", "eventReminders", "newsletter", "interests",
    ),
    "feedbacks": ("id", "message", "type", "userId", "createdAt", "updatedAt"),
    "events": (
        "id", "title", "description", "category", "type", "status", "startDate", "endDate", "registrationDeadline",
        "location", "maxParticipants", "price", "images", "tags", "isPublic", "organizerId", "createdAt", "updatedAt",
    ),
    "registrations": (
        "id", "userId", "eventId", "status", "registrationType", "position", "paymentStatus", "amountDue", "currency",
        "specialRequests", "registeredAt", "confirmedAt", "cancelledAt", "createdAt", "updatedAt",
    ),
    "payments": (
        "id", "userId", "eventId", "registrationId", "amount", "currency", "status", "method", "reference",
        "refundedAt", "createdAt", "updatedAt",
    ),
    "reviews": ("id", "userId", "eventId", "rating", "comment", "createdAt", "updatedAt"),
    "comments": ("id", "userId", "eventId", "content", "createdAt", "updatedAt"),
}  # fmt: skip
"""The columns each row's values belong to, by table; parents stand before their children."""

USERS_IN_A_BLOCK = 1_000
EVENTS_IN_A_BLOCK = 50
HOUR_MILLISECONDS = 3_600_000
# Students come for two semesters: an event draws its guests from those who joined most recently.
RECENT_SHARE_OF_USERS = 0.2

_CAPACITIES = (15, 20, 25, 30, 40, 50, 60, 80, 120, 200)
_CAPACITY_WEIGHTS = (10, 14, 14, 14, 12, 10, 8, 5, 3, 1)
_PRICES = tuple(Decimal(text) for text in ("3.00", "5.00", "8.50", "12.00", "15.00", "35.00", "79.90", "189.00"))
_FREE = Decimal("0.00")
_CURRENCIES = ("EUR", "EUR", "EUR", "EUR", "EUR", "EUR", "CZK", "PLN")


@cache
def _vocabulary() -> dict[str, Any]:
    text = Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8")
    vocabulary: dict[str, Any] = json.loads(text)
    return vocabulary


def row_blocks(population: Population) -> Iterator[tuple[str, list[Row]]]:
    """Yield (table, rows) in an order that foreign keys accept; a block may be empty.

    Rows follow `COLUMNS[table]`. Only one block of events and its children is in memory at a time.
    """
    for start in range(0, population.users, USERS_IN_A_BLOCK):
        yield from _user_blocks(population, range(start, min(start + USERS_IN_A_BLOCK, population.users)))
    for start in range(0, population.events, EVENTS_IN_A_BLOCK):
        yield from _event_blocks(population, range(start, min(start + EVENTS_IN_A_BLOCK, population.events)))


def _user_blocks(population: Population, indexes: range) -> Iterator[tuple[str, list[Row]]]:
    rng = Random(f"{population.seed}:users:{indexes.start}")
    people = [_user(population, index, rng) for index in indexes]
    yield "users", people
    yield "user_preferences", [_preferences(population, index, rng) for index in indexes if rng.random() < 0.8]
    yield "feedbacks", [_feedback(population, index, rng) for index in indexes if rng.random() < 0.05]


def _user(population: Population, index: int, rng: Random) -> Row:
    country = rng.choice(_vocabulary()["countries"])
    given, family = rng.choice(country["given"]), rng.choice(country["family"])
    created_ms, user_id = population.user_key(index)
    with_clerk = rng.random() < 0.6
    emergency = rng.random() < 0.55
    return (
        user_id,
        f"user_{mix(population.seed, 20, index):016x}{index:06x}" if with_clerk else None,
        None if with_clerk else f"auth0|{mix(population.seed, 21, index):016x}{index:08x}",
        f"{_ascii_name(given)}.{_ascii_name(family)}.{index}@students.example",
        given,
        family,
        _phone(country["phone"], rng) if rng.random() < 0.7 else None,
        f"/uploads/avatars/{user_id}.jpg" if index < population.avatar_files else None,
        rng.choice(_vocabulary()["bios"]) if rng.random() < 0.3 else None,
        naive_time(_birthday_ms(created_ms, rng)) if rng.random() < 0.8 else None,
        country["name"] if rng.random() < 0.9 else None,
        country["university"] if rng.random() < 0.85 else None,
        f"{index:07d}{''.join(rng.choices('ABCDEFGHJKLMNPRSTUVWXYZ', k=4))}" if rng.random() < 0.5 else None,
        _role(population, index),
        rng.random() < 0.97,
        f"{rng.choice(country['given'])} {family}" if emergency else None,
        _phone(country["phone"], rng) if emergency else None,
        naive_time(created_ms),
        _later(created_ms, rng, 200 * DAY_MILLISECONDS, population.as_of_ms),
    )


def _role(population: Population, index: int) -> str:
    if index < 2:
        return "ADMIN"
    return "ORGANIZER" if index < population.organizers else "USER"


def _birthday_ms(created_ms: int, rng: Random) -> int:
    days_old = rng.randrange(18 * 365, 27 * 365)
    return (created_ms // DAY_MILLISECONDS - days_old) * DAY_MILLISECONDS


@cache
def _ascii_name(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.lower())
    plain = "".join(character for character in decomposed if character.isascii() and character.isalpha())
    return plain or "student"


def _phone(prefix: str, rng: Random) -> str:
    digits = f"{rng.randrange(10**9):09d}"
    return f"{prefix} {digits[:3]} {digits[3:6]} {digits[6:]}"


def _preferences(population: Population, index: int, rng: Random) -> Row:
    created_ms, user_id = population.user_key(index)
    return (
        cuid(created_ms, index, mix(population.seed, PREFERENCES_KIND, index)),
        user_id,
        rng.choice(("en", "en", "en", "es", "de", "fr", "el")),
        rng.choice(("system", "light", "dark")),
        rng.random() < 0.85,
        rng.random() < 0.9,
        rng.random() < 0.3,
        rng.sample(_all_tags(), rng.randrange(5)),
    )


@cache
def _all_tags() -> list[str]:
    return sorted({tag for kind in _vocabulary()["events"].values() for tag in kind["tags"]})


def _feedback(population: Population, index: int, rng: Random) -> Row:
    kind = rng.choice(("BUG", "FEEDBACK", "IMPROVEMENT"))
    joined_ms, user_id = population.user_key(index)
    created_ms = _between(joined_ms, population.as_of_ms, rng)
    return (
        cuid(created_ms, index, mix(population.seed, FEEDBACK_KIND, index)),
        rng.choice(_vocabulary()["feedback"][kind]),
        kind,
        user_id,
        naive_time(created_ms),
        naive_time(created_ms),
    )


@dataclass(frozen=True)
class _Event:
    """What an event's registrations need to know of it."""

    index: int
    id: str
    created_ms: int
    start_ms: int
    status: str
    capacity: int
    price: Decimal | None
    currency: str


def _event_blocks(population: Population, indexes: range) -> Iterator[tuple[str, list[Row]]]:
    rng = Random(f"{population.seed}:events:{indexes.start}")
    events, event_rows = [], []
    for index in indexes:
        event, row = _event(population, index, rng)
        events.append(event)
        event_rows.append(row)
    yield "events", event_rows
    children: dict[str, list[Row]] = {"registrations": [], "payments": [], "reviews": [], "comments": []}
    for event in events:
        _add_guests(population, event, rng, children)
    yield from children.items()


def _event(population: Population, index: int, rng: Random) -> tuple[_Event, Row]:
    words = _vocabulary()
    category = rng.choice(sorted(words["events"]))
    start_ms, created_ms = population.event_start_ms(index), population.event_created_ms(index)
    length_ms = (rng.choice((24, 48, 72)) if category == "TRAVEL" else rng.choice((2, 3, 4, 6))) * HOUR_MILLISECONDS
    paid = rng.random() < (0.9 if category == "TRAVEL" else 0.4)
    event = _Event(
        index=index,
        id=population.event_id(index),
        created_ms=created_ms,
        start_ms=start_ms,
        status=_event_status(population.as_of_ms, start_ms, start_ms + length_ms, rng),
        capacity=rng.choices(_CAPACITIES, _CAPACITY_WEIGHTS)[0],
        price=rng.choice(_PRICES) if paid else None,
        currency=rng.choice(_CURRENCIES),
    )
    row = (
        event.id,
        f"{rng.choice(words['events'][category]['titles'])} #{index + 1}",
        _description(words["sentences"], rng),
        category,
        "PAID" if paid else "FREE",
        event.status,
        naive_time(start_ms),
        naive_time(start_ms + length_ms),
        naive_time(start_ms - rng.choice((1, 2, 7)) * DAY_MILLISECONDS) if rng.random() < 0.8 else None,
        rng.choice(words["locations"]),
        event.capacity,
        event.price,
        _images(population, event, rng),
        rng.sample(words["events"][category]["tags"], rng.randrange(3)) + (["weekly"] if rng.random() < 0.1 else []),
        rng.random() < 0.95,
        _organizer_id(population, created_ms, rng),
        naive_time(created_ms),
        _later(created_ms, rng, 20 * DAY_MILLISECONDS, population.as_of_ms),
    )
    return event, row


def _event_status(as_of_ms: int, start_ms: int, end_ms: int, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.06:
        return "CANCELLED"
    if end_ms <= as_of_ms:
        # A few past events were never closed by their organizer.
        return "COMPLETED" if chance < 0.97 else "PUBLISHED"
    if start_ms <= as_of_ms:
        return "ONGOING"
    if chance < 0.15:
        return "DRAFT"
    if chance < 0.30:
        return "PUBLISHED"
    return "REGISTRATION_CLOSED" if chance < 0.35 else "REGISTRATION_OPEN"


def _description(sentences: Sequence[str], rng: Random) -> str:
    paragraphs = rng.choices((1, 2, 3, 5, 8), (20, 30, 25, 15, 10))[0]
    return "\n\n".join(" ".join(rng.sample(sentences, rng.randrange(3, 8))) for _ in range(paragraphs))


def _images(population: Population, event: _Event, rng: Random) -> list[str]:
    hosted = [
        f"https://images.example/esn/{mix(population.seed, 22, event.index * 8 + number):016x}.jpg"
        for number in range(rng.choices((0, 1, 2, 4), (3, 5, 2, 1))[0])
    ]
    own = [f"/uploads/events/{event.id}.png"] if event.index < population.event_image_files else []
    return own + hosted


def _organizer_id(population: Population, created_ms: int, rng: Random) -> str:
    known = min(population.organizers, max(1, population.users_joined_before(created_ms)))
    # Organizers who came later do more of the work.
    return population.user_key(max(rng.randrange(known), rng.randrange(known)))[1]


def _add_guests(population: Population, event: _Event, rng: Random, children: dict[str, list[Row]]) -> None:
    if event.status == "DRAFT":
        return
    closing_ms = min(event.start_ms, population.as_of_ms)
    joined = population.users_joined_before(closing_ms - HOUR_MILLISECONDS)
    recent = min(joined, max(300, round(population.users * RECENT_SHARE_OF_USERS)))
    wanted = round(event.capacity * (0.25 + 1.0 * rng.betavariate(2.5, 1.5)))
    guests = rng.sample(range(joined - recent, joined), min(recent, wanted))
    for place, user_index in enumerate(guests):
        guest = _guest(population, event, rng, user_index=user_index, place=place, closing_ms=closing_ms)
        children["registrations"].append(_registration(population, event, guest, rng))
        if event.price is not None and guest.status != "WAITLIST" and rng.random() < 0.95:
            children["payments"].append(_payment(population, event, guest, rng))
        if guest.status == "ATTENDED" and rng.random() < 0.15:
            children["reviews"].append(_review(population, event, guest, rng))
        if rng.random() < 0.12:
            children["comments"].append(_comment(population, event, guest, rng))


@dataclass(frozen=True)
class _Guest:
    """One user's registration for one event: what its row, payment, review and comment share."""

    registration_id: str
    user_id: str
    serial: int
    place: int
    registered_ms: int
    status: str
    payment_status: str
    cancelled_ms: int | None


def _guest(
    population: Population, event: _Event, rng: Random, *, user_index: int, place: int, closing_ms: int
) -> _Guest:
    joined_ms, user_id = population.user_key(user_index)
    earliest_ms = max(event.created_ms, joined_ms)
    # Most people register soon after the announcement.
    registered_ms = earliest_ms + int((closing_ms - earliest_ms) * rng.random() ** 2)
    status = _registration_status(event, place, rng)
    serial = event.index * 1_000 + place
    return _Guest(
        registration_id=cuid(registered_ms, serial, mix(population.seed, REGISTRATION_KIND, serial)),
        user_id=user_id,
        serial=serial,
        place=place,
        registered_ms=registered_ms,
        status=status,
        payment_status=_payment_status(event, status, rng),
        cancelled_ms=_between(registered_ms, closing_ms, rng) if status == "CANCELLED" else None,
    )


def _registration_status(event: _Event, place: int, rng: Random) -> str:
    if event.status == "CANCELLED":
        return "CANCELLED"
    if place >= event.capacity:
        return "WAITLIST"
    chance = rng.random()
    if chance < 0.13:
        return "CANCELLED"
    if event.status in {"COMPLETED", "ONGOING"}:
        return "ATTENDED" if chance < 0.85 else "NO_SHOW" if chance < 0.96 else "CONFIRMED"
    return "CONFIRMED" if chance < 0.85 else "PENDING"


def _payment_status(event: _Event, status: str, rng: Random) -> str:
    if event.price is None:
        return "COMPLETED"
    if status == "CANCELLED":
        return rng.choice(("REFUNDED", "REFUNDED", "PENDING", "FAILED"))
    if status in {"PENDING", "WAITLIST"}:
        return "PENDING"
    return "COMPLETED" if rng.random() < 0.96 else "FAILED"


def _registration(population: Population, event: _Event, guest: _Guest, rng: Random) -> Row:
    confirmed = guest.status in {"CONFIRMED", "ATTENDED", "NO_SHOW"}
    # Some old cancellations were entered before the platform noted their time.
    cancelled_ms = guest.cancelled_ms if rng.random() < 0.85 else None
    registered_at = naive_time(guest.registered_ms)
    return (
        guest.registration_id,
        guest.user_id,
        event.id,
        guest.status,
        "WAITLIST" if guest.status == "WAITLIST" else "REGULAR",
        guest.place - event.capacity + 1 if guest.status == "WAITLIST" else None,
        guest.payment_status,
        event.price or _FREE,
        event.currency,
        rng.choice(_vocabulary()["requests"]) if rng.random() < 0.1 else None,
        registered_at,
        _later(guest.registered_ms, rng, 6 * HOUR_MILLISECONDS, population.as_of_ms) if confirmed else None,
        naive_time(cancelled_ms) if cancelled_ms is not None else None,
        registered_at,
        naive_time(guest.cancelled_ms)
        if guest.cancelled_ms is not None
        else _later(guest.registered_ms, rng, 10 * DAY_MILLISECONDS, population.as_of_ms),
    )


def _payment(population: Population, event: _Event, guest: _Guest, rng: Random) -> Row:
    paid_ms = min(guest.registered_ms + rng.randrange(3 * HOUR_MILLISECONDS), population.as_of_ms)
    refunded_at = None
    if guest.payment_status == "REFUNDED":
        refunded_at = _later(max(paid_ms, guest.cancelled_ms or 0), rng, 7 * DAY_MILLISECONDS, population.as_of_ms)
    method = rng.choices(("CARD", "BANK_TRANSFER", "CASH"), (7, 2, 2))[0]
    return (
        cuid(paid_ms, guest.serial, mix(population.seed, PAYMENT_KIND, guest.serial)),
        guest.user_id,
        event.id,
        guest.registration_id,
        event.price,
        event.currency,
        guest.payment_status,
        method,
        f"pi_{mix(population.seed, 23, guest.serial):016x}" if method == "CARD" else None,
        refunded_at,
        naive_time(paid_ms),
        refunded_at or _later(paid_ms, rng, HOUR_MILLISECONDS, population.as_of_ms),
    )


def _review(population: Population, event: _Event, guest: _Guest, rng: Random) -> Row:
    created_ms = min(event.start_ms + rng.randrange(5 * DAY_MILLISECONDS), population.as_of_ms)
    return (
        cuid(created_ms, guest.serial, mix(population.seed, REVIEW_KIND, guest.serial)),
        guest.user_id,
        event.id,
        rng.choices((1, 2, 3, 4, 5), (3, 4, 10, 33, 50))[0],
        rng.choice(_vocabulary()["remarks"]) if rng.random() < 0.7 else None,
        naive_time(created_ms),
        naive_time(created_ms),
    )


def _comment(population: Population, event: _Event, guest: _Guest, rng: Random) -> Row:
    created_ms = _between(guest.registered_ms, min(event.start_ms + DAY_MILLISECONDS, population.as_of_ms), rng)
    remarks = _vocabulary()["remarks"]
    return (
        cuid(created_ms, guest.serial, mix(population.seed, COMMENT_KIND, guest.serial)),
        guest.user_id,
        event.id,
        " ".join(rng.choices(remarks, k=rng.choice((1, 1, 1, 2, 4)))),
        naive_time(created_ms),
        naive_time(created_ms),
    )


def _between(low_ms: int, high_ms: int, rng: Random) -> int:
    return low_ms + int(rng.random() * max(0, high_ms - low_ms))


def _later(moment_ms: int, rng: Random, at_most_ms: int, as_of_ms: int) -> datetime:
    """A time shortly after a moment, never after the platform's last day."""
    return naive_time(max(moment_ms, min(moment_ms + rng.randrange(at_most_ms), as_of_ms)))
