"""Which backup sets there are and how good each is: read from the bucket alone."""

import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from keepwell.backup import layout
from keepwell.backup.manifest import Manifest, is_backup_id
from keepwell.backup.proof import Proof, reaches
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import SIGNATURE_SUFFIX, ObjectMissing, Store
from keepwell.settings import ProofLevel
from keepwell.verdict import Verdict

_READERS = 8


@dataclass(frozen=True)
class BackupEntry:
    """One set as the bucket tells it.

    Attributes:
        backup_id: Of the set.
        manifest: None when it is missing or damaged, so that this is not a backup set.
        fault: Why there is no manifest; empty otherwise.
        proof: The newest verification that could judge; None when there was none.
        last_attempt: The newest verification, even one that could not judge.
        unreadable_proofs: Whether there are verifications that cannot be read, or are signed by nobody who counts.
        proofs: Every verification that can be read, oldest first.
    """

    backup_id: str
    manifest: Manifest | None
    fault: str
    proof: Proof | None
    last_attempt: Proof | None
    unreadable_proofs: bool = False
    proofs: tuple[Proof, ...] = ()

    @property
    def level(self) -> ProofLevel | None:
        """The highest level reached without a gap in the newest verification that could judge."""
        return self.proof.reached if self.proof else None

    @property
    def damaged(self) -> bool:
        """Whether the set is known to be bad."""
        return self.manifest is None or (self.proof is not None and self.proof.damaged)

    def is_proven(self, wanted: ProofLevel) -> bool:
        """Whether it counts as a backup."""
        return self.manifest is not None and self.proof is not None and self.proof.proves(wanted)

    def proven_at(self, wanted: ProofLevel) -> datetime | None:
        """Since when it counts as a backup: before, nobody could have known; None where it does not."""
        if not self.is_proven(wanted) or self.proof is None:
            return None
        return min(one.finished_at for one in (*self.proofs, self.proof) if one.proves(wanted))

    @property
    def snapshot_at(self) -> datetime | None:
        """The moment that a restore brings back."""
        return self.manifest.snapshot_at if self.manifest else None


def read_catalogue(store: Store) -> list[BackupEntry]:
    """Every set, newest first; one that is still being written, or being removed, is left out.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    # A set may be begun or swept between two listings; one that was marked before or after is not yet a set.
    marked = read_marks(store)
    found = [name for name in store.list_folders(layout.BACKUPS) if is_backup_id(name)]
    with ThreadPoolExecutor(_READERS) as readers:
        entries = list(readers.map(lambda backup_id: read_entry(store, backup_id), found))
    marked |= read_marks(store)
    listed = [entry for entry in entries if entry.manifest is not None or entry.backup_id not in marked]
    return sorted(listed, key=lambda entry: entry.backup_id, reverse=True)


def read_marks(store: Store) -> set[str]:
    """Ids of the sets that are being written or removed, or were when their run died."""
    folders = (layout.UNFINISHED, layout.EXPIRING)
    return {marker.key.removeprefix(folder) for folder in folders for marker in store.list_objects(folder)}


def read_entry(store: Store, backup_id: str) -> BackupEntry:
    """One set with its proofs; a damaged document makes a faulty entry, not an error."""
    manifest, fault, sha256 = None, "", ""
    try:
        manifest, sha256 = read_manifest_and_digest(store, backup_id)
    except (VerificationFailed, PreconditionFailed) as error:
        fault = error.message
    proofs = read_proofs(store, backup_id, sha256)
    # One that came as far as comparing has judged, whatever it could not look at afterwards.
    judged = [p for p in proofs if p is None or p.verdict is not Verdict.UNKNOWN or reaches(p.reached, "equal")]
    proof, last = judged[-1] if judged else None, proofs[-1] if proofs else None
    readable = tuple(one for one in proofs if one is not None)
    return BackupEntry(backup_id, manifest, fault, proof, last, unreadable_proofs=None in proofs, proofs=readable)


def read_manifest(store: Store, backup_id: str) -> Manifest:
    """The manifest of one set.

    Raises:
        PreconditionFailed: There is none, so this is not a backup set.
        VerificationFailed: It is damaged, forged, or another set's.
    """
    return read_manifest_and_digest(store, backup_id)[0]


def read_manifest_and_digest(store: Store, backup_id: str) -> tuple[Manifest, str]:
    """The manifest of one set, and the SHA-256 of the document as it is stored, which proofs name.

    Raises:
        KeepwellError: As `read_manifest`.
    """
    try:
        content = store.get_signed(layout.manifest_key(backup_id))
    except ObjectMissing:
        raise PreconditionFailed(
            f"{backup_id} has no manifest, so it is not a backup set.", hint="List what there is: keepwell backup list."
        ) from None
    manifest = Manifest.from_json(content)
    if manifest.backup_id != backup_id:
        raise VerificationFailed(
            f"The manifest of {backup_id} is that of {manifest.backup_id}.", hint="Somebody moved it: restore neither."
        )
    return manifest, hashlib.sha256(content).hexdigest()


def read_proofs(store: Store, backup_id: str, manifest_sha256: str) -> list[Proof | None]:
    """Every verification of one set, oldest first; None for one that cannot be read, or does not speak of it.

    What cannot be read may have been the one that found damage, so it must not let an older one speak.

    Args:
        store: Where the set lies.
        backup_id: Of the set.
        manifest_sha256: Of its manifest as it is stored now: a proof of one that was there before proves nothing.
    """
    found = [stored.key for stored in store.list_objects(layout.proofs_folder(backup_id))]
    read = [_read_proof(store, key) for key in found if not key.endswith(SIGNATURE_SUFFIX)]
    return [proof if proof is not None and proof.is_of(backup_id, manifest_sha256) else None for proof in read]


def _read_proof(store: Store, key: str) -> Proof | None:
    try:
        proof = Proof.from_json(store.get_signed(key))
    except VerificationFailed:
        return None
    return proof if proof.is_at_its_place(key.rpartition("/")[2]) else None


def choose_backup(entries: Sequence[BackupEntry], which: str, *, proven_level: ProofLevel, dice: random.Random) -> str:
    """The id of the set that an operator means.

    Args:
        entries: Newest first.
        which: An id, `newest`, `newest-proven` or `random-older` (any but the newest).
        proven_level: From which level a set counts as proven.
        dice: Chooses for `random-older`.

    Raises:
        PreconditionFailed: There is no such set.
    """
    whole = [entry for entry in entries if entry.manifest is not None]
    candidates = {
        "newest": whole[:1],
        "newest-proven": [entry for entry in whole if entry.is_proven(proven_level)][:1],
        "random-older": whole[1:],
    }.get(which, [entry for entry in entries if entry.backup_id == which])
    if not candidates:
        raise PreconditionFailed(f"There is no backup set {which!r}.", hint="List what there is: keepwell backup list.")
    return dice.choice(candidates).backup_id
