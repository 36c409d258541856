"""The systemd unit, rendered for the installation that runs us."""

import os
import re
import sys
from importlib import resources
from pathlib import Path

from keepwell.errors import ConfigurationError
from keepwell.settings import SYSTEM_FOLDER

SYSTEM_USER = "keepwell"
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def render_unit(user: str = SYSTEM_USER, *, programs: Path | None = None) -> str:
    """Text of keepwell.service.

    Args:
        user: Unprivileged user that it runs as.
        programs: Folder of the `keepwell` program; the running installation's by default.

    Raises:
        ConfigurationError: The user is root or no name of one, or the folder's path cannot stand in a unit.
    """
    if user == "root" or not _USER_NAME.fullmatch(user):
        raise ConfigurationError(
            f"The unit cannot run as {user!r}.", hint="Name an unprivileged user: useradd --system keepwell."
        )
    # Not resolved: the program of a virtual environment is known by where it lies.
    folder = os.path.abspath(programs or Path(sys.executable).parent)  # noqa: PTH100 - it follows no link
    if re.search(r"[\s%\"\\]", folder):
        raise ConfigurationError(
            f"The installation lies in {folder!r}, which no unit can name.", hint="Install it below /opt, say."
        )
    template = resources.files("deployments.production").joinpath("systemd", "keepwell.service")
    text = template.read_text(encoding="utf-8")
    for name, value in {"USER": user, "PROGRAMS": folder, "CONFIGURATION": str(SYSTEM_FOLDER)}.items():
        text = text.replace(f"@{name}@", value)
    return text
