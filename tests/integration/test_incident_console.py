"""A case led from the console on real servers: evidence first, then everything that is said and decided."""

import json
from pathlib import Path
from typing import Any

import pytest
from backup_sets import back_up_and_prove
from real_servers import Server
from typer.testing import CliRunner

from keepwell import settings
from keepwell.cli.main import app
from keepwell.objectstore.store import Store
from keepwell.postgres.server_state import read_server_state
from keepwell.settings import Platform


@pytest.fixture(autouse=True)
def _configured(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(settings, "load_platform", lambda name=None: platform)
    monkeypatch.setattr(settings, "read_platform_names", lambda: (platform.name,))


def keepwell(*arguments: str) -> tuple[int, dict[str, Any]]:
    ended = CliRunner().invoke(app, ["incident", *arguments, "--json"])
    return ended.exit_code, json.loads(ended.stdout)


def in_words(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["incident", *arguments])
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_a_server_s_state_and_that_a_fenced_database_lets_nobody_in(
    platform: Platform, server: Server, database: str
) -> None:
    state = read_server_state(platform.database)
    (mine,) = [one for one in state.databases if one.name == database]
    assert (mine.lets_in, state.in_recovery, state.version.startswith("17")) == (True, False, True)
    assert mine.size_bytes is not None
    assert state.connections >= 1
    assert state.started_at.tzinfo is not None
    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        (fenced,) = [one for one in read_server_state(platform.database).databases if one.name == database]
        connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    assert not fenced.lets_in


def test_a_case_from_the_first_look_to_its_end(
    platform: Platform, store: Store, server: Server, database: str, tmp_path: Path
) -> None:
    with server.connect(database) as connection:
        connection.execute("CREATE TABLE people AS SELECT generate_series(1, 7) AS id")
    backup_id = back_up_and_prove(platform).backup_id
    before = {stored.key for stored in store.list_objects("")}

    code, seen = keepwell("look")
    assert code == 2  # logs and deploys are not read, and unknown is never fine
    verdicts: dict[str, set[str]] = {}
    for one in seen["data"]["observations"]:
        verdicts.setdefault(one["source"], set()).add(one["verdict"])
    assert {source for source, found in verdicts.items() if "unknown" in found} == {"logs", "deploys"}
    assert {source for source, found in verdicts.items() if "alert" in found} == set()
    assert any(backup_id in one["message"] for one in seen["data"]["observations"])
    assert {stored.key for stored in store.list_objects("")} == before

    code, made = keepwell(
        "open", "sign-in answers 500", "--impact", "Nobody can sign in.", "--since", "2026-01-01T06:00"
    )
    assert code == 0
    case_id = made["data"]["case"]["case_id"]
    assert keepwell("open", "something else")[0] == 1
    assert keepwell("note", "I restarted it.", "--by", "ann")[0] == 0
    assert keepwell("note", "Restore rather than repair.", "--decision", "--by", "bob")[0] == 0
    assert keepwell("note", "Watch the disk.", "--action")[0] == 0
    assert keepwell("note", "both", "--action", "--decision")[0] == 1
    assert keepwell("note", "later", "--at", "2126-01-01T06:00")[0] == 1
    code, told = keepwell("update", "We are looking for the cause.", "--next", "45m", "--by", "ann")
    assert (code, told["verdict"], told["data"]["posted"]) == (0, "warn", None)  # there is no channel
    assert told["data"]["status_text"].startswith("Investigating: esn (")
    assert "no Prefect server" in told["data"]["reminder"]
    assert keepwell("update", "x", "--phase", "resolved")[1]["hint"].startswith("There are: investigating,")
    assert keepwell("update", "x", "--next", "soon")[0] == 1
    assert keepwell("remind")[1]["data"]["reminders"] == []
    assert keepwell("skip", "comunicate", "x")[1]["hint"].startswith("There are: identify, communicate")
    assert keepwell("done", "restore", f"Restored {backup_id}.", "--by", "ann")[0] == 0
    assert keepwell("skip", "restore", "x")[0] == 1
    assert keepwell("identify")[0] == 0

    code, stands = keepwell("status")
    assert (code, stands["data"]["case"]["case_id"], stands["data"]["next_step"]) == (0, case_id, "verify")
    assert stands["data"]["steps"]["restore"]["by"] == "ann"
    said = " ".join(event["message"] for event in stands["data"]["timeline"])
    for words in ("I restarted it.", "Decided: Restore", "To be done: Watch", backup_id, "It began"):
        assert words in said
    shown = in_words("status", "--all")
    assert "sign-in answers 500" in shown
    assert "Decided: Restore rather than repair. (bob)" in " ".join(shown.split())

    assert keepwell("resolve", "It is over.")[1]["data"]["error"] == "PreconditionFailed"
    code, verified = keepwell("verify")
    assert (code, verified["verdict"]) == (0, "warn")  # Redis was started within a day
    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        code, fenced = keepwell("verify")
        connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    assert (code, fenced["verdict"]) == (1, "alert")
    assert keepwell("status")[1]["data"]["next_step"] == "verify"
    assert keepwell("resolve", "It is over.")[0] == 1
    assert keepwell("verify")[0] == 0
    code, over = keepwell("resolve", "It is over.")
    assert (code, over["data"]["reminder"]) == (0, "")
    page = tmp_path / "post-mortem.md"
    code, written = keepwell("post-mortem", "--output", str(page))
    assert (code, written["data"]["final"], page.read_text()) == (0, True, written["data"]["text"])
    assert store.get_bytes(written["data"]["key"]).decode() == written["data"]["text"]
    assert "Restore rather than repair. – bob (self-declared)" in written["data"]["text"]
    assert keepwell("post-mortem", "--output", str(page))[0] == 1
    code, none = keepwell("status")
    assert (code, none["data"]["error"]) == (1, "PreconditionFailed")
    assert "resolved" in in_words("list")
    assert keepwell("list")[1]["data"]["cases"][0]["open"] is False
    assert "Told people: resolved: It is over." in " ".join(in_words("status", "--case", case_id).split())
