"""From what was read, restored and counted to findings: which of it is wrong, which only worth knowing. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keepwell.dumps.content import Content, Fault
from keepwell.dumps.examination import RestoredDatabase, RestoredTable
from keepwell.dumps.extensions import package_of
from keepwell.dumps.opening import DumpFile, Format, Wrapping
from keepwell.dumps.proof import Described, Table
from keepwell.dumps.restoring import Restored
from keepwell.dumps.script import END_OF_DUMP
from keepwell.dumps.survey import Survey
from keepwell.postgres.archive import machine_lacks
from keepwell.quantities import describe_bytes
from keepwell.verdict import Finding, Verdict

DISTRUST = "Do not rely on this file: prove an older one, and make a new dump now."
_NAMED = 8
_NAMED_TABLES = 3
_KINDS = {"r": "table", "p": "partitioned table", "m": "materialized view"}
_ERRORS_SHOWN = 3


@dataclass(frozen=True)
class Key:
    """One table on the scratch server."""

    database: str
    schema: str
    name: str


def describe(dump: DumpFile, survey: Survey) -> Described:
    """What a dump is, for the head of its proof."""
    content = survey.content
    origin = content.origin
    named = [part.database for part in survey.script.parts if part.database] if survey.script else []
    return Described(
        file=dump.path.name,
        format=dump.format.value,
        wrapping=dump.wrapping.value,
        size_bytes=dump.size_bytes,
        content_bytes=survey.content_bytes,
        scope=scope_of(content),
        database=origin.database or (named[0] if len(named) == 1 else ""),
        server_version=origin.server_version,
        tool_version=origin.tool_version,
        made_at=origin.made_at,
        modified_at=dump.modified_at,
        roles_missing=content.roles_missing,
        extensions=content.extensions,
    )


def scope_of(content: Content) -> str:
    """How much of a server a dump is of."""
    if content.tables and content.has_rows:
        return "cluster" if content.cluster else "database"
    if content.tables:
        return "schema only"
    if content.has_rows:
        return "rows only"
    return "roles only" if content.cluster else "database"


def judge_readable(survey: Survey) -> list[Finding]:
    """What is wrong with the file as a file."""
    return [_from_fault(fault, Verdict.ALERT) for fault in survey.unreadable]


def describe_reading(dump: DumpFile, survey: Survey) -> str:
    """What was shown by reading it, when nothing is wrong."""
    said = f"{describe_bytes(dump.size_bytes)} read to the end"
    if survey.content_bytes and (dump.format is not Format.PLAIN or dump.wrapping is not Wrapping.NONE):
        said += f", {describe_bytes(survey.content_bytes)} unpacked"
    return (
        f"{said}; {'checksums are right' if survey.checksummed else 'no checksum, so a changed value would not show'}"
    )


def judge_complete(content: Content) -> list[Finding]:
    """What is wrong with the dump as a dump."""
    if not content.recognized:
        return [
            Finding(
                name="file",
                verdict=Verdict.ALERT,
                message="This is no dump of PostgreSQL: it is neither an archive of pg_dump nor SQL that makes tables.",
                hint="Look what it is: head -c 200 FILE.",
            )
        ]
    found = [_from_fault(fault, Verdict.ALERT) for fault in content.faults]
    found += [_from_fault(fault, Verdict.UNKNOWN) for fault in content.unknowns]
    if not content.by_pg_dump:
        found.append(
            Finding(
                name=END_OF_DUMP,
                verdict=Verdict.UNKNOWN,
                message="Nothing in it says that pg_dump wrote it, so nobody can tell whether its end is missing.",
                hint="Make dumps with pg_dump: their last line says that they are complete.",
            )
        )
    scope = scope_of(content)
    if scope == "schema only":
        found.append(
            Finding(
                name="rows",
                verdict=Verdict.WARN,
                message=f"It holds {_count(content.tables, 'table')} and no rows at all: a dump of the schema only.",
                hint="Where this should be a backup: leave --schema-only (-s) out.",
            )
        )
    elif scope == "roles only":
        found.append(
            Finding(
                name="rows",
                verdict=Verdict.WARN,
                message="It holds roles and settings of a server, and no tables: pg_dumpall --globals-only.",
                hint="Dump the databases as well.",
            )
        )
    elif scope == "database" and not content.tables and not found:
        found.append(
            Finding(
                name="tables",
                verdict=Verdict.WARN,
                message="It holds no tables at all.",
                hint="Was the right database dumped? pg_dump of an empty one looks like this.",
            )
        )
    return found


def describe_completeness(content: Content) -> str:
    """What was shown of a whole dump."""
    if not content.has_rows:
        return f"{_count(content.tables, 'table')} without rows; nothing of it is missing"
    held = f"{_count(len(content.rows), 'table')} with {content.row_count:,} rows"
    return f"{held}, each ended as it should; nothing is missing"


def missing_extensions(content: Content, databases: Iterable[RestoredDatabase]) -> tuple[str, ...]:
    """What the dump creates and did not come back."""
    there = frozenset().union(*(database.extensions for database in databases))
    return tuple(extension for extension in content.extensions if extension not in there)


def judge_restored(
    content: Content,
    restored: Restored,
    databases: Sequence[RestoredDatabase],
    tables: Sequence[Table],
    *,
    major: int,
    confined: bool,
) -> list[Finding]:
    """What is wrong with what a restore brought back, and what it needed besides.

    Args:
        content: What the dump holds.
        restored: How the restore went.
        databases: What came back.
        tables: The same, compared with the dump.
        major: Of the scratch server.
        confined: Whether it could see nothing of this machine.
    """
    lacking = missing_extensions(content, databases)
    found = [_missing_extension(extension, major) for extension in lacking]
    if restored.error_count:
        found.append(_judge_errors(restored, lacking=bool(lacking)))
    found += _judge_tables(tables)
    if content.roles_missing:
        found.append(
            Finding(
                name="roles",
                verdict=Verdict.WARN,
                message=f"It needs {_count(len(content.roles_missing), 'role')} that it does not bring along: "
                f"{_list(content.roles_missing)}. Placeholders without a login stood in for them here.",
                hint="Keep them beside the dump, or a restore on a new server will fail: pg_dumpall --globals-only.",
            )
        )
    if content.tablespaces:
        found.append(
            Finding(
                name="tablespaces",
                verdict=Verdict.WARN,
                message=f"It puts tables into {_list(sorted(content.tablespaces))}, which a new server does not have.",
                hint="Make them there first, or restore with --no-tablespaces.",
            )
        )
    found += [
        Finding(
            name="collation",
            verdict=Verdict.WARN,
            message=f"This machine lacks the collation of {name}: its copy sorts by code point.",
            hint="Install that locale where you restore, to have text sorted as before.",
        )
        for name in restored.sorted_otherwise
    ]
    found += [
        Finding(name=what, verdict=Verdict.UNKNOWN, message=f"The {what} cannot be made here, and the dump needs it.")
        for what in restored.left_out
    ]
    if not confined:
        found.append(
            Finding(
                name="isolation",
                verdict=Verdict.WARN,
                message="This machine cannot confine the scratch server: the dump's code could reach other files.",
                hint="Allow user namespaces, or prove dumps that you do not trust in a container.",
            )
        )
    return found + list(_name_empty(tables))


def tables_of(
    content: Content,
    databases: Sequence[RestoredDatabase],
    scratch_names: Mapping[str, str],
    *,
    lacking: bool,
    several: bool,
) -> tuple[Table, ...]:
    """Every table of the dump and of what came back, compared.

    Args:
        content: What the dump holds.
        databases: What came back.
        scratch_names: Databases as the dump names them, to their names on the scratch server.
        lacking: Whether this machine lacks something, so that what did not come back says nothing of the dump.
        several: Whether to name the database of each.
    """
    in_dump: dict[Key, list[int | None]] = defaultdict(list)
    cut: set[Key] = set()
    for held in content.rows:
        key = Key(scratch_names[held.database], held.schema, held.table)
        in_dump[key].append(held.rows)
        if not held.whole:
            cut.add(key)
    came_back = {
        Key(table.database, table.facts.schema, table.facts.name): table for base in databases for table in base.tables
    }
    through_parents = any(key in in_dump and table.facts.kind == "p" for key, table in came_back.items())
    ended_early = any(fault.name == END_OF_DUMP for fault in content.faults)
    bad = Verdict.UNKNOWN if lacking else Verdict.ALERT
    compared = []
    for key in sorted({*in_dump, *came_back}, key=lambda key: (key.database, key.schema, key.name)):
        back, counted = came_back.get(key), in_dump.get(key)
        if back is not None and back.facts.kind == "p" and counted is None:
            continue  # its partitions are named
        pairing = _Pairing(bad, key in cut, ended_early, through_parents or not content.has_rows)
        verdict, remark = _compare(back, counted, pairing)
        compared.append(
            Table(
                database=key.database if several else "",
                table_schema=key.schema,
                name=key.name,
                kind=_KINDS[back.facts.kind] if back else "table",
                rows_in_dump=None if counted is None or None in counted else sum(filter(None, counted)),
                rows_restored=back.rows if back else None,
                rows_live=None,
                size_bytes=back.facts.size_bytes if back else 0,
                verdict=verdict,
                remark=remark,
            )
        )
    return tuple(compared)


def _compare(back: RestoredTable | None, counted: list[int | None] | None, pairing: "_Pairing") -> tuple[Verdict, str]:
    """One table's verdict, and in words what is wrong; empty when nothing is."""
    if back is None:
        rows = sum(filter(None, counted or ()))
        return pairing.bad, "was not restored" + (f", although the dump holds {rows:,} rows of it" if rows else "")
    if back.facts.kind == "m":
        return Verdict.OK, "" if back.facts.populated else "not filled"
    if back.rows is None:
        return pairing.bad, f"cannot be read: {back.fault}"
    if counted is None:
        return _judge_without_rows(back, pairing)
    return _judge_rows(back.rows, counted, pairing)


def _judge_rows(back: int, counted: list[int | None], pairing: "_Pairing") -> tuple[Verdict, str]:
    if pairing.cut:
        return Verdict.ALERT, f"its rows were cut in the dump: {back:,} came back"
    if None in counted:
        return Verdict.UNKNOWN, f"{back:,} rows came back; how many the dump holds could not be counted"
    held = sum(filter(None, counted))
    return (Verdict.OK, "") if back == held else (pairing.bad, f"{back:,} rows came back, the dump holds {held:,}")


def _judge_without_rows(back: RestoredTable, pairing: "_Pairing") -> tuple[Verdict, str]:
    """A table that came back and of which the dump carries no rows."""
    if pairing.ended_early:
        return Verdict.ALERT, "the dump ends before its rows"
    if back.rows or back.facts.condition or pairing.rows_elsewhere:
        return Verdict.OK, ""
    return Verdict.WARN, "the dump makes this table and holds no rows of it"


@dataclass(frozen=True)
class _Pairing:
    """What is known of a table besides its numbers.

    Attributes:
        bad: What it is when something is missing: this machine may lack something that it needs.
        cut: Whether its rows do not end as they should.
        ended_early: Whether the dump ends before its end.
        rows_elsewhere: Whether no table has rows in the dump, or some come through their partitioned parent.
    """

    bad: Verdict
    cut: bool
    ended_early: bool
    rows_elsewhere: bool


def _judge_tables(tables: Sequence[Table]) -> Iterator[Finding]:
    """Each table that is not in order, or where there are many, all of them in one."""
    for verdict in (Verdict.ALERT, Verdict.UNKNOWN, Verdict.WARN):
        bad = [table for table in tables if table.verdict is verdict and table.remark]
        if len(bad) <= _NAMED_TABLES:
            for table in bad:
                message = f"{table.qualified}: {table.remark}."
                yield Finding(name=table.qualified, verdict=verdict, message=message, hint=_hint_of(table))
            continue
        names = _list([table.qualified for table in bad])
        message = f"{len(bad)} tables did not come back as they should: {names}."
        yield Finding(name="tables", verdict=verdict, message=message, hint=_hint_of(bad[0]))


def _hint_of(table: Table) -> str:
    if table.verdict is Verdict.WARN:
        return "Left out with --exclude-table-data, or unlogged? A restore brings it back empty."
    return DISTRUST if table.verdict is Verdict.ALERT else ""


def _judge_errors(restored: Restored, *, lacking: bool) -> Finding:
    machine = lacking or any(machine_lacks(error.message) for error in restored.errors)
    shown = "; ".join(
        f"{error.place}: {error.message}" if error.place else error.message for error in restored.errors[:_ERRORS_SHOWN]
    )
    more = restored.error_count - min(len(restored.errors), _ERRORS_SHOWN)
    count = f"at least {restored.error_count}" if restored.stopped else f"{restored.error_count:,}"
    ended = ", and was ended" if restored.stopped else ""
    return Finding(
        name="errors",
        verdict=Verdict.UNKNOWN if machine else Verdict.ALERT,
        message=f"The restore met {count} error{'s' if restored.error_count != 1 else ''}{ended}: {shown}"
        + (f"; and {more:,} more." if more else "."),
        hint="Restore where what is missing is installed; here nothing is known of what needs it."
        if machine
        else "psql goes on after an error and exits with 0, so a plain restore would have passed over this in silence.",
    )


def _missing_extension(extension: str, major: int) -> Finding:
    return Finding(
        name=f"extension {extension}",
        verdict=Verdict.UNKNOWN,
        message=f"The extension {extension} did not come back: PostgreSQL {major} here lacks it or refuses it.",
        hint=f"Install {package_of(extension, major)}, and prove it again.",
    )


def _name_empty(tables: Sequence[Table]) -> Iterator[Finding]:
    empty = [table.qualified for table in tables if table.rows_restored == 0 and table.rows_in_dump == 0]
    if empty:
        yield Finding(
            name="empty tables",
            verdict=Verdict.OK,
            message=f"Empty in the dump, and so after a restore: {_list(empty)}.",
            hint="Right for a queue; worth a look for anything else.",
        )


def _from_fault(fault: Fault, verdict: Verdict) -> Finding:
    return Finding(name=fault.name, verdict=verdict, message=fault.message, hint=fault.hint)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
