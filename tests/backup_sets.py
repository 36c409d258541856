"""Backup sets for the tests: made once, copied inside the store, damaged there, and proven again."""

import contextlib
import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard
from backup_documents import change_main

from keepwell import sealing
from keepwell.backup import layout
from keepwell.backup.catalogue import read_manifest
from keepwell.backup.create import create_backup
from keepwell.backup.manifest import Manifest, Part, new_backup_id
from keepwell.backup.proof import LevelOutcome, Proof
from keepwell.backup.verify import verify_backup
from keepwell.holding import hold_platform
from keepwell.interlock import Procedure
from keepwell.objectstore.store import Store, open_store
from keepwell.progress import silent
from keepwell.settings import Platform


def back_up(platform: Platform) -> Manifest:
    """One backup set, held and written as the product does it."""
    store = open_store(platform)
    with hold_platform(platform, store, Procedure.BACKUP):
        return create_backup(platform, store, silent)


def prove(platform: Platform, backup_id: str) -> Proof:
    return verify_backup(platform, open_store(platform), backup_id, silent)


def back_up_and_prove(platform: Platform) -> Proof:
    return prove(platform, back_up(platform).backup_id)


def copy_set(store: Store, backup_id: str) -> Manifest:
    """A second set with the same objects and a manifest of its own."""
    manifest = read_manifest(store, backup_id)
    copied = manifest.model_copy(update={"backup_id": new_backup_id(manifest.snapshot_at)})
    for part in manifest.parts:
        store.copy(layout.set_folder(backup_id) + part.name, layout.set_folder(copied.backup_id) + part.name)
    write_manifest(store, copied)
    return copied


def write_manifest(store: Store, manifest: Manifest) -> None:
    store.put_signed(layout.manifest_key(manifest.backup_id), manifest.to_json())


def proof_of(store: Store, manifest: Manifest, proof: Proof) -> Proof:
    """A proof as if it had been made for another set, with its manifest as it is stored now."""
    sha256 = hashlib.sha256(store.get_bytes(layout.manifest_key(manifest.backup_id))).hexdigest()
    return proof.model_copy(update={"backup_id": manifest.backup_id, "manifest_sha256": sha256, "stored_as": None})


def part_of(manifest: Manifest, name: str) -> Part:
    """The part that holds a table's rows (`public.t`, `other: public.t`), or the part of that very name."""
    tables = [(database.tell(table.qualified), table) for database in manifest.databases for table in database.tables]
    wanted = next((table.part for told, table in tables if told == name), name)
    return next(part for part in manifest.parts if part.content_name == content_name_of(wanted))


def content_name_of(name: str | None) -> str:
    return (name or "").removesuffix(".age").removesuffix(".zst")


def read_content(store: Store, manifest: Manifest, part: Part) -> bytes:
    """What a part holds, opened and decompressed."""
    content = store.get_bytes(layout.set_folder(manifest.backup_id) + part.name)
    if part.encryption:
        opened = io.BytesIO()
        sealing.decrypt(io.BytesIO(content), opened, store.seal.identities)
        content = opened.getvalue()
    return zstandard.ZstdDecompressor().decompressobj().decompress(content) if part.compression else content


def pack(store: Store, part: Part, content: bytes) -> bytes:
    """Content as a part of that kind is stored: compressed and sealed anew."""
    packed = zstandard.ZstdCompressor().compress(content) if part.compression else content
    return seal(store, packed) if part.encryption else packed


def seal(store: Store, content: bytes) -> bytes:
    """Content sealed for a store's recipients."""
    sealed = io.BytesIO()
    sealing.encrypt(io.BytesIO(content), sealed, store.seal.recipients)
    return sealed.getvalue()


def replace_content(
    store: Store, manifest: Manifest, part: Part, damage: Callable[[bytes], bytes], *, rebuild: bool
) -> Manifest:
    """Store other content under a part's name, as a valid stream.

    Args:
        store: Where the set lies.
        manifest: Of the set.
        part: Which part.
        damage: From its content to what is stored instead.
        rebuild: Make the manifest's sizes and hashes agree with the damage, so that only a deeper level can notice.
    """
    content = damage(read_content(store, manifest, part))
    stored = pack(store, part, content)
    store.put_bytes(layout.set_folder(manifest.backup_id) + part.name, stored)
    if not rebuild:
        return manifest
    agreeing = part.model_copy(
        update={
            "size_bytes": len(stored),
            "sha256": hashlib.sha256(stored).hexdigest(),
            "content_size_bytes": len(content),
            "content_sha256": hashlib.sha256(content).hexdigest(),
        }
    )
    parts = tuple(agreeing if known.name == part.name else known for known in manifest.parts)
    rebuilt = manifest.model_copy(update={"parts": parts})
    write_manifest(store, rebuilt)
    return rebuilt


def change_table(manifest: Manifest, qualified: str, **changes: object) -> Manifest:
    """A manifest that says something else of one table of the main database."""
    return change_main(
        manifest,
        tables=tuple(
            table.model_copy(update=changes) if table.qualified == qualified else table
            for table in manifest.main.tables
        ),
    )


def download_archive(store: Store, manifest: Manifest, folder: Path) -> Path:
    """The archive as an operator without Keepwell would fetch it: decompressed streams beside the contents file."""
    for part in manifest.parts:
        if part.name.startswith(layout.DATABASE):
            content = read_content(store, manifest, part)
            (folder / part.content_name.removeprefix(layout.DATABASE)).write_bytes(content)
    return folder


def failed_level(proof: Proof) -> LevelOutcome:
    """The level that did not pass, which is the last one."""
    last = proof.levels[-1]
    assert not last.passed, f"every level passed: {[(o.level, o.verdict) for o in proof.levels]}"
    return last


@contextlib.contextmanager
def open_multipart(store: Store, key: str) -> Iterator[str]:
    """An unfinished multipart upload with one part, as a killed run leaves it."""
    full_key = store.key(key)
    upload_id = store.client.create_multipart_upload(Bucket=store.bucket, Key=full_key)["UploadId"]
    body = io.BytesIO(secrets.token_bytes(5 * 1024 * 1024))
    store.client.upload_part(Bucket=store.bucket, Key=full_key, UploadId=upload_id, PartNumber=1, Body=body)
    yield upload_id
