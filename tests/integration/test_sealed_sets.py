"""Whose documents count, and who can open what: sealed sets on real servers, forged, replayed, read with other keys.

One proven set; each test copies it, or its documents, and sees to it that nothing forged is ever called a backup.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from backup_sets import back_up, copy_set, failed_level, proof_of, prove
from pydantic import SecretStr
from real_servers import Server, bucket_settings, build_platform, fresh_database, make_sealing

from deployments.local.objectstore import RunningObjectStore
from keepwell import sealing
from keepwell.backup import layout
from keepwell.backup.catalogue import choose_backup, read_catalogue, read_entry, read_manifest
from keepwell.backup.manifest import Manifest
from keepwell.backup.proof import Proof
from keepwell.backup.report import describe_sealing
from keepwell.backup.restore import restore_into
from keepwell.errors import ConfigurationError, PreconditionFailed, VerificationFailed
from keepwell.keyring import IDENTITIES, make_key_files, read_identities, rotate_identity
from keepwell.objectstore.store import SIGNATURE_SUFFIX, BucketStore, Store, open_store
from keepwell.progress import silent
from keepwell.sealing import NO_SEAL, Seal, load_seal
from keepwell.settings import Platform, SealingSettings
from keepwell.verdict import Verdict

SOURCE = "CREATE TABLE people (id int PRIMARY KEY); INSERT INTO people SELECT generate_series(1, 500)"
STRANGER = load_seal(make_sealing())
NOT_A_DOCUMENT = b"no JSON at all: whoever parses this before checking it says that it is damaged"


@dataclass(frozen=True)
class Proven:
    """A platform with a proven set that is sealed for two, of whom `offline` is the secret that lies elsewhere."""

    platform: Platform
    store: Store
    manifest: Manifest
    proof: Proof
    offline: str


@pytest.fixture(scope="module")
def proven(
    servers: Callable[[int], Server], objectstore: RunningObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proven]:
    (own, own_recipient), (offline, offline_recipient) = sealing.make_identity(), sealing.make_identity()
    settings = make_sealing(recipients=(own_recipient, offline_recipient), identities=(own,))
    server = servers(17)
    with fresh_database(server) as name:
        with server.connect(name) as connection:
            connection.execute(SOURCE)
        platform = build_platform(server, name, bucket_settings(objectstore), tmp_path_factory.mktemp("spool"))
        platform = platform.model_copy(update={"sealing": settings})
        manifest = back_up(platform)
        proof = prove(platform, manifest.backup_id)
        assert proof.reached == "serving"
        yield Proven(platform, open_store(platform), manifest, proof, offline)


def with_sealing(platform: Platform, **changes: object) -> Platform:
    """The same platform and bucket, with other keys."""
    return platform.model_copy(update={"sealing": platform.sealing.model_copy(update=changes)})


def signed_by(seal: Seal, document: bytes) -> bytes:
    signature = seal.sign(document)
    assert signature is not None
    return signature


def put(store: Store, key: str, document: bytes, signature: bytes | None) -> None:
    """A document as somebody leaves it who can write to the bucket."""
    store.put_bytes(key, document)
    store.delete([key + SIGNATURE_SUFFIX])
    if signature is not None:
        store.put_bytes(key + SIGNATURE_SUFFIX, signature)


def proof_keys(store: Store, backup_id: str) -> list[str]:
    found = [stored.key for stored in store.list_objects(layout.proofs_folder(backup_id))]
    return [key for key in found if not key.endswith(SIGNATURE_SUFFIX)]


@pytest.fixture
def copied(proven: Proven) -> Manifest:
    """A set of one's own with the same objects and a good proof."""
    manifest = copy_set(proven.store, proven.manifest.backup_id)
    assert prove(proven.platform, manifest.backup_id).reached == "serving"
    assert read_entry(proven.store, manifest.backup_id).is_proven("equal")
    return manifest


def require_refused(store: Store, backup_id: str, fault: str) -> None:
    """Such a set is damaged, is none of the proven, and is never chosen."""
    entry = read_entry(store, backup_id)
    assert fault in entry.fault
    assert (entry.manifest, entry.damaged, entry.is_proven("equal")) == (None, True, False)
    catalogue = read_catalogue(store)
    assert backup_id not in [one.backup_id for one in catalogue if one.is_proven("equal")]
    assert choose_backup(catalogue, "newest-proven", proven_level="equal", dice=random.Random(1)) != backup_id
    with pytest.raises(VerificationFailed):
        read_manifest(store, backup_id)


# Forged and replayed manifests.


FORGERIES: dict[str, tuple[Callable[[Store, bytes], bytes | None], str]] = {
    "without a signature": (lambda _, __: None, "is not signed"),
    "with another key's signature": (lambda _, document: signed_by(STRANGER, document), "nobody that this platform"),
    "with a signature of another document of ours": (
        lambda store, _: signed_by(store.seal, b"another document"),
        "nobody that this platform",
    ),
    "with no signature's bytes": (lambda _, __: b"short", "nobody that this platform"),
    "with an empty signature": (lambda _, __: b"", "nobody that this platform"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_is_refused_before_it_is_parsed(proven: Proven, copied: Manifest, forgery: str) -> None:
    sign, fault = FORGERIES[forgery]
    key = layout.manifest_key(copied.backup_id)
    for document in (NOT_A_DOCUMENT, copied.to_json().replace(b'"rows": 500', b'"rows": 400')):
        put(proven.store, key, document, sign(proven.store, document))
        require_refused(proven.store, copied.backup_id, fault)
    with pytest.raises(VerificationFailed):
        prove(proven.platform, copied.backup_id)
    with pytest.raises(PreconditionFailed, match=fault):
        restore_into(proven.platform, proven.store, copied.backup_id, "never", silent, allow_unproven=True)


def test_a_manifest_replayed_from_another_set_is_refused_though_its_signature_is_good(
    proven: Proven, copied: Manifest
) -> None:
    key, origin = layout.manifest_key(copied.backup_id), layout.manifest_key(proven.manifest.backup_id)
    document = proven.store.get_bytes(origin)
    put(proven.store, key, document, proven.store.get_bytes(origin + SIGNATURE_SUFFIX))
    require_refused(proven.store, copied.backup_id, f"is that of {proven.manifest.backup_id}")


def test_another_document_of_ours_is_no_manifest_though_its_signature_is_good(proven: Proven, copied: Manifest) -> None:
    proof = proven.proof.to_json()
    put(proven.store, layout.manifest_key(copied.backup_id), proof, signed_by(proven.store.seal, proof))
    require_refused(proven.store, copied.backup_id, "damaged")


def test_a_set_of_somebody_who_is_not_trusted_is_refused_until_he_is(proven: Proven, copied: Manifest) -> None:
    key, signer = layout.manifest_key(copied.backup_id), STRANGER.signer
    assert signer is not None
    put(proven.store, key, copied.to_json(), signed_by(STRANGER, copied.to_json()))
    require_refused(proven.store, copied.backup_id, "nobody that this platform trusts")
    both = tuple(sealing.describe_signer(s.public_key()) for s in (signer, proven.store.seal.signer) if s)
    trusting = with_sealing(proven.platform, trusted_signers=both)
    assert prove(trusting, copied.backup_id).reached == "serving"


# Forged, damaged and replayed proofs.


def unproven_copy(proven: Proven) -> Manifest:
    manifest = copy_set(proven.store, proven.manifest.backup_id)
    assert read_entry(proven.store, manifest.backup_id).proof is None
    return manifest


def praise(proven: Proven, manifest: Manifest) -> bytes:
    """The best proof there could be of a set, with the digest of its manifest as it is stored."""
    return proof_of(proven.store, manifest, proven.proof).to_json()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_proof_never_makes_a_set_proven(proven: Proven, forgery: str) -> None:
    manifest, (sign, _) = unproven_copy(proven), FORGERIES[forgery]
    document = praise(proven, manifest)
    put(proven.store, f"{layout.proofs_folder(manifest.backup_id)}1.json", document, sign(proven.store, document))
    entry = read_entry(proven.store, manifest.backup_id)
    assert (entry.proof, entry.is_proven("equal"), entry.damaged) == (None, False, False)
    with pytest.raises(PreconditionFailed, match="proven"):
        restore_into(proven.platform, proven.store, manifest.backup_id, "never", silent)


def test_the_same_proof_counts_once_we_sign_it(proven: Proven) -> None:
    """The forgeries above fail for want of our signature and for nothing else."""
    manifest = unproven_copy(proven)
    proven.store.put_signed(f"{layout.proofs_folder(manifest.backup_id)}1.json", praise(proven, manifest))
    assert read_entry(proven.store, manifest.backup_id).is_proven("equal")


def test_another_set_s_proof_proves_nothing_here_though_its_signature_is_good(proven: Proven) -> None:
    manifest = unproven_copy(proven)
    (origin,) = proof_keys(proven.store, proven.manifest.backup_id)[:1]
    key = f"{layout.proofs_folder(manifest.backup_id)}{origin.rpartition('/')[2]}"
    put(proven.store, key, proven.store.get_bytes(origin), proven.store.get_bytes(origin + SIGNATURE_SUFFIX))
    assert not read_entry(proven.store, manifest.backup_id).is_proven("equal")


@pytest.mark.parametrize("damage", ["forged", "cut", "signature gone"])
def test_a_damaged_proof_never_lets_an_older_one_speak(proven: Proven, copied: Manifest, damage: str) -> None:
    """It may have been the one that found damage."""
    assert prove(proven.platform, copied.backup_id).reached == "serving"
    _, newest = proof_keys(proven.store, copied.backup_id)
    content = proven.store.get_bytes(newest)
    if damage == "signature gone":
        proven.store.delete([newest + SIGNATURE_SUFFIX])
    else:
        proven.store.put_bytes(newest, content[:-20] if damage == "cut" else content.replace(b'"ok"', b'"warn"'))
    entry = read_entry(proven.store, copied.backup_id)
    assert (entry.proof, entry.is_proven("equal")) == (None, False)
    assert prove(proven.platform, copied.backup_id).reached == "serving"


def test_a_proof_does_not_count_for_a_manifest_that_took_the_place_of_its_own(proven: Proven, copied: Manifest) -> None:
    key = layout.manifest_key(copied.backup_id)
    first = proven.store.get_bytes(key)
    later = copied.model_copy(update={"finished_at": copied.finished_at + timedelta(seconds=1)})
    proven.store.put_signed(key, later.to_json())
    entry = read_entry(proven.store, copied.backup_id)
    assert entry.manifest == later
    assert (entry.proof, entry.is_proven("equal"), entry.damaged) == (None, False, False)
    again = prove(proven.platform, copied.backup_id)
    assert read_entry(proven.store, copied.backup_id).proof == again
    # Nor does the first proof speak once its own manifest is back: a newer one looked at something else.
    proven.store.put_signed(key, first)
    assert not read_entry(proven.store, copied.backup_id).is_proven("equal")


def test_a_proof_from_before_proofs_named_their_manifest_still_counts(proven: Proven) -> None:
    manifest = unproven_copy(proven)
    old = json.loads(praise(proven, manifest)) | {"format_version": 1}
    del old["manifest_sha256"]
    proven.store.put_signed(f"{layout.proofs_folder(manifest.backup_id)}1.json", json.dumps(old).encode())
    entry = read_entry(proven.store, manifest.backup_id)
    assert entry.is_proven("equal")
    assert entry.proof is not None
    assert entry.proof.format_version == 1


# Keys: wrong, lost, offline, rotated.


def require_unknown(proof: Proof, manifest: Manifest) -> None:
    """Not damaged, not proven: every sealed object is for other keys, and named."""
    failed = failed_level(proof)
    assert (failed.level, failed.verdict) == ("readable", Verdict.UNKNOWN)
    assert {f.verdict for f in failed.findings} == {Verdict.UNKNOWN}
    assert {f.name for f in failed.findings} == {part.name for part in manifest.parts if part.encryption}
    assert (proof.damaged, proof.proves("equal")) == (False, False)


@pytest.mark.parametrize("identities", [(SecretStr(sealing.make_identity()[0]),), ()])
def test_with_a_wrong_key_or_none_nothing_is_known_and_what_was_proven_stays_so(
    proven: Proven, copied: Manifest, identities: tuple[SecretStr, ...]
) -> None:
    without = with_sealing(proven.platform, identities=identities)
    require_unknown(prove(without, copied.backup_id), copied)
    entry = read_entry(open_store(without), copied.backup_id)
    assert (entry.is_proven("equal"), entry.damaged) == (True, False)
    assert entry.last_attempt is not None
    assert entry.last_attempt.verdict is Verdict.UNKNOWN


def test_the_offline_key_alone_proves_and_restores_everything(proven: Proven, copied: Manifest) -> None:
    """A new machine: the old one is gone with its keys; the offline key and the platform file are there."""
    signer = proven.store.seal.signer
    assert signer is not None
    machine = with_sealing(
        proven.platform,
        identities=(SecretStr(proven.offline),),
        signing_key=None,
        trusted_signers=(sealing.describe_signer(signer.public_key()),),
    )
    before = proof_keys(proven.store, copied.backup_id)
    proof = prove(machine, copied.backup_id)
    assert (proof.reached, proof.verdict) == ("serving", Verdict.OK)
    # It signs nothing that counts, so its proof must not put the signed one in doubt.
    assert proof_keys(proven.store, copied.backup_id) == before
    assert read_entry(open_store(machine), copied.backup_id).is_proven("equal")
    restored = restore_into(machine, open_store(machine), copied.backup_id, f"{machine.database.name}_back", silent)
    assert restored.rows == 500
    with pytest.raises(ConfigurationError, match="no signing key"):
        back_up(machine)


def test_a_rotation_from_end_to_end(proven: Proven, tmp_path: Path) -> None:
    offline = sealing.make_identity()[1]
    keys = make_key_files(tmp_path / "keys")
    file = tmp_path / "keys" / IDENTITIES

    def machine(recipients: tuple[str, ...], identities: tuple[str, ...]) -> Platform:
        return with_sealing(
            proven.platform,
            recipients=recipients,
            identities=tuple(map(SecretStr, identities)),
            signing_key=SecretStr(keys.signing_key_file.read_text().strip()),
        )

    (old_key,) = map(str, read_identities(file))
    bucket = proven.platform.bucket.model_copy(update={"prefix": f"{proven.platform.bucket.prefix}/rotation"})
    before = machine((keys.recipient, offline), (old_key,)).model_copy(update={"bucket": bucket})
    old_set = back_up(before)
    rotation = rotate_identity(file, before.sealing.recipients)
    both = tuple(map(str, read_identities(file)))
    after = machine(rotation.recipients, both).model_copy(update={"bucket": bucket})
    new_set = back_up(after)
    assert (old_set.sealed_for, new_set.sealed_for) == ((keys.recipient, offline), (rotation.added, offline))
    assert describe_sealing(new_set) == "Sealed with age for 2 recipients"
    # Two sets, sealed with different keys, one identities file.
    assert [prove(after, made.backup_id).reached for made in (old_set, new_set)] == ["serving", "serving"]
    # A set for the new key is no damage to somebody who has only the old one, but unknown.
    alone = machine(rotation.recipients, (old_key,)).model_copy(update={"bucket": bucket})
    assert prove(alone, old_set.backup_id).reached == "serving"
    require_unknown(prove(alone, new_set.backup_id), new_set)
    # And the old key thrown away takes the old set with it.
    require_unknown(
        prove(machine(rotation.recipients, both[:1]).model_copy(update={"bucket": bucket}), old_set.backup_id), old_set
    )


# Sets that are not sealed.


def test_an_unsealed_set_is_refused_by_a_sealed_platform_unless_it_accepts_the_unsigned(proven: Proven) -> None:
    bucket = proven.platform.bucket.model_copy(update={"prefix": f"{proven.platform.bucket.prefix}/unsealed"})
    trial = proven.platform.model_copy(update={"sealing": SealingSettings(mode="none"), "bucket": bucket})
    manifest = back_up(trial)
    assert prove(trial, manifest.backup_id).reached == "serving"
    assert open_store(trial).seal is NO_SEAL
    assert {part.encryption for part in manifest.parts} == {None}
    assert describe_sealing(manifest).startswith("NOT SEALED")

    strict = proven.platform.model_copy(update={"bucket": bucket})
    entry = read_entry(open_store(strict), manifest.backup_id)
    assert (entry.manifest, entry.is_proven("equal")) == (None, False)
    assert "is not signed" in entry.fault
    with pytest.raises(VerificationFailed, match="is not signed"):
        prove(strict, manifest.backup_id)

    lenient = with_sealing(strict, accept_unsigned=True)
    assert read_entry(open_store(lenient), manifest.backup_id).is_proven("equal")
    assert prove(lenient, manifest.backup_id).reached == "serving"
    # That proof is signed, but the manifest is not: without the leniency the set is refused again.
    assert not read_entry(open_store(strict), manifest.backup_id).is_proven("equal")


def test_accepting_the_unsigned_does_not_make_a_bad_signature_good(proven: Proven, copied: Manifest) -> None:
    lenient = replace(proven.store.seal, accept_unsigned=True)
    store = BucketStore(proven.store.client, proven.store.bucket, proven.store.key(""), lenient)
    key = layout.manifest_key(copied.backup_id)
    store.put_bytes(key, copied.to_json() + b"\n")
    with pytest.raises(VerificationFailed, match="nobody that this platform trusts"):
        read_manifest(store, copied.backup_id)
