"""What Keepwell keeps of itself: the database of the orchestrator that it serves, and the folder of platform files."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql
from pydantic import SecretStr

from keepwell.backup.platform_copy import render_without_secrets
from keepwell.errors import PreconditionFailed
from keepwell.keyring import write_secret
from keepwell.postgres.connection import connect, translated
from keepwell.served import read_served, serve_folder
from keepwell.settings import DatabaseSettings, Platform, SmokeQuery, UploadsSettings, load_platform_file

NAME = "itself"
ROLE = "keepwell_itself"
PASSWORD_FILE = "itself-database-password"  # noqa: S105 - a file's name
# Of the stack that `keepwell serve` runs; a test compares them with what that layer says.
DATABASE_PART, DATABASE, SUPERUSER = "orchestrator-database", "prefect", "postgres"
# A dump, its counting and hashing, and the locks of a backup.
_CONNECTIONS = 20
_HEAD = """\
# Keepwell itself, as one more platform: made by `keepwell self add` out of the platform {like}; --force makes it anew.
"""


def find_own_database() -> DatabaseSettings:
    """The served orchestrator's database, as its superuser.

    Raises:
        PreconditionFailed: None is served on this machine, or we may not read its password.
    """
    served = read_served()
    if served is None or DATABASE_PART not in served.ports:
        raise PreconditionFailed(
            "No orchestrator of `keepwell serve` was found on this machine.",
            hint="Start it: keepwell serve --detach. A server of your own is a platform like any other: keepwell init.",
        )
    file = _secrets_folder() / f"{DATABASE_PART}-password"
    try:
        password = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PreconditionFailed(
            f"{file} cannot be read: {error.strerror}.", hint="Run this as the user that `keepwell serve` runs as."
        ) from None
    port = served.ports[DATABASE_PART]
    return DatabaseSettings(port=port, name=DATABASE, user=SUPERUSER, password=SecretStr(password))


def ensure_role(own: DatabaseSettings) -> Path:
    """Make the role that backs Keepwell's own database up, or give it its password again; it reads, and nothing more.

    Args:
        own: The database, as its superuser.

    Returns:
        The file that holds the role's password, which is made at random when there is none yet.

    Raises:
        ServiceUnavailable: The database does not answer.
        PreconditionFailed: Something else than a file is in that one's place.
    """
    file = _secrets_folder() / PASSWORD_FILE
    if not file.exists():
        write_secret(file, f"{secrets.token_urlsafe(24)}\n")
    # Whoever was killed before this left a file that only root reads.
    give_to_owner_of(file.parent, file)
    password = file.read_text(encoding="utf-8").strip()
    role = sql.Identifier(ROLE)
    with connect(own) as connection, translated(f"making the role {ROLE}"), connection.transaction():
        known = connection.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", (ROLE,)).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE ROLE {}").format(role))
        # The server keeps a verifier, and no log of its shows the password.
        verifier = connection.pgconn.encrypt_password(password.encode(), ROLE.encode(), b"scram-sha-256").decode()
        connection.execute(
            sql.SQL(
                "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
                "CONNECTION LIMIT {} PASSWORD {}"
            ).format(role, sql.Literal(_CONNECTIONS), sql.Literal(verifier))
        )
        connection.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(role))
    return file


def drop_role(own: DatabaseSettings) -> bool:
    """Take that role and its password away; whether there was one."""
    with connect(own) as connection, translated(f"dropping the role {ROLE}"):
        known = connection.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", (ROLE,)).fetchone()
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(ROLE)))
    (_secrets_folder() / PASSWORD_FILE).unlink(missing_ok=True)
    return known is not None


def describe_itself(like: Platform, own: DatabaseSettings, password_file: Path, folder: Path) -> Platform:
    """Keepwell as a platform: in the same bucket, for the same keys and the same people as another one. Pure.

    Args:
        like: Whose bucket, second destination, keys, rules and channels it takes.
        own: The served database.
        password_file: Holds the password of its role.
        folder: Of the platform files.
    """
    query = SmokeQuery(
        name="the orchestrator knows its deployments", sql="SELECT count(*) FROM public.deployment", at_least=1
    )
    return like.model_copy(
        update={
            "name": NAME,
            "database": DatabaseSettings(
                host=own.host, port=own.port, name=own.name, user=ROLE, password_file=password_file
            ),
            "redis": None,
            # Platform files hold no secret: the loader refuses one that does.
            "uploads": UploadsSettings(directory=folder, only=("*.toml",), seal_anew=True),
            "backup": like.backup.model_copy(update={"smoke_queries": (query,)}),
        }
    )


@contextmanager
def drafted(itself: Platform, like: str, place: Path) -> Iterator[Path]:
    """The platform file under a temporary name in its folder, shown to load and to log in; to be renamed.

    Raises:
        ConfigurationError: It does not load.
        AccessDenied: The database refuses its login: a variable of the environment may stand before its file.
    """
    draft = place.with_name(f".{place.name}.{secrets.token_hex(6)}.draft")
    try:
        write_secret(draft, render_without_secrets(itself, head=_HEAD.format(like=like)))
        give_to_owner_of(place.parent, draft)
        connect(load_platform_file(draft).database).close()
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def give_to_owner_of(folder: Path, file: Path) -> None:
    """A file that root makes in somebody's folder is that one's, who must read it at night.

    Whose folder it is may put something else in its place, and must not be given that: no link is followed.

    Raises:
        PreconditionFailed: It is a link, or no file.
    """
    if os.geteuid() != 0:
        return
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_given(file) from error
    try:
        facts, owner = os.fstat(descriptor), folder.stat()
        # A second name of it may lie in a folder of another's.
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise _not_given(file)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def _not_given(file: Path) -> PreconditionFailed:
    return PreconditionFailed(
        f"{file} is a link or no file: it is not given to the owner of its folder.",
        hint="See who put it there, move it away, and try again.",
    )


def _secrets_folder() -> Path:
    return serve_folder() / "secrets"
