"""What was read of this machine, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """One place of a container that lies on this machine.

    Attributes:
        target: Path in the container.
        source: Path on this machine.
    """

    target: Path
    source: Path


@dataclass(frozen=True)
class Contained:
    """One container.

    Attributes:
        name: Its own.
        image: As its container calls it, such as `postgres:15-alpine`.
        project: Compose project; None for one that compose did not make.
        service: Compose service; None as above.
        running: Whether it runs now.
        environment: Its variables, which hold secrets.
        words: Its program and arguments, which may hold secrets.
        ports: TCP ports that its image says it listens on.
        published: TCP port in the container to one of this machine.
        mounts: Bind mounts and volumes.
    """

    name: str
    image: str
    project: str | None
    service: str | None
    running: bool
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)
    ports: frozenset[int] = frozenset()
    published: Mapping[int, int] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class CronLine:
    """One line of a crontab that starts something.

    Attributes:
        file: Of the crontab.
        number: Of the line, from 1.
        text: The line as it stands, without its end.
        script: What the first script that it names holds; empty where it names none that can be read.
    """

    file: Path
    number: int
    text: str
    script: str = field(default="", repr=False)


@dataclass(frozen=True)
class DumpFolder:
    """A folder with files that are called as dumps are.

    Attributes:
        folder: Absolute path.
        count: How many there are.
        newest: The youngest of them.
        newest_at: When that was written.
        newest_size_bytes: Of that one.
    """

    folder: Path
    count: int
    newest: Path
    newest_at: datetime
    newest_size_bytes: int


@dataclass(frozen=True)
class Machine:
    """All that was read.

    Attributes:
        containers: By name; empty where no engine could be asked.
        cron_lines: Of every crontab that could be read.
        dump_folders: Those that crontabs name, and the usual ones.
        unread: What could not be asked, one sentence each.
    """

    containers: tuple[Contained, ...]
    cron_lines: tuple[CronLine, ...] = ()
    dump_folders: tuple[DumpFolder, ...] = ()
    unread: tuple[str, ...] = ()
