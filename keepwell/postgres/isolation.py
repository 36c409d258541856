"""Who a server of ours runs as, and what it can reach.

PostgreSQL refuses to run as root. A server that may be trusted enters a user namespace in which it believes to be
`nobody`: that needs no other owner of its folder and works below /root, but for the kernel it is still root, who may
read root's files. Restoring runs the source's own code, so a scratch server is really `nobody`, wherever its programs
and its folder are within nobody's reach.
"""

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keepwell.command import succeeds
from keepwell.errors import KeepwellError
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.confinement import Confinement

UNPRIVILEGED_ID = 65534
_WITHOUT = ("--net",)
_NO_NETWORK = ("unshare", *_WITHOUT)
_NO_NETWORK_OF_OUR_OWN = ("unshare", "--user", "--map-current-user", *_WITHOUT)
# No set-user-id program gives anything back to it.
_NOBODY = (
    "setpriv",
    f"--reuid={UNPRIVILEGED_ID}",
    f"--regid={UNPRIVILEGED_ID}",
    "--clear-groups",
    "--no-new-privs",
)
_SEEMINGLY_NOBODY = ("unshare", "--user", f"--map-user={UNPRIVILEGED_ID}", f"--map-group={UNPRIVILEGED_ID}")
# Each with whether it leaves a network; the second needs no privilege but to change the user.
_REALLY_NOBODY: tuple[tuple[tuple[str, ...], bool], ...] = (
    ((*_NO_NETWORK, *_NOBODY), False),
    ((*_NOBODY, *_NO_NETWORK_OF_OUR_OWN), False),
    (_NOBODY, True),
)
_PROBE = '"$1" --version > /dev/null && cd "$2"'
_PROBE_SECONDS = 20


@dataclass(frozen=True)
class Isolation:
    """One way to run a server.

    Attributes:
        prefix: Programs that run it so; empty when it runs as we do.
        user: Whom the kernel takes it for, in words.
        has_network: Whether it could reach one.
        owns_its_files: Whether its files must belong to nobody, because it really is.
        is_confined: Whether it sees nothing of this machine but what is its own; `prefix` then only prepares for it.
        user_id: Whom it runs as in a container of its own; None without one.
    """

    prefix: tuple[str, ...]
    user: str
    has_network: bool
    owns_its_files: bool = False
    is_confined: bool = False
    user_id: int | None = None

    def __str__(self) -> str:
        """For the evidence: what code that a restore runs could reach."""
        return f"{self.user}, {'a socket only' if self.has_network else 'no network'}, empty environment"

    def hand_over(self, path: Path) -> None:
        """Give a path to the user that the server runs as."""
        if self.owns_its_files:
            os.chown(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)


_ANOTHER_USER = "another user"
_THIS_USER = "this user"
_SEEMINGLY_ANOTHER = "root, seemingly another user (a namespace; files of root can be read)"


_CONFINED = "no files but its own, no other processes"
_CONTAINED = "a container of its own, read-only but for its folder, without any privilege"


def unprivileged() -> Isolation:
    """How a server that we trust runs: not as root, wherever its folder lies.

    Raises:
        KeepwellError: We are root and the machine offers no way to be less.
    """
    if os.geteuid() != 0:
        return Isolation((), _THIS_USER, has_network=True)
    if _works(_SEEMINGLY_NOBODY):
        return Isolation(_SEEMINGLY_NOBODY, _SEEMINGLY_ANOTHER, has_network=True)
    if _works(_NOBODY):
        return Isolation(_NOBODY, _ANOTHER_USER, has_network=True, owns_its_files=True)
    raise KeepwellError(
        "PostgreSQL refuses to run as root, and neither user namespaces nor setpriv work here.",
        hint="Run this as an ordinary user.",
    )


def isolate(binaries: Binaries, folder: Path) -> Isolation:
    """How a scratch server runs, kept apart as far as this machine allows: the first way that really works.

    Args:
        binaries: Whose server.
        folder: Existing folder of ours for it; where we are root, nobody is let through it.

    Raises:
        KeepwellError: We are root and the machine offers no way to be less.
    """
    if binaries.elsewhere is not None:
        return _in_a_container(folder)
    if _starts_confined(binaries, folder.resolve()):
        return Isolation(unprivileged().prefix, _CONFINED, has_network=False, is_confined=True)
    return isolate_program(binaries.program("postgres"), folder)


def isolate_program(program: str, folder: Path) -> Isolation:
    """As `isolate`, for any server's program that knows `--version`.

    Raises:
        KeepwellError: We are root and the machine offers no way to be less.
    """
    if os.geteuid() != 0:
        kept_apart = _works(_NO_NETWORK_OF_OUR_OWN)
        return Isolation(_NO_NETWORK_OF_OUR_OWN if kept_apart else (), _THIS_USER, has_network=not kept_apart)
    if _let_nobody_through(folder):
        for prefix, has_network in _REALLY_NOBODY:
            if _runs(prefix, program, folder):
                return Isolation(prefix, _ANOTHER_USER, has_network=has_network, owns_its_files=True)
    if _works((*_SEEMINGLY_NOBODY, *_WITHOUT)):
        return Isolation((*_SEEMINGLY_NOBODY, *_WITHOUT), _SEEMINGLY_ANOTHER, has_network=False)
    return unprivileged()


def _in_a_container(folder: Path) -> Isolation:
    """As another user where we can be several; what else keeps it apart, the container does."""
    if os.geteuid() != 0:
        return Isolation((), _CONTAINED, has_network=False, user_id=os.geteuid())
    if not _let_nobody_through(folder):
        raise KeepwellError(
            "A server in a container cannot be another user here: we are root by name only.",
            hint="Run this as an ordinary user who may use the engine's socket.",
        )
    return Isolation((), _CONTAINED, has_network=False, owns_its_files=True, user_id=UNPRIVILEGED_ID)


@cache
def _starts_confined(binaries: Binaries, place: Path) -> bool:
    """Whether the server's program starts in a view of its own: what its folder only links to is not in it."""
    view = Confinement(place / "view", (place,), (binaries.folder.resolve().parent,))
    if not view.possible:
        return False
    view.root.mkdir(exist_ok=True)
    argv = [*view.prefix(), binaries.program("postgres"), "--version"]
    return succeeds(argv, timeout_seconds=_PROBE_SECONDS)


def _let_nobody_through(folder: Path) -> bool:
    """By its group, so that the machine's other users are kept out as before; False where we are root by name only."""
    try:
        os.chown(folder, -1, UNPRIVILEGED_ID)
    except OSError:
        return False
    folder.chmod(0o710)
    return True


def _runs(prefix: tuple[str, ...], program: str, folder: Path) -> bool:
    """Whether the server's program starts that way and gets into the folder: either may lie below /root."""
    if shutil.which(prefix[0]) is None:
        return False
    argv = [*prefix, "sh", "-c", _PROBE, "sh", program, str(folder)]
    return succeeds(argv, timeout_seconds=_PROBE_SECONDS)


@cache
def _works(prefix: tuple[str, ...]) -> bool:
    return shutil.which(prefix[0]) is not None and succeeds((*prefix, "true"))
