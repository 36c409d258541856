"""The demonstration of a bad day: rows are deleted by mistake, come back by an approved restore, and that is undone.

Everything in it is real: the servers, the deployment, the worker, the question that the run is suspended for, and the
sample platform, whose users go on all the while.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from deployments.local import sample_platform
from deployments.local.stack import StackOptions
from deployments.local.story import SCREEN, ask_keepwell, chapter, run_keepwell, start_servers, tell_story
from deployments.running.state import StateFolder
from keepwell import orchestrator
from keepwell.errors import ServiceUnavailable
from keepwell.orchestrator import FlowRun, Orchestrator
from keepwell.settings import load_platform_file

_DEPLOYMENT = "restore-backup"
_APPROVER = ("--approver", "the demonstration", "--reason", "a DELETE without its WHERE")
_LIMIT_SECONDS = 900.0
_POLL_SECONDS = 0.5
_ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Restored:
    """What became of the run.

    Attributes:
        case_id: Under which it can be undone.
        seconds_rto: From asking for the run until the application had answered out of the restored database.
    """

    case_id: str
    seconds_rto: float


def run_restore_demo(state: StateFolder, options: StackOptions) -> int:
    """Tell the story, and end with one JSON object.

    Args:
        state: Folder for a stack of the demonstration's own; emptied before, and after unless something went wrong.
        options: Size of the sample data.

    Returns:
        0 when every lost row came back and the undo gave the former database its name again, else 1.

    Raises:
        KeepwellError: The story could not be told to its end.
    """
    return tell_story(
        state,
        lambda: _tell_story(state, options),
        is_good=lambda told: 0 < told["rows_lost"] == told["rows_back"] and told["undone"] is True,
        last_chapter="6. Stopping everything",
    )


def _tell_story(state: StateFolder, options: StackOptions) -> dict[str, Any] | None:
    with chapter("1. Real servers, the sample platform with people at work on it, and a proven backup"):
        if not start_servers(state, options) or run_keepwell(state, "run", "backup-and-verify") != 0:
            return None
    with chapter("2. The accident: all payments are deleted from the live database"):
        lost = _delete_payments(state)
        SCREEN.print(f"  {len(lost):,} rows are gone.")
    with chapter(f"3. The deployment {_DEPLOYMENT} restores, once it is approved"):
        restored = _restore(state)
        if restored is None:
            return None
    with chapter("4. The live database again"):
        back = _count_payments(state, lost)
        SCREEN.print(f"  {back:,} of {len(lost):,} rows are back, {restored.seconds_rto:.0f} s after it was asked for.")
    with chapter("5. The undo: the former database takes its name again, and what was restored stays beside it"):
        undone = _undo(state, restored.case_id) and _count_payments(state, lost) == 0
    return {
        "rows_lost": len(lost),
        "rows_back": back,
        "seconds_rto": round(restored.seconds_rto, 1),
        "undone": undone,
    }


def _restore(state: StateFolder) -> Restored | None:
    """Ask for the restore, approve it, and wait for its end; None when it did not go well, which is told then."""
    began = time.monotonic()
    code, printed = ask_keepwell(state, "run", _DEPLOYMENT, "--param", "mode=swap", "--no-watch", "--json")
    if code != 0:
        return None
    run_id = json.loads(printed)["data"]["id"]
    with _connected(state) as client:
        asked = _wait(client, run_id, {"PAUSED", *_ENDED})
        SCREEN.print(f"  The run is {asked.state_name}: it holds nothing, and its process has ended.", markup=False)
        if asked.state_type != "PAUSED" or _approve(state, run_id) != 0:
            SCREEN.print(f"  {asked.message}", markup=False)
            return None
        ended = _wait(client, run_id, _ENDED)
        SCREEN.print(f"  The run is {ended.state_name}. {ended.message}", markup=False)
    if ended.state_type != "COMPLETED":
        return None
    seconds_rto = time.monotonic() - began
    run_keepwell(state, "restore", "status")
    _, printed = ask_keepwell(state, "restore", "status", "--json")
    return Restored(json.loads(printed)["data"]["cases"][0]["case"], seconds_rto)


def _approve(state: StateFolder, run_id: str) -> int:
    """As somebody would who has looked at the plan and has no terminal."""
    _, printed = ask_keepwell(state, "approve", "--json")
    (waiting,) = (one for one in json.loads(printed)["data"]["waiting"] if one["id"] == run_id)
    typed = ("--typed", sample_platform.DATABASE)
    return run_keepwell(state, "approve", run_id, "--approve", waiting["plan"], *_APPROVER, *typed)


def _undo(state: StateFolder, case_id: str) -> bool:
    _, printed = ask_keepwell(state, "restore", "undo", case_id, "--plan", "--json")
    plan, typed = json.loads(printed)["data"]["plan"], ("--typed", sample_platform.DATABASE)
    return run_keepwell(state, "restore", "undo", case_id, "--approve", plan, *_APPROVER, *typed) == 0


def _delete_payments(state: StateFolder) -> list[str]:
    """The accident; ids of what is gone."""
    with _database(state) as connection:
        return [str(row[0]) for row in connection.execute('DELETE FROM "payments" RETURNING "id"').fetchall()]


def _count_payments(state: StateFolder, wanted: list[str]) -> int:
    """How many of some payments the live database has."""
    with _database(state) as connection:
        found = connection.execute('SELECT count(*) FROM "payments" WHERE "id" = ANY(%s)', [wanted]).fetchone()
    return int(found[0]) if found else 0


@contextmanager
def _database(state: StateFolder) -> Iterator[psycopg.Connection[Any]]:
    """The live database, as the sample platform's own people reach it."""
    address = sample_platform.database_url(state, state.read_ports()[sample_platform.PRODUCTION])
    with psycopg.connect(address) as connection:
        yield connection


@contextmanager
def _connected(state: StateFolder) -> Iterator[Orchestrator]:
    client = orchestrator.connect(load_platform_file(state.platform_file).orchestrator)
    if client is None:
        raise ServiceUnavailable("The stack has no Prefect server.", hint="Look at its logs.")
    with client:
        yield client


def _wait(client: Orchestrator, run_id: str, states: set[str]) -> FlowRun:
    """The run once it is in one of some states."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while (run := client.read_run(run_id)).state_type not in states:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"After {_LIMIT_SECONDS:.0f} s, the run {run.name} is {run.state_name}.")
        time.sleep(_POLL_SECONDS)
    return run
