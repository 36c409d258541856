"""docs/lost-machine.md, rehearsed: all that is left is the bucket and the offline key, and a new machine goes on."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_servers import BUCKET, PASSWORD, Server
from rehearsed_pages import Machine, Page, build_environment, operators_machine, unseen
from runs import Api

from deployments.running.ports import find_free_port
from deployments.running.processes import find_by_variable
from deployments.running.state import MARKER_VARIABLE
from keepwell.keyring import read_identities, write_secret
from keepwell.sealing import public_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Served:
    """A machine and the port of its Prefect server."""

    machine: Machine
    port: int

    def run(self, block: str, **variables: str | Path) -> str:
        """A block of the page; the port is another than the page's, since these tests share a machine."""
        told = block.replace("keepwell serve --detach", f"keepwell serve --detach --port {self.port}")
        return self.machine.run(told, **variables)

    @property
    def api(self) -> Api:
        login = (self.machine.folder / "state" / "serve" / "secrets" / "prefect-login").read_text().strip()
        return Api(f"http://127.0.0.1:{self.port}/api", login)

    def stop(self) -> None:
        self.machine.run("keepwell serve stop || :")
        assert not list(find_by_variable(MARKER_VARIABLE, str(self.machine.folder / "state" / "serve")))


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "old").mkdir()
    with operators_machine(server, tmp_path / "old") as made:
        yield made


def test_a_new_machine_goes_on(machine: Machine, server: Server, tmp_path: Path) -> None:
    page = Page("lost-machine.md")
    before, rescue, configuration, named, keys, serve, data, over = page.blocks()
    old = Served(machine, find_free_port())
    try:
        old.run("keepwell serve --detach")
        seen = old.run("keepwell run backup-and-verify --platform esn")
        history = [run["id"] for run in old.api.runs("backup-and-verify") if run["state"]["type"] == "COMPLETED"]
        seen += old.run(before)
    finally:
        old.stop()
    offline = tmp_path / "offline.txt"
    shutil.move(machine.folder / "offline.txt", offline)
    for name in ("etc", "keys", "secrets", "state", "uploads"):
        shutil.rmtree(machine.folder / name)

    new = arrive(machine, offline, tmp_path / "new")
    etc = new.machine.folder / "etc"
    seen += new.run(rescue)
    seen += new.run(configuration)
    assert sorted(path.name for path in etc.iterdir()) == ["esn.toml", "itself.toml"]
    seen += new.run(named)
    write_secrets(machine)
    seen += (made := new.run(keys))
    put_keys(etc, made)
    try:
        seen += new.run(serve)
        states = {run["id"]: run["state"]["type"] for run in new.api.runs("backup-and-verify")}
        assert [states[run_id] for run_id in history] == ["COMPLETED"]
        # The run that made the set was at work in it, and is not for ever.
        assert sorted(set(states.values()) - {"SCHEDULED"}) == ["COMPLETED", "CRASHED"]
        restored = f"{machine.database}_back"
        seen += new.run(data, PLATFORM="esn", DATABASE=restored, UPLOADS=machine.folder / "uploads")
        with server.connect(restored) as connection:
            assert connection.execute("SELECT count(*) FROM people").fetchone() == (500,)
        assert (machine.folder / "uploads" / "invoice.txt").read_text() == "an invoice"
        seen += new.run(over, PLATFORM="esn")
        for platform in ("esn", "itself"):
            listed = json.loads(new.run(f"keepwell backup list --json --platform {platform}"))
            assert listed["data"]["backups"][0]["state"] == "proven"
            assert len(listed["data"]["backups"]) == 2
        assert unseen(page, seen) == [], seen
    finally:
        new.stop()
        with server.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {machine.database}_back WITH (FORCE)")


def arrive(lost: Machine, offline: Path, folder: Path) -> Served:
    """A new machine with what somebody brings: the offline key, and a key of the bucket from its provider."""
    for place in (folder, folder / "spool", folder / "stick"):
        place.mkdir()
    pair = {"ID_FILE": lost.store.access_key_id, "SECRET_FILE": lost.store.secret_access_key}
    for name, secret in pair.items():
        write_secret(folder / "stick" / name, f"{secret}\n")
    brought = {
        "OFFLINE": str(offline),
        "OFFLINE_RECIPIENT": public_of(read_identities(offline)[0]),
        "SIGNER": re.findall(r"signed by: (\S+)", offline.read_text())[0],
        "BUCKET": BUCKET,
        "ENDPOINT": lost.store.endpoint_url,
        "ETC": str(folder / "etc"),
        "KEYS": str(lost.folder / "keys"),
        "SECRETS": str(lost.folder / "secrets"),
    }
    brought |= {name: str(folder / "stick" / name) for name in pair}
    return Served(Machine(folder, lost.store, lost.database, build_environment(folder) | brought), find_free_port())


def write_secrets(machine: Machine) -> None:
    """What the operator knows, or makes anew: where the platform files look for it."""
    secrets = {"password": PASSWORD, "id": machine.store.access_key_id, "secret": machine.store.secret_access_key}
    for name, secret in secrets.items():
        write_secret(machine.folder / "secrets" / name, f"{secret}\n")


def put_keys(etc: Path, made: str) -> None:
    """What the page asks for: the new recipient in the place of the old one, the new signer beside it."""
    (new,) = re.findall(r'^recipients = \["(\S+)",', made, re.MULTILINE)
    (signer,) = re.findall(r'^trusted_signers = \["(\S+)"\]', made, re.MULTILINE)
    for file in etc.glob("*.toml"):
        text = re.sub(r'^recipients = \["\S+",', f'recipients = ["{new}",', file.read_text(), flags=re.MULTILINE)
        file.write_text(re.sub(r"^trusted_signers = \[", f'trusted_signers = ["{signer}", ', text, flags=re.MULTILINE))
