"""What a plan must know of the server that is restored on; nothing is changed."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psycopg

from keepwell.backup.database import Database
from keepwell.backup.manifest import Manifest
from keepwell.backup.restore import require_target
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed
from keepwell.postgres.connection import connect
from keepwell.postgres.databases import (
    NamedDatabase,
    Obstacles,
    OwnPowers,
    Properties,
    SessionGroup,
    read_databases,
    read_obstacles,
    read_powers,
    read_properties,
    read_sessions,
)
from keepwell.settings import DatabaseSettings, Platform


@dataclass(frozen=True)
class LiveFacts:
    """The live database: the one whose name applications use.

    Attributes:
        named: Which one.
        properties: What it has that no dump of it holds.
        sessions: Who is in it now.
        obstacles: What ties it to its name.
    """

    named: NamedDatabase
    properties: Properties
    sessions: tuple[SessionGroup, ...]
    obstacles: Obstacles


@dataclass(frozen=True)
class TargetFacts:
    """The server that is restored on.

    Attributes:
        version: Its own words for it.
        powers: What the role that restores may do.
        databases: All of them, by name.
        live: None where no database has the live name.
        refusal: Why nothing can be restored there under the new name; None when it can.
        free_bytes: On the disk of its data; None where that cannot be seen from here.
    """

    version: str
    powers: OwnPowers
    databases: tuple[NamedDatabase, ...]
    live: LiveFacts | None
    refusal: KeepwellError | None
    free_bytes: int | None

    def find(self, name: str) -> NamedDatabase | None:
        """The database of that name."""
        return next((one for one in self.databases if one.name == name), None)


def read_target(platform: Platform, manifest: Manifest, database: Database, live: str, name: str) -> TargetFacts:
    """Look at the server.

    Args:
        platform: Whose server.
        manifest: Of the set.
        database: Which of its databases.
        live: Name of the live database.
        name: Of the new one.

    Raises:
        ServiceUnavailable: The server does not answer.
        AccessDenied: The role that restores may not log in.
    """
    settings = platform.database.for_restoring
    refusal: KeepwellError | None = None
    try:
        require_target(platform, manifest, database, name)
    except (PreconditionFailed, ConfigurationError) as error:
        refusal = error
    with connect(settings, dbname=platform.database.maintenance_name, application_name="keepwell plan") as connection:
        databases = read_databases(connection)
        return TargetFacts(
            version=connection.info.parameter_status("server_version") or "",
            powers=read_powers(connection),
            databases=databases,
            live=_read_live(connection, databases, live),
            refusal=refusal,
            free_bytes=read_free_bytes(connection, settings),
        )


def _read_live(connection: psycopg.Connection, databases: Sequence[NamedDatabase], live: str) -> LiveFacts | None:
    named = next((one for one in databases if one.name == live), None)
    if named is None:
        return None
    return LiveFacts(
        named,
        read_properties(connection, named.oid),
        read_sessions(connection, live),
        read_obstacles(connection, named.oid),
    )


def read_free_bytes(connection: psycopg.Connection, settings: DatabaseSettings) -> int | None:
    """What is free where the server keeps its data, where that is a folder of this machine and we are told which."""
    if settings.reach != "host" or not _is_this_machine(settings.host):
        return None
    try:
        row = connection.execute("SELECT pg_catalog.current_setting('data_directory')").fetchone()
        return shutil.disk_usage(Path(str(row[0]))).free if row else None
    except (psycopg.errors.InsufficientPrivilege, OSError):
        return None


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("/")
