"""Keys that were rotated, and lost: a set that nobody can open is no backup, whoever sent and read its files before."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backup_sets import back_up, failed_level
from pydantic import SecretStr
from real_servers import Server, make_sealing

from keepwell import sealing
from keepwell.backup.catalogue import read_entry
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.restore_uploads import restore_uploads
from keepwell.backup.uploads_proof import SLICES
from keepwell.backup.verify import verify_backup
from keepwell.objectstore.bucket import open_store
from keepwell.progress import silent
from keepwell.settings import Platform, UploadsSettings
from keepwell.verdict import Verdict


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"content {number}")
    return folder


def prove_by_night(platform: Platform, manifest: Manifest) -> Proof:
    """As each night does it: what a proof has read before is not read again, but for the day's slice."""
    return verify_backup(platform, open_store(platform), manifest.backup_id, silent, all_uploads=False)


def is_read_tonight(content: bytes) -> bool:
    """Whether a content is in the slice of today, or of tomorrow, should it become that meanwhile."""
    place = int(hashlib.sha256(content).hexdigest()[:8], 16) % SLICES
    today = datetime.now(UTC).date().toordinal()
    return place in (today % SLICES, (today + 1) % SLICES)


def test_a_rotation_has_every_content_read_with_the_new_keys_and_a_lost_old_one_is_told(
    platform: Platform, server: Server, files: Path, tmp_path: Path
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    (old, old_recipient), (new, new_recipient) = sealing.make_identity(), sealing.make_identity()
    (offline, offline_recipient) = sealing.make_identity()
    before = platform.model_copy(
        update={
            "redis": None,
            "uploads": UploadsSettings(directory=files),
            "sealing": make_sealing(recipients=(old_recipient, offline_recipient), identities=(old,)),
        }
    )

    def holding(recipient: str, *identities: str) -> Platform:
        keys = {
            "recipients": (recipient, offline_recipient),
            "identities": tuple(map(SecretStr, identities)),
        }
        return before.model_copy(update={"sealing": before.sealing.model_copy(update=keys)})

    first = back_up(before)
    assert prove_by_night(before, first).reached == "serving"
    second = back_up(before)
    assert "there and of their size" in prove_by_night(before, second).levels[1].summary

    # Rotated, and the old key is still there, as `keys rotate` leaves it: everything is read once more.
    rotated = holding(new_recipient, new, old)
    third = back_up(rotated)
    proof = prove_by_night(rotated, third)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    assert "40 contents" in proof.levels[1].summary
    assert "there and of their size" not in proof.levels[1].summary

    # The old key is lost: the database of a new set opens, and its files do not. That is unknown, and never proven.
    lost = holding(new_recipient, new)
    proof = verify_backup(lost, open_store(lost), third.backup_id, silent)
    failed = failed_level(proof)
    assert (failed.level, failed.verdict, proof.damaged) == ("readable", Verdict.UNKNOWN, False)
    assert "cannot be opened" in failed.findings[0].message
    assert "sealing.identities_file" in failed.findings[0].hint
    # What was shown before stays: the old key may be found again.
    assert read_entry(open_store(lost), third.backup_id).is_proven("equal")

    # The offline key opens all of it.
    by_hand = holding(new_recipient, offline)
    proof = verify_backup(by_hand, open_store(by_hand), third.backup_id, silent)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    back = tmp_path / "back"
    restore_uploads(open_store(by_hand), third.backup_id, back, silent)
    assert {path.name: path.read_text() for path in back.iterdir()} == {
        path.name: path.read_text() for path in files.iterdir()
    }


def test_a_set_made_after_the_only_key_was_lost_is_not_proven_by_what_was_read_before(
    platform: Platform, server: Server, files: Path
) -> None:
    """Its files were sealed for a key that nobody has any more, and read with it the night before."""
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    for file in files.iterdir():
        if is_read_tonight(file.read_bytes()):
            file.unlink()
    assert len(list(files.iterdir())) > 20
    before = platform.model_copy(update={"redis": None, "uploads": UploadsSettings(directory=files)})
    assert prove_by_night(before, back_up(before)).reached == "serving"
    anew = make_sealing(signing_key=before.sealing.signing_key)
    after = before.model_copy(update={"sealing": anew})
    written = back_up(after)
    proof = prove_by_night(after, written)
    assert (failed_level(proof).verdict, proof.proves("equal")) == (Verdict.UNKNOWN, False)
    assert not read_entry(open_store(after), written.backup_id).is_proven("equal")


def test_with_seal_anew_a_change_of_recipients_sends_each_file_once_more_and_a_lost_key_is_no_longer_needed(
    platform: Platform, server: Server, files: Path
) -> None:
    with server.connect(platform.database.name) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    uploads = UploadsSettings(directory=files, seal_anew=True)
    before = platform.model_copy(update={"redis": None, "uploads": uploads})

    def sent(changed: Platform) -> int:
        manifest = back_up(changed)
        assert prove_by_night(changed, manifest).proves("equal")
        assert manifest.uploads is not None
        return manifest.uploads.sent_contents

    assert [sent(before), sent(before)] == [40, 0]
    anew = make_sealing(signing_key=before.sealing.signing_key)
    after = before.model_copy(update={"sealing": anew})
    # A run that dies between sending and its manifest, or is not proven, changes nothing of that.
    assert back_up(after).uploads.sent_contents == 40  # type: ignore[union-attr]
    assert [sent(after), sent(after)] == [40, 0]
