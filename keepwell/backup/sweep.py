"""What a dead run left in the store: known by its mark, and removed by the next run."""

from collections.abc import Container, Iterator

from keepwell.backup import layout
from keepwell.errors import ServiceUnavailable
from keepwell.objectstore.store import ObjectMissing, Store, StoredObject


def sweep_unfinished(store: Store, spare: Container[str] = ()) -> list[str]:
    """Remove sets that were begun and never finished; the caller holds the platform, so none is being written.

    Only marked ones: objects without a manifest and without a mark may be the rest of a set that somebody damaged,
    and are left for people to look at.

    Args:
        store: Where they lie.
        spare: Ids of sets that are left as they are, since the caller goes on with them.

    Returns:
        Ids of the sets that were removed.
    """
    removed = []
    for marker in list(store.list_objects(layout.UNFINISHED)):
        backup_id = marker.key.removeprefix(layout.UNFINISHED)
        if backup_id in spare:
            continue
        if store.find(layout.manifest_key(backup_id)) is None:
            # Should its writer live after all, it finds its mark gone and publishes nothing.
            store.put_bytes(marker.key, b"swept")
            store.abort_uploads(layout.set_folder(backup_id))
            # Contents of uploaded files that came to their end stay: they are whole, and the next set will need them.
            store.abort_uploads(layout.UPLOADS)
            store.delete(stored.key for stored in owned_objects(store, backup_id))
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


def owned_objects(store: Store, backup_id: str) -> Iterator[StoredObject]:
    """Every object that goes when a set goes: what only this set needs.

    This is the place to know about objects that several sets share. They lie outside the set's folder, belong to none
    of them, and may go only when no manifest names them any more.
    """
    yield from store.list_objects(layout.set_folder(backup_id))
