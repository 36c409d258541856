"""Pages of docs/ for bad days, rehearsed: their shell blocks are run as they stand there, on an operator's machine."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from real_servers import BUCKET, PASSWORD, Server, fresh_database

from deployments.local.objectstore import REGION, RunningObjectStore, create_bucket, start_objectstore
from keepwell.keyring import write_secret

DOCS = Path(__file__).parents[1] / "docs"
# Of one block: some start servers, and the machine may be busy.
LIMIT_SECONDS = 900
# What differs from run to run in what a page quotes: ids of sets, keys, times, numbers.
_VARYING = re.compile(
    r"\d{8}T\d{6}Z-[0-9a-f]{6}|age1[0-9a-z]{20,}|ed25519:\S{20,}=|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?|\d[\d,.]*"
)


class Page:
    """One page: its blocks for the shell, in their order, and what it says that one sees."""

    def __init__(self, name: str) -> None:
        self._text = (DOCS / name).read_text()

    def blocks(self) -> list[str]:
        return self._fenced("sh")

    def seen(self) -> list[str]:
        """Quoted output, each line for itself; what it left out stands as `…`."""
        return [line for block in self._fenced("text") for line in block.splitlines() if line.strip(" ─…")]

    def _fenced(self, language: str) -> list[str]:
        found = re.findall(rf"^( *)```{language}\n(.*?)\n *```$", self._text, re.MULTILINE | re.DOTALL)
        return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def unseen(page: Page, output: str) -> list[str]:
    """Lines that a page says one sees, and that are not in the output; numbers, ids and times may be others."""
    said = _same_for_all(output)
    return [line for line in page.seen() if not _pattern(line).search(said)]


def _pattern(line: str) -> re.Pattern[str]:
    words = _same_for_all(line).split()
    return re.compile(r"\s+".join(re.escape(word).replace("…", ".*?") for word in words))


def _same_for_all(text: str) -> str:
    return _VARYING.sub("0", text)


@dataclass(frozen=True)
class Machine:
    """A machine that an operator set up with `keepwell init`, with a bucket of its own.

    Attributes:
        folder: Holds `etc/esn.toml`, `secrets/`, `keys/`, `offline.txt` and `spool/`.
        store: The object store that holds its bucket, by folder and port.
        database: Name of its database.
        environment: Of the operator's shell.
    """

    folder: Path
    store: RunningObjectStore
    database: str
    environment: dict[str, str]

    @property
    def platform_file(self) -> Path:
        return self.folder / "etc" / "esn.toml"

    def run(
        self, *blocks: str, code: int = 0, typed: str = "", within: Sequence[str] = (), **variables: str | Path
    ) -> str:
        """Blocks in one shell that stops at what fails.

        Args:
            blocks: Shell commands.
            code: How the shell must end.
            typed: What the operator types.
            within: A program that runs the shell, by its argv.
            variables: Exported before.

        Returns:
            What was printed, both streams.
        """
        ended = subprocess.run(
            [*within, "sh", "-euc", "\n".join(blocks)],
            input=typed,
            env=self.environment | {name: str(value) for name, value in variables.items()},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert ended.returncode == code, f"{ended.returncode} instead of {code}: {ended.stdout}"
        return ended.stdout


@contextmanager
def operators_machine(server: Server, folder: Path) -> Iterator[Machine]:
    """A platform with a small database and two uploaded files, described by `keepwell init`."""
    store = start_objectstore(folder / "store")
    try:
        create_bucket(store.endpoint_url, store.access_key_id, store.secret_access_key, BUCKET)
        for name in ("etc", "spool", "secrets", "uploads"):
            (folder / name).mkdir()
        (folder / "uploads" / "invoice.txt").write_text("an invoice")
        (folder / "uploads" / "photo.jpg").write_bytes(os.urandom(20_000))
        secrets = {"password": PASSWORD, "id": store.access_key_id, "secret": store.secret_access_key}
        for name, secret in secrets.items():
            write_secret(folder / "secrets" / name, f"{secret}\n")
        with fresh_database(server) as database:
            with server.connect(database) as connection:
                connection.execute("CREATE TABLE people AS SELECT n AS id, md5(n::text) FROM generate_series(1, 500) n")
            machine = Machine(folder, store, database, build_environment(folder))
            machine.run(_init_command(server, store, database))
            yield machine
    finally:
        store.server.stop()


def restart_store(machine: Machine, secret_access_key: str) -> RunningObjectStore:
    """The same store at the same address, which from now on takes another secret only."""
    machine.store.server.stop()
    return start_objectstore(machine.folder / "store", port=machine.store.port, secret_access_key=secret_access_key)


def build_environment(folder: Path) -> dict[str, str]:
    """Of an operator's shell, on a machine that is a folder."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "KEEPWELL_CONFIG": str(folder / "etc"),
        "KEEPWELL_STATE_DIRECTORY": str(folder / "state"),
        "KEEPWELL_BACKUP__SPOOL_DIRECTORY": str(folder / "spool"),
        "KEEPWELL_BUCKET__ADDRESSING": "path",
    }


def _init_command(server: Server, store: RunningObjectStore, database: str) -> str:
    return f"""keepwell init --yes --output etc/esn.toml --keys-directory "$PWD/keys" --name esn \\
    --database-port {server.port} --database-name {database} \\
    --database-user postgres --database-password-file "$PWD/secrets/password" \\
    --bucket {BUCKET} --endpoint-url {store.endpoint_url} --region {REGION} \\
    --access-key-id-file "$PWD/secrets/id" --secret-access-key-file "$PWD/secrets/secret" \\
    --uploads-directory "$PWD/uploads" --offline-identity-file offline.txt"""
