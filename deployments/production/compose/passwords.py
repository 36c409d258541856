"""Passwords of the stack itself, each a file in a volume: made once, and read by those containers alone that need it.

A variable that compose sets can be read by whoever may ask the engine about a container, so no password is one.
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keepwell.errors import ConfigurationError, PreconditionFailed

FOLDER = Path("/run/keepwell")
# Asked for by the server and its pages; `user:password`.
LOGIN = "login/prefect-login"
DATABASE_PASSWORD, REDIS_PASSWORD = "server/database-password", "server/redis-password"
_LOGIN_USER = "keepwell"
_OURS_ALONE, _OUR_GROUP_S_TOO = 0o400, 0o440
# PostgreSQL and Redis run as users of their own images, with our group beside theirs.
_MODES = {LOGIN: _OURS_ALONE, DATABASE_PASSWORD: _OUR_GROUP_S_TOO, REDIS_PASSWORD: _OUR_GROUP_S_TOO}


@dataclass(frozen=True)
class Passwords:
    """Those in one folder.

    Attributes:
        folder: Where they lie.
    """

    folder: Path = FOLDER

    def read(self, name: str) -> str:
        """One of them.

        Raises:
            PreconditionFailed: It is not there, or not for us to read.
        """
        try:
            password = (self.folder / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise PreconditionFailed(
                f"{self.folder / name} cannot be read: {error.strerror}.",
                hint="The service prepare makes it, and its volume must be laid over this container: "
                "docker compose up -d prepare",
            ) from error
        if not password:
            raise PreconditionFailed(
                f"{self.folder / name} is empty.", hint="Remove it, and the service prepare makes it anew."
            )
        return password

    def make_missing(self) -> list[str]:
        """Make each that is not there; one that is stays as it is.

        Returns:
            The names of those that were made.

        Raises:
            ConfigurationError: A folder cannot be written to.
        """
        return [name for name in _MODES if not (self.folder / name).exists() and self._make(name)]

    def renew_login(self) -> None:
        """Put a new login in the place of the old one; whoever is logged in stays so until the server starts anew.

        Raises:
            ConfigurationError: The folder cannot be written to.
        """
        self._make(LOGIN)

    def _make(self, name: str) -> bool:
        path = self.folder / name
        partial = path.with_name(f".{path.name}.partial")
        password = secrets.token_urlsafe(24)
        text = f"{_LOGIN_USER}:{password}" if name == LOGIN else password
        try:
            with suppress(FileNotFoundError):
                partial.unlink()  # of a container that was killed in here
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OURS_ALONE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), _MODES[name])
                stream.write(f"{text}\n")
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be written: {error.strerror}.",
                hint="Its volume belongs to somebody else: remove it, if nothing is in it; prepare makes it anew.",
            ) from error
        return True
