"""A restore that takes the live database's place, and goes back: on a real server, with people in it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from answering import application
from backup_sets import back_up, prove
from psycopg import sql
from real_servers import Server
from restored_platforms import MISFORTUNE, SOURCE, Stricken, approve, drop_all, stricken_platform

from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.evidence import read_last_evidence
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.postgres import databases
from keepwell.postgres.databases import Properties, carry_over, read_properties, split_names
from keepwell.progress import silent
from keepwell.restore import swap as swapping
from keepwell.restore.apply import ITEM
from keepwell.restore.journal import RestoreCase, read_journal
from keepwell.restore.plan import Mode
from keepwell.restore.purge import plan_purge, purge_replaced, read_due
from keepwell.restore.standing import Standing
from keepwell.restore.status import RestoreStatus, read_status
from keepwell.restore.undo import plan_undo, undo_swap
from keepwell.settings import Platform, RestoreSettings
from keepwell.verdict import Verdict

# What a database has beside what is in it, in every way that SQL knows.
PROPERTIES = (
    "ALTER DATABASE {} CONNECTION LIMIT 40",
    'ALTER DATABASE {} SET search_path = public, "Fête, 2"',
    "ALTER DATABASE {} SET app.token = 'it''s, a \"word\"'",
    "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
    "ALTER ROLE swap_app IN DATABASE {} SET work_mem = '3MB'",
    "REVOKE ALL ON DATABASE {} FROM PUBLIC",
    "GRANT CONNECT, TEMPORARY ON DATABASE {} TO swap_app WITH GRANT OPTION",
    "COMMENT ON DATABASE {} IS 'The shop''s own'",
    "ALTER DATABASE {} OWNER TO swap_app",
)


@pytest.fixture
def app_role(server: Server) -> Iterator[str]:
    """The application's role, which owns its database."""
    with server.connect() as connection:
        connection.execute("CREATE ROLE swap_app LOGIN SUPERUSER PASSWORD 'marked-secret-of-the-database'")
    yield "swap_app"
    with server.connect() as connection:
        connection.execute("DROP ROLE swap_app")


@pytest.fixture
def stricken(app_role: str, server: Server, platform: Platform) -> Iterator[Stricken]:
    del app_role
    with stricken_platform(server, platform) as made:
        yield made


@contextmanager
def people_who_come_back(stricken: Stricken) -> Iterator[Callable[[], int]]:
    """An application's pool: it logs in to the live name, and again at once whenever it is thrown out.

    Yields:
        How many rows it sees, read in a session that it got by itself.
    """
    done = threading.Event()
    seen: list[int] = []

    def keep_asking() -> None:
        while not done.is_set():
            try:
                with stricken.server.connect(stricken.live, application_name="the application") as connection:
                    while not done.wait(0.01):
                        (rows,) = connection.execute("SELECT count(*) FROM people").fetchone() or (0,)
                        seen.append(rows)
            except psycopg.Error:
                done.wait(0.01)

    pool = [threading.Thread(target=keep_asking, daemon=True) for _ in range(3)]
    for one in pool:
        one.start()

    def ask() -> int:
        before = len(seen)
        while len(seen) < before + 4:
            assert not done.wait(0.01)
        return seen[-1]

    try:
        yield ask
    finally:
        done.set()
        for one in pool:
            one.join()


def statuses(stricken: Stricken) -> tuple[RestoreStatus, list[Standing]]:
    found = read_status(stricken.platform, stricken.store)
    return found, [one.state.standing for one in found.cases if one.state]


def test_a_swap_brings_rows_back_under_the_live_name_and_undo_goes_back_again(stricken: Stricken) -> None:
    live = stricken.live
    for statement in PROPERTIES:
        stricken.execute(statement)
    with stricken.server.connect() as connection:
        oid = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (live,)).fetchone()
        properties = read_properties(connection, oid[0] if oid else 0)
    with people_who_come_back(stricken) as ask:
        assert ask() == 61
        planned = stricken.plan()
        outcome = stricken.apply(planned)
        assert ask() == 100
        assert outcome.replaced is not None
        assert stricken.names() == {live: True, outcome.replaced: True}
        assert (stricken.ids(), stricken.ids(outcome.replaced)) == ((100, 0), (60, 1))
        assert {"find", "fetch", "restore", "prove", "smoke", "swap", "serve"} == set(outcome.phases)
        with stricken.server.connect() as connection:
            oid = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (live,)).fetchone()
            assert read_properties(connection, oid[0] if oid else 0) == properties
        found, standings = statuses(stricken)
        assert (standings, found.verdict) == ([Standing.SERVING], Verdict.OK)

        stricken.execute("INSERT INTO people VALUES (2000, 'after the swap')", live)
        undo = plan_undo(stricken.platform, stricken.store, outcome.case_id)
        with hold_platform(stricken.platform, stricken.store, Procedure.SWAP):
            with pytest.raises(PreconditionFailed, match="needs an approval"):
                undo_swap(stricken.platform, stricken.store, outcome.case_id, None, silent)
            undone = undo_swap(stricken.platform, stricken.store, outcome.case_id, approve(undo.subject), silent)
        assert ask() == 61
    assert undone.undone is not None
    assert stricken.names() == {live: True, undone.undone: True}
    assert (stricken.ids(), stricken.ids(undone.undone)) == ((60, 1), (100, 1))
    assert statuses(stricken)[1] == [Standing.UNDONE]
    evidence = read_last_evidence(stricken.store, ITEM)
    assert evidence is not None
    assert "is undone" in evidence.summary
    assert any("approved by Ada (self-declared)" in finding.message for finding in evidence.findings)
    with pytest.raises(PreconditionFailed, match="nothing to undo"):
        plan_undo(stricken.platform, stricken.store, outcome.case_id)
    with pytest.raises(PreconditionFailed, match="cannot go on: swapped back"):
        stricken.apply(stricken.plan(), case_id=outcome.case_id)


def test_a_second_restore_that_was_approved_before_the_first_does_not_replace_what_it_brought(
    stricken: Stricken,
) -> None:
    first, second = stricken.plan(), stricken.plan()
    assert first.digest == second.digest
    outcome = stricken.apply(first)
    with pytest.raises(PreconditionFailed, match="nothing was changed"):
        stricken.apply(second, approve(second.subject))
    assert stricken.names() == {stricken.live: True, outcome.replaced: True}
    assert any(one.name == "application" and one.verdict is Verdict.WARN for one in outcome.findings)


def test_who_slips_in_when_the_database_is_shut_is_out_before_it_is_renamed(
    stricken: Stricken, monkeypatch: pytest.MonkeyPatch
) -> None:
    slipped: list[psycopg.Connection] = []

    def end_sessions(connection: psycopg.Connection, names: Sequence[str], *, wait_seconds: float) -> int:
        ended = databases.end_sessions(connection, names, wait_seconds=wait_seconds)
        databases.open_again(connection, names)
        slipped.append(psycopg.connect(stricken.server.url(stricken.live)))
        databases.shut(connection, names)
        return ended

    monkeypatch.setattr(swapping, "end_sessions", end_sessions)
    stricken.apply(stricken.plan())
    assert stricken.ids() == (100, 0)
    with pytest.raises(psycopg.OperationalError):
        slipped[0].execute("SELECT true")


def test_what_is_carried_over_anew_leaves_nothing_of_before(app_role: str, server: Server, database: str) -> None:
    def read() -> Properties:
        row = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (database,)).fetchone()
        return read_properties(connection, row[0] if row else 0)

    with server.connect() as connection:
        plain = read()
        for statement in PROPERTIES:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database)))
        assert read() != plain
        carry_over(connection, database, plain)
        now = read()
    assert (now.settings, now.owner, now.comment) == ((), plain.owner, None)
    assert plain.grants is None
    assert {(one.grantee, one.privilege) for one in now.grants or ()} == {
        *(("", privilege) for privilege in ("CONNECT", "TEMPORARY")),
        *((plain.owner, privilege) for privilege in ("CONNECT", "CREATE", "TEMPORARY")),
    }


def test_a_replaced_database_goes_only_when_asked_and_never_as_the_only_copy(stricken: Stricken) -> None:
    outcome = stricken.apply(stricken.plan())
    platform, store, now = stricken.platform, stricken.store, datetime.now(UTC)
    aged = platform.model_copy(update={"restore": RestoreSettings(keep_replaced_days=7)})
    planned = plan_purge(platform, store, outcome.case_id)
    assert planned.target.name == outcome.replaced

    with (
        hold_platform(platform, store, Procedure.SWAP),
        pytest.raises(PreconditionFailed, match="No proven set is from after"),
    ):
        purge_replaced(platform, store, outcome.case_id, approve(planned.subject), silent, now=now)
    assert read_due(aged, store, now + timedelta(days=8)).plans == ()
    backup_id = back_up(platform).backup_id
    assert prove(platform, backup_id).reached == "serving"
    with hold_platform(platform, store, Procedure.SWAP):
        with pytest.raises(PreconditionFailed, match="needs an approval"):
            purge_replaced(aged, store, outcome.case_id, None, silent, now=now + timedelta(days=6))
        wrong = approve(planned.subject, typed=stricken.live)
        with pytest.raises(PreconditionFailed, match="is not"):
            purge_replaced(platform, store, outcome.case_id, wrong, silent, now=now)
        assert outcome.replaced in stricken.names()
        with stricken.server.connect(outcome.replaced):
            busy = read_due(aged, store, now + timedelta(days=8))
            assert (busy.plans, "1 sessions are in" in busy.findings[0].message) == ((), True)
        store.put_bytes("restores/20260101T000000Z-abcdef/case.json", b"{}")
        assert "damaged" in read_due(aged, store, now + timedelta(days=8)).findings[0].message
        store.delete(["restores/20260101T000000Z-abcdef/case.json"])
        called_otherwise(stricken, outcome.replaced, f"{stricken.live}_accounting")
        assert read_due(aged, store, now + timedelta(days=8)).plans == ()
        with pytest.raises(PreconditionFailed, match="is not what the case"):
            purge_replaced(platform, store, outcome.case_id, approve(planned.subject), silent, now=now)
        called_otherwise(stricken, f"{stricken.live}_accounting", outcome.replaced)
        (due,) = read_due(aged, store, now + timedelta(days=8)).plans
        purged = purge_replaced(aged, store, due.case_id, None, silent, now=now + timedelta(days=8))
    assert purged.dropped == outcome.replaced
    assert stricken.names() == {stricken.live: True}
    found, standings = statuses(stricken)
    assert (standings, found.verdict) == ([Standing.PURGED], Verdict.OK)
    with pytest.raises(PreconditionFailed, match="may go: purged"):
        plan_purge(platform, store, outcome.case_id)
    with pytest.raises(PreconditionFailed, match="was dropped"):
        plan_undo(platform, store, outcome.case_id)


def called_otherwise(stricken: Stricken, old: str, new: str) -> None:
    with stricken.server.connect() as connection:
        statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        connection.execute(statement.format(sql.Identifier(old), sql.Identifier(new)))


def test_on_another_server_a_case_is_nobody_s(stricken: Stricken) -> None:
    """A machine that was made anew counts its databases from the beginning, too."""
    outcome = stricken.apply(stricken.plan())
    key = f"restores/{outcome.case_id}/case.json"
    case = RestoreCase.from_json(stricken.store.get_bytes(key))
    stricken.store.put_bytes(key, case.model_copy(update={"server": "7410000000000000000"}).to_json())
    with pytest.raises(PreconditionFailed, match="may go: of another server"):
        plan_purge(stricken.platform, stricken.store, outcome.case_id)
    with pytest.raises(PreconditionFailed, match="of another server"):
        plan_undo(stricken.platform, stricken.store, outcome.case_id)
    assert statuses(stricken)[1] == [Standing.ELSEWHERE]


def test_an_application_that_does_not_serve_gets_its_former_database_back_by_itself(
    stricken: Stricken, redis_url: str
) -> None:
    live = stricken.live

    def answer(path: str) -> tuple[int, bytes]:
        """It wants the row that was written since, so the restored data are not enough for it."""
        del path
        with stricken.server.connect(live) as connection:
            row = connection.execute("SELECT count(*) FROM people WHERE id = 1000").fetchone()
        return (200, b"") if row == (1,) else (500, b"")

    with redis.Redis.from_url(redis_url) as client, application(answer) as url:
        client.set("answer", "of before")
        settings = RestoreSettings(base_url=url.rstrip("/"), smoke_wait_seconds=1, flush_cache=True)
        platform = stricken.platform.model_copy(update={"restore": settings})
        planned = stricken.plan()
        with pytest.raises(VerificationFailed, match=r"500 Internal Server Error.*exchanged back") as caught:
            stricken.apply(planned, platform=platform)
        assert client.dbsize() == 0
    assert live in caught.value.message
    assert stricken.names() == {live: True, planned.name: True}
    assert (stricken.ids(), stricken.ids(planned.name)) == ((60, 1), (100, 0))
    evidence = read_last_evidence(stricken.store, ITEM)
    assert evidence is not None
    assert (evidence.verdict, "exchanged back" in evidence.summary) == (Verdict.ALERT, True)
    assert statuses(stricken)[1] == [Standing.UNDONE]
    case_id = statuses(stricken)[0].cases[0].case.case_id
    assert "swapped-back" in [one.step.value for one in read_journal(stricken.store, case_id).steps]


def test_with_the_live_database_gone_the_restored_one_gets_its_name(stricken: Stricken) -> None:
    stricken.execute("DROP DATABASE {}")
    found, _ = statuses(stricken)
    assert found.verdict is Verdict.ALERT
    outcome = stricken.apply(stricken.plan())
    assert outcome.replaced is None
    assert stricken.names() == {stricken.live: True}
    assert stricken.ids() == (100, 0)
    with pytest.raises(PreconditionFailed, match="never was"):
        plan_undo(stricken.platform, stricken.store, outcome.case_id)
    with pytest.raises(PreconditionFailed, match="one database only, and it stays"):
        plan_purge(stricken.platform, stricken.store, outcome.case_id)


def test_beside_nothing_is_asked_and_the_live_database_is_not_touched(stricken: Stricken) -> None:
    planned = stricken.plan(Mode.BESIDE)
    outcome = stricken.apply(planned)
    assert (outcome.database, outcome.replaced, outcome.rows) == (planned.name, None, 100)
    assert stricken.names() == {stricken.live: True, planned.name: True}
    assert stricken.ids() == (60, 1)
    with stricken.server.connect(planned.name) as connection:
        assert connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'").fetchone() == (0,)
    assert statuses(stricken)[1] == [Standing.BESIDE]


@pytest.fixture
def lesser_roles(server: Server) -> Iterator[None]:
    """An owner, the application's login beside it, and a role that restores; none of them is a superuser."""
    with server.connect() as connection:
        connection.execute("CREATE ROLE swap_owner")
        connection.execute("CREATE ROLE swap_client LOGIN PASSWORD 'marked-secret-of-the-database'")
        connection.execute("CREATE ROLE swap_restorer LOGIN CREATEDB BYPASSRLS IN ROLE swap_owner")
        connection.execute("ALTER ROLE swap_restorer PASSWORD 'marked-secret-of-the-database'")
    yield
    with server.connect() as connection:
        connection.execute("DROP ROLE swap_restorer, swap_client, swap_owner")


@pytest.mark.usefixtures("lesser_roles")
def test_a_role_that_is_no_superuser_swaps_what_it_may_act_for(server: Server, platform: Platform) -> None:
    live = platform.database.name
    with server.connect(live) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO swap_owner").format(sql.Identifier(live)))
        connection.execute(f"SET ROLE swap_owner; {SOURCE}")
    backup_id = back_up(platform).backup_id
    assert prove(platform, backup_id).reached == "serving"
    as_lesser = {"restoring_user": "swap_restorer", "restoring_password": platform.database.password}
    database = platform.database.model_copy(update=as_lesser)
    stricken = Stricken(server, platform.model_copy(update={"database": database}), open_store(platform), backup_id)
    stricken.execute(MISFORTUNE, live)
    client = server.url(live).replace("//postgres:", "//swap_client:")
    try:
        with psycopg.connect(client) as application:
            refused = [one for one in stricken.plan().findings if one.verdict is Verdict.ALERT]
            assert [one.name for one in refused] == ["sessions"]
            assert "pg_signal_backend" in refused[0].hint
            with server.connect() as connection:
                connection.execute("GRANT pg_signal_backend TO swap_restorer")
            outcome = stricken.apply(stricken.plan())
            with pytest.raises(psycopg.OperationalError):
                application.execute("SELECT true")
        assert stricken.ids() == (100, 0)
        assert any(one.name == "indexes" and one.verdict is Verdict.WARN for one in outcome.findings)
    finally:
        drop_all(stricken)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("public", ["public"]),
        ('"$user", public', ["$user", "public"]),
        ('public, "Fête, 2","a""b"', ["public", "Fête, 2", 'a"b']),
        ("", []),
    ],
)
def test_a_list_of_names_is_parted_as_the_server_does_it(text: str, names: list[str]) -> None:
    assert split_names(text) == names


def test_the_sentence_of_a_search_path_survives(server: Server, database: str) -> None:
    """Quoted as one text it would be the name of a single schema with a comma in it."""
    with server.connect() as connection:
        this = sql.Identifier(database)
        connection.execute(sql.SQL('ALTER DATABASE {} SET search_path = "$user", public').format(this))
    with server.connect(database) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
