import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.manifest import Manifest, is_backup_id, new_backup_id
from keepwell.errors import VerificationFailed

GOLDEN = (Path(__file__).parent.parent / "cases" / "manifest-1.json").read_bytes()


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN)
    return loaded


def test_a_set_of_format_1_stays_readable() -> None:
    manifest = Manifest.from_json(GOLDEN)
    assert manifest.format_version == 1
    assert {part.encryption for part in manifest.parts} == {None}
    assert (manifest.rows, manifest.stored_bytes, manifest.content_bytes) == (3, 61, 41)
    assert manifest.snapshot_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert [name for name, _ in manifest.unproven] == ["public.counted", "public.far_away"]
    assert manifest.sequences[0].last_value == 2**63 - 1


def test_large_objects_that_could_not_be_hashed_are_named_as_unproven() -> None:
    damaged = document()
    damaged["large_objects"]["unproven"] = "too large"
    assert Manifest.from_json(json.dumps(damaged).encode()).unproven[-1] == ("large objects", "too large")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["format_version"], 3, "format_version"),
        (["backup_id"], "latest", "backup_id"),
        (["backup_id"], "20260102T030405Z-0a1b2c\n", "backup_id"),
        (["snapshot_at"], "2026-01-02T03:04:05", "snapshot_at"),
        (["schema_digest"], "", "schema_digest"),
        (["parts", 0, "size_bytes"], -1, "parts.0.size_bytes"),
        (["parts", 0, "sha256"], "Z" * 64, "parts.0.sha256"),
        (["parts", 0, "compression"], "gzip", "parts.0.compression"),
        (["parts", 0, "name"], "../outside", "parts.0.name"),
        (["parts", 0, "name"], "/etc/passwd", "parts.0.name"),
        (["parts", 0, "name"], "globals.sql", "parts"),
        (["parts", 1, "name"], "database/3411.dat", "parts"),
        (["tables", 0, "kind"], "view", "tables.0.kind"),
        (["tables", 0, "surplus"], 1, "tables.0.surplus"),
        (["surplus"], 1, "surplus"),
    ],
)
def test_a_document_that_was_not_written_like_this_is_damaged_and_its_fault_is_placed(
    path: list[str | int], value: object, place: str
) -> None:
    damaged = document()
    inner: Any = damaged
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(VerificationFailed, match="A stored manifest is damaged") as raised:
        Manifest.from_json(json.dumps(damaged).encode())
    assert f": {place}:" in raised.value.message


@pytest.mark.parametrize("field", sorted(json.loads(GOLDEN)))
def test_no_field_of_a_manifest_may_be_missing(field: str) -> None:
    damaged = document()
    del damaged[field]
    if field == "format_version":
        assert Manifest.from_json(json.dumps(damaged).encode()).format_version == 2
        return
    with pytest.raises(VerificationFailed, match=f"{field}: Field required"):
        Manifest.from_json(json.dumps(damaged).encode())


@given(length=st.integers(0, len(GOLDEN) - 3))
def test_no_beginning_of_a_manifest_passes_for_the_whole(length: int) -> None:
    with pytest.raises(VerificationFailed):
        Manifest.from_json(GOLDEN[:length])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_document_are_called_damaged_and_nothing_else(content: bytes) -> None:
    with pytest.raises(VerificationFailed):
        Manifest.from_json(content)


moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(earlier=moments, gap=st.timedeltas(timedelta(seconds=1), timedelta(days=900)))
def test_ids_sort_by_the_time_of_their_set(earlier: datetime, gap: timedelta) -> None:
    assert new_backup_id(earlier) < new_backup_id(earlier + gap)


def test_an_id_tells_utc_wherever_it_was_made_and_two_never_meet() -> None:
    there = datetime(2026, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=3)))
    ids = {new_backup_id(there) for _ in range(50)}
    assert len(ids) == 50
    assert all(made.startswith("20260101T220000Z-") and is_backup_id(made) for made in ids)


@pytest.mark.parametrize("text", ["", "latest", "20260102T030405Z-0a1b2c/", "20260102T030405Z-0a1b2c\n", "../x"])
def test_other_names_are_no_ids(text: str) -> None:
    assert not is_backup_id(text)
