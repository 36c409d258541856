"""OpenStack Swift with its S3 interface as one part: a proxy and three storage servers in one family of processes.

The program imports Swift once, opens the three storage ports, writes rings that name them, and forks; the proxy is
the process that was started. When one of them ends, all do, so that whoever started the proxy sees it.
"""

import ctypes
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from deployments.running.ports import HOST
from deployments.running.state import write_private
from keepwell.errors import ConfigurationError

ACCESS_KEY_VARIABLE = "OBJECTSTORE_ACCESS_KEY_ID"
SECRET_KEY_VARIABLE = "OBJECTSTORE_SECRET_ACCESS_KEY"  # noqa: S105 - its name
REGION = "us-east-1"

_STORAGE = ("account", "container", "object")
_DEVICE = "disk"
# Where an object lies depends on this number of bits: fixed for ever for one folder.
_PARTITION_POWER = 4
_PIPELINE = (
    "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo versioned_writes symlink proxy-server"
)
_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Serve an S3 endpoint from a folder: `objectstore_server FOLDER PORT`, with the keys in the environment."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    credentials = os.environ[ACCESS_KEY_VARIABLE], os.environ[SECRET_KEY_VARIABLE]
    try:
        require_extended_attributes(folder)
    except ConfigurationError as error:
        sys.exit(str(error))
    write_private(folder / "swift.conf", render_cluster(_hash_suffix(folder)))

    from swift.common import utils  # noqa: PLC0415 - its paths are set before its servers are imported

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    _import_servers()
    listeners = {name: _listen(0) for name in _STORAGE} | {"proxy": _listen(port)}
    _write_rings(folder, {name: listeners[name].getsockname()[1] for name in _STORAGE})
    for name in listeners:
        write_private(folder / f"{name}.conf", render_server(name, folder, credentials))
    _fork_storage(folder, listeners)
    _serve(folder, "proxy", listeners["proxy"])


def require_extended_attributes(folder: Path) -> None:
    """Stop early where Swift could not store an object's metadata.

    Raises:
        ConfigurationError: The file system of the folder has no user attributes.
    """
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        try:
            os.setxattr(probe.name, "user.keepwell", b"1")
        except OSError as error:
            raise ConfigurationError(
                f"The file system of {folder} keeps no extended attributes ({error.strerror}), which the object store "
                "needs.",
                hint="Put the state folder on another file system, such as ext4 or xfs, with --state.",
            ) from error


def render_cluster(hash_suffix: str) -> str:
    """swift.conf: the salt of object places, and one storage policy."""
    return f"[swift-hash]\nswift_hash_path_suffix = {hash_suffix}\n\n[storage-policy:0]\nname = one\ndefault = yes\n"


def render_server(name: str, folder: Path, credentials: tuple[str, str]) -> str:
    """Configuration of one of the four servers."""
    shared = {
        "swift_dir": folder,
        "devices": folder / "devices",
        "mount_check": "false",
        "log_udp_host": HOST,
        "log_level": "WARNING",
        "fallocate_reserve": 0,
    }
    chunk = {"network_chunk_size": 1 << 20, "disk_chunk_size": 1 << 20}
    if name in _STORAGE:
        app = {"use": f"egg:swift#{name}"} | (chunk if name == "object" else {})
        return _render({"DEFAULT": shared, "pipeline:main": {"pipeline": "storage"}, "app:storage": app})
    access_key, secret_key = credentials
    account, user = access_key.split(":")
    filters: dict[str, dict[str, object]] = {name: {} for name in _PIPELINE.split()[:-1]}
    filters["s3api"] = {"location": REGION, "s3_acl": "false"}
    filters["tempauth"] = {f"user_{account}_{user}": f"{secret_key} .admin"}
    filters["versioned_writes"] = {"allow_object_versioning": "true"}
    sections: dict[str, Mapping[str, object]] = {"DEFAULT": shared, "pipeline:main": {"pipeline": _PIPELINE}}
    sections["app:proxy-server"] = {
        "use": "egg:swift#proxy",
        "account_autocreate": "true",
        "object_chunk_size": 1 << 20,
        "client_chunk_size": 1 << 20,
    }
    sections |= {f"filter:{name}": {"use": f"egg:swift#{name}", **options} for name, options in filters.items()}
    return _render(sections)


def _render(sections: Mapping[str, Mapping[str, object]]) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
        for section, values in sections.items()
    )


def _hash_suffix(folder: Path) -> str:
    """Random, once for a folder: with another one nothing would be found again."""
    path = folder / "hash-suffix"
    if not path.exists():
        write_private(path, os.urandom(16).hex())
    return path.read_text()


def _import_servers() -> None:
    """Once, before forking: the four processes share what was loaded."""
    import swift.account.server  # noqa: PLC0415
    import swift.common.wsgi  # noqa: PLC0415
    import swift.container.server  # noqa: PLC0415
    import swift.obj.server  # noqa: PLC0415
    import swift.proxy.server  # noqa: F401, PLC0415


def _listen(port: int) -> socket.socket:
    from swift.common import wsgi  # noqa: PLC0415

    listener: socket.socket = wsgi.get_socket({"bind_ip": HOST, "bind_port": port})
    return listener


def _write_rings(folder: Path, ports: Mapping[str, int]) -> None:
    """One device holds everything, so a ring made anew, with other ports, finds the same objects."""
    from swift.common.ring import RingBuilder  # noqa: PLC0415

    (folder / "devices" / _DEVICE).mkdir(parents=True, exist_ok=True)
    for name, port in ports.items():
        builder = RingBuilder(_PARTITION_POWER, replicas=1, min_part_hours=0)
        where = {"region": 0, "zone": 0, "ip": HOST, "port": port, "device": _DEVICE}
        builder.add_dev({"id": 0, "weight": 1, "meta": "", **where})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def _fork_storage(folder: Path, listeners: Mapping[str, socket.socket]) -> None:
    """Each keeps the others' listeners open: closing one here would shut it down for its owner too."""
    parent, children = os.getpid(), []
    for name in _STORAGE:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            _serve(folder, name, listeners[name])
        children.append(child)

    def end_with_storage(_: int, __: FrameType | None) -> None:
        # Libraries run short programs too, whose end says nothing.
        if any(os.waitpid(child, os.WNOHANG)[0] for child in children):
            os.write(2, b"One of the storage servers ended, so the object store ends.\n")
            os._exit(1)

    signal.signal(signal.SIGCHLD, end_with_storage)
    # An end without ceremony: what was answered is on disk, and the others die with us.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(folder: Path, name: str, listener: Any) -> NoReturn:
    from swift.common import utils, wsgi  # noqa: PLC0415

    configuration = {"__file__": str(folder / f"{name}.conf"), "log_udp_host": HOST}
    wsgi.run_server(configuration, utils.get_logger(configuration, name), listener)
    os._exit(1)


if __name__ == "__main__":
    main()
