"""Where things of a backup set lie in the platform's folder of the bucket.

backups/<id>/database/…       the archive: toc.dat as it is, streams as <file>.zst
backups/<id>/globals.sql      roles
backups/<id>/schema.jsonl       the schema as comparable lines
backups/<id>/database-2/…     the same of the second database, where there is one, and so on
backups/<id>/schema-2.jsonl     its schema
backups/<id>/uploads.jsonl      what lay in the uploads folder
backups/<id>/redis.jsonl        the keys of Redis
backups/<id>/RESTORE.md         how to restore this set, with and without Keepwell; never sealed
backups/<id>/platform.toml      the platform file without secrets
backups/<id>/manifest.json    written last
backups/<id>/proofs/<time>…   one document for each verification
unfinished/<id>               present from before the first object until the manifest is there
uploads/<aa>/<sha256>…        contents of uploaded files, each once, for all sets together
damaged-uploads/<sha256>…     present from when a proof found such a content damaged until one finds it sound
expiring/<id>                 present from before the manifest is removed until the last object is gone
first-proven.json             present once people were told of the first proven set
pins/<id>.json                beside the set, not in it: nothing may be in its folder that the manifest does not name
"""

from keepwell.objectstore.keeping import CONTENTS, SETS

BACKUPS = SETS
UNFINISHED = "unfinished/"
UPLOADS = CONTENTS
DAMAGED_UPLOADS = "damaged-uploads/"
EXPIRING = "expiring/"
PINS = "pins/"
FIRST_PROVEN = "first-proven.json"
DATABASE = "database/"
GLOBALS = "globals.sql"
SCHEMA = "schema.jsonl"
UPLOADS_INDEX = "uploads.jsonl"
CACHE_KEYS = "redis.jsonl"
RESTORE_PAGE = "RESTORE.md"
PLATFORM_FILE = "platform.toml"
PROOFS = "proofs/"
MANIFEST = "manifest.json"


def set_folder(backup_id: str) -> str:
    """Folder of one set."""
    return f"{BACKUPS}{backup_id}/"


def database_folder(number: int) -> str:
    """Folder of one database's archive in a set, from 1 on."""
    return DATABASE if number == 1 else f"database-{number}/"


def schema_file(number: int) -> str:
    """Name of one database's schema lines in a set, from 1 on."""
    return SCHEMA if number == 1 else f"schema-{number}.jsonl"


def manifest_key(backup_id: str) -> str:
    """The document that makes a set."""
    return f"{set_folder(backup_id)}{MANIFEST}"


def proofs_folder(backup_id: str) -> str:
    """Folder of one set's proofs."""
    return f"{set_folder(backup_id)}{PROOFS}"


def unfinished_key(backup_id: str) -> str:
    """The mark of a set that is being written."""
    return f"{UNFINISHED}{backup_id}"


def content_folder(sha256: str) -> str:
    """Folder of one content of an uploaded file: 256 of them, so that none gets long."""
    return f"{UPLOADS}{sha256[:2]}/"


def damaged_upload_key(content_key: str) -> str:
    """The mark of a content that was found damaged."""
    return f"{DAMAGED_UPLOADS}{content_key.rpartition('/')[2]}"


def expiring_key(backup_id: str) -> str:
    """The mark of a set that is being removed."""
    return f"{EXPIRING}{backup_id}"


def pin_key(backup_id: str) -> str:
    """The document that keeps a set whatever the retention policy says."""
    return f"{PINS}{backup_id}.json"
