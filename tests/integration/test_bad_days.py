"""The pages on bad days, rehearsed: each command as it stands there, and each quoted line seen."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_servers import Server
from rehearsed_pages import Machine, Page, operators_machine, restart_store, unseen

from keepwell.keyring import read_identities
from keepwell.sealing import public_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# A disk of its own for what is named, as large as is said; made larger later, as by somebody who made room.
SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount"]
LARGER = "mount --options-source=disable -o remount,size=600m"


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Iterator[Machine]:
    with operators_machine(server, tmp_path) as made:
        yield made


def read_json(output: str) -> dict:
    return json.loads(output[output.index("{") :])["data"]


def state_of(machine: Machine, backup_id: str) -> str:
    listed = read_json(machine.run("keepwell backup list --json 2> /dev/null || :"))["backups"]
    return next(one["state"] for one in listed if one["backup_id"] == backup_id)


def newest(machine: Machine) -> str:
    return read_json(machine.run("keepwell backup list --json"))["backups"][0]["backup_id"]


def test_a_full_disk(machine: Machine, tmp_path: Path) -> None:
    page = Page("disk-full.md")
    look, elsewhere, find, over, catch_up = page.blocks()
    machine.run("keepwell backup create")
    before = newest(machine)
    for name in ("room", "second"):
        (tmp_path / name).mkdir()
    seen = machine.run(
        f"""
        mount -t tmpfs -o size=200m tmpfs "$SPOOL"
        {look} && exit 9
        keepwell backup create && exit 9
        keepwell backup verify && exit 9
        {elsewhere}
        {find}
        {LARGER} "$SPOOL"
        {over}
        """,
        within=SMALL_DISK,
        SPOOL=tmp_path / "spool",
        ROOM=tmp_path / "room",
        DISK=tmp_path / "spool",
    )
    listed = read_json(machine.run("keepwell backup list --json"))
    assert (len(listed["backups"]), listed["proven"]) == (3, 3), "the first one, the one through another disk, the last"
    assert before in [one["backup_id"] for one in listed["backups"]]
    assert list((tmp_path / "room").iterdir()) == [], "nothing stays of the run that went there"

    (tmp_path / "uploads" / "film").write_bytes(os.urandom(8_000_000))
    seen += machine.run(
        f"""
        mount -t tmpfs -o size=4m tmpfs "$SECOND"
        keepwell backup prepare-second
        keepwell backup create && exit 9
        keepwell backup list --destination second
        {LARGER} "$SECOND"
        {catch_up}
        keepwell backup list --destination second --json
        """,
        within=SMALL_DISK,
        SECOND=tmp_path / "second",
        KEEPWELL_SECOND_FOLDER__DIRECTORY=tmp_path / "second",
    )
    assert seen.count('"state": "proven"') == 4
    assert unseen(page, seen) == []


def test_rotated_keys(machine: Machine, tmp_path: Path) -> None:
    page = Page("rotated-keys.md")
    look, replace, over, proof = page.blocks()
    machine.run("keepwell backup create")
    before = newest(machine)
    rotated = restart_store(machine, "the-new-secret")
    try:
        seen = machine.run(look, code=1)
        seen += machine.run("keepwell backup create", code=1)
        files = {"ID_FILE": tmp_path / "secrets" / "id", "SECRET_FILE": tmp_path / "secrets" / "secret"}
        seen += machine.run(replace, typed=f"{machine.store.access_key_id}\nthe-new-secret\n", **files)
        seen += machine.run(over, proof)
        assert "the-new-secret" not in seen
        assert [file.stat().st_mode & 0o077 for file in files.values()] == [0, 0]
        assert sorted(file.name for file in (tmp_path / "secrets").iterdir()) == ["id", "password", "secret"]
        assert newest(machine) != before
        assert {state_of(machine, before), state_of(machine, newest(machine))} == {"proven"}
        assert unseen(page, seen) == []
    finally:
        rotated.server.stop()


def put_sealing(machine: Machine, lines: str) -> None:
    """What an operator does with an editor: the printed table takes the old one's place."""
    file = machine.platform_file
    before, _, rest = file.read_text().partition("[sealing]")
    file.write_text(f"{before}{lines}\n\n[notify]{rest.partition('[notify]')[2]}")


def test_lost_keys(machine: Machine, tmp_path: Path) -> None:
    """First this machine's, then the offline one."""
    page = Page("lost-key.md")
    make, show, anew, older, rotate, anew_too, by_offline = page.blocks()
    machine.run("keepwell backup create")
    first = newest(machine)
    shutil.rmtree(tmp_path / "keys")
    offline = tmp_path / "offline.txt"
    (old_signer,) = re.findall(r"signed by: (\S+)", offline.read_text())
    seen = machine.run("keepwell doctor", code=1)
    keys = {"KEYS": tmp_path / "keys", "OFFLINE_RECIPIENT": public_of(read_identities(offline)[0])}
    made = machine.run(make, **keys)
    printed = made[made.index("[sealing]") : made.index("Next:")]
    put_sealing(machine, re.sub(r"(trusted_signers = \[.*)\]", rf'\1, "{old_signer}"]', printed))
    seen += machine.run(show, anew)
    second = newest(machine)
    assert second != first
    assert state_of(machine, second) == "proven"
    # The new key opens all of the new set, its older files too; the older set needs the offline one.
    machine.run("keepwell backup restore-uploads newest-proven --into back")
    assert (tmp_path / "back" / "invoice.txt").read_text() == "an invoice"
    seen += machine.run(f"keepwell backup verify {first}", code=2)
    seen += machine.run(older, OFFLINE=offline, OLD_SET=first)

    offline.unlink()
    seen += machine.run(rotate)
    changed = re.findall(r"^recipients = .*$", seen, re.MULTILINE)[-1]
    file = machine.platform_file
    file.write_text(re.sub(r"^recipients = .*$", changed, file.read_text(), flags=re.MULTILINE))
    seen += machine.run(anew_too)
    third = newest(machine)
    assert state_of(machine, third) == "proven"
    seen += machine.run(by_offline)
    assert {state_of(machine, one) for one in (first, second, third)} == {"proven"}
    assert unseen(page, seen) == []
    assert "AGE-SECRET-KEY" not in seen
