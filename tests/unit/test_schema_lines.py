from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.backup.schema import differing_objects, digest_schema, read_schema_file, write_schema
from keepwell.errors import VerificationFailed
from keepwell.postgres.facts import VERSION_BOUND_KINDS, SchemaLine

TABLE = SchemaLine("relation", "public.a", "r p owner x")
COLUMN = SchemaLine("column", "public.a.n", "integer not null")
VIEW = SchemaLine("view", "public.v", "SELECT 1;")


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        ([TABLE, COLUMN], [COLUMN, TABLE], []),
        ([TABLE, COLUMN], [TABLE], ["column public.a.n is missing or different"]),
        ([TABLE], [TABLE, COLUMN], ["column public.a.n was not in the source"]),
        (
            [COLUMN],
            [SchemaLine("column", "public.a.n", "bigint")],
            ["column public.a.n is missing or different"],
        ),
        ([VIEW], [SchemaLine("view", "public.v", "SELECT 2;")], ["view public.v is missing or different"]),
    ],
)
def test_a_difference_is_told_by_its_object(
    expected: list[SchemaLine], found: list[SchemaLine], said: list[str]
) -> None:
    assert differing_objects(expected, found, same_major=True) == said


@pytest.mark.parametrize("kind", sorted(VERSION_BOUND_KINDS))
def test_between_majors_only_the_existence_of_deparsed_objects_counts(kind: str) -> None:
    one, other = SchemaLine(kind, "public.x", "as 15 words it"), SchemaLine(kind, "public.x", "as 17 words it")
    assert differing_objects([one], [other], same_major=False) == []
    assert differing_objects([one], [], same_major=False) == [f"{kind} public.x is missing or different"]


def test_between_majors_the_rest_is_compared_word_by_word() -> None:
    assert differing_objects([COLUMN], [SchemaLine("column", "public.a.n", "bigint")], same_major=False) != []


def test_many_differences_are_counted_after_the_first_ten() -> None:
    lines = [SchemaLine("relation", f"t{n}", "") for n in range(25)]
    said = differing_objects(lines, [], same_major=True)
    assert (len(said), said[-1]) == (11, "and 15 more")


text = st.text(max_size=40)
lines = st.lists(st.builds(SchemaLine, kind=text, identity=text, definition=text), max_size=10)


@given(written=lines)
def test_lines_read_back_as_they_were_written_whatever_their_names_hold(
    written: list[SchemaLine], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import hashlib

    file = tmp_path_factory.mktemp("schema") / "schema.jsonl"
    write_schema(file, written)
    assert read_schema_file(file) == written
    assert digest_schema(written) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ["{", '["a", "b"]\n', '"text"\n', "null\n", "[1, 2, 3, 4]\n"])
def test_a_file_that_is_not_ours_is_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_text(content)
    with pytest.raises(VerificationFailed, match="stored schema cannot be read"):
        read_schema_file(tmp_path / "s")
