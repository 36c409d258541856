"""The source's catalogue, as a snapshot shows it, in the words of a manifest."""

from collections.abc import Mapping
from dataclasses import dataclass

from keepwell.backup.database import Sequence, Source, Table
from keepwell.backup.hashing import Fingerprints
from keepwell.postgres import facts
from keepwell.postgres.facts import TableFacts
from keepwell.postgres.fingerprint import Fingerprint
from keepwell.postgres.role_facts import read_owners
from keepwell.postgres.snapshot import Snapshot


@dataclass(frozen=True)
class Described:
    """What a snapshot shows beside rows."""

    source: Source
    sequences: tuple[Sequence, ...]
    schema: tuple[facts.SchemaLine, ...]
    role_passwords: bool


def describe(snapshot: Snapshot) -> Described:
    """Ask the snapshot's own session.

    Raises:
        KeepwellError: The server cannot be asked.
    """
    coordinator = snapshot.coordinator
    database = facts.read_database(coordinator)
    migrations = facts.read_migrations(coordinator)
    return Described(
        source=Source(
            database=database.name,
            server_version=database.server_version,
            server_major=database.server_major,
            encoding=database.encoding,
            collate=database.collate,
            ctype=database.ctype,
            locale_provider=database.locale_provider,
            collation_version=database.collation_version,
            locale=database.locale,
            owner=database.owner,
            has_grants=database.has_grants,
            settings=tuple(database.settings),
            size_bytes=database.size_bytes,
            standby=database.standby,
            extensions=dict(facts.read_extensions(coordinator)),
            stale_collations=tuple(facts.read_stale_collations(coordinator)),
            tablespaces=dict(facts.read_tablespaces(coordinator)),
            roles=tuple(facts.read_roles_in_use(coordinator)),
            owners=tuple(read_owners(coordinator)),
            migration_head=migrations.head,
            unfinished_migrations=migrations.unfinished,
            undumped=(
                *(f"rows of {name}, a table of an extension" for name in facts.read_undumped_tables(coordinator)),
                *(f"subscription {name}" for name in facts.read_subscriptions(coordinator)),
            ),
        ),
        sequences=tuple(describe_sequence(sequence) for sequence in facts.read_sequences(coordinator)),
        schema=tuple(facts.read_schema(coordinator)),
        role_passwords=facts.may_read_password_hashes(coordinator),
    )


def describe_sequence(sequence: facts.SequenceFacts) -> Sequence:
    """One sequence, with the column that draws from it."""
    owner = (sequence.owner_schema, sequence.owner_table, sequence.owner_column)
    return Sequence(
        sequence_schema=sequence.schema,
        name=sequence.name,
        increment=sequence.increment,
        cycles=sequence.cycles,
        last_value=sequence.last_value,
        owner=owner if sequence.owner_table is not None else None,
    )


def describe_tables(snapshot: Snapshot, prints: Fingerprints, parts: Mapping[int, str]) -> tuple[Table, ...]:
    """Every relation but sequences.

    Args:
        snapshot: Which shows them.
        prints: Of those that hold rows.
        parts: Name of the part that holds its rows, by the table's oid.
    """
    return tuple(
        describe_table(table, prints.tables.get(table.oid), parts.get(table.oid))
        for table in snapshot.tables
        if table.kind != "S"
    )


def describe_table(table: TableFacts, found: Fingerprint | None, part: str | None) -> Table:
    """One relation; without a fingerprint it says why it cannot be shown equal."""
    kinds: Mapping[str, tuple[str, str | None]] = {
        "r": ("table", None),
        "p": ("partitioned", None),
        "m": ("materialized view", "its rows are computed anew by a restore"),
        "f": ("foreign table", "its rows live on another server and are not dumped"),
    }
    kind, unproven = kinds[table.kind]
    if table.kind == "r" and found is None:
        unproven = "it is unlogged, and so without rows on a standby"
    return Table(
        oid=table.oid,
        table_schema=table.schema,
        name=table.name,
        kind=kind,
        columns=tuple(table.columns),
        condition=table.condition,
        populated=table.populated,
        size_bytes=table.size_bytes,
        rows=found.rows if found else None,
        content_hash=found.content_hash if found else None,
        part=part,
        unproven=unproven,
    )
