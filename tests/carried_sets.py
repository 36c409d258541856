"""A set whose every object is what its manifest says, without a database behind it: what can be carried."""

import hashlib
import io
from datetime import datetime
from typing import Any

from backup_documents import SNAPSHOT, a_manifest, some_uploads

from keepwell.backup import layout
from keepwell.backup.manifest import Manifest, Part
from keepwell.backup.transfer import send
from keepwell.backup.uploads_index import FileEntry
from keepwell.objectstore.uploads import Uploads

CONTENTS = (b"one content", b"another content" * 1000)
DATA = {"database/1.dat": b"rows" * 1000, "database/toc.dat": b"contents", "globals.sql": b"roles"}


def put_real_set(store: Any, at: datetime = SNAPSHOT) -> Manifest:
    """A set whose objects are what its manifest says, with an index and two contents of uploaded files."""
    manifest = a_manifest(at)
    folder = layout.set_folder(manifest.backup_id)
    entries = []
    with Uploads(1) as uploads:

        def put(where: str, name: str, content: bytes) -> Part:
            return send(store, uploads, where, name, io.BytesIO(content), level=1, taken=lambda size: None)

        parts = [put(folder, name, content) for name, content in DATA.items()]
        for number, content in enumerate(CONTENTS):
            sha256 = hashlib.sha256(content).hexdigest()
            where = layout.content_folder(sha256)
            stored = put(where, sha256, content)
            entries.append(
                FileEntry(
                    "file",
                    f"file {number}",
                    size_bytes=len(content),
                    sha256=sha256,
                    key=where + stored.name,
                    stored_bytes=stored.size_bytes,
                )
            )
        index = b"".join(entry.to_line() + b"\n" for entry in entries)
        parts.append(put(folder, layout.UPLOADS_INDEX, index))
    manifest = manifest.model_copy(update={"parts": tuple(parts), "uploads": some_uploads()})
    store.put_signed(layout.manifest_key(manifest.backup_id), manifest.to_json())
    return manifest
