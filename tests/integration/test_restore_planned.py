"""A plan of a restore on a real server: what it shows, what it refuses, and that it changes nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from backup_documents import a_manifest, a_proof, change_main, documents
from psycopg import sql
from real_servers import Server

from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.restore import server as target_server
from keepwell.restore.choice import Choice
from keepwell.restore.plan import Mode, RestorePlan, plan_restore, require_applicable
from keepwell.settings import Platform
from keepwell.verdict import Verdict

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)


def put(store: Store, **source: object) -> None:
    """One proven set of an empty database, as the bucket's documents tell it."""
    manifest = a_manifest(NOW - timedelta(hours=1))
    changed = manifest.main.source.model_copy(update={"roles": (), **source})
    manifest = change_main(manifest, source=changed)
    for key, content in documents(manifest, a_proof(NOW - timedelta(hours=1))).items():
        store.put_signed(key, content)


def plan(platform: Platform, store: Store, mode: Mode = Mode.SWAP, name: str | None = None) -> RestorePlan:
    return plan_restore(platform, store, Choice(), mode=mode, name=name, now=NOW)


def alerts(planned: RestorePlan) -> list[str]:
    return [finding.name for finding in planned.findings if finding.verdict is Verdict.ALERT]


def catalogue(server: Server) -> list[tuple[object, ...]]:
    with server.connect() as connection:
        query = "SELECT oid, datname, datallowconn, datconnlimit, datacl::text FROM pg_database ORDER BY 1"
        return connection.execute(query).fetchall()


def test_a_plan_says_what_will_be_and_changes_nothing(server: Server, platform: Platform, store: Store) -> None:
    live = platform.database.name
    put(store)
    with server.connect(live, application_name="the application"), server.connect() as connection:
        this = sql.Identifier(live)
        connection.execute(sql.SQL("ALTER DATABASE {} SET app.token = 'marked-token'").format(this))
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(this))
        before = catalogue(server)
        planned = plan(platform, store)
        assert catalogue(server) == before
    assert alerts(planned) == []
    assert (planned.live, planned.name) == (live, f"{live}_restored_20260302T020000Z")
    assert planned.replaced == f"{live}_replaced_<UTC>"
    assert [(one.application, one.role, one.count) for one in planned.sessions] == [("the application", "postgres", 1)]
    assert "setting app.token" in planned.carried
    assert "marked-token" not in repr(planned)
    assert planned.expected_seconds == pytest.approx(12.5)
    assert planned.free_bytes is not None
    assert planned.age_seconds == 3600
    assert planned.subject.typed == live
    assert planned.digest == plan(platform, store).digest
    assert planned.digest != plan(platform, store, name="another").digest
    assert planned.digest != plan(platform, store, Mode.BESIDE).digest


def test_what_ties_the_live_database_to_its_name_turns_red(server: Server, platform: Platform, store: Store) -> None:
    live = platform.database.name
    put(store)
    with server.connect(live) as connection:
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("SELECT pg_create_logical_replication_slot('plan_slot', 'pgoutput')")
    try:
        assert alerts(plan(platform, store)) == ["replication slots"]
        with pytest.raises(PreconditionFailed, match="plan_slot"):
            require_applicable(plan(platform, store))
        assert alerts(plan(platform, store, Mode.BESIDE)) == []
    finally:
        with server.connect(live) as connection:
            connection.execute("SELECT pg_drop_replication_slot('plan_slot')")
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(live)))
    assert alerts(plan(platform, store)) == ["fence"]


@pytest.fixture
def restricted(server: Server) -> Iterator[str]:
    """A role that restores, and is no superuser."""
    with server.connect() as connection:
        connection.execute("CREATE ROLE plan_restorer LOGIN PASSWORD 'marked-secret-of-the-database' CREATEDB")
    yield "plan_restorer"
    with server.connect() as connection:
        connection.execute("DROP ROLE plan_restorer")


def test_what_only_a_superuser_may_do_turns_red_before_anything_is_changed(
    restricted: str, server: Server, platform: Platform, store: Store
) -> None:
    live = platform.database.name
    put(store, owner=restricted, owners=())
    restoring = {"restoring_user": restricted, "restoring_password": platform.database.password}
    lesser = platform.model_copy(update={"database": platform.database.model_copy(update=restoring)})
    this = sql.Identifier(live)
    with server.connect(live), server.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO plan_restorer").format(this))
        connection.execute(sql.SQL("ALTER ROLE plan_restorer IN DATABASE {} SET work_mem = '1MB'").format(this))
        planned = plan(lesser, store)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO postgres").format(this))
    assert alerts(planned) == ["sessions", "settings"]
    with server.connect() as connection:
        connection.execute("ALTER ROLE plan_restorer NOCREATEDB")
    assert "target" in alerts(plan(lesser, store))


def test_no_space_a_name_that_is_taken_and_an_older_server_turn_red(
    server: Server, platform: Platform, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    assert alerts(plan(platform, store, name="template1")) == ["target"]
    monkeypatch.setattr(target_server, "read_free_bytes", lambda *_: 1000)
    assert alerts(plan(platform, store)) == ["space"]
    monkeypatch.setattr(target_server, "read_free_bytes", lambda *_: None)
    assert plan(platform, store).verdict is Verdict.UNKNOWN
    put(store, server_major=99)
    assert "target" in alerts(plan(platform, store))


def test_with_no_live_database_nothing_is_replaced(server: Server, platform: Platform, store: Store) -> None:
    put(store)
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(platform.database.name)))
    planned = plan(platform, store)
    assert (alerts(planned), planned.replaced, planned.live_is_there) == ([], "", False)
    assert planned.verdict is Verdict.WARN
