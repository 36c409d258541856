from dataclasses import dataclass
from typing import Any

import pytest

from keepwell.backup.preflight import _refuse_pooler, judge_migrations, refuse_unreadable
from keepwell.errors import Busy, PreconditionFailed, is_transient
from keepwell.postgres.facts import MigrationFacts, TableFacts
from keepwell.verdict import Verdict


def table(name: str, **facts: Any) -> TableFacts:
    usual: dict[str, Any] = {
        "oid": 1,
        "schema": "public",
        "name": name,
        "kind": "r",
        "unlogged": False,
        "populated": True,
        "readable": True,
        "rows_hidden": False,
        "size_bytes": 0,
        "data_bytes": 0,
        "columns": [],
        "condition": "",
    }
    return TableFacts(**usual | facts)


def test_tables_that_can_be_read_whole_are_no_reason_to_stop() -> None:
    refuse_unreadable([table("a"), table("far", kind="f", readable=False)], role="r")
    refuse_unreadable([], role="r")


@pytest.mark.parametrize("kind", ["r", "p", "m", "S"])
def test_anything_unreadable_that_would_be_dumped_stops_the_backup(kind: str) -> None:
    with pytest.raises(PreconditionFailed, match=r"The role r may not read public\.a\. Hint") as raised:
        refuse_unreadable([table("ok"), table("a", kind=kind, readable=False)], role="r")
    assert "GRANT pg_read_all_data" in raised.value.hint


def test_hidden_rows_stop_the_backup() -> None:
    with pytest.raises(PreconditionFailed, match="Row security hides rows") as raised:
        refuse_unreadable([table("a", rows_hidden=True)], role="r")
    assert "BYPASSRLS" in raised.value.hint


def test_the_first_five_of_many_are_named_and_the_rest_counted() -> None:
    with pytest.raises(PreconditionFailed, match=r"public\.t4 and 3 more\. Hint"):
        refuse_unreadable([table(f"t{n}", readable=False) for n in range(8)], role="r")


def test_a_running_migration_is_not_retried_blindly() -> None:
    with pytest.raises(Busy, match="Prisma") as raised:
        judge_migrations(MigrationFacts(None, (), "Prisma"))
    assert not is_transient(raised.value)


def test_each_half_applied_migration_is_a_warning() -> None:
    findings = judge_migrations(MigrationFacts("1", ("2", "3"), None))
    assert [finding.verdict for finding in findings] == [Verdict.WARN, Verdict.WARN]
    assert judge_migrations(MigrationFacts("1", (), None)) == []


@dataclass
class FakeSession:
    """What a connection through a pooler looks like: each statement may run elsewhere."""

    pids: list[int]
    backend_pid: int

    @property
    def info(self) -> "FakeSession":
        return self

    def execute(self, query: str) -> "FakeSession":
        return self

    def fetchone(self) -> tuple[int]:
        return (self.pids.pop(0),)


@pytest.mark.parametrize("pids", [[7, 8, 9], [7, 7, 8], [9, 9, 9]])
def test_statements_that_run_in_several_sessions_or_another_betray_a_pooler(pids: list[int]) -> None:
    with pytest.raises(PreconditionFailed, match="pooler") as raised:
        _refuse_pooler(FakeSession(pids, 7))  # type: ignore[arg-type]
    assert "database.port" in raised.value.hint


def test_one_session_is_no_pooler() -> None:
    _refuse_pooler(FakeSession([7, 7, 7], 7))  # type: ignore[arg-type]
