import hashlib
import random
from collections.abc import Callable

import pytest
from backup_documents import a_manifest, a_part, a_table, documents
from memory_store import MemoryStore

from keepwell.drill.checker import judge_found, judge_refused, try_damage
from keepwell.drill.damage import ATTEMPTS, EXPECTED, Damage, NoDamage, alter_row, make_damage
from keepwell.drill.documents import is_in_time
from keepwell.drill.overlay import DamagedCopy
from keepwell.errors import KeepwellError
from keepwell.objectstore.store import ObjectMissing
from keepwell.progress import silent
from keepwell.settings import DrillSettings, Platform
from keepwell.verdict import Verdict


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.objects = {"a/1": b"one", "a/2": b"two", "a/3": b"three"}
    made.keeping = None  # type: ignore[attr-defined]
    return made


@pytest.fixture
def copy(store: MemoryStore) -> DamagedCopy:
    return DamagedCopy(store, {"a/1": b"changed", "a/2": None})  # type: ignore[arg-type]


def test_a_damaged_copy_reads_otherwise_and_the_real_objects_stay(copy: DamagedCopy, store: MemoryStore) -> None:
    assert copy.get_bytes("a/1") == b"changed"
    with copy.open_reader("a/1") as reader:
        assert reader.read() == b"changed"
    with pytest.raises(ObjectMissing):
        copy.get_bytes("a/2")
    with pytest.raises(ObjectMissing):
        copy.open_reader("a/2")
    assert copy.get_bytes("a/3") == b"three"
    assert {found.key: found.size_bytes for found in copy.list_objects("a/")} == {"a/1": 7, "a/3": 5}
    assert copy.find("a/2") is None
    assert store.objects == {"a/1": b"one", "a/2": b"two", "a/3": b"three"}


def test_nothing_is_written_through_a_damaged_copy(copy: DamagedCopy, store: MemoryStore) -> None:
    before = dict(store.objects)
    for write in (
        lambda: copy.put_bytes("a/1", b""),
        lambda: copy.put_signed("a/9", b""),
        lambda: copy.open_writer("a/1", None),  # type: ignore[arg-type]
        lambda: copy.copy("a/3", "a/4"),
        lambda: copy.delete(["a/3"]),
        lambda: copy.abort_uploads("a/"),
    ):
        with pytest.raises(KeepwellError, match="Nothing is written into a damaged copy"):
            write()
    assert not copy.may_write
    assert store.objects == before


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        (b"12\tthe quick fox, 7\t2026-11-01 05:00:00+00\tEDUCATIONAL\n", 1),
        (b"12\tAda\t2026-11-01 05:00:00+00\n", 1),
        # A word of capitals, or without any, may be one of a list, which takes no other.
        (b"8c6f1b\tEDUCATIONAL\t2026-11-01 05:00:00+00\n", 2),
        (b"open\t12\n", 1),
        (b"open\n", 0),
    ],
)
def test_one_sign_of_the_freest_field_is_altered(row: bytes, taken: int) -> None:
    for seed in range(20):
        altered = alter_row(row, random.Random(seed))
        assert altered is not None
        assert sum(one != other for one, other in zip(row, altered, strict=True)) == 1
        fields, others = row.split(b"\t"), altered.split(b"\t")
        assert [number for number, field in enumerate(fields) if field != others[number]] == [taken]


def test_the_last_digit_of_a_number_is_altered() -> None:
    assert alter_row(b"199\n", random.Random(1)) == b"190\n"
    assert alter_row(b"8c6f-1b\t\\N\n", random.Random(1)) == b"8c6f-2b\t\\N\n"


def test_signs_that_mean_something_to_copy_stay() -> None:
    assert alter_row(b"\\N\t\\N\n", random.Random(1)) is None
    assert alter_row(b"\\t\\n\n", random.Random(1)) is None
    assert alter_row(b"\\\\\t--\n", random.Random(1)) is None


def test_each_kind_has_a_level_that_must_find_it() -> None:
    assert set(DrillSettings().damages) == set(EXPECTED)
    assert is_in_time("uploaded", "readable")
    assert is_in_time("manifest", "manifest")
    assert not is_in_time("equal", "complete")


def test_damage_that_is_found_too_late_is_an_alert(copy: DamagedCopy) -> None:
    damage = Damage("stream cut", "half of the rows", copy, ("1.dat",), "complete")
    assert judge_found(damage, "complete", ("1.dat holds too few rows.",))[1] is Verdict.OK
    assert judge_found(damage, "uploaded", ("2.dat is missing.",))[1] is Verdict.WARN
    found_at, verdict, message = judge_found(damage, "equal", ("1.dat differs.",))
    assert (found_at, verdict) == ("equal", Verdict.ALERT)
    assert "Found only at equal" in message


def test_a_set_refused_before_its_first_level_is_what_a_forged_manifest_alone_asks_for(copy: DamagedCopy) -> None:
    forged = Damage("manifest forged", "signed by a stranger", copy, ("manifest.json",), "readable")
    assert judge_refused(forged, "manifest.json is signed by nobody who counts.")[:2] == ("manifest", Verdict.OK)
    cut = Damage("stream cut", "half of the rows", copy, ("1.dat",), "complete")
    assert judge_refused(cut, "manifest.json is signed by nobody who counts.")[:2] == (None, Verdict.UNKNOWN)


def test_what_is_named_is_the_damaged_one_and_none_whose_name_holds_it(copy: DamagedCopy) -> None:
    damage = Damage("stream cut", "half of the rows", copy, ("database/1.dat", "public.note", "note"), "complete")
    for other in ("database/1.data is damaged.", "public.notes: 3 rows", "other.note: 3 rows", "footnote: 3 rows"):
        assert judge_found(damage, "complete", (other,))[1] is Verdict.WARN, other
    for one in ("database/1.dat is damaged.", "shop: public.note: 3 rows", 'COPY failed for table "note": no'):
        assert judge_found(damage, "complete", (one,))[1] is Verdict.OK, one


@pytest.fixture
def tried(store: MemoryStore, copy: DamagedCopy, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Verdict]]:
    """How many copies an altered row took, where each was found at the level given, and with what verdict."""

    def make(*found_at: str, last: Damage | NoDamage | None = None) -> tuple[int, Verdict]:
        store.objects = documents(a_manifest())
        damage = Damage("row altered", "one sign", copy, (), "equal")
        made: list[int] = []

        def make_one(*_: object, attempt: int) -> Damage | NoDamage:
            if attempt == len(found_at) and last is not None:
                return last
            made.append(attempt)
            return damage

        monkeypatch.setattr("keepwell.drill.checker.make_damage", make_one)
        monkeypatch.setattr(
            "keepwell.drill.checker._prove",
            lambda *_: judge_found(damage, found_at[len(made) - 1], ("it differs",)),  # type: ignore[arg-type]
        )
        platform = Platform.model_construct(name="esn")
        outcome = try_damage(
            platform,
            store,  # type: ignore[arg-type]
            a_manifest().backup_id,
            "row altered",
            seed=1,
            progress=silent,
        )
        return len(made), outcome.verdict

    return make


def test_a_row_that_the_database_refuses_leaves_the_comparison_untried_and_another_is_altered(
    tried: Callable[..., tuple[int, Verdict]],
) -> None:
    assert tried("equal") == (1, Verdict.OK)
    assert tried("restored", "restored", "equal") == (3, Verdict.OK)
    assert tried(*["restored"] * ATTEMPTS["row altered"]) == (ATTEMPTS["row altered"], Verdict.WARN)
    assert tried("restored", last=NoDamage("row altered", "no further row")) == (1, Verdict.WARN)
    assert tried("sound") == (1, Verdict.ALERT)
    assert tried(last=NoDamage("row altered", "no row")) == (0, Verdict.NOT_APPLICABLE)


def test_another_attempt_alters_another_table_and_tables_without_a_free_sign_are_passed_over() -> None:
    store = MemoryStore()
    contents = {"one": b"Ada\n\\.\n", "two": b"Bob\n\\.\n", "none": b"\\N\n\\.\n"}
    parts, tables = [], []
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        parts.append(
            a_part(f"database/{name}.dat", size=len(content)).model_copy(
                update={
                    "compression": None,
                    "size_bytes": len(content),
                    "sha256": digest,
                    "content_sha256": digest,
                }
            )
        )
        tables.append(a_table(name, rows=1).model_copy(update={"part": parts[-1].name}))
        store.objects[f"backups/{a_manifest().backup_id}/{parts[-1].name}"] = content
    manifest = a_manifest(tables=tuple(tables)).model_copy(update={"parts": tuple(parts)})

    def attempt(number: int) -> str:
        made = make_damage("row altered", store, manifest, seed=7, attempt=number)  # type: ignore[arg-type]
        return made.what if isinstance(made, Damage) else "none"

    store.keeping = None  # type: ignore[attr-defined]
    tried = [attempt(number) for number in range(ATTEMPTS["row altered"])]
    assert {what.split()[6] for what in tried[:2]} == {"public.one,", "public.two,"}
    assert all(what.startswith("one sign of row 1 of ") for what in tried)
    assert attempt(0) == tried[0]
