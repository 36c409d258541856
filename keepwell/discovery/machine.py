"""Reading this machine: its containers, its crontabs, and the folders where dumps lie. Nothing is changed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepwell.containers.engine import COMPOSE_PROJECT, COMPOSE_SERVICE, find_address, open_engine
from keepwell.discovery.crontabs import PLACES, find_folders, read_crontabs
from keepwell.discovery.facts import Contained, CronLine, DumpFolder, Machine, Mount
from keepwell.errors import KeepwellError

_USUAL_FOLDERS = (Path("/backups"), Path("/backup"), Path("/var/backups"))
_DUMP_SUFFIXES = (".sql", ".sql.gz", ".sql.zst", ".sql.xz", ".sql.bz2", ".dump", ".dump.gz", ".pgdump", ".backup")
# Where the official image takes a secret from a file.
_FROM_FILES = ("POSTGRES_PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "REDIS_PASSWORD")


def read_machine(crontabs: Iterable[Path] = PLACES, folders: Iterable[Path] = _USUAL_FOLDERS) -> Machine:
    """Ask for everything once; what cannot be asked is told, and the rest is read all the same."""
    containers, unread = _ask_engine()
    lines, unread_crontabs = read_crontabs(crontabs)
    return Machine(
        containers,
        tuple(lines),
        tuple(read_dump_folders([*folders, *find_folders(_dumping(lines))])),
        (*unread, *unread_crontabs),
    )


def _dumping(lines: Iterable[CronLine]) -> list[CronLine]:
    return [line for line in lines if "pg_dump" in line.text or "pg_dump" in line.script]


def _ask_engine() -> tuple[tuple[Contained, ...], tuple[str, ...]]:
    address = find_address()
    if address is None:
        return (), ("No Docker Engine answers on this machine, so no container could be looked at.",)
    try:
        with open_engine(address) as client:
            return read_containers(client), ()
    except KeepwellError as error:
        return (), (error.message,)


def read_containers(client: Any) -> tuple[Contained, ...]:
    """All containers of an engine, ended ones too, by name.

    Args:
        client: From `open_engine`.
    """
    found = (_read_container(container) for container in client.containers.list(all=True))
    return tuple(sorted(found, key=lambda one: one.name))


def _read_container(container: Any) -> Contained:
    attributes = container.attrs
    config, labels = attributes["Config"], attributes["Config"].get("Labels") or {}
    running = container.status == "running"
    environment = dict(line.partition("=")[::2] for line in config.get("Env") or [])
    if running:
        environment = dict(_read_secret_files(container, environment)) | environment
    return Contained(
        name=container.name,
        image=config["Image"],
        project=labels.get(COMPOSE_PROJECT),
        service=labels.get(COMPOSE_SERVICE),
        running=running,
        environment=environment,
        words=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        ports=frozenset(_tcp_ports(config.get("ExposedPorts") or {})),
        published=_published(attributes["NetworkSettings"].get("Ports") or {}),
        mounts=tuple(_mounts(attributes.get("Mounts") or [])),
    )


def _read_secret_files(container: Any, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in _FROM_FILES:
        path = environment.get(f"{name}_FILE")
        if path:
            ended = container.exec_run(["cat", path])
            if ended.exit_code == 0:
                yield name, ended.output.decode(errors="replace").rstrip("\n")


def _tcp_ports(named: Iterable[str]) -> Iterator[int]:
    for name in named:
        number, _, protocol = name.partition("/")
        if protocol in ("", "tcp") and number.isdigit():
            yield int(number)


def _published(ports: Mapping[str, Any]) -> dict[int, int]:
    """Where loopback leads to a port; one that is bound to another address of this machine does not count."""
    found = {}
    for name, bindings in ports.items():
        here = [bound for bound in bindings or [] if bound.get("HostIp", "") in ("", "0.0.0.0", "127.0.0.1", "::")]  # noqa: S104
        for inner in _tcp_ports([name]) if here else ():
            found[inner] = int(here[0]["HostPort"])
    return found


def _mounts(mounts: Iterable[Mapping[str, Any]]) -> Iterator[Mount]:
    for mount in mounts:
        if mount.get("Type") in ("bind", "volume") and mount.get("Source"):
            yield Mount(Path(mount["Destination"]), Path(mount["Source"]))


def read_dump_folders(folders: Iterable[Path]) -> Iterator[DumpFolder]:
    """Those of some folders that hold files called as dumps are; one that cannot be read counts as holding none."""
    for folder in dict.fromkeys(folders):
        dumps = []
        with suppress(OSError):
            dumps = [(path.stat(), path) for path in folder.iterdir() if path.name.endswith(_DUMP_SUFFIXES)]
        if dumps:
            status, newest = max(dumps, key=lambda one: one[0].st_mtime)
            written_at = datetime.fromtimestamp(status.st_mtime, UTC)
            yield DumpFolder(folder, len(dumps), newest, written_at, status.st_size)
