"""What belongs to a platform's data beside its database: uploaded files and the keys of Redis, where configured."""

from dataclasses import dataclass

from keepwell.backup.cache_keys import store_keys
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import CacheKeys, Part, UploadedFiles
from keepwell.backup.uploaded_files import require_uploads, store_uploads
from keepwell.cache import read_server
from keepwell.objectstore.store import Store
from keepwell.objectstore.uploads import Uploads
from keepwell.progress import Progress, Step
from keepwell.settings import Platform


@dataclass(frozen=True)
class Companions:
    """What was stored beside a database; None for what is not configured, which the manifest says."""

    parts: tuple[Part, ...] = ()
    uploads: UploadedFiles | None = None
    cache: CacheKeys | None = None

    @property
    def seconds(self) -> float:
        """How long they took; each says its own share in the manifest."""
        return sum(one.seconds for one in (self.uploads, self.cache) if one is not None)


def require_companions(platform: Platform) -> None:
    """Look whether they can be read, before anything is dumped: a set that should hold them and does not is none.

    Raises:
        PreconditionFailed: The uploads folder is not there, or Redis is a cluster.
        AccessDenied: Redis refuses the login, or it may not read keys.
        ServiceUnavailable: Redis does not answer.
    """
    if platform.uploads is not None:
        require_uploads(platform.uploads)
    if platform.redis is not None:
        read_server(platform.redis)


def store_companions(
    platform: Platform, store: Store, uploads: Uploads, backup_id: str, progress: Progress
) -> Companions:
    """Store them into a set that is being written; the caller holds the platform for a backup.

    Raises:
        KeepwellError: A source or the store failed; without what is configured there is no set.
    """
    parts: list[Part] = []
    level = platform.backup.compression_level
    files = keys = None
    if platform.uploads is not None:
        progress(Step("storing uploaded files"))
        anew = platform.uploads.seal_anew and _is_sealed_for_others(platform, store)
        files = store_uploads(platform.uploads, store, uploads, backup_id, progress, level=level, anew=anew)
        parts.append(files.index)
    if platform.redis is not None:
        progress(Step("storing keys of Redis"))
        keys = store_keys(platform.redis, store, uploads, backup_id, progress, level=level)
        parts.append(keys.part)
    return Companions(tuple(parts), files.summary if files else None, keys.summary if keys else None)


def _is_sealed_for_others(platform: Platform, store: Store) -> bool:
    """Whether the newest proven set was made for other recipients than today's.

    One that was not proven says nothing: its files may still be sealed for a key that is lost.
    """
    level = platform.backup.proven_level
    newest = next((entry.manifest for entry in read_catalogue(store) if entry.is_proven(level)), None)
    return newest is None or set(newest.sealed_for) != set(map(str, store.seal.recipients))
