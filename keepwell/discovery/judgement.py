"""From what was read of a machine to the platforms on it: pure, and every gap is told as unknown."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from keepwell.discovery.crontabs import choose_dumping
from keepwell.discovery.facts import Contained, CronLine, DumpFolder, Machine
from keepwell.quantities import describe_bytes
from keepwell.settings import DatabaseSettings
from keepwell.verdict import Finding, Verdict

POSTGRES_PORT, REDIS_PORT = 5432, 6379
_POSTGRES_SIGNS = ("PG_MAJOR", "PGDATA", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_USER")
_REDIS_SIGNS = ("REDIS_VERSION", "VALKEY_VERSION")
_UPLOADS = re.compile(r"upload|media|attachment", re.IGNORECASE)
_LONGEST_NAME = 40
_ANYBODYS = {"postgres", "postgresql", "database", "db"}


@dataclass(frozen=True)
class FoundServer:
    """A database or a cache in a container.

    Attributes:
        contained: Its container.
        port: In there.
        user: Whom to log in as; None for a cache's default user.
        password: Empty where none was found.
        name: Of the database; empty for a cache.
    """

    contained: Contained
    port: int
    user: str | None
    password: str = field(repr=False, default="")
    name: str = ""

    @property
    def container(self) -> str:
        """What the platform file calls it: its service, which outlives its container, or its container's own name."""
        return self.contained.service or self.contained.name

    @property
    def project(self) -> str | None:
        """Compose project of that service."""
        return self.contained.project if self.contained.service else None

    @property
    def published_port(self) -> int | None:
        """Where loopback leads to it, if it does."""
        return self.contained.published.get(self.port)


@dataclass(frozen=True)
class Candidate:
    """One platform, as far as it could be told.

    Attributes:
        name: A short name for it.
        database: Its server and main database.
        cache: None where none was found.
        uploads: Folder of this machine with its users' files; None where none was found.
        addresses: Where people reach it.
        cron_lines: That dump its database.
        dump_folders: With earlier dumps, of it or of others.
        findings: What was found and what was not, in words.
    """

    name: str
    database: FoundServer
    cache: FoundServer | None
    uploads: Path | None
    addresses: tuple[str, ...]
    cron_lines: tuple[CronLine, ...]
    dump_folders: tuple[DumpFolder, ...]
    findings: tuple[Finding, ...]


def find_candidates(machine: Machine) -> list[Candidate]:
    """Every running PostgreSQL container with what belongs to it, by name.

    Args:
        machine: As it was read.

    Returns:
        Empty where none runs.
    """
    servers = [found for found in machine.containers if found.running and is_postgres(found)]
    return sorted((_judge(machine, found) for found in servers), key=lambda one: one.name)


def is_postgres(container: Contained) -> bool:
    """Whether a PostgreSQL server runs in a container, by what its image says of itself."""
    return POSTGRES_PORT in container.ports and any(sign in container.environment for sign in _POSTGRES_SIGNS)


def is_cache(container: Contained) -> bool:
    """Whether Redis or Valkey runs in a container, as `is_postgres` tells it."""
    named = re.search(r"redis|valkey", container.image) is not None
    return REDIS_PORT in container.ports and (named or any(sign in container.environment for sign in _REDIS_SIGNS))


def find_cron_lines(machine: Machine, database: DatabaseSettings) -> list[CronLine]:
    """Crontab lines that dump a platform's databases.

    Args:
        machine: As it was read.
        database: Of the platform.
    """
    servers = [
        found
        for found in machine.containers
        if database.container in (found.service, found.name) and database.compose_project in (None, found.project)
    ]
    return _choose_lines(machine, servers, database.names)


def _choose_lines(machine: Machine, servers: Iterable[Contained], databases: Iterable[str]) -> list[CronLine]:
    """By names that are this platform's alone: a service called postgres is many a platform's, and so is that role."""
    names = {name for server in servers for name in (server.name, server.project) if name} | {*databases}
    return choose_dumping(machine.cron_lines, sorted(names - _ANYBODYS))


def find_ended(machine: Machine) -> list[Contained]:
    """PostgreSQL containers that do not run now."""
    return [found for found in machine.containers if not found.running and is_postgres(found)]


def _judge(machine: Machine, server: Contained) -> Candidate:
    together = [
        found
        for found in machine.containers
        if found.project == server.project and server.project is not None and found.running and found is not server
    ]
    applications = [found for found in together if not is_postgres(found) and not is_cache(found)]
    database, of_database = _find_database(server, applications)
    cache, of_cache = _find_cache([found for found in together if is_cache(found)], applications)
    uploads, of_uploads = _find_uploads(applications)
    addresses = tuple(_find_addresses(applications))
    lines = tuple(_choose_lines(machine, [server], (database.name,)))
    return Candidate(
        name=_short_name(server.project or server.name),
        database=database,
        cache=cache,
        uploads=uploads,
        addresses=addresses,
        cron_lines=lines,
        dump_folders=machine.dump_folders,
        findings=(
            *of_database,
            *of_cache,
            *of_uploads,
            *_tell_addresses(addresses),
            *_tell_earlier(lines, machine),
            *(_unknown("machine", message) for message in machine.unread),
        ),
    )


def _find_database(server: Contained, applications: Sequence[Contained]) -> tuple[FoundServer, list[Finding]]:
    """As the official image is told to make it; the application's own address knows better which database is used."""
    told = server.environment
    user = told.get("POSTGRES_USER") or "postgres"
    name, password = told.get("POSTGRES_DB") or user, told.get("POSTGRES_PASSWORD", "")
    findings = []
    address = _address_in(applications, ("postgres", "postgresql"), _names_of(server))
    used = unquote(address.path.lstrip("/")) if address else ""
    if used and used != name:
        findings.append(
            _ok("database name", f"The application uses {used}, and POSTGRES_DB says {name}: {used} it is.")
        )
        name = used
    if not password and address and address.password and unquote(address.username or "") == user:
        password = unquote(address.password)
    found = FoundServer(server, POSTGRES_PORT, user, password, name)
    where = f"port {found.published_port} of this machine" if found.published_port else "no port of this machine"
    message = f"PostgreSQL in {server.name} ({server.image}), published on {where}; database {name}, role {user}."
    findings.insert(0, _ok("database", message))
    if not password:
        hint = "Pass --database-password-file, or type it in when asked."
        findings.append(_unknown("database password", f"Neither {server.name} nor its neighbours tell it.", hint))
    return found, findings


def _find_cache(
    caches: Sequence[Contained], applications: Sequence[Contained]
) -> tuple[FoundServer | None, list[Finding]]:
    if len(caches) != 1:
        told = f"there are several: {', '.join(found.name for found in caches)}" if caches else "none runs beside it"
        return None, [_unknown("redis", f"No Redis was taken: {told}.", "Fill in [redis] by hand, if there is one.")]
    cache = caches[0]
    address = _address_in(applications, ("redis", "rediss"), _names_of(cache))
    password = unquote(address.password or "") if address else ""
    words = list(cache.words)
    if "--requirepass" in words[:-1]:
        password = words[words.index("--requirepass") + 1]
    password = password or cache.environment.get("REDIS_PASSWORD", "")
    user = unquote(address.username or "") if address else ""
    found = FoundServer(cache, REDIS_PORT, user if user not in ("", "default") else None, password)
    return found, [
        _ok("redis", f"Redis in {cache.name} ({cache.image}), {'with a' if password else 'without a'} password.")
    ]


def _find_uploads(applications: Sequence[Contained]) -> tuple[Path | None, list[Finding]]:
    mounts = {
        mount.source: found for found in applications for mount in found.mounts if _UPLOADS.search(str(mount.target))
    }
    if len(mounts) == 1:
        ((source, container),) = mounts.items()
        return source, [_ok("uploads", f"{container.name} keeps its users' files in {source}.")]
    told = f"several folders look like it: {', '.join(map(str, mounts))}" if mounts else "no mount is called so"
    hint = "Set uploads.directory by hand, or nothing of your users' files will be in a backup."
    return None, [_unknown("uploads", f"No folder of users' files was taken: {told}.", hint)]


def _find_addresses(applications: Iterable[Contained]) -> Iterator[str]:
    told = (found.environment.get(name, "") for found in applications for name in ("FRONTEND_URL", "PUBLIC_URL"))
    published = (f"http://127.0.0.1:{port}" for found in applications for port in found.published.values())
    yield from dict.fromkeys(address for address in (*told, *published) if address)


def _tell_addresses(addresses: Sequence[str]) -> Iterator[Finding]:
    if addresses:
        yield _ok("addresses", f"People reach it at {', '.join(addresses)}.")
    else:
        yield _unknown("addresses", "No container of it publishes a port, and none tells a public address.")


def _tell_earlier(lines: Sequence[CronLine], machine: Machine) -> Iterator[Finding]:
    for line in lines:
        hint = "Once a backup is proven, retire it: keepwell cron retire"
        yield _ok("cron line", f"{line.file}, line {line.number}, dumps it already.", hint)
    if not lines and machine.unread:
        yield _unknown("cron line", "No crontab that can be read dumps it.")
    elif not lines:
        message = "No crontab of this machine dumps it, so there is none to retire."
        yield Finding(name="cron line", verdict=Verdict.NOT_APPLICABLE, message=message)
    for folder in machine.dump_folders:
        count = f"{folder.count} {'dump' if folder.count == 1 else 'dumps'}"
        written = f"{folder.newest_at:%Y-%m-%d %H:%M} UTC, {describe_bytes(folder.newest_size_bytes)}"
        message = f"{folder.folder} holds {count}; the newest: {written}."
        yield _ok("earlier dumps", message, f"Is it any good? keepwell prove-dump {folder.newest}")


def _address_in(applications: Iterable[Contained], schemes: Sequence[str], names: Sequence[str]) -> SplitResult | None:
    """The first variable of an application that is an address of a server by one of its names."""
    for found in applications:
        for value in found.environment.values():
            if value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
                parts = _split(value)
                if parts is not None and parts.hostname in names:
                    return parts
    return None


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _names_of(container: Contained) -> list[str]:
    """What others in its network call it."""
    return [name for name in (container.name, container.service) if name]


def _short_name(told: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return name or "platform"


def _ok(name: str, message: str, hint: str = "") -> Finding:
    return Finding(name=name, verdict=Verdict.OK, message=message, hint=hint)


def _unknown(name: str, message: str, hint: str = "") -> Finding:
    return Finding(name=name, verdict=Verdict.UNKNOWN, message=message, hint=hint)
