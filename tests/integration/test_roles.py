"""The generated roles, on a server of their own: each may do what it is for, and what a thief would try is refused."""

import json
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from backup_sets import back_up, prove
from psycopg import errors, sql
from pydantic import SecretStr
from real_servers import MAJORS, PASSWORD, Server, bucket_settings, build_platform, running_postgres
from typer.testing import CliRunner

from deployments.local.objectstore import RunningObjectStore
from keepwell.backup.restore import restore_into, sweep_restores
from keepwell.cli import console
from keepwell.cli.main import app
from keepwell.doctor.database import examine_database
from keepwell.errors import AccessDenied, PreconditionFailed
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

DATABASE = "app \"db\" 'x'; --"
BACKUP, VACUUM, RESTORE = "keepwell_backup_esn", "keepwell_vacuum_esn", "keepwell_restore_esn"
ROLES = """
CREATE ROLE "App owner" LOGIN PASSWORD 'p' CREATEDB;
CREATE ROLE reporting NOLOGIN;
CREATE ROLE visitor LOGIN PASSWORD 'p';
"""
APPLICATION = """
CREATE SCHEMA extras AUTHORIZATION reporting;
CREATE EXTENSION hstore SCHEMA extras;
GRANT USAGE ON SCHEMA extras TO "App owner";
CREATE TABLE extras.totals AS SELECT 1 AS a;
ALTER TABLE extras.totals OWNER TO reporting;
SET SESSION AUTHORIZATION "App owner";
CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, traits extras.hstore);
INSERT INTO people (name, traits) SELECT 'p' || n, 'a=>1' FROM generate_series(1, 200) n;
CREATE TABLE "Shy rows" (id int PRIMARY KEY, whose text);
INSERT INTO "Shy rows" VALUES (1, 'visitor'), (2, 'nobody');
ALTER TABLE "Shy rows" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Shy rows" FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON "Shy rows" USING (whose = current_user);
CREATE SEQUENCE tickets;
SELECT nextval('tickets');
CREATE VIEW names AS SELECT name FROM people;
CREATE FUNCTION twice(n int) RETURNS int IMMUTABLE RETURN n * 2;
CREATE INDEX ON people (twice(id));
SELECT lo_from_bytea(4242, 'large');
GRANT SELECT ON people TO visitor;
"""


@dataclass(frozen=True)
class Place:
    """A server with the platform's database, another application's, and the roles' passwords."""

    server: Server
    platform: Platform
    passwords: dict[str, str]

    def connect(self, role: str, database: str = DATABASE) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=role,
            password=self.passwords.get(role, "p"),
            dbname=database,
            autocommit=True,
        )

    def as_role(self, role: str, **further: object) -> Platform:
        login = {"user": role, "password": SecretStr(self.passwords[role]), **further}
        return self.platform.model_copy(update={"database": self.platform.database.model_copy(update=login)})


@contextmanager
def place(major: int, objectstore: RunningObjectStore, folder: Path) -> Iterator[Place]:
    (folder / "server").mkdir()
    with running_postgres(major, folder / "server") as server:
        with server.connect() as connection:
            connection.execute(ROLES)
            for name, owner in ((DATABASE, "App owner"), ("other", "postgres"), ("theirs", "visitor")):
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))
        with server.connect("other") as connection:
            connection.execute("CREATE TABLE secrets AS SELECT 'not yours' AS secret")
        with server.connect(DATABASE) as connection:
            connection.execute(APPLICATION)
        platform = build_platform(server, DATABASE, bucket_settings(objectstore), folder / "spool")
        (folder / "spool").mkdir()
        yield Place(server, platform, {"postgres": PASSWORD})


def run_script(place: Place, file: Path) -> None:
    call = [place.server.binaries.program("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", place.server.url("postgres")]
    ended = subprocess.run([*call, "-f", file], capture_output=True, check=False, text=True)
    assert ended.returncode == 0, ended.stderr


def call_roles(place: Place, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, object]:
    monkeypatch.setattr(console, "load_platform", lambda _: place.platform)
    result = CliRunner().invoke(app, ["roles", *words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["schema"] == "keepwell.roles/1"
    return found


def make_roles(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the documentation says: generate, read, run; then the passwords lie in files of their owner alone."""
    (folder / "passwords").mkdir(exist_ok=True)
    script = folder / "roles.sql"
    made = call_roles(place, monkeypatch, "--output", str(script), "--passwords-directory", str(folder / "passwords"))
    for file in (script, *(folder / "passwords").iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    place.passwords.update({file.stem: file.read_text().strip() for file in (folder / "passwords").iterdir()})
    assert not [word for word in place.passwords.values() if word in script.read_text() or word in json.dumps(made)]
    run_script(place, script)
    return made


@pytest.fixture(scope="module", params=MAJORS)
def made(
    request: pytest.FixtureRequest, objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """One server for all tests, each of which puts right what it changed; the last takes the roles away again."""
    folder = tmp_path_factory.mktemp("roles")
    with place(request.param, objectstore, folder) as found, pytest.MonkeyPatch.context() as monkeypatch:
        make_roles(found, folder, monkeypatch)
        yield found


def test_each_role_is_enough_for_what_it_is_for_and_for_no_more(made: Place) -> None:
    with made.server.connect(DATABASE) as connection:
        connection.execute('SET ROLE "App owner"; CREATE TABLE later AS SELECT generate_series(1, 3) AS id')

    backing_up = made.as_role(BACKUP)
    manifest = back_up(backing_up)
    proof = prove(backing_up, manifest.backup_id)
    assert [finding.message for finding in proof.findings if finding.verdict is not Verdict.OK] == []
    assert (proof.reached, manifest.main.large_objects.count, manifest.role_passwords) == ("serving", 1, True)
    rows = {table.qualified: table.rows for table in manifest.main.dumped_tables}
    assert rows == {"extras.totals": 1, "public.Shy rows": 2, "public.later": 3, "public.people": 200}
    refuse_writing(made, BACKUP, may_read=True)

    vacuum_everything(made)
    refuse_writing(made, VACUUM, may_read=made.server.binaries.major < 17)

    with pytest.raises(PreconditionFailed, match="may not act as App owner, reporting and restore") as raised:
        restore_into(backing_up, open_store(backing_up), manifest.backup_id, "beside", silent)
    assert "database.restoring_user" in raised.value.hint
    restoring = made.as_role(BACKUP, restoring_user=RESTORE, restoring_password=SecretStr(made.passwords[RESTORE]))
    restored = restore_into(restoring, open_store(restoring), manifest.backup_id, "beside", silent)
    assert (restored.tables, restored.rows) == (4, 206)
    with made.server.connect("beside") as connection:
        owners = connection.execute(
            "SELECT tableowner::text FROM pg_tables WHERE tablename = 'totals' UNION ALL"
            " SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        ).fetchall()
    assert owners == [("reporting",), ("App owner",)]
    refuse(made, RESTORE, "CREATE ROLE mine", "ALTER ROLE visitor SUPERUSER", "COPY people TO PROGRAM 'cat'")
    with made.server.connect() as connection:
        connection.execute("DROP DATABASE beside")  # another database that it may read, as doctor would say
    assert [finding for finding in role_findings(restoring) if finding.verdict is not Verdict.OK] == []


def vacuum_everything(made: Place) -> None:
    notices: list[str] = []
    with made.connect(VACUUM) as connection:
        connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        tables = connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text IN"
            " ('public', 'extras')"
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"VACUUM (ANALYZE) {table}")
        counted = connection.execute(
            "SELECT count(*) FROM pg_stat_user_tables WHERE last_vacuum IS NOT NULL AND last_analyze IS NOT NULL"
        ).fetchone()
    assert (notices, len(tables)) == ([], 4)  # a table that it may not vacuum would be skipped with a notice
    assert counted == (4,)


def refuse_writing(made: Place, role: str, *, may_read: bool) -> None:
    """What a thief of its password would try, once the session's own brake is off."""
    with made.connect(role) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        with pytest.raises(errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TEMP TABLE mine (a int)")
    attempts = [
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        f"ALTER ROLE {role} SUPERUSER",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "ALTER SYSTEM SET work_mem = '1MB'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    ]
    owners_too = role == BACKUP or not may_read
    if owners_too:
        attempts += [
            "INSERT INTO people (name) VALUES ('x')",
            "UPDATE people SET name = 'x'",
            "DELETE FROM people",
            "TRUNCATE people",
            "DROP TABLE people",
            "ALTER TABLE people ADD mine int",
            "CREATE TABLE public.mine (a int)",
            "CREATE SCHEMA mine",
            "SELECT nextval('tickets')",
            "SELECT lo_put(4242, 0, 'x')",
            "SELECT lo_unlink(4242)",
            'SET ROLE "App owner"',
            "DO $$ BEGIN LOCK TABLE people IN SHARE MODE; END $$" if role == BACKUP else "SELECT * FROM people",
        ]
    refuse(made, role, *attempts)
    if owners_too:  # else it gets wherever the owners do
        refuse_logging_in(made, role)


def refuse(made: Place, role: str, *attempts: str) -> None:
    with made.connect(role) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for attempt in attempts:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(attempt)


def refuse_logging_in(made: Place, role: str) -> None:
    """Other applications' databases are closed to it, and stay open to whoever could log in before."""
    for other in ("other", "theirs"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            made.connect(role, other).close()
        made.connect("visitor", other).close()


def role_findings(platform: Platform) -> list[Finding]:
    wanted = ("least privilege", "connection limit", "restoring role")
    found = [finding for finding in examine_database(platform) if finding.name in wanted]
    assert [finding.name for finding in found] == list(wanted)
    return found


def test_doctor_tells_of_each_power_that_a_backup_does_not_need(made: Place) -> None:
    def privilege() -> Finding:
        return role_findings(made.as_role(BACKUP))[0]

    assert privilege().verdict is Verdict.OK
    powers = [
        (f"GRANT UPDATE ON people TO {BACKUP}", f"REVOKE UPDATE ON people FROM {BACKUP}", "1 tables (public.people)"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "objects in public"),
        (f"GRANT pg_write_all_data TO {BACKUP}", f"REVOKE pg_write_all_data FROM {BACKUP}", "act as pg_write_all_data"),
        (f"GRANT postgres TO {BACKUP}", f"REVOKE postgres FROM {BACKUP}", "act as "),
        (f"ALTER ROLE {BACKUP} CREATEROLE", f"ALTER ROLE {BACKUP} NOCREATEROLE", "create roles"),
        ("GRANT CONNECT ON DATABASE other TO PUBLIC", "REVOKE CONNECT ON DATABASE other FROM PUBLIC", "(other)"),
        (f"ALTER ROLE {BACKUP} SUPERUSER", f"ALTER ROLE {BACKUP} NOSUPERUSER", "is a superuser"),
    ]
    with made.server.connect(DATABASE) as connection:
        for give, take, told in powers:
            connection.execute(give)
            found = privilege()
            assert (found.verdict, told in found.message, "keepwell roles" in found.hint) == (Verdict.WARN, True, True)
            connection.execute(take)
    assert privilege().verdict is Verdict.OK


def test_doctor_tells_of_a_limit_that_a_backup_would_run_into(made: Place) -> None:
    with made.server.connect() as connection:
        connection.execute(f"ALTER ROLE {BACKUP} CONNECTION LIMIT 5")
        found = role_findings(made.as_role(BACKUP))[1]
        connection.execute(f"ALTER ROLE {BACKUP} CONNECTION LIMIT 14")
    assert (found.verdict, found.message) == (
        Verdict.ALERT,
        f"The role {BACKUP} may have 5 sessions, and a backup opens up to 14.",
    )


def test_doctor_tells_of_a_role_that_could_not_restore(made: Place) -> None:
    assert role_findings(made.as_role(BACKUP))[2].verdict is Verdict.NOT_APPLICABLE
    named = made.as_role(BACKUP, restoring_user=RESTORE)  # its password is kept elsewhere, as it should be
    assert role_findings(named)[2].verdict is Verdict.OK
    with made.server.connect() as connection:
        connection.execute(f"REVOKE reporting FROM {RESTORE}; ALTER ROLE {RESTORE} NOCREATEDB")
        found = role_findings(named)[2]
        connection.execute(f"GRANT reporting TO {RESTORE}; ALTER ROLE {RESTORE} CREATEDB")
    assert found.verdict is Verdict.ALERT
    assert f"{RESTORE} may not create databases nor act as reporting" in found.message
    found = role_findings(made.as_role(BACKUP, restoring_user="nobody at all"))[2]
    assert (found.verdict, "There is no role nobody at all" in found.message) == (Verdict.ALERT, True)


def test_doctor_asks_every_database_whose_owners_a_restore_would_need(made: Place) -> None:
    def restoring(further: str) -> Finding:
        named = made.as_role(BACKUP, restoring_user=RESTORE, more_names=(further,))
        return next(finding for finding in examine_database(named) if finding.name == "restoring role")

    # It may not log in there, so nobody knows.
    closed = restoring("theirs")
    assert (closed.verdict, "was not checked for theirs" in closed.message) == (Verdict.UNKNOWN, True)
    with made.server.connect() as connection:
        connection.execute("CREATE DATABASE further OWNER visitor")
        try:
            strange = restoring("further")
            connection.execute('ALTER DATABASE further OWNER TO "App owner"')
            known = restoring("further")
        finally:
            connection.execute("DROP DATABASE further WITH (FORCE)")
    assert (strange.verdict, "may not act as visitor" in strange.message) == (Verdict.ALERT, True)
    assert known.verdict is Verdict.OK


def test_a_backup_goes_on_where_only_the_restoring_role_could_sweep(made: Place) -> None:
    """A dead restore's database is left to the next restore; its password need not be on this machine."""
    platform = made.as_role(BACKUP, restoring_user=RESTORE)
    with made.server.connect() as connection:
        connection.execute("CREATE DATABASE keepwell_restoring_29b26e2d_abc")
    assert sweep_restores(platform) == []
    assert back_up(platform).rows > 0
    with made.server.connect() as connection:
        connection.execute("DROP DATABASE keepwell_restoring_29b26e2d_abc")


def test_a_wrong_restoring_password_is_refused_before_anything_is_created(made: Place) -> None:
    backing_up = made.as_role(BACKUP)
    manifest = back_up(backing_up)
    wrong = made.as_role(BACKUP, restoring_user=RESTORE, restoring_password=SecretStr("wrong"))
    with pytest.raises(AccessDenied):
        restore_into(wrong, open_store(wrong), manifest.backup_id, "beside", silent, allow_unproven=True)


def test_what_a_superuser_owns_only_a_superuser_can_restore_and_that_is_said(
    server: Server, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = call_roles(Place(server, platform, {}), monkeypatch, "--print")
    # On 17 a role may vacuum what it does not own.
    assert (found["verdict"], list(found["data"]["impossible"])) == ("warn", ["restore"])
    assert "postgres is one of them and a superuser" in found["data"]["impossible"]["restore"]
    assert "\\password" in found["data"]["script"]


def test_a_script_that_is_there_is_not_written_over_and_no_password_is_made_for_a_screen(
    server: Server, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "load_platform", lambda _: platform)
    (tmp_path / "roles.sql").write_text("mine")
    for words in (
        ["--output", str(tmp_path / "roles.sql"), "--passwords-directory", str(tmp_path)],
        ["--passwords-directory", str(tmp_path)],
        ["--role", "everything"],
    ):
        assert CliRunner().invoke(app, ["roles", *words]).exit_code == 1
    assert [file.name for file in tmp_path.iterdir()] == ["roles.sql"]


def read_memberships(made: Place, role: str) -> list[str]:
    query = (
        'SELECT pg_get_userbyid(roleid)::text COLLATE "C" FROM pg_auth_members'
        " WHERE pg_get_userbyid(member) = %s ORDER BY 1"
    )
    with made.server.connect() as connection:
        return [name for (name,) in connection.execute(query, (role,)).fetchall()]


def test_scripts_may_be_made_anew_and_undone_and_leave_everything_as_it_was(
    made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last, since nothing of what the others need is there afterwards."""
    with made.server.connect() as connection:
        connection.execute(f"GRANT pg_write_all_data TO {BACKUP}; GRANT visitor TO {RESTORE}")
    again = make_roles(made, tmp_path, monkeypatch)  # plans from what is there: nothing is closed twice
    assert again["data"]["closing"] == {}
    made.connect(BACKUP).close()
    assert read_memberships(made, BACKUP) == ["pg_read_all_data"]  # and no more than that again
    assert read_memberships(made, RESTORE) == ["App owner", "reporting"]

    undo = tmp_path / "undo.sql"
    call_roles(made, monkeypatch, "--undo", "--output", str(undo))
    run_script(made, undo)
    with made.server.connect(DATABASE) as connection:
        assert connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'keepwell%'").fetchall() == []
        assert connection.execute("SELECT count(*) FROM people").fetchone() == (200,)
        open_again = connection.execute(
            "SELECT count(*) FROM pg_database d, aclexplode(d.datacl) a WHERE datname IN ('other', 'theirs')"
            " AND a.grantee = 0 AND a.privilege_type = 'CONNECT'"
        ).fetchone()
    assert open_again == (2,)
    with pytest.raises(psycopg.OperationalError):
        made.connect(BACKUP)
    assert "There are none." in str(call_roles(made, monkeypatch, "--undo")["data"]["script"])
