"""kill -9 between every two effects of a restore with a swap, its ways back, and a purge, on a real server and store.

Whatever the moment: one database has the live name, none is lost, status tells what to do, and doing it works.
"""

import json
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from answering import application
from psycopg import sql
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database
from restored_platforms import MISFORTUNE, Stricken, approve, backed_up, drop_all
from waiting import wait_until

from deployments.local.objectstore import RunningObjectStore
from deployments.local.redis_server import RunningRedis
from keepwell.approval import Approval
from keepwell.errors import PreconditionFailed
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.databases import read_databases, read_server_id
from keepwell.progress import silent
from keepwell.restore.apply import plan_case
from keepwell.restore.journal import JournalStep, RestoreCase, StepName, begin_case
from keepwell.restore.plan import Mode
from keepwell.restore.purge import plan_purge, purge_replaced
from keepwell.restore.standing import Standing
from keepwell.restore.status import Case, read_status
from keepwell.restore.undo import plan_undo, undo_swap
from keepwell.settings import RedisSettings, RestoreSettings
from keepwell.verdict import Verdict

SCRIPT = Path(__file__).with_name("swaps_that_die.py")
FORMER, RESTORED = (60, 1), (100, 0)
# Every effect of a restore with a swap, in order; a run without a strike must show the same list.
RESTORING = (
    "write case",
    "write restoring",
    "create",
    "write proven",
    "name the restored one",
    "write restored",
)
SWAPPING = (
    "carry over",
    "write fencing",
    "write exchanging",
    "shut",
    "end sessions",
    "rename the live one",
    "give the live name",
    "write exchanged",
    "empty the cache",
    "write not-asked",
    "write evidence",
)
UNDOING = (
    "write undoing",
    "shut",
    "end sessions",
    "rename the live one",
    "give the live name",
    "write undone",
    "write evidence",
)

# What a swap does by itself when the application does not serve.
GOING_BACK = (
    "write not-serving",
    "write undoing",
    "shut",
    "end sessions",
    "name the restored one",
    "give the live name",
    "write swapped-back",
    "empty the cache",
    "write evidence",
)
PURGING = ("write purging", "drop", "write purged", "write evidence")


def points(effects: tuple[str, ...]) -> list[tuple[str, str]]:
    """Between every two effects, and around them all: after one is before the next."""
    return [*((effect, "before") for effect in effects), (effects[-1], "after")]


class Runs:
    """The process whose forks die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        call = [sys.executable, str(SCRIPT)]
        self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, stricken: Stricken, approval: Approval | None, **order: object) -> tuple[int, list[str]]:
        """One run: its exit status, and the effects that were begun."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        named = {"platform": stricken.platform, "approval": approval}
        for name, value in named.items():
            (self.folder / name).write_bytes(pickle.dumps(value))
        files = {name: str(self.folder / name) for name in named}
        self.process.stdin.write(json.dumps(files | order) + "\n")
        self.process.stdin.flush()
        begun = []
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "ended":
                return int(rest), begun
            if word == "before":
                begun.append(rest)
        pytest.fail("the process of the runs ended")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs"))
    yield made
    assert made.process.stdin is not None
    assert made.process.stdout is not None
    made.process.stdin.close()
    made.process.wait(60)
    made.process.stdout.close()


@pytest.fixture(scope="module")
def stricken(
    servers: object,
    objectstore: RunningObjectStore,
    redis_server: RunningRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stricken]:
    """One platform for the whole table: after each kill it is brought back to where it began."""
    server: Server = servers(17)  # type: ignore[operator]
    with fresh_database(server) as name:
        redis = RedisSettings(host="127.0.0.1", port=redis_server.port, password=SecretStr(redis_server.password))
        spool = tmp_path_factory.mktemp("spool")
        built = build_platform(server, name, bucket_settings(objectstore), spool, redis=redis)
        backup = built.backup.model_copy(update={"interlock_wait_seconds": 120})
        settings = RestoreSettings(flush_cache=True, fence_seconds=120)
        platform = built.model_copy(update={"restore": settings, "backup": backup})
        made = Stricken(server, platform, open_store(platform), backed_up(server, platform))
        made.execute(MISFORTUNE, name)
        yield made
        drop_all(made)


def put_back(stricken: Stricken, keep: int) -> None:
    """Bring databases and journals back to where they were: the former live, and the first steps of one case.

    Args:
        stricken: Whose.
        keep: How many steps of its case stay, with the restored database; 0 for no case, and no such database.
    """
    keys = [stored.key for stored in stricken.store.list_objects("restores/")]
    number = re.compile(r"/(\d{4})-")
    later = [key for key in keys if (found := number.search(key)) is None or int(found[1]) > keep]
    stricken.store.delete(later if keep == 0 else [key for key in later if not key.endswith("case.json")])
    by_rows = {
        stricken.ids(name): name for name, is_open in stricken.names().items() if is_open or _open(stricken, name)
    }
    names = {by_rows[FORMER]: stricken.live}
    with stricken.server.connect() as connection:
        if keep == 0:
            for name in set(stricken.names()) - {by_rows[FORMER]}:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        else:
            names[by_rows[RESTORED]] = read_status(stricken.platform, stricken.store).cases[0].case.name
        with connection.transaction():
            for round_trip in ("_aside", ""):
                for old, new in names.items():
                    was, becomes = (old, f"{new}_aside") if round_trip else (f"{new}_aside", new)
                    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                    connection.execute(rename.format(sql.Identifier(was), sql.Identifier(becomes)))


def _open(stricken: Stricken, name: str) -> bool:
    with stricken.server.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
    return True


def look(stricken: Stricken, struck: str) -> Case | None:
    """What holds wherever it was killed: a live database, nothing lost, and advice where it is needed."""
    assert stricken.live in stricken.names(), struck
    found = read_status(stricken.platform, stricken.store)
    case = found.cases[0] if found.cases else None
    if case is None or case.state is None:
        assert found.verdict is Verdict.OK, struck
        return None
    assert case.state.former is not None, struck
    if not stricken.names()[stricken.live]:
        assert found.verdict is Verdict.ALERT, struck
        assert f"restore undo {case.case.case_id}" in case.state.advice, struck
    if case.state.verdict is not Verdict.OK:
        assert f"restore apply --case {case.case.case_id}" in case.state.advice, struck
    return case


def go_on(stricken: Stricken, case: Case | None, struck: str) -> None:
    """Do what status says; afterwards the restored data are live, and the former ones beside them."""
    if case is None:
        outcome = stricken.apply(stricken.plan())
    else:
        case_id = case.case.case_id
        plan = plan_case(stricken.platform, stricken.store, case_id, case.case.begun_at)
        outcome = stricken.apply(plan, case.case.approval, case_id=case_id)
    assert stricken.ids() == RESTORED, struck
    assert outcome.replaced is not None, struck
    assert stricken.ids(outcome.replaced) == FORMER, struck
    assert stricken.names() == {stricken.live: True, outcome.replaced: True}, struck
    assert read_status(stricken.platform, stricken.store).verdict is Verdict.OK, struck


def go_back(stricken: Stricken, case: Case, struck: str) -> None:
    """Undo instead; afterwards the former data are live, and the restored ones beside them."""
    case_id = case.case.case_id
    subject = plan_undo(stricken.platform, stricken.store, case_id).subject
    with hold_platform(stricken.platform, stricken.store, Procedure.SWAP):
        undo_swap(stricken.platform, stricken.store, case_id, approve(subject), silent)
    assert stricken.ids() == FORMER, struck
    assert all(stricken.names().values()), struck
    purge = plan_purge(stricken.platform, stricken.store, case_id)
    assert stricken.ids(purge.target.name) == RESTORED, struck
    assert purge.verdict is Verdict.ALERT, struck  # no proven set is from after it
    assert read_status(stricken.platform, stricken.store).verdict is Verdict.OK, struck


def begun_case(stricken: Stricken, runs: Runs) -> str:
    """A case whose database is restored and proven, and nothing else is done yet; its id."""
    found = read_status(stricken.platform, stricken.store).cases
    if not found:
        status, _ = runs.run(stricken, approve(stricken.plan().subject), strike=["carry over", "before"])
        assert status == -signal.SIGKILL
        found = read_status(stricken.platform, stricken.store).cases
    return found[0].case.case_id


@pytest.mark.timeout(900)
def test_every_effect_is_in_the_table(stricken: Stricken, runs: Runs) -> None:
    put_back(stricken, 0)
    status, begun = runs.run(stricken, approve(stricken.plan().subject), strike=[])
    # The names are opened in the transaction that exchanges them; sessions are looked for until there are none.
    assert (status, list(dict.fromkeys(begun))) == (0, [*RESTORING, *SWAPPING[:7], "open", *SWAPPING[7:]])
    (case,) = read_status(stricken.platform, stricken.store).cases
    subject = plan_undo(stricken.platform, stricken.store, case.case.case_id).subject
    status, begun = runs.run(stricken, approve(subject), undo=case.case.case_id, strike=[])
    undoing = [effect for effect in dict.fromkeys(begun) if effect not in ("open", "empty the cache")]
    assert (status, undoing) == (0, list(UNDOING))
    put_back(stricken, 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(RESTORING))
def test_killed_while_it_restores(effect: str, moment: str, stricken: Stricken, runs: Runs) -> None:
    struck = f"{moment} {effect}"
    put_back(stricken, 0)
    status, begun = runs.run(stricken, approve(stricken.plan().subject), strike=[effect, moment])
    assert status == -signal.SIGKILL, begun
    case = look(stricken, struck)
    assert stricken.ids() == FORMER, struck
    go_on(stricken, case, struck)
    put_back(stricken, 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(SWAPPING))
def test_killed_while_it_swaps(effect: str, moment: str, stricken: Stricken, runs: Runs) -> None:
    struck, case_id = f"{moment} {effect}", begun_case(stricken, runs)
    for mend in (go_on, go_back):
        put_back(stricken, 3)
        status, begun = runs.run(stricken, None, case=case_id, strike=[effect, moment])
        assert status == -signal.SIGKILL, begun
        wait_until(lambda: rolled_back(stricken), told="the server still works for a dead run")
        case = look(stricken, struck)
        assert case is not None, struck
        assert case.state is not None, struck
        assert case.state.restored is not None, struck
        if mend is go_back and stricken.ids_if_open() == FORMER:
            continue  # nothing was exchanged, and nobody is shut out: there is nothing to undo
        mend(stricken, case, struck)
    put_back(stricken, 3)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(UNDOING))
def test_killed_while_it_undoes(effect: str, moment: str, stricken: Stricken, runs: Runs) -> None:
    struck, case_id = f"{moment} {effect}", begun_case(stricken, runs)
    put_back(stricken, 3)
    plan = plan_case(stricken.platform, stricken.store, case_id, stricken.plan().planned_at)
    stricken.apply(plan, approve(plan.subject), case_id=case_id)
    subject = plan_undo(stricken.platform, stricken.store, case_id).subject
    status, begun = runs.run(stricken, approve(subject), undo=case_id, strike=[effect, moment])
    assert status == -signal.SIGKILL, begun
    wait_until(lambda: rolled_back(stricken), told="the server still works for a dead run")
    case = look(stricken, struck)
    assert case is not None, struck
    if stricken.ids_if_open() != FORMER:
        go_back(stricken, case, struck)
    assert stricken.ids() == FORMER, struck
    put_back(stricken, 3)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(UNDOING)[:4])
def test_killed_while_it_undoes_and_then_left_as_it_was(
    effect: str, moment: str, stricken: Stricken, runs: Runs
) -> None:
    """Until a name is changed it may also go on as if nobody had wanted the undo: both are open then."""
    struck, case_id = f"{moment} {effect}", begun_case(stricken, runs)
    put_back(stricken, 3)
    plan = plan_case(stricken.platform, stricken.store, case_id, stricken.plan().planned_at)
    stricken.apply(plan, approve(plan.subject), case_id=case_id)
    subject = plan_undo(stricken.platform, stricken.store, case_id).subject
    status, begun = runs.run(stricken, approve(subject), undo=case_id, strike=[effect, moment])
    assert status == -signal.SIGKILL, begun
    wait_until(lambda: rolled_back(stricken), told="the server still works for a dead run")
    go_on(stricken, look(stricken, struck), struck)
    put_back(stricken, 3)


@pytest.fixture(scope="module")
def unserved(stricken: Stricken) -> Iterator[Stricken]:
    """The same platform, with an application that never serves."""
    with application(lambda _: (500, b"")) as url:
        asked = {"base_url": url.rstrip("/"), "smoke_wait_seconds": 1}
        settings = stricken.platform.restore.model_copy(update=asked)
        platform = stricken.platform.model_copy(update={"restore": settings})
        yield Stricken(stricken.server, platform, stricken.store, stricken.backup_id)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(GOING_BACK))
def test_killed_while_it_goes_back_by_itself(
    effect: str, moment: str, stricken: Stricken, unserved: Stricken, runs: Runs
) -> None:
    struck, case_id = f"{moment} {effect}", begun_case(stricken, runs)
    for mend in (go_on, go_back):
        put_back(stricken, 3)
        status, begun = runs.run(unserved, None, case=case_id, strike=[effect, moment, GOING_BACK[0]])
        assert status == -signal.SIGKILL, begun
        after = list(dict.fromkeys(begun[begun.index(GOING_BACK[0]) :]))
        assert [one for one in after if one != "open"] == list(GOING_BACK[: GOING_BACK.index(effect) + 1])
        wait_until(lambda: rolled_back(stricken), told="the server still works for a dead run")
        case = look(stricken, struck)
        assert case is not None, struck
        if stricken.ids_if_open() == FORMER:
            assert plan_purge(stricken.platform, stricken.store, case_id).target.name == case.case.name, struck
            continue  # it is back
        mend(stricken, case, struck)
    put_back(stricken, 3)


def idle_case(stricken: Stricken) -> str:
    """A case of before the proven set, of which a database is left that nobody needs; its id."""
    with stricken.server.connect() as connection:
        name, before = f"{stricken.live}_restored_20260101T000000Z", datetime(2026, 1, 1, tzinfo=UTC)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        oids = {one.name: one.oid for one in read_databases(connection)}
        case = RestoreCase(
            case_id="20260101T000000Z-abcdef",
            platform=stricken.platform.name,
            mode=Mode.SWAP,
            backup_id=stricken.backup_id,
            database=stricken.live,
            snapshot_at=before,
            allow_unproven=False,
            server=read_server_id(connection),
            live=stricken.live,
            live_oid=oids[stricken.live],
            name=name,
            replaced=f"{stricken.live}_replaced_20260101T000000Z",
            digest="0" * 12,
            approval=None,
            begun_at=before,
        )
    begin_case(stricken.store, case)
    for number, step in enumerate((StepName.PROVEN, StepName.FENCING, StepName.SWAPPED_BACK), start=1):
        oid = oids[name] if step is StepName.PROVEN else None
        written = JournalStep(case_id=case.case_id, number=number, step=step, at=before, oid=oid)
        stricken.store.put_bytes(f"restores/{case.case_id}/{number:04d}-{step}.json", written.to_json())
    return case.case_id


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("effect", "moment"), points(PURGING))
def test_killed_while_it_purges(effect: str, moment: str, stricken: Stricken, runs: Runs) -> None:
    struck = f"{moment} {effect}"
    put_back(stricken, 0)
    case_id = idle_case(stricken)
    approval = approve(plan_purge(stricken.platform, stricken.store, case_id).subject)
    status, begun = runs.run(stricken, approval, purge=case_id, strike=[effect, moment])
    assert (status, begun) == (-signal.SIGKILL, list(PURGING[: PURGING.index(effect) + 1]))
    wait_until(lambda: rolled_back(stricken), told="the server still works for a dead run")
    look(stricken, struck)
    if len(stricken.names()) > 1:
        with hold_platform(stricken.platform, stricken.store, Procedure.SWAP):
            purge_replaced(stricken.platform, stricken.store, case_id, approval, silent, now=datetime.now(UTC))
    assert (stricken.names(), stricken.ids()) == ({stricken.live: True}, FORMER), struck
    found = read_status(stricken.platform, stricken.store)
    assert (found.verdict, [one.state.standing for one in found.cases if one.state]) == (Verdict.OK, [Standing.PURGED])
    with pytest.raises(PreconditionFailed, match="may go: purged"):
        plan_purge(stricken.platform, stricken.store, case_id)
    put_back(stricken, 0)


def rolled_back(stricken: Stricken) -> bool:
    """Whether the server has noticed that the run is dead, and undone what it had not committed."""
    with stricken.server.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'keepwell%'"
        return connection.execute(query).fetchone() == (0,)
