"""Manifests and proofs for tests that need what they say, not what they describe."""

import hashlib
from datetime import UTC, datetime, timedelta

from keepwell.backup import layout
from keepwell.backup.database import Database, LargeObjects, Source, Table
from keepwell.backup.manifest import CacheKeys, Manifest, Part, Seconds, Tools, UploadedFiles
from keepwell.backup.proof import LEVELS, LevelOutcome, Proof
from keepwell.settings import ProofLevel
from keepwell.verdict import Finding, Verdict

SNAPSHOT = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)


def backup_id(at: datetime = SNAPSHOT) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}-abcdef"


def a_table(name: str = "events", *, rows: int | None = 100, size: int = 8192, unproven: str | None = None) -> Table:
    return Table(
        oid=1,
        table_schema="public",
        name=name,
        kind="table",
        columns=("id",),
        size_bytes=size,
        rows=rows,
        content_hash=None if unproven else "1",
        part=None,
        unproven=unproven,
    )


def a_part(name: str = "database/1.dat.zst", *, size: int = 1000) -> Part:
    return Part(
        name=name,
        size_bytes=size // 4,
        sha256="0" * 64,
        compression="zstd",
        content_size_bytes=size,
        content_sha256="0" * 64,
    )


def a_database(
    name: str = "esn_db", number: int = 1, at: datetime = SNAPSHOT, *, tables: tuple[Table, ...] | None = None
) -> Database:
    return Database(
        folder=layout.database_folder(number),
        schema_file=layout.schema_file(number),
        snapshot_at=at,
        source=Source(
            database=name,
            server_version="15.18",
            server_major=15,
            encoding="UTF8",
            collate="C",
            ctype="C",
            locale_provider="libc",
            collation_version=None,
            locale=None,
            owner="postgres",
            has_grants=False,
            settings=(),
            size_bytes=12_000_000,
            standby=False,
            extensions={},
            stale_collations=(),
            tablespaces={},
            roles=("esn",),
            migration_head=None,
        ),
        tables=tables if tables is not None else (a_table(),),
        sequences=(),
        large_objects=LargeObjects(count=0, content_hash=None),
        schema_digest="0" * 64,
    )


def a_manifest(
    at: datetime = SNAPSHOT,
    *,
    tables: tuple[Table, ...] | None = None,
    size: int = 1000,
    further: tuple[Database, ...] = (),
) -> Manifest:
    """A set with one part for each of its databases."""
    databases = (a_database(at=at, tables=tables), *further)
    return Manifest(
        backup_id=backup_id(at),
        platform="esn",
        finished_at=at + timedelta(seconds=30),
        databases=databases,
        tools=Tools(keepwell="0.1.0", pg_dump="15.18", archive_major=15),
        role_passwords=True,
        parts=tuple(a_part(f"{database.folder}1.dat.zst", size=size) for database in databases),
        seconds=Seconds(dump=1.0, fingerprint=1.0, upload=1.0, total=3.0),
    )


def change_main(manifest: Manifest, **changes: object) -> Manifest:
    """A manifest that says something else of its main database."""
    main, *further = manifest.databases
    return manifest.model_copy(update={"databases": (main.model_copy(update=changes), *further)})


def some_uploads(*, left_out: int = 0) -> UploadedFiles:
    return UploadedFiles(
        began_at=SNAPSHOT + timedelta(seconds=10),
        finished_at=SNAPSHOT + timedelta(seconds=12),
        files=1234,
        folders=12,
        links=0,
        size_bytes=56_000_000,
        contents=1200,
        stored_bytes=40_000_000,
        sent_contents=3,
        sent_bytes=1_000_000,
        left_out=left_out,
        named_left_out=tuple(f"s{number} is a socket" for number in range(left_out)),
        seconds=2.0,
    )


def a_cache(**changes: object) -> CacheKeys:
    keys = CacheKeys(
        began_at=SNAPSHOT + timedelta(seconds=12),
        finished_at=SNAPSHOT + timedelta(seconds=13),
        product="valkey",
        server_version="9.1.2",
        records=345,
        databases={"0": 345},
        types={"hash": 45, "string": 300},
        expiring=120,
        seconds=1.0,
    )
    return keys.model_copy(update=changes)


def a_proof(
    at: datetime = SNAPSHOT,
    *,
    reached: ProofLevel | None = "serving",
    stopped_by: Verdict | None = None,
    findings: tuple[Finding, ...] = (),
) -> Proof:
    """A proof up to a level; with `stopped_by`, the level after it ended the ladder by that verdict."""
    passed = LEVELS.index(reached) + 1 if reached else 0
    outcomes = [
        LevelOutcome(level=level, verdict=Verdict.OK, summary="checked", seconds=0.5) for level in LEVELS[:passed]
    ]
    if stopped_by is not None:
        outcomes.append(
            LevelOutcome(
                level=LEVELS[passed],
                verdict=stopped_by,
                summary="1 finding: it differs",
                findings=findings,
                seconds=0.5,
            )
        )
    restored = len(outcomes) > LEVELS.index("restored")
    return Proof(
        backup_id=backup_id(at),
        manifest_sha256="0" * 64,
        started_at=at + timedelta(minutes=1),
        finished_at=at + timedelta(minutes=2),
        levels=tuple(outcomes),
        server="PostgreSQL 15.18" if restored else None,
        same_major=True if restored else None,
        isolation="another user" if restored else None,
        restore_seconds=12.5 if restored else None,
    )


def documents(manifest: Manifest, *proofs: Proof) -> dict[str, bytes]:
    """A set as it lies in the store, its proofs made for this very manifest."""
    stored = {layout.manifest_key(manifest.backup_id): manifest.to_json()}
    sha256 = hashlib.sha256(manifest.to_json()).hexdigest()
    for number, proof in enumerate(proofs):
        bound = proof.model_copy(update={"manifest_sha256": sha256})
        stored[f"{layout.proofs_folder(manifest.backup_id)}{number}.json"] = bound.to_json()
    return stored
