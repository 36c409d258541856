"""RESTORE.md: how to restore the set that it lies in, for whoever finds nothing but the bucket and the keys."""

from keepwell.backup import layout
from keepwell.backup.manifest import CacheKeys, Source, UploadedFiles


def render_restore_page(
    *,
    backup_id: str,
    platform: str,
    source: Source,
    archive_major: int,
    sealed: bool,
    role_passwords: bool,
    uploads: UploadedFiles | None,
    cache: CacheKeys | None,
) -> str:
    """The page.

    Args:
        backup_id: Of the set.
        platform: Its name.
        source: The database.
        archive_major: A pg_restore of this major version or newer reads the archive.
        sealed: Whether the objects are sealed with age.
        role_passwords: Whether the roles come with their passwords.
        uploads: The uploads folder; None where none is in the set.
        cache: Redis; None where none is in the set.
    """
    settings = "open it as below, put" if sealed else "put"
    command = f"keepwell backup {{}} {backup_id} --into {{}} --platform {platform}"
    passwords = "" if role_passwords else " Their passwords are NOT in it: set them anew."
    lines = [
        f"# Restoring {backup_id}",
        "",
        f"A backup of the database `{source.database}` of the platform {platform}, PostgreSQL {source.server_version}.",
        f"{layout.MANIFEST} lists every object with its size and SHA-256.",
        "",
        "## With Keepwell",
        "",
        f"`{layout.PLATFORM_FILE}` beside this page is the platform file without its secrets: {settings} the secrets",
        "into the files that it names, and let KEEPWELL_CONFIG name it.",
        "",
        f"    {command.format('restore', 'NEW_DATABASE')}",
    ]
    if uploads is not None:
        lines.append(f"    {command.format('restore-uploads', 'NEW_FOLDER')}")
    lines += [
        "",
        "## With stock tools",
        "",
        *_open_objects(sealed=sealed),
        f"1. Roles: `psql -f {layout.GLOBALS} postgres`.{passwords}",
        f"2. Database: make an empty one (encoding {source.encoding}, collation {source.collate}), then",
        f"   `pg_restore --exit-on-error -d NEW_DATABASE {layout.DATABASE}`, of version {archive_major} or newer.",
        *_uploads(uploads),
        *_cache(cache),
    ]
    return "\n".join(lines) + "\n"


def _open_objects(*, sealed: bool) -> list[str]:
    """Everything but this page and the manifest is sealed, and most is compressed, which the name tells."""
    opening = ["`age -d -i IDENTITIES FILE.age > FILE`"] if sealed else []
    steps = ", then ".join([*opening, "`zstd -d FILE.zst`"])
    return [
        f"Copy the set's folder, and open each object by the suffixes of its name: {steps}.",
        "Compare each with the SHA-256 in the manifest (`sha256sum`).",
        "",
    ]


def _uploads(uploads: UploadedFiles | None) -> list[str]:
    if uploads is None:
        return ["3. Uploaded files are not in this set: no uploads folder was configured."]
    lines = [
        f"3. Uploaded files: each line of `{layout.UPLOADS_INDEX}` names a path and, under `key`, the object that",
        f"   holds its content, in `{layout.UPLOADS}` of the platform's folder, two above this one. Open it like the",
        "   others; its SHA-256 is its name.",
    ]
    if uploads.left_out:
        lines.append(f"   {uploads.left_out} entries of the folder could not be included; the list names them.")
    return lines


def _cache(cache: CacheKeys | None) -> list[str]:
    if cache is None:
        return ["4. Redis is not in this set: none was configured."]
    product = f"{cache.product.capitalize()} {cache.server_version}"
    return [
        f"4. Redis: each line of `{layout.CACHE_KEYS}` is one key of {product}, with `key` and `payload` in base64.",
        "   A server of that product and version, or newer, takes them with RESTORE, for instance so:",
        "",
        "       import base64, json, redis",
        f'       for line in open("{layout.CACHE_KEYS}"):',
        "           r = json.loads(line)",
        '           key, payload = (base64.b64decode(r[name]) for name in ("key", "payload"))',
        '           at = r["expires_at_ms"]',
        '           redis.Redis(db=r["database"]).restore(key, at or 0, payload, replace=True, absttl=at is not None)',
    ]
