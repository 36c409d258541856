"""What a restore would lose, judged from what was read: nothing that is not known is said to be kept."""

from datetime import timedelta

import pytest
from backup_documents import SNAPSHOT, a_table

from keepwell.postgres.facts import LiveTable
from keepwell.restore.loss import Change, Loss, Seen, TableLoss, judge_loss, judge_table
from keepwell.verdict import Verdict


def live(*columns: str) -> LiveTable:
    return LiveTable(
        oid=1,
        schema="public",
        name="events",
        pages=1,
        estimated_rows=100,
        rows_hidden=False,
        columns=list(columns or ("id",)),
        of_extension=False,
    )


@pytest.mark.parametrize(
    ("seen", "change"),
    [
        (Seen(100, "1", counted=True), Change.NONE),
        (Seen(100, "2", counted=True), Change.CHANGED),
        (Seen(99, "1", counted=True), Change.CHANGED),
        (Seen(100, None, counted=True), Change.UNKNOWN),
        (Seen(100, None, counted=False, why="there was no time left"), Change.UNKNOWN),
        (Seen(None, None, counted=False, why="we may not read it"), Change.UNKNOWN),
        # An estimate is no count: that it is another number shows no change.
        (Seen(250, None, counted=False), Change.UNKNOWN),
    ],
)
def test_a_table_has_lost_nothing_only_when_its_content_has_the_sets_own_hash(seen: Seen, change: Change) -> None:
    assert judge_table(a_table(), live(), seen).change is change


def test_a_table_with_other_columns_has_changed_though_its_rows_are_as_many() -> None:
    judged = judge_table(a_table(), live("id", "added"), Seen(100, None, counted=True))
    assert (judged.change, judged.why) == (Change.CHANGED, "it has other columns now")


def test_a_table_that_the_set_could_not_hash_is_unknown_with_the_sets_own_reason() -> None:
    judged = judge_table(a_table(unproven="it is unlogged"), live(), Seen(100, "1", counted=True))
    assert (judged.change, judged.why) == (Change.UNKNOWN, "it is unlogged")


def test_new_and_gone_tables_count_in_whole() -> None:
    new = judge_table(None, live(), Seen(7, None, counted=True))
    gone = judge_table(a_table("old"), None, None)
    assert (new.change, new.rows_lost, new.rows_back) == (Change.NEW, 7, 0)
    assert (gone.change, gone.rows_lost, gone.rows_back) == (Change.GONE, 0, 100)


def measured(*tables: TableLoss) -> Loss:
    return Loss(SNAPSHOT, SNAPSHOT + timedelta(hours=3), tables, 0.1)


def test_rows_that_were_only_estimated_are_in_no_sum() -> None:
    loss = measured(
        TableLoss("public.a", Change.CHANGED, 100, 130, counted=True),
        TableLoss("public.b", Change.CHANGED, 100, 60, counted=True),
        TableLoss("public.c", Change.UNKNOWN, 100, 900, counted=False, why="there was no time left"),
    )
    assert (loss.rows_lost, loss.rows_back, loss.is_nothing) == (30, 40, False)
    assert loss.age_seconds == 3 * 3600


def test_what_is_unknown_is_never_told_as_fine() -> None:
    unknown = TableLoss("public.c", Change.UNKNOWN, 100, 900, counted=False, why="there was no time left")
    (finding,) = judge_loss(measured(TableLoss("public.a", Change.NONE, 1, 1, counted=True), unknown))
    assert finding.verdict is Verdict.UNKNOWN
    assert "public.c (100 rows in the set, about 900 now, there was no time left)" in finding.message


def test_nothing_lost_is_told_as_nothing() -> None:
    (finding,) = judge_loss(measured(TableLoss("public.a", Change.NONE, 1, 1, counted=True)))
    assert (finding.verdict, finding.message.startswith("Nothing:")) == (Verdict.OK, True)


def test_large_objects_are_unknown_where_there_are_any() -> None:
    same = TableLoss("public.a", Change.NONE, 1, 1, counted=True)
    (finding,) = judge_loss(Loss(SNAPSHOT, SNAPSHOT, (same,), 0.1, has_large_objects=True))
    assert (finding.verdict, finding.message) == (Verdict.UNKNOWN, "Large objects are not compared with the set's.")


def test_many_tables_are_not_all_named() -> None:
    many = [TableLoss(f"public.t{number}", Change.CHANGED, 1, 2, counted=True) for number in range(30)]
    (finding,) = judge_loss(measured(*many))
    assert "30 tables changed" in finding.message
    assert finding.message.endswith("and 20 more.")
