import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from keepwell.errors import VerificationFailed
from keepwell.evidence import Evidence, read_last_evidence, write_evidence
from keepwell.schemas import PUBLISHED, render_schema
from keepwell.verdict import Finding, Verdict

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@dataclass(frozen=True)
class Named:
    key: str


class Memory:
    """A store in memory, with the one order that stores promise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_bytes(self, relative: str, content: bytes) -> None:
        self.objects[relative] = content

    def get_bytes(self, relative: str) -> bytes:
        return self.objects[relative]

    def list_objects(self, folder: str) -> Iterator[Named]:
        return (Named(key) for key in sorted(self.objects) if key.startswith(folder))


def evidence(finished_at: datetime = NOW, **other: object) -> Evidence:
    fields: dict[str, object] = {
        "items": ("BK-1", "DB-6"),
        "platform": "esn",
        "verdict": Verdict.OK,
        "summary": "Everything is fine.",
        "findings": (Finding(name="size", verdict=Verdict.OK, message="As usual."),),
        "numbers": {"rows": 12, "restore_seconds": 2.5, "level": "sound", "age_seconds": None},
        "started_at": finished_at - timedelta(minutes=1),
        "finished_at": finished_at,
    }
    return Evidence.model_validate(fields | other)


def test_is_kept_under_each_of_its_items_and_read_back() -> None:
    store = Memory()
    keys = write_evidence(store, evidence())
    assert [key.rsplit("/", 1)[0] for key in keys] == ["evidence/BK-1", "evidence/DB-6"]
    assert read_last_evidence(store, "DB-6") == evidence()


def test_the_last_one_is_read() -> None:
    store = Memory()
    for hours in (2, 0, 1):
        write_evidence(store, evidence(NOW - timedelta(hours=hours)))
    last = read_last_evidence(store, "BK-1")
    assert last is not None
    assert last.finished_at == NOW


def test_there_is_none_of_an_item_that_never_ran() -> None:
    store = Memory()
    write_evidence(store, evidence(items=("BK-12",)))
    assert read_last_evidence(store, "BK-1") is None


def test_a_damaged_one_does_not_hide_the_one_before() -> None:
    store = Memory()
    write_evidence(store, evidence())
    store.put_bytes("evidence/BK-1/20990101T000000Z-aaaaaa.json", b'{"format_version": 1')
    last = read_last_evidence(store, "BK-1")
    assert last is not None
    assert last.finished_at == NOW


@pytest.mark.parametrize(
    "damage",
    [{"format_version": 2}, {"items": []}, {"items": ["../x"]}, {"finished_at": "2026-01-01T00:00:00"}, {"other": 1}],
    ids=str,
)
def test_what_is_no_evidence_is_refused(damage: dict[str, object]) -> None:
    document = json.loads(evidence().to_json()) | damage
    with pytest.raises(VerificationFailed, match="damaged"):
        Evidence.from_json(json.dumps(document).encode())


def test_naive_times_are_refused() -> None:
    with pytest.raises(ValidationError):
        evidence(NOW.replace(tzinfo=None))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schemas_match_the_models(name: str) -> None:
    published = (SCHEMAS / f"{name}.json").read_text(encoding="utf-8")
    assert published == render_schema(name), "regenerate them: python -m keepwell.schemas docs/schemas"


def test_a_stored_document_satisfies_its_schema() -> None:
    schema = json.loads(render_schema("evidence-1"))
    jsonschema.validate(json.loads(evidence().to_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(evidence().to_json()) | {"unknown": 1}, schema)
