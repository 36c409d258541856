"""How much temporary disk a backup and its proof take: one estimate each, for the gates and for the doctor alike."""

from collections.abc import Iterable

from keepwell.postgres.facts import TableFacts

# COPY's text is about as large as the table on disk; rows that TOAST compressed well may be larger.
_DUMP_FACTOR = 1.5
# Tables and indexes come back about as large as they were, and the write-ahead log takes its share.
_SCRATCH_FACTOR = 1.3
_SCRATCH_BASE_BYTES = 64 * 1024 * 1024


# For what of one database never goes through a FIFO: its table of contents, roles, schema lines.
_WORKING_BYTES = 64 * 1024 * 1024


def estimate_working_bytes(databases: int) -> int:
    """What a run over so many databases may take, as long as their rows are streamed."""
    return databases * _WORKING_BYTES


def estimate_dump_bytes(tables: Iterable[TableFacts]) -> int:
    """What the rows of these tables may take, where they cannot be streamed."""
    return int(sum(table.data_bytes for table in tables if table.has_rows) * _DUMP_FACTOR)


def estimate_scratch_bytes(database_bytes: int) -> int:
    """What the scratch server of a proof may take.

    Args:
        database_bytes: Of the database that was dumped, as its server counts it.
    """
    return int(database_bytes * _SCRATCH_FACTOR) + _SCRATCH_BASE_BYTES
