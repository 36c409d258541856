"""Backup sets as they lie in a store, without a database behind them: what retention looks at, and removes."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from backup_documents import a_manifest, a_proof, documents

from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.expire import read_expiring
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.uploads_index import FileEntry
from keepwell.settings import BackupSettings, Platform, RetentionSettings

DATA = ("database/1.dat.zst", "database/toc.dat", "globals.sql")


def put_set(store: Any, at: datetime, *, proven: bool = True, uploads: Sequence[bytes] = (), **proof: Any) -> str:
    """Store a set with its objects; proven unless told otherwise.

    Args:
        store: Any store.
        at: When it was taken.
        proven: Whether there is a proof at all.
        uploads: Contents of its uploaded files, stored beside the other sets'.
        proof: What the proof says, as `a_proof` takes it.

    Returns:
        Its id.
    """
    manifest = a_manifest(at)
    for name in DATA:
        store.put_bytes(layout.set_folder(manifest.backup_id) + name, b"rows of " + name.encode())
    if uploads:
        manifest = manifest.model_copy(update={"parts": (*manifest.parts, put_index(store, manifest, uploads))})
    for key, content in documents(manifest, *([a_proof(at, **proof)] if proven else [])).items():
        store.put_signed(key, content)
    return manifest.backup_id


def put_index(store: Any, manifest: Manifest, contents: Sequence[bytes]) -> Part:
    """Store the index of uploaded files, and their contents; the part that it is."""
    lines = [
        FileEntry(
            "file",
            f"f{number}",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            key=put_content(store, content),
        ).to_line()
        for number, content in enumerate(contents)
    ]
    index = b"".join(line + b"\n" for line in lines)
    store.put_bytes(layout.set_folder(manifest.backup_id) + layout.UPLOADS_INDEX, index)
    sha256 = hashlib.sha256(index).hexdigest()
    return Part(
        name=layout.UPLOADS_INDEX,
        size_bytes=len(index),
        sha256=sha256,
        compression=None,
        content_size_bytes=len(index),
        content_sha256=sha256,
    )


def content_key(content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    return f"{layout.content_folder(sha256)}{sha256}.zst"


def put_content(store: Any, content: bytes) -> str:
    store.put_bytes(content_key(content), content)
    return content_key(content)


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
