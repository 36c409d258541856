"""PostgreSQL's programs of an image, each run in a container of its own: see `keepwell.containers.run`."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keepwell import command
from keepwell.command import Command
from keepwell.containers.engine import Image
from keepwell.errors import CommandFailed, PreconditionFailed

# No file of a backup set is called so.
_USERS_FILE = ".users"
_SERVER_USER = 65534
_TRIAL_SECONDS = 60
# What the image's own PATH finds comes first; the others are where Debian's and Red Hat's packages put them.
_FIND = """
for folder in "$(dirname "$(command -v postgres)")" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
  if [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ]; then
    echo "$folder"
    exec "$folder/postgres" --version
  fi
done
echo "it holds no PostgreSQL server" >&2
exit 1
"""


@dataclass(frozen=True)
class ImageRunner:
    """Runs programs of an image, each in a new container, for one run of ours.

    Attributes:
        address: Of the engine.
        image: Whose programs.
        folder: Of the run, made ready by `prepare`; a sweep finds the containers by it.
    """

    address: str
    image: Image
    folder: Path

    def prepare(self) -> None:
        """Write who is who, as the containers will see it: initdb refuses to run for a user without a name."""
        users = {0: os.getgid(), os.geteuid(): os.getegid(), _SERVER_USER: _SERVER_USER}
        lines = [f"user{uid}:x:{uid}:{gid}::/:/bin/sh\n" for uid, gid in users.items()]
        (self.folder / _USERS_FILE).write_text("".join(lines))
        (self.folder / _USERS_FILE).chmod(0o644)

    def prefix(
        self,
        *,
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        user: int | None = None,
        has_network: bool = False,
        reads_input: bool = False,
    ) -> tuple[str, ...]:
        """What to put before a program's call.

        Args:
            writable: Folders of this machine that it may write to, seen at the same paths.
            readable: What else it may read.
            user: Whom it runs as; this process's user by default.
            has_network: Whether it uses this machine's network.
            reads_input: Whether it gets our standard input.
        """
        uid = os.geteuid() if user is None else user
        gid = os.getegid() if uid == os.geteuid() else uid
        # Isolated (-I): it is started in folders that others may write to, and must import nothing from there.
        argv = [sys.executable, "-I", "-m", "keepwell.containers.run"]
        argv += ["--address", self.address, "--image", self.image.id, "--folder", str(self.folder)]
        argv += ["--users", str(self.folder / _USERS_FILE)]
        argv += ["--user", f"{uid}:{gid}"]
        argv += [word for path in writable for word in ("--write", str(path))]
        argv += [word for path in readable for word in ("--read", str(path))]
        argv += ["--network"] if has_network else []
        argv += ["--input"] if reads_input else []
        return (*argv, "--")


def used_containers(folder: Path) -> bool:
    """Whether a run with that folder may have started any."""
    return (folder / _USERS_FILE).exists()


def find_programs(runner: ImageRunner) -> tuple[Path, tuple[int, ...]]:
    """Look into an image, in a container as all others will be, so that it also shows whether those can run.

    Args:
        runner: Prepared.

    Returns:
        The folder in the image that PostgreSQL's programs lie in, and their version, such as (15, 8).

    Raises:
        PreconditionFailed: It holds none, or no container of it can be run here.
        ServiceUnavailable: It did not answer in time.
    """
    call = Command((*runner.prefix(), "sh", "-c", _FIND), name="looking into it")
    try:
        said = command.run(call, timeout_seconds=_TRIAL_SECONDS).decode(errors="replace")
    except CommandFailed as error:
        raise PreconditionFailed(
            f"No PostgreSQL of the image {runner.image.name} can be run: {error.message}",
            hint="Look at what the engine says; with backup.scratch_image = never the system's programs are used.",
        ) from error
    folder, _, told = said.partition("\n")
    version = re.search(r"(\d+)(?:\.(\d+))?", told)
    if version is None:
        raise PreconditionFailed(
            f"The image {runner.image.name} does not tell its PostgreSQL's version.", hint="Is it a PostgreSQL image?"
        )
    return Path(folder), tuple(int(part) for part in version.groups() if part)
