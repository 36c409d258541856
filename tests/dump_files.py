"""Real dumps for the tests: made by pg_dump itself, and by the guide's own script."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from real_servers import PASSWORD, Server, fresh_database

from sample.generate import create_schema, load

SCALE = 0.02
DATABASE = "esn_db"
# As the guide prints it, but for the folder.
GUIDE_SCRIPT = """#!/bin/bash
# scripts/backup.sh

DATE=$(date +%Y%m%d_%H%M%S)
BACKUP_DIR="{folder}"
DB_NAME="{database}"

# Create backup
docker-compose exec -T postgres pg_dump -U postgres $DB_NAME | gzip > $BACKUP_DIR/backup_$DATE.sql.gz

# Keep only last 30 days
find $BACKUP_DIR -name "backup_*.sql.gz" -mtime +30 -delete

echo "Backup completed: backup_$DATE.sql.gz"
"""
# What the guide's script calls; here the database is no container.
DOCKER_COMPOSE = """#!/bin/bash
[[ "$1 $2 $3" == "exec -T postgres" ]] || exit 64
shift 3
exec "{programs}/$@"
"""
# The name that each is stored under, and pg_dump's arguments; those with a pipe are run by a shell.
FORMS = {
    "plain.sql": "",
    "inserts.sql": "--inserts",
    "rows_per_insert.sql": "--rows-per-insert=7",
    "clean.sql": "--clean",
    "create.sql": "--create",
    "verbose.sql": "--verbose",
    "custom.dump": "-Fc",
    "custom_plain.dump": "-Fc -Z0",
    "custom_inserts.dump": "-Fc --inserts",
    "tar.tar": "-Ft",
    "schema_only.sql": "--schema-only",
    "data_only.sql": "--data-only",
    "folder": "-Fd",
}
FORMS_SINCE_16 = {"custom_zstd.dump": "-Fc -Z zstd", "custom_lz4.dump": "-Fc -Z lz4", "folder_zstd": "-Fd -Z zstd"}


@dataclass(frozen=True)
class Dumps:
    """A folder of dumps of one database.

    Attributes:
        server: Where that database still is.
        database: Its name.
        folder: With the dumps.
    """

    server: Server
    database: str
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()


def tool_environment(server: Server) -> dict[str, str]:
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": PASSWORD}
    return {"PATH": os.environ["PATH"], **address}


def pg_dump(server: Server, database: str, arguments: str, target: Path) -> None:
    folder = target.suffix == "" and "-Fd" in arguments
    argv = [server.binaries.program("pg_dump"), *arguments.split(), "-f", str(target), database]
    assert folder == ("-Fd" in arguments)
    subprocess.run(argv, env=tool_environment(server), check=True, stderr=subprocess.DEVNULL)


def pg_dumpall(server: Server, arguments: str, target: Path) -> None:
    argv = [server.binaries.program("pg_dumpall"), *arguments.split(), "-f", str(target)]
    subprocess.run(argv, env=tool_environment(server), check=True)


def run_guides_script(server: Server, database: str, folder: Path) -> Path:
    """The guide's backup script; the archive that it leaves. It must exit with 0 and say that all is well."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "docker-compose").write_text(DOCKER_COMPOSE.format(programs=server.binaries.folder))
    (programs / "backup.sh").write_text(GUIDE_SCRIPT.format(folder=folder, database=database))
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = tool_environment(server)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    said = subprocess.run([programs / "backup.sh"], env=environment, capture_output=True, text=True, check=True)
    assert "Backup completed" in said.stdout
    (archive,) = folder.glob("backup_*.sql.gz")
    return archive


@contextmanager
def dumped_sample(server: Server, folder: Path) -> Iterator[Dumps]:
    """The sample platform's database in every form that pg_dump knows; the database stays until the block ends."""
    with fresh_database(server, DATABASE) as database:
        with server.connect(database) as connection:
            create_schema(connection)
            load(connection, scale=SCALE)
        forms = FORMS | (FORMS_SINCE_16 if server.binaries.major >= 16 else {})
        for name, arguments in forms.items():
            pg_dump(server, database, arguments, folder / name)
        pg_dumpall(server, "", folder / "all.sql")
        pg_dumpall(server, "--globals-only", folder / "globals.sql")
        yield Dumps(server, database, folder)
