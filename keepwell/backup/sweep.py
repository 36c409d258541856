"""What a dead run left in the store: known by its mark, and removed by the next run that has a key to do so."""

from collections.abc import Container, Iterator

from keepwell.backup import layout
from keepwell.errors import KeepwellError, ServiceUnavailable, TransientError
from keepwell.objectstore.store import ObjectMissing, Store, StoredObject
from keepwell.verdict import Finding, Verdict

_SWEPT = b"swept"


def sweep_unfinished(store: Store, spare: Container[str] = ()) -> list[str]:
    """Remove sets that were begun and never finished; the caller holds the platform, so none is being written.

    Only marked ones: objects without a manifest and without a mark may be the rest of a set that somebody damaged,
    and are left for people to look at. What the store keeps, because this machine's key may not delete it or a lock
    forbids it, stays marked: it stops nobody, `judge_left_over` tells of it, and a later sweep goes on.

    Args:
        store: Where they lie.
        spare: Ids of sets that are left as they are, since the caller goes on with them.

    Returns:
        Ids of the sets that were removed.

    Raises:
        TransientError: The store does not answer.
    """
    removed = []
    for marker in list(store.list_objects(layout.UNFINISHED)):
        backup_id = marker.key.removeprefix(layout.UNFINISHED)
        if backup_id in spare:
            continue
        if store.find(layout.manifest_key(backup_id)) is None:
            # Should its writer live after all, it finds its mark gone and publishes nothing.
            store.put_bytes(marker.key, _SWEPT)
            store.abort_uploads(layout.set_folder(backup_id))
            # Contents of uploaded files that came to their end stay: they are whole, and the next set will need them.
            store.abort_uploads(layout.UPLOADS)
            if not _remove(store, backup_id):
                continue
            removed.append(backup_id)
        store.delete([marker.key])
    return removed


def require_unswept(store: Store, backup_id: str, mark: bytes) -> None:
    """Look whether our mark still stands: a run whose lock was lost may have been swept as if it were dead.

    Raises:
        ServiceUnavailable: Somebody swept this set while it was being written.
    """
    try:
        unswept = store.get_bytes(layout.unfinished_key(backup_id)) == mark
    except ObjectMissing:
        unswept = False
    if not unswept:
        raise ServiceUnavailable(
            f"Another run took {backup_id} for dead and swept it.",
            hint="The interlock's session was lost on the way: look at the database's connections, then run it again.",
        )


def judge_left_over(store: Store) -> list[Finding]:
    """A warning for each set of a dead run that a sweep could not remove.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    left = read_left_over(store)
    return [
        Finding(
            name=backup_id,
            verdict=Verdict.WARN,
            message=f"{count} objects of a run that died are left: this key may not delete them, or a lock forbids it.",
            hint="keepwell backup expire removes them where the expiring key is, once no lock is on them.",
        )
        for backup_id, count in left.items()
    ]


def read_left_over(store: Store) -> dict[str, int]:
    """Sets of dead runs that a sweep could not remove, with how many objects of each are still there.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    left = {}
    for marker in store.list_objects(layout.UNFINISHED):
        backup_id = marker.key.removeprefix(layout.UNFINISHED)
        try:
            swept = store.get_bytes(marker.key) == _SWEPT
        except ObjectMissing:
            continue  # its run ended meanwhile
        if swept and (count := sum(1 for _ in owned_objects(store, backup_id))):
            left[backup_id] = count
    return left


def _remove(store: Store, backup_id: str) -> bool:
    """Whether nothing of a set is there any more, as a listing shows it."""
    if store.may_expire:
        try:
            store.delete(stored.key for stored in owned_objects(store, backup_id))
        except TransientError:
            raise
        except KeepwellError:
            pass  # what counts is what is left
    return next(owned_objects(store, backup_id), None) is None


def owned_objects(store: Store, backup_id: str) -> Iterator[StoredObject]:
    """Every object that goes when a set goes: what only this set needs.

    Contents of uploaded files, which several sets share, are none of them: `keepwell.backup.collect` removes those that
    no set needs any more.
    """
    yield from store.list_objects(layout.set_folder(backup_id))
