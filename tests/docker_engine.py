"""A Docker Engine of the tests' own, and a PostgreSQL image made from this machine's programs: nothing is pulled.

An engine that is there already is never touched: this one has its own socket, data and processes, no bridge, and no
rules of a firewall.
"""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from keepwell.postgres.binaries import Binaries

IMAGE = "keepwell-tests/postgres:of-this-machine"
_START_SECONDS = 60
_FOR_ROOT = "/usr/sbin:/sbin"
# What PostgreSQL and the tests call beside PostgreSQL's own programs.
_PROGRAMS = ("sh", "cat", "cp", "dirname", "grep", "id", "rm", "sha256sum", "sleep", "tail", "touch")
_MODULES = ("amcheck.so", "dict_snowball.so", "plpgsql.so")
_SHARED = ("/usr/lib/locale/C.utf8", "/usr/share/zoneinfo/UTC")


@dataclass(frozen=True)
class RunningEngine:
    """An engine of ours.

    Attributes:
        address: For DOCKER_HOST.
        client: The SDK's.
        image_id: Of the one image that it has.
    """

    address: str
    client: docker.DockerClient
    image_id: str

    def containers(self) -> list[str]:
        """Ids of all containers, ended ones too."""
        return [container.id for container in self.client.containers.list(all=True)]

    def volumes(self) -> list[str]:
        return [volume.name for volume in self.client.volumes.list()]


def missing_for_an_engine() -> list[str]:
    """What this machine lacks to run one."""
    missing = [name for name in ("dockerd", "iptables") if shutil.which(name, path=_path()) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@contextmanager
def running_engine(binaries: Binaries) -> Iterator[RunningEngine]:
    """An engine that is gone with this block: its processes by their number, then its folder.

    Args:
        binaries: Whose PostgreSQL its image holds.
    """
    if missing := missing_for_an_engine():
        pytest.fail(f"No Docker Engine can be started here; missing: {', '.join(missing)}.")
    with tempfile.TemporaryDirectory(prefix="keepwell-docker-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        address = f"unix://{folder}/docker.sock"
        argv = ["dockerd", f"--host={address}", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
        argv += [f"--pidfile={folder}/docker.pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        argv += ["--ip-forward=false", "--ip-masq=false", "--shutdown-timeout=5"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, env={"PATH": _path()}, cwd=folder)
            try:
                client = _wait_for(address, process, folder / "log")
                with closing(client):
                    image_id = _import_image(client, binaries)
                    yield RunningEngine(address, client, image_id)
                    for container in client.containers.list(all=True):
                        container.remove(force=True, v=True)
            finally:
                process.terminate()
                process.wait(30)
                _unmount_below(folder)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_FOR_ROOT}"


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> docker.DockerClient:
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(address.removeprefix("unix://")):
        if process.poll() is not None or time.monotonic() > deadline:
            message = f"dockerd did not start: {log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(message)
        time.sleep(0.05)
    # It listens before it serves, and answers once it does.
    client = docker.DockerClient(base_url=address, timeout=_START_SECONDS)
    client.ping()
    return client


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


def _unmount_below(folder: Path) -> None:
    """Whatever a killed container left mounted, the deepest first."""
    places = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((place for place in places if place.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", place], check=False)


def _import_image(client: docker.DockerClient, binaries: Binaries) -> str:
    repository, _, tag = IMAGE.partition(":")
    changes = [
        f"ENV PATH={binaries.folder}:/usr/local/bin:/usr/bin:/bin",
        "ENV PGDATA=/var/lib/postgresql/data",
        "ENV OF_THE_IMAGE=told",
        "VOLUME /var/lib/postgresql/data",
    ]
    client.api.import_image_from_data(_archive(binaries), repository=repository, tag=tag, changes=changes)
    return str(client.images.get(IMAGE).id)


def _archive(binaries: Binaries) -> bytes:
    """PostgreSQL's programs and the few others, with every library that they load."""
    root = binaries.folder.parent
    share = Path("/usr/share/postgresql") / str(binaries.major)
    programs = [path for path in binaries.folder.iterdir() if path.name not in ("pgbench", "postgres_fdw")]
    others = [found for name in _PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))]
    modules = [root / "lib" / name for name in _MODULES]
    wanted = [*programs, *map(Path, others), *modules]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for place in ("bin", "etc", "proc", "sys", "dev", "run", "tmp", "var/lib/postgresql/data"):
            _add_folder(archive, place, mode=0o1777 if place == "tmp" else 0o755)
        for path in [*wanted, *sorted(_libraries(wanted))]:
            _add_file(archive, path, _place_of(path))
        for tree in (share, *map(Path, _SHARED)):
            for path in [tree, *sorted(tree.rglob("*"))]:
                if path.is_file():
                    _add_file(archive, path, path)
        _add_text(archive, "etc/passwd", "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\n")
    return content.getvalue()


def _place_of(path: Path) -> Path:
    """Shells are looked for in /bin by programs; the others are found by PATH."""
    return Path("/bin") / path.name if path.name == "sh" else path


def _libraries(programs: Iterable[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, check=True, text=True).stdout
    words = {word for line in said.splitlines() for word in line.split() if word.startswith("/")}
    return {Path(word) for word in words if not word.endswith(":")}


def _add_folder(archive: tarfile.TarFile, name: str, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, source: Path, place: Path) -> None:
    entry = tarfile.TarInfo(str(place).lstrip("/"))
    entry.size, entry.mode = source.stat().st_size, 0o755
    with source.open("rb") as stream:
        archive.addfile(entry, stream)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text), 0o644
    archive.addfile(entry, io.BytesIO(text.encode()))
