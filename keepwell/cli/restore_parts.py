"""`keepwell restore tables`: a part of a backup set brought back beside the live data, and taken away again."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.approving import Approve, Approver, Given, Reason, Typed, obtain_approval
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, choose, size, tell_waiting
from keepwell.destination import Destination
from keepwell.errors import PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.approval import Subject
    from keepwell.backup.restored_schemas import RestoredSchema
    from keepwell.objectstore.store import Store
    from keepwell.restore.parts import RestoredTables, TablesPlan
    from keepwell.settings import Platform

Which = Annotated[str, typer.Argument(help="A backup's id, `newest` or `newest-proven`.", metavar="ID")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show what would be restored; nothing is changed.")]
Unproven = Annotated[bool, typer.Option("--unproven", help="Take even a set that was never proven.")]


@console.command("restore.tables")
def tables(
    which: Which = "newest-proven",
    *,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", metavar="SCHEMA.NAME", help="A table, with its partitions; again for each further one."
        ),
    ] = None,
    schema: Annotated[
        list[str] | None, typer.Option("--schema", metavar="NAME", help="All tables of a schema; again for each.")
    ] = None,
    into_schema: Annotated[
        str, typer.Option("--into-schema", metavar="NAME", help="New schema of the live database that gets them.")
    ],
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="NAME", help="Which database; the platform's main one otherwise."),
    ] = None,
    plan: PlanOnly = False,
    undo: Annotated[bool, typer.Option("--undo", help="Drop the schema again, if Keepwell restored it.")] = False,
    unproven: Unproven = False,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Restore tables into a new schema beside the live ones, and prove them equal there, row by row."""
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.parts_choice import TablesWanted

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    if undo:
        if table or schema or plan:
            raise PreconditionFailed("--undo takes the whole schema, and nothing else.", hint="Leave the others out.")
        given = Given(approve, approver, reason, typed)
        return _undo(settings, store, database or settings.database.name, into_schema, given)
    wanted = TablesWanted(tuple(table or ()), tuple(schema or ()), into_schema, database)
    backup_id = choose(settings, store, which)
    if plan:
        return _plan(settings, store, backup_id, wanted, unproven=unproven)
    return _restore(settings, store, backup_id, wanted, unproven=unproven)


def _plan(settings: "Platform", store: "Store", backup_id: str, wanted: Any, *, unproven: bool) -> Outcome:
    from keepwell.restore.parts import plan_tables
    from keepwell.verdict import Verdict

    planned = plan_tables(settings, store, backup_id, wanted, allow_unproven=unproven)
    return Outcome(
        Verdict.OK,
        data=_describe_plan(planned),
        hint="Nothing was changed.",
        show=lambda screen: _show_plan(screen, planned),
    )


def _restore(settings: "Platform", store: "Store", backup_id: str, wanted: Any, *, unproven: bool) -> Outcome:
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.restore.parts import restore_tables
    from keepwell.verdict import Verdict, worst

    with console.progress_shown() as progress, hold_platform(settings, store, Procedure.RESTORE, on_wait=tell_waiting):
        restored = restore_tables(settings, store, backup_id, wanted, progress, allow_unproven=unproven)
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in restored.findings)]),
        data=restored,
        hint=f"Undo it: keepwell restore tables --into-schema '{restored.schema}' --undo",
        show=lambda screen: _show_restored(screen, restored),
    )


def _undo(settings: "Platform", store: "Store", live: str, schema: str, given: Given) -> Outcome:
    from keepwell.backup.restored_schemas import drop_restored_schema, find_restored_schema
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.verdict import Verdict

    found = find_restored_schema(settings, live, schema)
    console.say(f"Schema {found.name} of {found.live}: {found.comment} ({size(found.size_bytes)})")
    obtain_approval(_subject(settings, found), given)
    with hold_platform(settings, store, Procedure.RESTORE, on_wait=tell_waiting):
        dropped = drop_restored_schema(settings, live, schema)
    return Outcome(Verdict.OK, data=dropped, hint=f"The schema {schema} is gone from {live}; nothing else was touched.")


def _subject(settings: "Platform", found: "RestoredSchema") -> "Subject":
    from keepwell.approval import Subject

    binds = {"database": found.live, "schema": found.name, "holds": found.comment}
    return Subject(procedure="undo", platform=settings.name, binds=binds, typed=found.live)


def _describe_plan(planned: "TablesPlan") -> dict[str, Any]:
    return {
        "backup_id": planned.backup_id,
        "snapshot_at": planned.snapshot_at,
        "database": planned.live,
        "into_schema": planned.into_schema,
        "tables": [{"table": table.qualified, "rows": table.rows} for table in planned.tables],
        "left_behind": planned.left_behind,
        "rows": planned.rows,
        "bytes_source": planned.size_bytes,
        "bytes_content": planned.content_bytes,
    }


def _show_plan(screen: "Console", planned: "TablesPlan") -> None:
    console.print_plain(
        screen,
        f"{planned.backup_id} of {planned.snapshot_at:%Y-%m-%d %H:%M:%S} UTC\n"
        f"into the new schema {planned.into_schema} of {planned.live}: {planned.rows:,} rows of {len(planned.tables)} "
        f"tables, which took {size(planned.size_bytes)} in the source",
    )
    listed = console.table("table", "rows")
    for one in planned.tables:
        listed.add_row(_plain(one.qualified), "partitioned" if one.rows is None else f"{one.rows:,}")
    screen.print(listed)
    for told in planned.left_behind:
        console.print_plain(screen, f"Not restored: {told}")


def _show_restored(screen: "Console", restored: "RestoredTables") -> None:
    console.print_plain(
        screen,
        f"Restored into the schema {restored.schema} of {restored.live}, from {restored.backup_id}: {restored.rows:,} "
        f"rows of {len(restored.tables)} tables, each compared with the source's content, in {restored.seconds:.1f} s.",
    )
    for told in restored.left_out:
        console.print_plain(screen, f"Left out: {told}.")
    if restored.findings:
        screen.print(console.findings_table(restored.findings))
    ready = [one for one in restored.tables if one.copy_back]
    if ready:
        console.print_plain(screen, "The live tables are as they were. What they lack would go back so:")
    for one in ready:
        console.print_plain(screen, f"  {one.copy_back}")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
