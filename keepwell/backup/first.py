"""The first proven backup of a platform, which is told: so people know that messages reach them, before one matters."""

from collections.abc import Sequence

from keepwell.backup.catalogue import BackupEntry
from keepwell.notify import Message
from keepwell.quantities import describe_bytes
from keepwell.settings import Platform
from keepwell.verdict import Verdict


def describe_first(platform: Platform, entries: Sequence[BackupEntry], backup_id: str) -> Message | None:
    """What to tell of a platform's first proven set.

    Args:
        platform: Whose sets.
        entries: All that the bucket holds, any order.
        backup_id: The set that was just proven.

    Returns:
        None when another was proven before, or this one is not.
    """
    proven = [entry for entry in entries if entry.is_proven(platform.backup.proven_level)]
    if [entry.backup_id for entry in proven] != [backup_id]:
        return None
    (entry,) = proven
    if entry.manifest is None or entry.proof is None:  # what is proven has both
        return None
    manifest = entry.manifest
    return Message(
        title=f"{platform.name}: the first backup is proven",
        cause=(
            f"{backup_id} was read back from the store, restored on {entry.proof.server}, and is {entry.level}: "
            f"{manifest.rows:,} rows, {describe_bytes(manifest.stored_bytes)} stored."
        ),
        still_safe="Nothing of the platform was changed. From now on you hear of what goes wrong, and of nothing else.",
        next_command=f"keepwell backup show newest --platform {platform.name}",
        verdict=Verdict.OK,
    )
