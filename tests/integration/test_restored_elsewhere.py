"""A set's roles and database on another server, which had neither: nothing of what it has is changed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backup_sets import back_up
from pydantic import SecretStr
from real_servers import PASSWORD, Server, bucket_settings, build_platform, fresh_database

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.manifest import Manifest
from keepwell.backup.restore import restore_into
from keepwell.errors import AccessDenied, ConfigurationError, PreconditionFailed
from keepwell.objectstore.bucket import open_store
from keepwell.postgres.globals_script import RoleStatement
from keepwell.progress import silent
from keepwell.restore.roles import create_missing_roles, read_roles_plan
from keepwell.settings import Platform, RestoreServerSettings

ROLES = (
    "CREATE ROLE elsewhere_app LOGIN PASSWORD 'marked-secret-of-a-role'",
    'CREATE ROLE "elsewhere Readers" CREATEDB',
    'GRANT "elsewhere Readers" TO elsewhere_app',
    "ALTER ROLE elsewhere_app SET work_mem = '5MB'",
)
NO_ROLES = 'DROP ROLE IF EXISTS elsewhere_app, "elsewhere Readers", elsewhere_weak'


@pytest.fixture
def other(servers: Callable[[int], Server]) -> Iterator[Server]:
    """A server of a newer major, on which nothing is known of the platform."""
    server = servers(17)
    yield server
    with server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS elsewhere")
        connection.execute(NO_ROLES)


@pytest.fixture
def platform(
    servers: Callable[[int], Server], other: Server, objectstore: RunningObjectStore, tmp_path: Path
) -> Iterator[Platform]:
    source = servers(15)
    with fresh_database(source) as name:
        with source.connect(name) as connection:
            connection.execute("; ".join(ROLES))
            connection.execute("CREATE TABLE people AS SELECT n AS id FROM generate_series(1, 100) n")
            connection.execute("ALTER TABLE people OWNER TO elsewhere_app")
        platform = build_platform(source, name, bucket_settings(objectstore), tmp_path)
        there = RestoreServerSettings(host="127.0.0.1", port=other.port, user="postgres", password=SecretStr(PASSWORD))
        yield platform.model_copy(update={"restore_server": there})
    with source.connect() as connection:
        connection.execute(NO_ROLES)


@pytest.fixture
def manifest(platform: Platform) -> Manifest:
    return back_up(platform)


def test_roles_then_the_database_come_back_on_another_server(
    platform: Platform, other: Server, manifest: Manifest
) -> None:
    store, there = open_store(platform), platform.on_restore_server
    with pytest.raises(PreconditionFailed, match="lacks roles"):
        restore_into(there, store, manifest.backup_id, "elsewhere", silent, allow_unproven=True)
    plan = read_roles_plan(there, store, manifest.backup_id, allow_unproven=True)
    assert {"elsewhere_app", "elsewhere Readers"} <= set(plan.missing)
    assert "postgres" in plan.there
    assert plan.described["elsewhere_app"] == "INHERIT, LOGIN, member of elsewhere Readers"
    mightier = replace(plan, statements=(*plan.statements, RoleStatement("setting", "elsewhere_app", "another one")))
    assert mightier.subject.digest != plan.subject.digest
    assert 'DROP ROLE "elsewhere Readers";' in plan.undo
    assert "SCRAM" not in repr(plan)
    assert set(create_missing_roles(there, plan)) == set(plan.missing)
    with other.connect() as connection:
        found = connection.execute(
            "SELECT rolcanlogin, rolconfig, pg_has_role(oid, 'elsewhere Readers', 'MEMBER') FROM pg_roles"
            " WHERE rolname = 'elsewhere_app'"
        ).fetchone()
    assert found == (True, ["work_mem=5MB"], True)
    # Its password came along: it logs in with the one that it had.
    login = other.url("postgres").replace(f"postgres:{PASSWORD}", "elsewhere_app:marked-secret-of-a-role")
    with other.connect() as connection, connection.connect(login) as as_role:
        assert as_role.execute("SELECT current_user").fetchone() == ("elsewhere_app",)
    assert read_roles_plan(there, store, manifest.backup_id, allow_unproven=True).missing == ()
    restored = restore_into(there, store, manifest.backup_id, "elsewhere", silent, allow_unproven=True)
    assert restored.rows == 100
    with other.connect("elsewhere") as connection:
        owner = "SELECT tableowner, (SELECT count(*) FROM people) FROM pg_tables WHERE tablename = 'people'"
        assert connection.execute(owner).fetchone() == ("elsewhere_app", 100)


def test_a_role_that_is_there_keeps_what_it_is(platform: Platform, other: Server, manifest: Manifest) -> None:
    store, there = open_store(platform), platform.on_restore_server
    with other.connect() as connection:
        connection.execute("CREATE ROLE elsewhere_app NOLOGIN")
        plan = read_roles_plan(there, store, manifest.backup_id, allow_unproven=True)
        assert "elsewhere_app" in plan.there
        assert any("elsewhere_app lacks LOGIN" in finding.message for finding in plan.findings)
        create_missing_roles(there, plan)
        row = connection.execute(
            "SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'elsewhere_app'"
        ).fetchone()
        assert row == (False, None)


def test_a_plan_that_is_no_longer_so_and_a_role_without_power_create_nothing(
    platform: Platform, other: Server, manifest: Manifest
) -> None:
    store, there = open_store(platform), platform.on_restore_server
    plan = read_roles_plan(there, store, manifest.backup_id, allow_unproven=True)
    with other.connect() as connection:
        connection.execute("CREATE ROLE elsewhere_weak LOGIN PASSWORD 'weak'")
        weak = there.database.model_copy(update={"user": "elsewhere_weak", "password": SecretStr("weak")})
        with pytest.raises(AccessDenied, match="may not create roles"):
            create_missing_roles(there.model_copy(update={"database": weak}), plan)
        connection.execute('CREATE ROLE "elsewhere Readers"')
        with pytest.raises(PreconditionFailed, match="Somebody created elsewhere Readers meanwhile"):
            create_missing_roles(there, plan)
        assert connection.execute("SELECT FROM pg_roles WHERE rolname = 'elsewhere_app'").fetchone() is None


def test_without_another_server_in_the_platform_file_there_is_none(platform: Platform) -> None:
    with pytest.raises(ConfigurationError, match="names no other server"):
        _ = platform.model_copy(update={"restore_server": None}).on_restore_server
