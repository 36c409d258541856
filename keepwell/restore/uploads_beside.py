"""A set's uploaded files in a folder beside the live one: which folders and which sets a person may name for it."""

from pathlib import Path

from keepwell.backup.manifest import UploadedFiles
from keepwell.backup.restore import require_restorable
from keepwell.backup.restore_uploads import RestoredUploads, plan_uploads, restore_uploads
from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.progress import Progress
from keepwell.settings import Platform


def plan_uploads_beside(
    platform: Platform, store: Store, backup_id: str, into: Path, *, allow_unproven: bool = False
) -> UploadedFiles:
    """What would be put into a folder, and whether it can be; nothing is changed, and no database is asked.

    Args:
        platform: Whose set, and whose live folder is left alone.
        store: Its folder in the bucket.
        backup_id: Which set.
        into: New or empty folder; its parent exists.
        allow_unproven: Take even a set that was never proven, or is known to be damaged.

    Raises:
        PreconditionFailed: The set is not fit for it, the folder is in use or the live one, or space is short.
    """
    require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    if platform.uploads is not None:
        require_beside(platform.uploads.directory, into)
    return plan_uploads(store, backup_id, into)


def restore_uploads_beside(
    platform: Platform, store: Store, backup_id: str, into: Path, progress: Progress, *, allow_unproven: bool = False
) -> RestoredUploads:
    """Put a set's uploaded files into a folder; arguments as for `plan_uploads_beside`.

    Raises:
        PreconditionFailed: As `plan_uploads_beside`; or somebody else wrote into the folder meanwhile.
        VerificationFailed: The set or one of its contents is damaged; the folder is not complete.
    """
    plan_uploads_beside(platform, store, backup_id, into, allow_unproven=allow_unproven)
    return restore_uploads(store, backup_id, into, progress)


def require_beside(live: Path, into: Path) -> None:
    """Look whether a folder is another one than that of the application, and none in it or above it.

    The folder itself may be named where it is gone, as on a new machine: nobody uses what is not there.

    Raises:
        PreconditionFailed: It is not.
    """
    ours, wanted = live.resolve(), into.resolve()
    if wanted == ours and not ours.exists():
        return
    if wanted == ours or ours in wanted.parents or wanted in ours.parents:
        raise PreconditionFailed(
            f"{into} is the application's own folder of uploads, or lies in it or above it ({live}).",
            hint="Name a folder elsewhere, then copy from it what the application lacks.",
        )
