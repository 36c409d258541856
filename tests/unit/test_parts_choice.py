"""Which tables of a set somebody means, decided from what the set says of itself."""

import pytest
from backup_documents import a_database, a_table

from keepwell.backup.database import Database, Table
from keepwell.errors import PreconditionFailed
from keepwell.postgres.facts import SchemaLine
from keepwell.restore.parts_choice import TablesWanted, choose_tables, tell_left_behind


def a_place(schema: str, name: str, **changes: object) -> Table:
    return a_table(name).model_copy(update={"table_schema": schema} | changes)


DATABASE = a_database(
    tables=(
        a_place("public", "events", kind="partitioned", rows=None),
        a_place("public", "events_2026"),
        a_place("public", 'odd "name".x'),
        a_place("public", "users"),
        a_place("audit", "users"),
        a_place("public", "spatial_ref_sys", condition="WHERE true"),
        a_place("public", "counted", kind="materialized view", rows=None),
    )
)
LINES = (
    SchemaLine("inheritance", "public.events_2026", "from public.events 1"),
    SchemaLine("inheritance", 'public."odd ""name"".x"', "from public.events_2026 1"),
    SchemaLine("relation", "public.users", "r"),
)


def choose(*tables: str, schemas: tuple[str, ...] = (), database: Database = DATABASE) -> list[str]:
    chosen = choose_tables(database, TablesWanted(tables, schemas, "restored"), LINES)
    return [table.qualified for table in chosen]


def test_a_table_is_named_by_schema_and_name_or_by_a_name_that_only_one_has() -> None:
    assert choose("public.users") == ["public.users"]
    assert choose("events_2026") == ["public.events_2026", 'public.odd "name".x']
    with pytest.raises(PreconditionFailed, match=r"users may be any of public\.users, audit\.users"):
        choose("users")


def test_a_parent_brings_what_inherits_from_it_at_any_depth_whatever_it_is_called() -> None:
    assert choose("events") == ["public.events", "public.events_2026", 'public.odd "name".x']


def test_a_schema_is_all_of_its_tables_and_says_what_is_none() -> None:
    assert "public.users" in choose(schemas=("public",))
    assert "public.spatial_ref_sys" not in choose(schemas=("public",))
    assert tell_left_behind(DATABASE, ["public"]) == ["the materialized view public.counted"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("public.counted", "is a materialized view"),
        ("public.spatial_ref_sys", "belongs to an extension"),
        ("public.missing", "holds no table public.missing"),
    ],
)
def test_what_is_no_table_of_the_set_cannot_be_chosen(name: str, said: str) -> None:
    with pytest.raises(PreconditionFailed, match=said):
        choose(name)


def test_two_tables_of_one_name_do_not_fit_into_one_schema() -> None:
    with pytest.raises(PreconditionFailed, match="Two of the chosen tables are called users"):
        choose("public.users", "audit.users")
