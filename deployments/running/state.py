"""The state folder of a stack: where everything lies, its secrets, its records and its locks.

```
<state>/secrets/   one file each, 0600         <state>/ports.json    ports, kept between starts
<state>/logs/      one file per part           <state>/status.json   what the supervisor last saw
<state>/run/       one pid record per process  <state>/keepwell.toml the platform file
<state>/<part>/    data of that part           <state>/*.lock        held by flock, never removed
```
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deployments.running.processes import ProcessIdentity, identify, is_alive
from keepwell.errors import ConfigurationError

# Every process of a stack carries this variable, so that what a dead supervisor left can be found.
MARKER_VARIABLE = "STACK_STATE_FOLDER"
SUPERVISOR = "supervisor"
STATUS_DOCUMENT = "status.json"
_PORTS_DOCUMENT = "ports.json"


@dataclass(frozen=True)
class StateFolder:
    """Paths within one state folder. Making this value touches nothing.

    Attributes:
        folder: Absolute path.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "StateFolder":
        """The state folder at some path, however it is written."""
        return cls(folder.absolute())

    @property
    def platform_file(self) -> Path:
        """The stack's platform file."""
        return self.folder / "keepwell.toml"

    def log(self, part: str) -> Path:
        """Log of one part, or of the supervisor."""
        return self.folder / "logs" / f"{part}.log"

    def data(self, part: str) -> Path:
        """Folder for the data of one part."""
        return self.folder / part

    def is_ours(self) -> bool:
        """Whether the folder is the state of a stack, rather than something else that somebody named by mistake."""
        return (self.folder / "run").is_dir() and (self.folder / f"{SUPERVISOR}.lock").exists()

    def prepare(self) -> None:
        """Make the folders that everything else relies on; harmless when they exist.

        Raises:
            ConfigurationError: The folder is somebody else's.
        """
        # Locks alone are what a purge leaves.
        others = [path for path in self.folder.iterdir() if path.suffix != ".lock"] if self.folder.is_dir() else []
        if others and not (self.folder / "run").is_dir():
            raise ConfigurationError(
                f"{self.folder} holds files of something else.", hint="Name an empty or a new folder with --state."
            )
        # Servers that may not run as root pass through this folder to their own, and can list nothing in it.
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        (self.folder / f"{SUPERVISOR}.lock").touch(mode=0o600)
        for name in ("run", "secrets", "logs"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        # Scratch servers, too, pass through the temporary one.
        (self.folder / "tmp").mkdir(mode=0o711, exist_ok=True)

    def purge(self) -> None:
        """Remove what a stack makes, and nothing else; the locks stay, since somebody may wait for one."""
        for path in self.folder.iterdir() if self.is_ours() else ():
            if path.suffix == ".lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def secret_file(self, name: str) -> Path:
        """File of one secret, which is made at random when there is none yet."""
        path = self.folder / "secrets" / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24) + "\n")
        return path

    def secret(self, name: str) -> str:
        """One secret; made at random when there is none yet."""
        return self.secret_file(name).read_text().strip()

    def read_document(self, name: str) -> dict[str, Any]:
        """A JSON document of ours; empty when it does not exist or a crash of the machine left it unreadable."""
        with suppress(OSError, ValueError):
            document = json.loads((self.folder / name).read_text())
            if isinstance(document, dict):
                return document
        return {}

    def write_document(self, name: str, document: dict[str, Any]) -> None:
        """Replace a JSON document at once, so that readers see the old or the new one."""
        write_private(self.folder / name, json.dumps(document, indent=1) + "\n")

    def read_ports(self) -> dict[str, int]:
        """The recorded ports by part; empty before the first start."""
        return self.read_document(_PORTS_DOCUMENT)

    def write_ports(self, ports: Mapping[str, int]) -> None:
        """Record the ports by part."""
        self.write_document(_PORTS_DOCUMENT, dict(ports))

    def record_process(self, name: str, pid: int) -> None:
        """Remember a process of ours, for whoever must clean up after us."""
        process = identify(pid)
        if process is not None:
            self.write_document(f"run/{name}.json", process.as_document())

    def forget_process(self, name: str) -> None:
        """A process of ours has ended."""
        (self.folder / "run" / f"{name}.json").unlink(missing_ok=True)

    def recorded_processes(self) -> dict[str, ProcessIdentity]:
        """Processes that were recorded and still run, by name."""
        found = {}
        for path in sorted((self.folder / "run").glob("*.json")):
            process = ProcessIdentity.from_document(self.read_document(f"run/{path.name}"))
            if process is not None and is_alive(process):
                found[path.stem] = process
        return found

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock, waiting for whoever has it."""
        with (self.folder / f"{name}.lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def try_lock(self, name: str) -> IO[str] | None:
        """Take a lock that lasts until the returned stream is closed; None when somebody has it."""
        stream = (self.folder / f"{name}.lock").open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        return stream

    def is_supervised(self) -> bool:
        """Whether a supervisor has this stack in its hands now."""
        path = self.folder / f"{SUPERVISOR}.lock"
        if not path.exists():
            return False
        with path.open() as stream:
            try:
                # Shared, so that two who ask at once do not take each other for the supervisor.
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        # After a power cut, a name without a content would be an empty password.
        os.fsync(stream.fileno())
    partial.replace(path)
