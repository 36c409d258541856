"""The sample platform: its data, loaded once under a temporary name, and its three programs."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from deployments.running.parts import Part
from deployments.running.ports import HOST
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.probes import always, answers_http
from deployments.running.state import StateFolder
from keepwell.command import Command

DATABASE = "esn_db_prod"
PRODUCTION = "production"
BACKEND, FRONTEND, WRITE_LOAD = "sample-backend", "sample-frontend", "sample-write-load"
_DATABASE_URL = "DATABASE_URL"


def data_part(state: StateFolder, port: int, scale: float) -> Part:
    """The step that fills production and the uploads folder, the first time only."""

    def build() -> Command:
        argv = (sys.executable, "-m", __name__, str(state.data(PRODUCTION)), str(uploads_folder(state)), str(scale))
        return Command(argv, {_DATABASE_URL: database_url(state, port, "postgres")})

    return Part("load-sample-data", build, needs=(PRODUCTION,), start_limit_seconds=1_800)


def program_parts(state: StateFolder, ports: dict[str, int]) -> list[Part]:
    """Backend, frontend and the write load."""
    backend_port, frontend_port = ports[BACKEND], ports[FRONTEND]
    backend_url, frontend_url = f"http://{HOST}:{backend_port}", f"http://{HOST}:{frontend_port}"
    stores = {
        _DATABASE_URL: database_url(state, ports[PRODUCTION]),
        "REDIS_URL": f"redis://:{quote(state.secret('redis-password'))}@{HOST}:{ports['redis']}/0",
    }
    # The load and the health checks come from one address, which the platform's own limits would refuse.
    backend = stores | {"HOST": HOST, "PORT": str(backend_port), "SAMPLE_THROTTLE": "off", "FRONTEND_URL": frontend_url}
    frontend = {"HOST": HOST, "PORT": str(frontend_port), "BACKEND_URL": backend_url}
    return [
        Part(
            BACKEND,
            lambda: _program("sample.backend", backend),
            ready=answers_http(backend_port, "/health"),
            needs=("load-sample-data", "redis"),
            address=backend_url,
        ),
        Part(
            FRONTEND,
            lambda: _program("sample.frontend", frontend),
            ready=answers_http(frontend_port, "/health"),
            address=frontend_url,
        ),
        Part(WRITE_LOAD, lambda: _program("sample.write_load", stores), ready=always, needs=(BACKEND,)),
    ]


def uploads_folder(state: StateFolder) -> Path:
    """Where the sample platform's users' files lie."""
    return state.data("uploads")


def load_once(production: Path, uploads: Path, database_url: str, scale: float) -> None:
    """Fill production and the uploads folder, unless that was done before, even if the database is gone since.

    Args:
        production: Data folder of the cluster, which bears the marker: both are purged together.
        uploads: Folder to write.
        database_url: Of the cluster's maintenance database.
        scale: 1 makes about 60 MB.
    """
    # Beside the data folder, not in it: that belongs to the server's own user.
    marker = production.with_name(f"{production.name}.loaded")
    if marker.exists():
        return
    _write_uploads(uploads, scale)
    _load_database(database_url, scale)
    marker.touch()


def _write_uploads(folder: Path, scale: float) -> None:
    from sample.uploads import write_uploads  # noqa: PLC0415 - only the step needs it

    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_uploads(partial, scale=scale)
    partial.rename(folder)


def _load_database(database_url: str, scale: float) -> None:
    from sample.generate import create_schema, load  # noqa: PLC0415 - only the step needs it

    partial = f"{DATABASE}_loading"
    with psycopg.connect(database_url, autocommit=True) as maintenance:
        if maintenance.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            return
        names = {"partial": sql.Identifier(partial), "final": sql.Identifier(DATABASE)}
        maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {partial} WITH (FORCE)").format(**names))
        maintenance.execute(sql.SQL("CREATE DATABASE {partial}").format(**names))
        with psycopg.connect(database_url, dbname=partial) as connection:
            create_schema(connection)
            load(connection, scale=scale, seed=1)
        # Renamed last: a database of the final name is always whole.
        maintenance.execute(sql.SQL("ALTER DATABASE {partial} RENAME TO {final}").format(**names))


def database_url(state: StateFolder, port: int, database: str = DATABASE) -> str:
    """How its own programs reach one of its databases."""
    return f"postgresql://{SUPERUSER}:{quote(state.secret(f'{PRODUCTION}-password'))}@{HOST}:{port}/{database}"


def _program(module: str, environment: dict[str, str]) -> Command:
    return Command((sys.executable, "-u", "-m", module), environment)


def main() -> int:
    """Run the step as a program."""
    parser = argparse.ArgumentParser(description="Load the sample platform's data once.")
    parser.add_argument("production", type=Path)
    parser.add_argument("uploads", type=Path)
    parser.add_argument("scale", type=float)
    arguments = parser.parse_args()
    load_once(arguments.production, arguments.uploads, os.environ[_DATABASE_URL], arguments.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
