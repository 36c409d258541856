import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from backup_documents import a_cache, a_manifest, some_uploads
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.manifest import Manifest, is_backup_id, new_backup_id
from keepwell.errors import VerificationFailed

GOLDEN = {
    version: (Path(__file__).parent.parent / "cases" / f"manifest-{version}.json").read_bytes() for version in (1, 2, 3)
}
NEWEST = GOLDEN[3]


def document(version: int = 3) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN[version])
    return loaded


def read(changed: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(changed).encode())


def test_a_set_of_format_1_stays_readable() -> None:
    manifest = Manifest.from_json(GOLDEN[1])
    assert {part.encryption for part in manifest.parts} == {None}
    assert (manifest.rows, manifest.stored_bytes, manifest.content_bytes) == (3, 61, 41)
    assert manifest.snapshot_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert [name for name, _ in manifest.unproven] == ["public.counted", "public.far_away"]
    assert manifest.main.sequences[0].last_value == 2**63 - 1


def test_a_set_from_before_uploads_and_redis_says_that_it_holds_none() -> None:
    manifest = Manifest.from_json(GOLDEN[1])
    assert (manifest.uploads, manifest.cache) == (None, None)


def test_a_set_of_format_2_stays_readable() -> None:
    manifest = Manifest.from_json(GOLDEN[2])
    assert {part.encryption for part in manifest.parts} == {"age"}
    assert (len(manifest.sealed_for), manifest.blocked_others_seconds, manifest.main.spooled_bytes) == (2, 1.5, 512)
    assert (manifest.uploads and manifest.uploads.files, manifest.cache and manifest.cache.records) == (1234, 345)
    assert manifest.unproven[2] == ("subscription elsewhere", "pg_dump leaves it out")


@pytest.mark.parametrize("version", [1, 2])
def test_what_an_older_set_says_of_its_one_database_is_all_there(version: int) -> None:
    told, manifest = document(version), Manifest.from_json(GOLDEN[version])
    (database,) = json.loads(manifest.to_json())["databases"]
    assert (database.pop("folder"), database.pop("schema_file")) == ("database/", "schema.jsonl")
    told.setdefault("spooled_bytes", 0)
    told["source"].setdefault("owners", None)
    for part in told["parts"]:
        part.setdefault("encryption", None)
    for name, value in database.items():
        assert told.pop(name) == value
    of_set = json.loads(manifest.to_json())
    assert {name: of_set[name] for name in told} == told | {"format_version": 3}


def test_an_older_set_that_is_written_anew_is_one_of_this_version() -> None:
    manifest = Manifest.from_json(GOLDEN[1])
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert json.loads(manifest.to_json())["format_version"] == 3


def test_a_set_of_several_databases_tells_them_apart() -> None:
    manifest = Manifest.from_json(NEWEST)
    main, second = manifest.databases
    assert (main.is_main, second.is_main, second.name, second.rows, manifest.rows) == (True, False, "analytics", 2, 5)
    assert manifest.snapshot_at == main.snapshot_at < second.snapshot_at
    assert manifest.source_bytes == 12345678 + 7654321
    assert [part.content_name for part in manifest.parts if manifest.database_of(part) == second] == [
        "database-2/3411.dat",
        "schema-2.jsonl",
        "database-2/toc.dat",
    ]
    assert {part.content_name for part in manifest.parts_with(second)} == {
        "database-2/3411.dat",
        "database-2/toc.dat",
        "globals.sql",
        "schema-2.jsonl",
    }
    assert (manifest.content_bytes_of(main), manifest.content_bytes_of(second), manifest.content_bytes) == (41, 25, 66)
    assert second.tell("public.events") == "analytics: public.events"
    assert main.tell("public.events") == "public.events"


def test_the_moment_of_a_set_is_that_of_its_oldest_snapshot() -> None:
    changed = document()
    changed["databases"][1]["snapshot_at"] = "2026-01-01T00:00:00Z"
    assert read(changed).snapshot_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_is_unproven_in_a_further_database_is_named_with_it() -> None:
    changed = document()
    changed["databases"][1]["large_objects"]["unproven"] = "too large"
    assert ("analytics: large objects", "too large") in read(changed).unproven


def test_no_set_holds_a_database_twice_or_none_or_another_one_first() -> None:
    for databases, fault in (
        (lambda both: [], "at least 1 item"),
        (lambda both: [both[0], both[0] | {"folder": "database-2/", "schema_file": "schema-2.jsonl"}], "one name"),
        (lambda both: [both[0], both[1] | {"folder": "database/"}], "one place"),
        (lambda both: [both[0], both[1] | {"schema_file": "schema.jsonl"}], "one place"),
        (lambda both: both[::-1], "does not lie in database/"),
    ):
        changed = document()
        changed["databases"] = databases(changed["databases"])
        with pytest.raises(VerificationFailed, match=fault):
            read(changed)


def test_a_part_that_lies_in_the_folder_of_no_database_is_damage() -> None:
    changed = document()
    changed["databases"].pop()
    with pytest.raises(VerificationFailed, match=r"database-2/3411\.dat\.zst\.age belongs to no database"):
        read(changed)


def test_a_document_that_claims_two_formats_is_damaged() -> None:
    changed = document(1) | {"databases": document()["databases"]}
    with pytest.raises(VerificationFailed, match="format_version"):
        read(changed)


def test_uploads_and_keys_come_back_and_what_could_not_be_included_is_unproven() -> None:
    cache = a_cache(unproven={"values of type graph cannot be compared": 3}, not_included=("2 libraries",))
    manifest = a_manifest().model_copy(update={"uploads": some_uploads(left_out=2), "cache": cache})
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.unproven == (
        ("2 entries of the uploads folder", "s0 is a socket"),
        ("3 keys of Redis", "values of type graph cannot be compared"),
        ("2 libraries", "only keys are read from Redis"),
    )


def test_large_objects_that_could_not_be_hashed_are_named_as_unproven() -> None:
    changed = document(1)
    changed["large_objects"]["unproven"] = "too large"
    assert read(changed).unproven[-1] == ("large objects", "too large")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["format_version"], 4, "format_version"),
        (["backup_id"], "latest", "backup_id"),
        (["backup_id"], "20260102T030405Z-0a1b2c\n", "backup_id"),
        (["databases", 0, "snapshot_at"], "2026-01-02T03:04:05", "databases.0.snapshot_at"),
        (["databases", 1, "schema_digest"], "", "databases.1.schema_digest"),
        (["databases", 1, "folder"], "../../outside/", "databases.1.folder"),
        (["databases", 1, "schema_file"], "globals.sql", "databases.1.schema_file"),
        (["parts", 0, "size_bytes"], -1, "parts.0.size_bytes"),
        (["parts", 0, "sha256"], "Z" * 64, "parts.0.sha256"),
        (["parts", 0, "compression"], "gzip", "parts.0.compression"),
        (["parts", 0, "name"], "../outside", "parts.0.name"),
        (["parts", 0, "name"], "/etc/passwd", "parts.0.name"),
        (["parts", 0, "name"], "globals.sql", "parts"),
        (["parts", 1, "name"], "database/3411.dat.age", "parts"),
        (["databases", 0, "tables", 0, "kind"], "view", "databases.0.tables.0.kind"),
        (["databases", 0, "tables", 0, "surplus"], 1, "databases.0.tables.0.surplus"),
        (["snapshot_at"], "2026-01-02T03:04:05Z", "snapshot_at"),
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
        read(damaged)
    assert f": {place}:" in raised.value.message


@pytest.mark.parametrize("field", sorted(document(1)))
def test_no_field_of_an_older_manifest_may_be_missing(field: str) -> None:
    damaged = document(1)
    del damaged[field]
    fault = "databases: Field required" if field == "format_version" else f"{field}: Field required"
    with pytest.raises(VerificationFailed, match=fault):
        read(damaged)


@pytest.mark.parametrize("field", ["databases", "tools", "role_passwords", "parts", "seconds"])
def test_no_field_of_the_newest_format_may_be_missing(field: str) -> None:
    damaged = document()
    del damaged[field]
    with pytest.raises(VerificationFailed, match=f"{field}: Field required"):
        read(damaged)


@given(length=st.integers(0, len(NEWEST) - 3))
def test_no_beginning_of_a_manifest_passes_for_the_whole(length: int) -> None:
    with pytest.raises(VerificationFailed):
        Manifest.from_json(NEWEST[:length])


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
