"""Whether a restored database is sound: indexes against rows, sequences against columns, constraints.

Nothing here knows where the database was restored from, so that a backup set and any dump are judged alike.
"""

from collections.abc import Iterator

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from keepwell.errors import KeepwellError
from keepwell.postgres import archive, facts
from keepwell.postgres.binaries import Binaries
from keepwell.postgres.connection import connect_to, translated
from keepwell.verdict import Finding, Verdict

# With these, amcheck says, it misses a row that an index lacks in one case of fifty at most.
_FILTER_BYTES_PER_ROW, _SMALLEST_FILTER_BYTES = 2, 1024 * 1024
# A header, one short column and the pointer to it.
_NARROWEST_ROW_BYTES = 36


def check_indexes(
    binaries: Binaries, conninfo: str, *, jobs: int, hint: str, password: SecretStr | None = None
) -> Iterator[Finding]:
    """Check every table and index of a database, and that each index knows every row.

    Args:
        binaries: Whose pg_amcheck.
        conninfo: Of the restored database, for a superuser; amcheck is installed into it.
        jobs: Parallel connections.
        hint: What to do when there is damage.
        password: Where its server asks for one.
    """
    try:
        with connect_to(conninfo, password=password) as connection, translated("installing amcheck"):
            # Neither the source's event triggers nor a missing schema `public` may stand in the way.
            connection.execute("SET session_replication_role = replica")
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog")
            own = _with_memory(conninfo, connection)
        environment = {} if password is None else {"PGPASSWORD": password.get_secret_value()}
        call = archive.build_index_check_command(binaries, own, jobs=jobs, environment=environment)
        damage = archive.run_index_check(call)
        if archive.machine_lacks(damage):
            yield Finding(
                name="indexes",
                verdict=Verdict.UNKNOWN,
                message=f"pg_amcheck could not look at everything here: {damage}",
                hint="Verify it where there is space enough.",
            )
        elif damage:
            yield Finding(
                name="indexes", verdict=Verdict.ALERT, message=f"pg_amcheck found damage: {damage}", hint=hint
            )
    except KeepwellError as error:
        yield Finding(
            name="indexes",
            verdict=Verdict.UNKNOWN,
            message=f"Indexes could not be checked: {error.message}",
            hint="Install PostgreSQL's contrib modules for the scratch server.",
        )


def _with_memory(conninfo: str, connection: psycopg.Connection) -> str:
    """The connection string with no more memory for the check's filter of rows than what misses a fault in fifty.

    A larger one finds hardly more, and much slower, since the processor's caches do not hold it.
    Source: PostgreSQL manual, "amcheck", Optional heapallindexed Verification.
    """
    found = connection.execute(
        """
        SELECT coalesce(max(pg_catalog.pg_relation_size(indrelid)), 0),
               pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))
        FROM pg_catalog.pg_index
        """
    ).fetchone()
    largest_bytes, allowed_bytes = found or (0, 0)
    wanted_bytes = choose_filter_bytes(largest_bytes)
    if wanted_bytes >= allowed_bytes:
        return conninfo
    options = conninfo_to_dict(conninfo).get("options") or ""
    return make_conninfo(conninfo, options=f"{options} -c maintenance_work_mem={wanted_bytes // 1024}kB".strip())


def choose_filter_bytes(table_bytes: int) -> int:
    """How large a filter must be for as many rows as a table of that size can hold; a power of two, as amcheck's is."""
    needed_bytes = max(_FILTER_BYTES_PER_ROW * table_bytes // _NARROWEST_ROW_BYTES, _SMALLEST_FILTER_BYTES)
    return 1 << (needed_bytes - 1).bit_length()


def check_owned_column(connection: psycopg.Connection, sequence: facts.SequenceFacts) -> Iterator[Finding]:
    """Whether the column that draws from a sequence holds a value beyond it, so that the next insert would collide.

    Raises:
        KeepwellError: The column cannot be read.
    """
    if sequence.owner_column is None or sequence.owner_schema is None or sequence.owner_table is None:
        return
    if sequence.increment < 0 or sequence.cycles:
        return
    schema, table, column = sequence.owner_schema, sequence.owner_table, sequence.owner_column
    with translated(f"reading {schema}.{table}"):
        row = connection.execute(
            sql.SQL("SELECT pg_catalog.max({})::numeric FROM {}").format(
                sql.Identifier(column), sql.Identifier(schema, table)
            )
        ).fetchone()
    highest = row[0] if row else None
    if highest is not None and highest > (sequence.last_value or 0):
        yield Finding(
            name=f"{sequence.schema}.{sequence.name}",
            verdict=Verdict.WARN,
            message=f"{schema}.{table}.{column} holds {highest}, "
            f"beyond its sequence {sequence.schema}.{sequence.name}.",
            hint="The source is like this: the next insert there will collide. Correct it with setval().",
        )


def check_constraints(connection: psycopg.Connection) -> Iterator[Finding]:
    """Name the constraints that rows may break, because they were declared NOT VALID."""
    for name in facts.read_unvalidated_constraints(connection):
        yield Finding(
            name=name,
            verdict=Verdict.WARN,
            message=f"The constraint {name} is NOT VALID: rows may break it.",
            hint="The source is like this: ALTER TABLE … VALIDATE CONSTRAINT there, once the rows are right.",
        )
