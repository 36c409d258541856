"""The demonstration: from an empty folder to a proven backup, and to a damaged copy that does not pass.

Everything in it is real: the servers, the deployment, the worker, the restore. It keeps a stack of its own, apart
from the one that `up` keeps, and leaves nothing behind.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deployments.local.stack import StackOptions
from deployments.local.story import SCREEN, chapter, run_keepwell, start_servers, tell_story
from deployments.running.state import StateFolder
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.proof import Proof
from keepwell.backup.verify import verify_backup
from keepwell.errors import VerificationFailed
from keepwell.objectstore.bucket import open_store
from keepwell.objectstore.store import SIGNATURE_SUFFIX, Store
from keepwell.progress import silent
from keepwell.settings import Platform, load_platform_file

_DEPLOYMENT = "backup-and-verify"
_COPY = "damaged-copy"
# The words of the levels, as the field numbers them.
_LEVEL_NUMBERS = {
    "uploaded": "L0",
    "readable": "L1",
    "complete": "L2",
    "restored": "L3",
    "equal": "L4",
    "sound": "L5",
    "serving": "L6",
}


def run_demo(state: StateFolder, options: StackOptions) -> int:
    """Tell the story, and end with one JSON object.

    Args:
        state: Folder for a stack of the demonstration's own; emptied before, and after unless something went wrong.
        options: Size of the sample data.

    Returns:
        0 when the backup was proven and the damage was found, else 1: then what the servers said is kept.

    Raises:
        KeepwellError: The story could not be told to its end; what the servers said is kept likewise.
    """
    return tell_story(
        state,
        lambda: _tell_story(state, options),
        is_good=lambda summary: summary["damaged_copy_detected"] and summary["level"] == "L6",
        last_chapter="5. Stopping everything",
    )


def _tell_story(state: StateFolder, options: StackOptions) -> dict[str, Any] | None:
    """All but the end; None when the stack or the run failed, which has said so itself."""
    with chapter("1. Real servers: PostgreSQL, an S3 store, Redis, a sample platform, Prefect and a worker"):
        if not start_servers(state, options):
            return None
    with chapter(f"2. The deployment {_DEPLOYMENT}, run by the worker while the sample platform is written to"):
        if run_keepwell(state, "run", _DEPLOYMENT) != 0:
            return None
    with chapter("3. The evidence: what was read back from the store and shown equal to its source"):
        run_keepwell(state, "backup", "show", "newest")
        platform = load_platform_file(state.platform_file)
        manifest, proof = _newest(open_store(platform))
    with chapter("4. One byte flipped in a copy of the set: verification must turn red and name the object"):
        part, damaged_proof = _damage_and_verify(platform, manifest)
        detected = _tell_damage(part, damaged_proof)
    return _summarize(manifest, proof, detected=detected)


def _newest(store: Store) -> tuple[Manifest, Proof]:
    entries = read_catalogue(store)
    if not entries or entries[0].manifest is None or entries[0].proof is None:
        raise VerificationFailed("The run completed, and the bucket holds no proven set.", hint="Look at its log.")
    return entries[0].manifest, entries[0].proof


def _damage_and_verify(platform: Platform, manifest: Manifest) -> tuple[Part, Proof]:
    """Copy the set beside the platform's own, flip one bit in its largest object, and verify the copy."""
    copy = platform.model_copy(update={"name": f"{platform.name}-{_COPY}"})
    original, damaged = open_store(platform), open_store(copy)
    folder = layout.set_folder(manifest.backup_id)
    names = [*(part.name for part in manifest.parts), layout.MANIFEST, layout.MANIFEST + SIGNATURE_SUFFIX]
    for name in names:
        damaged.put_bytes(f"{folder}{name}", original.get_bytes(f"{folder}{name}"))
    with ThreadPoolExecutor(8) as copiers:  # files lie outside the set, and this copy stands alone
        contents = [stored.key for stored in original.list_objects(layout.UPLOADS)]
        list(copiers.map(lambda key: damaged.put_bytes(key, original.get_bytes(key)), contents))
    part = max(manifest.parts, key=lambda part: part.size_bytes)
    content = bytearray(damaged.get_bytes(f"{folder}{part.name}"))
    content[len(content) // 2] ^= 1
    damaged.put_bytes(f"{folder}{part.name}", bytes(content))
    return part, verify_backup(copy, damaged, manifest.backup_id, silent)


def _tell_damage(part: Part, proof: Proof) -> bool:
    """Whether the damage was found, and the right object named."""
    for outcome in proof.levels:
        SCREEN.print(f"  {outcome.verdict.value:<6} {outcome.level:<9} {outcome.summary}", markup=False)
    return proof.damaged and any(finding.name == part.name for finding in proof.findings)


def _summarize(manifest: Manifest, proof: Proof, *, detected: bool) -> dict[str, Any]:
    return {
        "backup_id": manifest.backup_id,
        "level": _LEVEL_NUMBERS.get(proof.reached or "", "none"),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "bytes_source": manifest.source_bytes,
        "bytes_stored": manifest.stored_bytes,
        "seconds_backup": round(manifest.seconds.total, 1),
        "seconds_proof": round((proof.finished_at - proof.started_at).total_seconds(), 1),
        "damaged_copy_detected": detected,
    }
