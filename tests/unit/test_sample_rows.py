import hashlib
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sample.population import FIRST_DAY, Population, Timeline, cuid, day_milliseconds, naive_time
from sample.rows import COLUMNS, row_blocks

SMALL = 0.02


def read_rows(*, scale: float = SMALL, seed: int = 1) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}
    for table, rows in row_blocks(Population.plan(scale=scale, seed=seed)):
        tables[table] += [dict(zip(COLUMNS[table], row, strict=True)) for row in rows]
    return tables


@pytest.fixture(scope="module")
def tables() -> dict[str, list[dict[str, Any]]]:
    return read_rows()


def fingerprint(blocks: Iterator[tuple[str, list[Any]]]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(repr(block).encode())
    return digest.hexdigest()


def test_same_seed_and_scale_give_the_same_rows() -> None:
    one, other, changed = (fingerprint(row_blocks(Population.plan(scale=SMALL, seed=seed))) for seed in (7, 7, 8))
    assert one == other
    assert one != changed


def test_every_table_has_rows_and_ids_are_unique_cuids(tables: dict[str, list[dict[str, Any]]]) -> None:
    for table, rows in tables.items():
        ids = [row["id"] for row in rows]
        assert ids, table
        assert len(set(ids)) == len(ids), table
        assert all(len(text) == 25 and text.startswith("c") and text.isalnum() for text in ids), table


def test_children_name_parents_that_were_yielded_before_them() -> None:
    seen: dict[str, set[str]] = {"users": set(), "events": set(), "registrations": set()}
    parents = {"userId": "users", "organizerId": "users", "eventId": "events", "registrationId": "registrations"}
    for table, rows in row_blocks(Population.plan(scale=SMALL)):
        for row in rows:
            values = dict(zip(COLUMNS[table], row, strict=True))
            assert all(values[column] in seen[parent] for column, parent in parents.items() if column in values)
            if table in seen:
                seen[table].add(values["id"])


def test_nobody_registers_twice_for_an_event(tables: dict[str, list[dict[str, Any]]]) -> None:
    pairs = [(row["userId"], row["eventId"]) for row in tables["registrations"]]
    assert len(set(pairs)) == len(pairs)


def test_times_are_plausible(tables: dict[str, list[dict[str, Any]]]) -> None:
    end = datetime.fromisoformat("2026-11-01T00:00:00")
    joined = {row["id"]: row["createdAt"] for row in tables["users"]}
    events = {row["id"]: row for row in tables["events"]}
    for rows in tables.values():
        assert all(row["createdAt"] <= row["updatedAt"] <= end for row in rows if "createdAt" in row)
    for row in tables["events"]:
        assert row["createdAt"] < row["startDate"] < row["endDate"]
        assert joined[row["organizerId"]] <= row["createdAt"]
    for row in tables["registrations"]:
        assert joined[row["userId"]] <= row["registeredAt"] <= events[row["eventId"]]["startDate"]
        assert events[row["eventId"]]["createdAt"] <= row["registeredAt"]
        assert row["cancelledAt"] is None or row["cancelledAt"] >= row["registeredAt"]


def test_the_data_hold_what_a_real_platform_holds() -> None:
    tables = read_rows(scale=0.1)
    cancelled = [row for row in tables["registrations"] if row["status"] == "CANCELLED"]
    assert any(row["cancelledAt"] is None for row in cancelled)
    assert any(row["cancelledAt"] is not None for row in cancelled)
    refunds = [row for row in tables["payments"] if row["status"] == "REFUNDED"]
    assert refunds
    assert all(row["refundedAt"] >= row["createdAt"] for row in refunds)
    assert {row["status"] for row in tables["registrations"]} == {
        "PENDING", "CONFIRMED", "CANCELLED", "ATTENDED", "NO_SHOW", "WAITLIST",
    }  # fmt: skip
    assert any(not name.isascii() for row in tables["users"] for name in (row["firstName"], row["lastName"]))
    for column in ("phone", "emergencyContactName", "clerkId", "auth0Id"):
        assert 0 < sum(row[column] is None for row in tables["users"]) < len(tables["users"])
    assert max(len(row["description"]) for row in tables["events"]) > 2_000
    assert {bool(row["tags"]) for row in tables["events"]} == {True, False}
    later, earlier = (sum(row["startDate"].year == year for row in tables["events"]) for year in (2025, 2021))
    assert later > 1.5 * earlier


def test_each_row_block_is_small_whatever_the_scale() -> None:
    blocks = row_blocks(Population.plan(scale=50))
    for _ in range(6):
        assert len(next(blocks)[1]) <= 1_000


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_timeline_finds_back_what_it_placed(share: float) -> None:
    timeline = Timeline(FIRST_DAY, date(2026, 11, 1), quiet=0.1)
    moment_ms = timeline.at(share)
    assert day_milliseconds(FIRST_DAY) <= moment_ms <= day_milliseconds(date(2026, 11, 1))
    assert timeline.share_before(moment_ms) == pytest.approx(share, abs=1e-6)


@given(scale=st.floats(0.01, 30), index=st.integers(0, 100))
def test_users_counted_before_a_moment_had_all_joined(scale: float, index: int) -> None:
    population = Population.plan(scale=scale)
    moment_ms = population.user_key(min(index, population.users - 1))[0]
    known = population.users_joined_before(moment_ms)
    assert known == 0 or population.user_key(known - 1)[0] <= moment_ms


def test_ids_sort_by_time() -> None:
    assert cuid(1_600_000_000_000, 9, 9) < cuid(1_600_000_000_001, 1, 1)
    assert naive_time(0).isoformat() == "1970-01-01T00:00:00"


@pytest.mark.parametrize("scale", [0, -1])
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Population.plan(scale=scale)


def test_a_day_before_the_platform_had_a_year_is_refused() -> None:
    with pytest.raises(ValueError, match="a year after"):
        Population.plan(scale=1, as_of=date(2020, 1, 1))
