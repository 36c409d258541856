"""The set's keys of Redis in a database of their own, beside those that the application uses, each read back."""

import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from keepwell.backup import layout
from keepwell.backup.cache_keys import load_keys
from keepwell.backup.manifest import CacheKeys, Manifest
from keepwell.backup.read_back import SetReader
from keepwell.backup.restore import require_restorable
from keepwell.backup.spool import open_spool
from keepwell.cache import BesideLoader, Comparison, read_server, require_empty
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.objectstore.store import Store
from keepwell.progress import Progress
from keepwell.settings import Platform, RedisSettings
from keepwell.verdict import Finding, Verdict


@dataclass(frozen=True)
class KeysPlan:
    """What would be loaded from what to where.

    Attributes:
        backup_id: Of the set.
        read_at: When its keys began to be read.
        place: The server, for people.
        source: Number of the set's database.
        target: Number of the one that gets its keys; it is empty.
        keys: How many there are, those that have expired since among them.
        size_bytes: About what they take.
    """

    backup_id: str
    read_at: datetime
    place: str
    source: int
    target: int
    keys: int
    size_bytes: int


@dataclass(frozen=True)
class RestoredKeys:
    """What was loaded where.

    Attributes:
        plan: As it was planned.
        equal: Keys that read back equal in type, expiry and value.
        expired: Keys whose time had come; they are not there.
        unproven: Keys that are there, and cannot be compared by anybody.
        seconds: In all.
        findings: What is worth knowing; nothing in it is wrong.
    """

    plan: KeysPlan
    equal: int
    expired: int
    unproven: int
    seconds: float
    findings: tuple[Finding, ...]


def plan_keys(
    platform: Platform,
    store: Store,
    backup_id: str,
    *,
    target: int,
    source: int | None = None,
    allow_unproven: bool = False,
) -> KeysPlan:
    """Look what would be loaded, and whether it can be; nothing is changed.

    Args:
        platform: Whose set, and whose Redis.
        store: Its folder in the bucket.
        backup_id: Which set.
        target: Number of the database that gets the keys; it must be empty.
        source: Number of the set's database; the only one by default.
        allow_unproven: Take even a set that was never proven.

    Raises:
        PreconditionFailed: The set holds none, the database is not empty, or live keys would have to go.
        ServiceUnavailable: Redis does not answer.
    """
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    cache, settings = _require_keys(manifest), _require_redis(platform)
    number = _choose_database(cache, source)
    size_bytes = sum(part.content_size_bytes for part in manifest.parts if part.content_name == layout.CACHE_KEYS)
    require_empty(settings, target, needed_bytes=size_bytes)
    return KeysPlan(
        backup_id=backup_id,
        read_at=cache.began_at,
        place=settings.place,
        source=number,
        target=target,
        keys=cache.databases[str(number)],
        size_bytes=size_bytes,
    )


def restore_keys(
    platform: Platform,
    store: Store,
    backup_id: str,
    progress: Progress,
    *,
    target: int,
    source: int | None = None,
    allow_unproven: bool = False,
) -> RestoredKeys:
    """Load keys into an empty database of the platform's Redis; arguments as for `plan_keys`.

    Raises:
        PreconditionFailed: As `plan_keys`.
        VerificationFailed: The set is damaged, or a key came back otherwise; what was loaded by then is still there.
        AccessDenied: The login may not write.
    """
    began = time.monotonic()
    plan = plan_keys(platform, store, backup_id, target=target, source=source, allow_unproven=allow_unproven)
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    settings = _require_redis(platform)
    parts = [part for part in manifest.parts if part.content_name == layout.CACHE_KEYS]
    with open_spool(platform) as folder:
        reader = SetReader(store, manifest, folder, progress, parts=parts)
        loader = BesideLoader(
            settings, read_server(settings), source=plan.source, target=target, now_ms=int(time.time() * 1000)
        )
        with closing(loader):
            loaded = load_keys(manifest, reader, loader, progress)
    wrong = next((one for one in loaded.findings if one.verdict in (Verdict.ALERT, Verdict.UNKNOWN)), None)
    if wrong is not None:
        raise VerificationFailed(
            wrong.message,
            hint=f"Database {target} is not complete: empty it (FLUSHDB in there), then take another set.",
        )
    return RestoredKeys(
        plan=plan,
        equal=loaded.results.get(Comparison.EQUAL, 0),
        expired=loaded.results.get(Comparison.EXPIRED, 0),
        unproven=loaded.results.get(Comparison.UNPROVEN, 0),
        seconds=time.monotonic() - began,
        findings=loaded.findings,
    )


def _require_keys(manifest: Manifest) -> CacheKeys:
    if manifest.cache is None or not manifest.cache.records:
        raise PreconditionFailed(f"{manifest.backup_id} holds no keys of Redis.", hint="Take another set.")
    return manifest.cache


def _require_redis(platform: Platform) -> RedisSettings:
    if platform.redis is None:
        raise PreconditionFailed(
            "The platform file names no Redis to load keys into.", hint="Add the section [redis] to it."
        )
    return platform.redis


def _choose_database(cache: CacheKeys, wanted: int | None) -> int:
    held = sorted(int(number) for number in cache.databases)
    if wanted is None and len(held) == 1:
        return held[0]
    if wanted in held:
        return int(wanted or 0)
    told = ", ".join(map(str, held))
    raise PreconditionFailed(
        f"The set holds keys of the databases {told}.", hint="Name one of them with --from-database."
    )
