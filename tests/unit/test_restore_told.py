"""What a restore cannot keep or cannot know is told, and a name that was taken meanwhile stops no way back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest
from memory_store import MemoryStore
from typer.testing import CliRunner

from keepwell import holding
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.errors import KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.evidence import Evidence
from keepwell.objectstore import destinations
from keepwell.objectstore.store import Store
from keepwell.postgres.databases import NamedDatabase
from keepwell.progress import silent
from keepwell.restore import purge, swap
from keepwell.restore.apply import ITEM, keep_evidence
from keepwell.restore.purge import DuePurges, PurgeOutcome, PurgePlan
from keepwell.restore.standing import CaseState, Standing
from keepwell.restore.status import judge_databases
from keepwell.restore.swap import Exchange, exchange
from keepwell.settings import Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
LIVE, COMING = (
    NamedDatabase(1, "esn", open=True, size_bytes=0),
    NamedDatabase(2, "esn_restored", open=True, size_bytes=0),
)
PLATFORM = cast(
    "Platform",
    SimpleNamespace(
        restore=SimpleNamespace(fence_seconds=1),
        database=SimpleNamespace(names=('e"sn',), maintenance_name="postgres"),
    ),
)


def evidence() -> Evidence:
    return Evidence(
        items=(ITEM,),
        platform="esn",
        verdict=Verdict.OK,
        summary="It is restored.",
        findings=(),
        numbers={},
        started_at=NOW,
        finished_at=NOW,
    )


def test_evidence_that_could_not_be_kept_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = cast("Store", MemoryStore())
    assert keep_evidence(store, evidence()).findings == ()

    def refuse(relative: str, content: bytes) -> None:
        del relative, content
        raise KeepwellError("It is full.")

    monkeypatch.setattr(store, "put_bytes", refuse)
    kept = keep_evidence(store, evidence())
    assert (kept.keys, [one.verdict for one in kept.findings]) == ((), [Verdict.WARN])
    assert "It is full." in kept.findings[0].message


@contextmanager
def connected(_: object) -> Iterator[None]:
    yield None


@pytest.mark.parametrize(
    ("raised", "answer", "told"),
    [
        (ServiceUnavailable("The connection is gone."), None, "is not known"),
        (ServiceUnavailable("The connection is gone."), True, ""),
        (ServiceUnavailable("The connection is gone."), False, "connection is gone"),
        # Ctrl-C is heeded, even where everything is done.
        (KeyboardInterrupt("stop"), True, "stop"),
    ],
)
def test_whether_names_were_exchanged_is_asked_and_a_silent_server_is_no_answer(
    raised: BaseException, answer: bool | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    opened: list[object] = []
    monkeypatch.setattr(swap, "connect_beside", connected)
    monkeypatch.setattr(swap, "read_databases", lambda _: (LIVE, COMING))
    monkeypatch.setattr(swap, "shut", fail)
    monkeypatch.setattr(swap, "is_exchanged", lambda *_: answer)
    monkeypatch.setattr(swap, "open_databases", lambda *_: opened.append(True))
    wanted = Exchange("esn", LIVE, "esn_replaced", COMING)
    if told:
        with pytest.raises(type(raised), match=told):
            exchange(PLATFORM, wanted, silent, before_shutting=lambda: None)
    else:
        exchange(PLATFORM, wanted, silent, before_shutting=lambda: None)
    assert bool(opened) is not bool(answer)


def test_the_statement_that_opens_a_database_quotes_its_name() -> None:
    (found,) = judge_databases(PLATFORM, (NamedDatabase(1, 'e"sn', open=False, size_bytes=0),), (), at_work=False)
    assert 'ALTER DATABASE "e""sn" ALLOW_CONNECTIONS true' in found.hint


def due_plan(case_id: str, name: str) -> PurgePlan:
    target = NamedDatabase(3, name, open=True, size_bytes=0)
    state = CaseState(Standing.SERVING, LIVE, target, None, "")
    return PurgePlan("esn", case_id, state, target, NOW, 0, ())


def test_of_what_is_due_one_that_is_refused_keeps_no_other_from_going(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(_platform: object, _store: object, case_id: str, *_: object, now: datetime) -> PurgeOutcome:
        del now
        if case_id == "first":
            raise PreconditionFailed("Somebody is in it.")
        return PurgeOutcome(case_id, "esn_replaced_y", 0)

    due = DuePurges((due_plan("first", "esn_replaced_x"), due_plan("second", "esn_replaced_y")))
    monkeypatch.setattr(console, "load_platform", lambda _: PLATFORM)
    monkeypatch.setattr(destinations, "open_destination", lambda *_: None)
    monkeypatch.setattr(holding, "hold_platform", lambda *_, **__: nullcontext())
    monkeypatch.setattr(purge, "read_due", lambda *_: due)
    monkeypatch.setattr(purge, "purge_replaced", drop)
    result = CliRunner().invoke(app, ["restore", "purge", "--due", "--json"])
    document = json.loads(result.stdout)
    assert [one["dropped"] for one in document["data"]["purged"]] == ["esn_replaced_y"]
    assert [one["message"] for one in document["data"]["findings"]] == ["esn_replaced_x stays: Somebody is in it."]
