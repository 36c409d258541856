"""The set's keys of Redis in a database of their own, beside those that the application uses, each read back."""

import time
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime

from keepwell.approval import Subject
from keepwell.backup import layout
from keepwell.backup.cache_keys import LoadedKeys, load_keys
from keepwell.backup.manifest import CacheKeys, Manifest
from keepwell.backup.read_back import SetReader
from keepwell.backup.restore import require_restorable
from keepwell.backup.spool import open_spool
from keepwell.cache import BesideLoader, Comparison, KeyRemover, read_server, require_empty
from keepwell.errors import KeepwellError, PreconditionFailed, VerificationFailed
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
        target: Number of the database that gets the keys; it must be empty, and none that the set holds keys of:
            those are the application's own.
        source: Number of the set's database; the only one by default.
        allow_unproven: Take even a set that was never proven.

    Raises:
        PreconditionFailed: The set holds none, the database is not empty, or live keys would have to go.
        ServiceUnavailable: Redis does not answer.
    """
    manifest = require_restorable(platform, store, backup_id, allow_unproven=allow_unproven)
    cache, settings = _require_keys(manifest), _require_redis(platform)
    number = _choose_database(cache, source)
    _require_beside(cache, target)
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
        PreconditionFailed: As `plan_keys`; or somebody else writes keys there, which are left as they are.
        VerificationFailed: The set is damaged, or a key came back otherwise; what was loaded was taken out again.
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
            try:
                loaded = load_keys(manifest, reader, loader, progress)
                _require_right(loaded, loader, target)
            except BaseException:
                with suppress(KeepwellError):  # what went wrong matters more now; the undo takes out what stayed
                    loader.take_back()
                raise
    return RestoredKeys(
        plan=plan,
        equal=loaded.results.get(Comparison.EQUAL, 0),
        expired=loaded.results.get(Comparison.EXPIRED, 0),
        unproven=loaded.results.get(Comparison.UNPROVEN, 0),
        seconds=time.monotonic() - began,
        findings=loaded.findings,
    )


@dataclass(frozen=True)
class KeysUndo:
    """What would be taken out again.

    Attributes:
        backup_id: The set that was loaded.
        place: The server, for people.
        source: Number of the set's database.
        target: Number of the one that got its keys.
        subject: What somebody approves.
    """

    backup_id: str
    place: str
    source: int
    target: int
    subject: Subject


def plan_undo(platform: Platform, store: Store, backup_id: str, *, target: int, source: int | None = None) -> KeysUndo:
    """Look what an undo would take out again; nothing is changed. Arguments as for `plan_keys`.

    Raises:
        PreconditionFailed: The set holds no keys, or the database is one of the application's own.
    """
    manifest = require_restorable(platform, store, backup_id, allow_unproven=True)
    cache, settings = _require_keys(manifest), _require_redis(platform)
    number = _choose_database(cache, source)
    _require_beside(cache, target)
    binds = {"backup_id": backup_id, "server": settings.place, "from": str(number), "database": str(target)}
    subject = Subject(procedure="undo", platform=platform.name, binds=binds, typed=platform.database.name)
    return KeysUndo(backup_id, settings.place, number, target, subject)


def undo_keys(platform: Platform, store: Store, plan: KeysUndo, progress: Progress) -> tuple[int, int]:
    """Take out the keys that are as the set has them, and no other; the caller holds the platform for a restore.

    Returns:
        How many were removed; and how many of the set's names are there still, since somebody changed what they hold,
        or nobody can compare it.

    Raises:
        VerificationFailed: The set is damaged; what could be compared is gone.
        KeepwellError: Redis does not answer, or does not let us.
    """
    manifest = require_restorable(platform, store, plan.backup_id, allow_unproven=True)
    settings = _require_redis(platform)
    parts = [part for part in manifest.parts if part.content_name == layout.CACHE_KEYS]
    with open_spool(platform) as folder:
        reader = SetReader(store, manifest, folder, progress, parts=parts)
        remover = KeyRemover(settings, read_server(settings), source=plan.source, target=plan.target)
        with closing(remover):
            done = load_keys(manifest, reader, remover, progress)
    if wrong := _first_wrong(done):
        raise VerificationFailed(wrong.message, hint=f"{remover.removed:,} keys were taken out by then.")
    return remover.removed, remover.left


def _require_right(loaded: LoadedKeys, loader: BesideLoader, target: int) -> None:
    if loader.written_meanwhile:
        raise PreconditionFailed(
            f"Somebody else wrote {loader.written_meanwhile} into database {target} meanwhile; it is as it was.",
            hint="Name a database that nobody uses. What had been loaded was taken out again.",
        )
    if wrong := _first_wrong(loaded):
        raise VerificationFailed(
            wrong.message, hint=f"What had been loaded into database {target} was taken out again: take another set."
        )


def _first_wrong(loaded: LoadedKeys) -> Finding | None:
    return next((one for one in loaded.findings if one.verdict in (Verdict.ALERT, Verdict.UNKNOWN)), None)


def _require_beside(cache: CacheKeys, target: int) -> None:
    """The set's own databases are those that the application uses, empty as they may be just now."""
    if str(target) in cache.databases:
        raise PreconditionFailed(
            f"Database {target} is one of the application's own: the set holds keys of it.",
            hint="Name another, such as one that nothing uses.",
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
