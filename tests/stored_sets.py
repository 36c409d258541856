"""Backup sets as they lie in a store, without a database behind them: what retention looks at, and removes."""

from datetime import datetime, timedelta
from typing import Any

from backup_documents import a_manifest, a_proof, documents

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import read_expiring
from keepwell.settings import BackupSettings, Platform, RetentionSettings

DATA = ("database/1.dat.zst", "database/toc.dat", "globals.sql")


def put_set(store: Any, at: datetime, *, proven: bool = True, **proof: Any) -> str:
    """Store a set with its objects; proven unless told otherwise.

    Args:
        store: Any store.
        at: When it was taken.
        proven: Whether there is a proof at all.
        proof: What the proof says, as `a_proof` takes it.

    Returns:
        Its id.
    """
    manifest = a_manifest(at)
    for name in DATA:
        store.put_bytes(layout.set_folder(manifest.backup_id) + name, b"rows of " + name.encode())
    for key, content in documents(manifest, *([a_proof(at, **proof)] if proven else [])).items():
        store.put_signed(key, content)
    return manifest.backup_id


def put_history(store: Any, now: datetime, *days: float) -> list[str]:
    """Proven sets of so many days ago, with their ids in that order."""
    return [put_set(store, now - timedelta(days=day)) for day in days]


def keys_of(store: Any, backup_id: str) -> list[str]:
    return [stored.key for stored in store.list_objects(layout.set_folder(backup_id))]


def assert_whole_or_unlisted(store: Any) -> None:
    """What must hold wherever a run was killed: a listed set has every object, and nothing else is a set."""
    for entry in read_catalogue(store):
        expected = {layout.set_folder(entry.backup_id) + name for name in (*DATA, layout.MANIFEST)}
        assert expected <= set(keys_of(store, entry.backup_id)), f"{entry.backup_id} is listed, and not whole"
    listed = {entry.backup_id for entry in read_catalogue(store)}
    there = set(store.list_folders(layout.BACKUPS))
    assert there == listed | {backup_id for backup_id in read_expiring(store) if keys_of(store, backup_id)}


def retaining(platform: Platform, **rules: int) -> Platform:
    """The platform with rules of its own."""
    return platform.model_copy(update={"retention": RetentionSettings(**rules), "backup": BackupSettings()})
