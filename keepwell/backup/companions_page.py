"""What RESTORE.md says of the data beside the database: uploaded files and the keys of Redis."""

from keepwell.backup import layout
from keepwell.backup.manifest import CacheKeys, UploadedFiles


def render_companions_page(uploads: UploadedFiles | None, cache: CacheKeys | None, backup_id: str) -> str:
    """Sections for the page, as markdown; nothing in them is run by it.

    Args:
        uploads: The uploads folder; None where none is in the set.
        cache: Redis; None where none is in the set.
        backup_id: Of the set.
    """
    return "\n".join(["## Uploaded files", "", *_uploads(uploads, backup_id), "", "## Redis", "", *_cache(cache)])


def _uploads(uploads: UploadedFiles | None, backup_id: str) -> list[str]:
    if uploads is None:
        return ["They are NOT in this set: no uploads folder was configured."]
    lines = [
        f"With Keepwell: `keepwell backup restore-uploads {backup_id} --into NEW_FOLDER`. Without it: each line of",
        f"`{layout.UPLOADS_INDEX}` names a path and, as its `key`, the object that holds its content, below `$PLACE`",
        "(`path` is for people where `raw_path` holds its bytes as base64). Fetch it as above, open and decompress it;",
        "what comes out has the SHA-256 that the line says.",
    ]
    if uploads.left_out:
        lines.append(f"{uploads.left_out} entries of the folder could not be included; the list names them.")
    return lines


def _cache(cache: CacheKeys | None) -> list[str]:
    if cache is None:
        return ["It is NOT in this set: none was configured."]
    product = f"{cache.product.capitalize()} {cache.server_version}"
    return [
        f"Each line of `{layout.CACHE_KEYS}` is one key of {product}, with `key` and `payload` in base64. A server of",
        "that product and version, or newer, takes them with RESTORE, for instance so:",
        "",
        "```python",
        "import base64, json, redis",
        "",
        f'for line in open("{layout.CACHE_KEYS}"):',
        "    record = json.loads(line)",
        '    key, payload = (base64.b64decode(record[name]) for name in ("key", "payload"))',
        '    at = record["expires_at_ms"]',
        '    server = redis.Redis(db=record["database"])',
        "    server.restore(key, at or 0, payload, replace=True, absttl=at is not None)",
        "```",
    ]
