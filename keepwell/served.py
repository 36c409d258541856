"""Where `keepwell serve` keeps what is its own on this machine, and how others find the orchestrator that it serves."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

STATE_VARIABLE = "KEEPWELL_STATE_DIRECTORY"
_SYSTEM_FOLDER = Path("/var/lib/keepwell")
_FOLDER, _DOCUMENT = "serve", "served.json"


@dataclass(frozen=True)
class Served:
    """The orchestrator that runs here, or ran here last.

    Attributes:
        api_url: As PREFECT_API_URL has it.
        ui_url: Of its pages.
        auth_string_file: Holds user:password; only its owner may read it.
        listen: Address that it was asked to listen on.
        configuration: Platform file, or folder of them, that its runs read.
        ports: TCP ports of its servers, by part.
    """

    api_url: str
    ui_url: str
    auth_string_file: str
    listen: str
    configuration: str
    ports: dict[str, int]

    def read_login(self) -> str | None:
        """The login; None where we may not read it."""
        try:
            return Path(self.auth_string_file).read_text(encoding="utf-8").strip()
        except OSError:
            return None


def state_directory() -> Path:
    """What outlives a restart: KEEPWELL_STATE_DIRECTORY, the system's for root, the user's own for others."""
    named = os.environ.get(STATE_VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return _SYSTEM_FOLDER
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "keepwell"


def serve_folder() -> Path:
    """The state folder of the stack that `keepwell serve` runs."""
    return state_directory() / _FOLDER


def served_file(folder: Path) -> Path:
    """Where a stack says how it is reached."""
    return folder / _DOCUMENT


def render_served(served: Served) -> str:
    """The document's text."""
    return json.dumps(asdict(served), indent=1) + "\n"


def read_served(folder: Path | None = None) -> Served | None:
    """How the stack of a state folder is reached, if it runs; None where none was ever served that we may see.

    Args:
        folder: Of the stack; this machine's own by default.
    """
    try:
        document = json.loads(served_file(folder or serve_folder()).read_text(encoding="utf-8"))
        return Served(**document)
    except (OSError, ValueError, TypeError):
        return None
