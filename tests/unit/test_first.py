"""The message about a platform's first proven set: told once, and of nothing but a proven one."""

from datetime import timedelta

import pytest
from backup_documents import SNAPSHOT, a_manifest, a_proof

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.first import describe_first
from keepwell.settings import BackupSettings, Platform, ProofLevel
from keepwell.verdict import Verdict


def entry(days: int, reached: ProofLevel | None) -> BackupEntry:
    at = SNAPSHOT + timedelta(days=days)
    manifest = a_manifest(at)
    proof = a_proof(at, reached=reached) if reached else None
    return BackupEntry(manifest.backup_id, manifest, "", proof, proof)


@pytest.fixture
def platform() -> Platform:
    return Platform.model_construct(name="esn", backup=BackupSettings())


def test_the_first_proven_set_is_told_with_what_was_shown(platform: Platform) -> None:
    first = entry(2, "sound")
    message = describe_first(platform, [first, entry(1, "restored"), entry(0, None)], first.backup_id)
    assert message is not None
    assert (message.title, message.verdict) == ("esn: the first backup is proven", Verdict.OK)
    assert first.backup_id in message.cause
    assert "is sound" in message.cause
    assert "--platform esn" in message.next_command


def test_no_other_set_is_told(platform: Platform) -> None:
    newer, older = entry(2, "sound"), entry(1, "equal")
    assert describe_first(platform, [newer, older], newer.backup_id) is None
    assert describe_first(platform, [entry(2, "restored")], newer.backup_id) is None
    assert describe_first(platform, [older], newer.backup_id) is None
    assert describe_first(platform, [], newer.backup_id) is None
