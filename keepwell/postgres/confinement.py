"""A view of this machine in which a program finds nothing but what it was given: for whatever runs code of others.

Restoring a dump runs its code as the scratch server's superuser, and `COPY … FROM PROGRAM` is a shell. A user namespace
alone does not keep it from our files: there we are called `nobody`, but to the kernel we still own them. So where the
machine allows it, such a program gets a root folder of its own (system folders to read, its own folder to write), its
own process numbers, so that it can signal nobody else, no network, and an empty environment.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from keepwell.locked_folder import locked_folder, sweep_locked_folders

_UNPRIVILEGED_ID = 65534
_TRIAL_PREFIX = "keepwell-confinement-"
# What programs need to run at all. Nothing here holds a secret; /etc as a whole would.
_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/var/cache/postgresql",
)
# The script below looks for what lies below the root in the kernel's list of mounts, which escapes blanks and the like.
_PLAIN_PATH = re.compile(r"[\w./+,:@=-]+", re.ASCII)
_NAMESPACES = ("--user", "--map-root-user", "--mount", "--net", "--ipc", "--pid", "--fork")
# Arguments: the empty folder to build on, what may be read, `--`, what may be written, `--`, the program's own call.
# Any failure ends it before the program starts. The last unshare gives up the right to change any of this.
_SCRIPT = """
set -eu
root=$1; shift
mount -t tmpfs -o mode=755,size=16m keepwell "$root"
lay() {
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : > "$root$1"; fi
  mount --rbind "$1" "$root$1"
}
while [ "$1" != -- ]; do
  if [ -L "$1" ] && [ -d "$1" ]; then
    mkdir -p "$root${1%/*}"; ln -s "$(readlink "$1")" "$root$1"
  else
    lay "$1"; mount -o remount,bind,ro "$root$1"
  fi
  shift
done
shift
while read -r _ _ _ _ place options _; do
  case $place:$options in
    *:ro | *:ro,*) ;;
    "$root"/*) mount -o remount,bind,ro "$place" ;;  # what was mounted below the others
  esac
done < /proc/self/mountinfo
while [ "$1" != -- ]; do lay "$1"; shift; done
shift
for device in null zero random urandom; do lay "/dev/$device"; done
mkdir -p "$root/dev/shm" "$root/proc" "$root/outside"
mount -t tmpfs -o mode=1777 keepwell "$root/dev/shm"
mount -t proc -o subset=pid,nosuid,nodev,noexec proc "$root/proc"
mount -o remount,bind,ro "$root"
pivot_root "$root" "$root/outside"
cd /
umount -l /outside
exec unshare --user --map-user="$KEEPWELL_ID" --map-group="$KEEPWELL_ID" -- "$@"
""".replace("$KEEPWELL_ID", str(_UNPRIVILEGED_ID))


@dataclass(frozen=True)
class Confinement:
    """What a confined program may see.

    Attributes:
        root: An empty folder on which its view is put together; nothing is ever written into it.
        writable: Folders of its own.
        readable: What else it may read, beside the system's own folders.
    """

    root: Path
    writable: tuple[Path, ...]
    readable: tuple[Path, ...] = ()

    def prefix(self, *, death_signal: str = "KILL") -> tuple[str, ...]:
        """What to put before a program's call; the program runs as process number one of its own.

        Args:
            death_signal: What it gets when whoever waits for it dies.
        """
        system = [path for path in _SYSTEM if Path(path).exists()]
        readable = [*system, *_outside_of(system, self.readable)]
        view = (*readable, "--", *map(str, self.writable), "--")
        return (
            "unshare",
            *_NAMESPACES,
            f"--kill-child={death_signal}",
            "sh",
            "-c",
            _SCRIPT,
            "sh",
            str(self.root),
            *view,
        )

    @property
    def possible(self) -> bool:
        """Whether this machine can do it, on that folder."""
        return _PLAIN_PATH.fullmatch(str(self.root)) is not None and _can_confine()


def _outside_of(system: Iterable[str], paths: Iterable[Path]) -> list[str]:
    """Real paths that the system's folders do not show already, so that nothing is laid out twice."""
    real = {path.resolve() for path in paths}
    return sorted(str(path) for path in real if not any(path.is_relative_to(shown) for shown in system))


@cache
def _can_confine() -> bool:
    """Tried once, for real: which step a machine forbids (namespaces, mounts, processes) cannot be asked for."""
    if any(shutil.which(program) is None for program in ("unshare", "mount", "umount", "pivot_root", "sh")):
        return False
    place = Path(tempfile.gettempdir())
    sweep_locked_folders(place, _TRIAL_PREFIX, _ignore)  # of runs that were killed in here
    with locked_folder(place, _TRIAL_PREFIX) as folder:
        root, own = (folder / "root").resolve(), (folder / "own").resolve()
        root.mkdir()
        own.mkdir()
        if not _PLAIN_PATH.fullmatch(str(root)):
            return False
        argv = [*Confinement(root, (own,)).prefix(), "sh", "-c", f"test ! -e /etc/shadow && : > {own}/reached"]
        subprocess.run(argv, capture_output=True, check=False, env={"PATH": os.environ.get("PATH", os.defpath)})
        return (own / "reached").exists()


def _ignore(folder: Path) -> None:
    """Nothing is at work in a trial's folder once its run is dead."""
