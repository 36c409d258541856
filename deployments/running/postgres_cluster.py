"""PostgreSQL clusters of the stack: made once under a temporary name, then served on loopback with a password."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.running.parts import Part
from deployments.running.ports import HOST
from deployments.running.probes import logs_in_to_postgres
from deployments.running.state import StateFolder
from keepwell import command
from keepwell.command import Command
from keepwell.errors import ConfigurationError, KeepwellError
from keepwell.postgres.binaries import Binaries, find_installations
from keepwell.postgres.isolation import unprivileged
from keepwell.postgres.server import ServerOptions, build_server_command, create_cluster

SUPERUSER = "postgres"

# Small and quiet on a laptop; durability is PostgreSQL's own default.
PRODUCTION_PARAMETERS: Mapping[str, str] = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_worker_processes": "4",
    "autovacuum_max_workers": "1",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# The orchestrator writes a commit for each state; losing the last moment of them in a crash harms nobody.
ORCHESTRATOR_PARAMETERS: Mapping[str, str] = {
    **PRODUCTION_PARAMETERS,
    "shared_buffers": "32MB",
    "max_connections": "60",
    "synchronous_commit": "off",
    "jit": "off",
}


def cluster_parts(
    state: StateFolder,
    name: str,
    port: int,
    parameters: Mapping[str, str],
    *,
    database: str = "postgres",
    check_seconds: float = 0,
) -> tuple[Part, Part]:
    """The step that makes a cluster where there is none, and the server on it.

    Args:
        state: Where its data, its log and its password lie.
        name: Of the server.
        port: On loopback.
        parameters: Server settings, given anew at every start.
        database: Database that the step creates and that the server is asked for.
        check_seconds: How often it is asked again whether it serves; 0 for never.
    """
    folder, secret = state.data(name), f"{name}-password"

    def build_step() -> Command:
        password_file = state.secret_file(secret)
        argv = (sys.executable, "-m", __name__, str(folder), str(password_file), database)
        return Command(argv)

    def build_server() -> Command:
        options = ServerOptions(superuser=SUPERUSER, password=state.secret(secret), port=port)
        served = build_server_command(choose_installation(folder), folder, folder, options)
        # TCP only: a socket's path may have 107 bytes, and a checkout may lie deep.
        settings = {**parameters, "unix_socket_directories": ""}
        arguments = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        return replace(served, argv=(*served.argv, *arguments))

    step = Part(f"create-{name}", build_step)
    server = Part(
        name,
        build_server,
        ready=logs_in_to_postgres(port, state.secret(secret), database),
        needs=(step.name,),
        address=f"{HOST}:{port}",
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGQUIT,
        grace_seconds=20,
        check_seconds=check_seconds,
    )
    return step, server


def choose_installation(folder: Path, installations: Sequence[Binaries] | None = None) -> Binaries:
    """Programs for a cluster: its own major version once it exists, before that the system's, else the package's.

    Raises:
        ConfigurationError: There is no server, or none of the major version that the folder needs.
    """
    able = [found for found in installations or find_installations() if found.has_server]
    version_file = folder / "PG_VERSION"
    major = int(version_file.read_text()) if version_file.exists() else None
    fitting = [found for found in able if major in (None, found.major)]
    if not fitting:
        what = "PostgreSQL server" if major is None else f"PostgreSQL {major} server, which made {folder},"
        raise ConfigurationError(
            f"No {what} is installed.",
            hint="Install PostgreSQL 15, 16 or 17, or Keepwell's local-stack extra."
            if major is None
            else "Install that version again.",
        )
    return min(fitting, key=lambda found: (found.origin != "system", -found.major))


def ensure_cluster(folder: Path, password: str, database: str) -> None:
    """Make a cluster unless it is there whole; what an interrupted try left is removed first.

    Raises:
        KeepwellError: initdb failed, or nothing can be run as an unprivileged user here.
    """
    if (folder / "PG_VERSION").exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    binaries = choose_installation(folder)
    create_cluster(binaries, partial, ServerOptions(superuser=SUPERUSER, password=password))
    if database != "postgres":
        _create_database(binaries, partial, database)
    # Renamed last: a folder of the final name is always whole.
    partial.rename(folder)


def _create_database(binaries: Binaries, folder: Path, database: str) -> None:
    """In single-user mode, so that the cluster is complete before anybody can reach it."""
    argv = (binaries.program("postgres"), "--single", "-D", str(folder), "postgres")
    with tempfile.TemporaryFile() as statements:
        statements.write(f'CREATE DATABASE "{database}"\n'.encode())
        statements.seek(0)
        call = Command(argv, prefix=unprivileged().prefix)
        command.run(call, stdin=statements, timeout_seconds=60, cwd=folder.parent)


def main() -> int:
    """Run the step as a program."""
    parser = argparse.ArgumentParser(description="Make a PostgreSQL cluster unless it exists.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("password_file", type=Path)
    parser.add_argument("database")
    arguments = parser.parse_args()
    try:
        ensure_cluster(arguments.folder, arguments.password_file.read_text().strip(), arguments.database)
    except KeepwellError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its log is where the supervisor looks
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
