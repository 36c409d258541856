"""`keepwell restore tables | uploads | redis | roles | elsewhere`: parts beside live data, or on another server."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.approving import Approve, Approver, Given, Reason, Typed, obtain_approval
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, choose, size, tell_waiting
from keepwell.destination import Destination
from keepwell.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.approval import Subject
    from keepwell.backup.restored_schemas import RestoredSchema
    from keepwell.holding import Hold
    from keepwell.objectstore.store import Store
    from keepwell.restore.parts import RestoredTables, TablesPlan
    from keepwell.restore.roles import RolesPlan
    from keepwell.settings import Platform
    from keepwell.verdict import Finding

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


@console.command("restore.uploads")
def uploads(
    which: Which = "newest-proven",
    *,
    into: Annotated[Path, typer.Option(help="New or empty folder; nothing that exists is touched.")],
    plan: PlanOnly = False,
    unproven: Unproven = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Put a set's uploaded files into a folder of their own, each compared with its hash; needs no database."""
    from keepwell.holding import hold_sets
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.restore.uploads_beside import plan_uploads_beside, restore_uploads_beside
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    if plan:
        held = plan_uploads_beside(settings, store, backup_id, into, allow_unproven=unproven)
        told = f"{held.files:,} files ({size(held.size_bytes)}) of {backup_id} into {into}. Nothing was changed."
        return Outcome(Verdict.OK, data={"backup_id": backup_id, "folder": into, "uploads": held}, hint=told)
    evidence = kept_in_evidence(settings, store, backup_id, f"Uploaded files of {backup_id} were to go into {into}")
    with console.progress_shown() as progress, hold_sets(settings, store), evidence as kept:
        restored = restore_uploads_beside(settings, store, backup_id, into, progress, allow_unproven=unproven)
        told = f"{restored.files:,} files ({size(restored.size_bytes)}) are in {into}, each compared with its hash."
        kept.summary, kept.findings, kept.numbers = told, restored.findings, {"files": restored.files}
    verdict = worst([Verdict.OK, *(finding.verdict for finding in restored.findings)])
    return Outcome(verdict, data=restored, hint=told, show=lambda screen: _show_findings(screen, restored.findings))


@console.command("restore.redis")
def redis(
    which: Which = "newest-proven",
    *,
    into_database: Annotated[
        int, typer.Option("--into-database", min=0, metavar="NUMBER", help="An empty database of the platform's Redis.")
    ],
    from_database: Annotated[
        int | None, typer.Option("--from-database", min=0, metavar="NUMBER", help="Where the set holds several.")
    ] = None,
    plan: PlanOnly = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take out again what a set's keys put there, unchanged.")
    ] = False,
    unproven: Unproven = False,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Load a set's keys of Redis into an empty database beside the live ones, and read each of them back."""
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.cache_beside import plan_keys, restore_keys
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    if undo:
        if plan:
            raise PreconditionFailed("--undo shows its own plan.", hint="Leave --plan out.")
        given = Given(approve, approver, reason, typed)
        return _undo_keys(settings, store, backup_id, (into_database, from_database), given)
    if plan:
        planned = plan_keys(
            settings, store, backup_id, target=into_database, source=from_database, allow_unproven=unproven
        )
        told = f"{planned.keys:,} keys of {backup_id} into database {into_database} of {planned.place}."
        return Outcome(Verdict.OK, data=planned, hint=f"{told} Nothing was changed.")
    evidence = kept_in_evidence(settings, store, backup_id, f"Keys of {backup_id} were to go into {into_database}")
    with console.progress_shown() as progress, _held(settings, store), evidence as kept:
        restored = restore_keys(
            settings, store, backup_id, progress, target=into_database, source=from_database, allow_unproven=unproven
        )
        told = (
            f"{restored.equal:,} keys are in database {into_database}, equal in type, expiry and value; "
            f"{restored.expired:,} had expired."
        )
        kept.summary, kept.findings, kept.numbers = told, restored.findings, {"keys": restored.equal}
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in restored.findings)]),
        data=restored,
        hint=f"{told} Undo it: keepwell restore redis {backup_id} --into-database {into_database} --undo",
        show=lambda screen: _show_findings(screen, restored.findings),
    )


@console.command("restore.roles")
def roles(
    which: Which = "newest-proven",
    *,
    plan: PlanOnly = False,
    other_server: Annotated[
        bool, typer.Option("--other-server", help="On the server of [restore_server] in the platform file.")
    ] = False,
    unproven: Unproven = False,
    approve: Approve = None,
    approver: Approver = None,
    reason: Reason = None,
    typed: Typed = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Create the roles of a set that the server lacks; those that are there are compared, and stay as they are."""
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.restore.roles import create_missing_roles, read_roles_plan
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    there = settings.on_restore_server if other_server else settings
    planned = read_roles_plan(there, store, choose(settings, store, which), allow_unproven=unproven)
    verdict = worst([Verdict.OK, *(finding.verdict for finding in planned.findings)])
    data = {
        name: getattr(planned, name)
        for name in ("backup_id", "server", "missing", "described", "there", "passwords", "findings")
    }
    _show_roles(console.stderr(), planned)
    if plan or not planned.missing:
        return Outcome(verdict, data=data | {"created": ()}, hint="Nothing was changed.")
    approval = obtain_approval(planned.subject, Given(approve, approver, reason, typed))
    trying = f"Roles of {planned.backup_id} were to be created on {planned.server}"
    evidence = kept_in_evidence(settings, store, planned.backup_id, trying, approval)
    with hold_platform(there, store, Procedure.RESTORE, on_wait=tell_waiting), evidence as kept:
        created = create_missing_roles(there, planned)
        kept.summary = f"Roles of {planned.backup_id} were created on {planned.server}: {', '.join(created)}."
    hint = f"Created, as the set says: {', '.join(created)}. Undo it: {' '.join(planned.undo)}"
    if not planned.passwords:
        hint += " The set holds no passwords: set them before anybody logs in."
    return Outcome(verdict, data=data | {"created": created}, hint=hint)


@console.command("restore.elsewhere")
def elsewhere(
    which: Which = "newest-proven",
    *,
    into: Annotated[str, typer.Option(help="Name of the new database there; there must be none of that name.")],
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="NAME", help="Which of the set's databases; its main one otherwise."),
    ] = None,
    plan: PlanOnly = False,
    unproven: Unproven = False,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Restore a database onto the server of [restore_server], where the live one is gone or has no space for two."""
    from keepwell.backup.restore import restore_into
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.restore.choice import Choice
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.restore.plan import Mode, plan_restore
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    there = settings.on_restore_server
    backup_id = choose(settings, store, which)
    if plan:
        choice = Choice(backup_id, None, database, allow_unproven=unproven)
        planned = plan_restore(there, store, choice, mode=Mode.BESIDE, name=into, now=datetime.now(UTC))
        told = f"{planned.rows:,} rows of {backup_id} into {into} on {there.database.place}. Nothing was changed."
        return Outcome(
            planned.verdict,
            data={"backup_id": backup_id, "server": there.database.place, "name": into, "findings": planned.findings},
            hint=told,
            show=lambda screen: _show_findings(screen, planned.findings),
        )
    evidence = kept_in_evidence(settings, store, backup_id, f"{backup_id} was to be restored onto another server")
    with (
        console.progress_shown() as progress,
        hold_platform(there, store, Procedure.RESTORE, on_wait=tell_waiting),
        evidence as kept,
    ):
        restored = restore_into(there, store, backup_id, into, progress, source=database, allow_unproven=unproven)
        told = f"{restored.rows:,} rows are in {into} on {there.database.place}, compared with their source."
        kept.summary, kept.numbers = told, {"rows": restored.rows}
        kept.findings = (*restored.findings, *restored.smoke)
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in (*restored.findings, *restored.smoke))]),
        data={"server": there.database.place, "restored": restored},
        hint=told,
        show=lambda screen: _show_findings(screen, [*restored.findings, *restored.smoke]),
    )


def _plan(settings: "Platform", store: "Store", backup_id: str, wanted: Any, *, unproven: bool) -> Outcome:
    from keepwell.restore.parts import plan_tables
    from keepwell.verdict import Verdict, worst

    planned = plan_tables(settings, store, backup_id, wanted, allow_unproven=unproven)
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in planned.findings)]),
        data=_describe_plan(planned),
        hint="Nothing was changed.",
        show=lambda screen: _show_plan(screen, planned),
    )


def _restore(settings: "Platform", store: "Store", backup_id: str, wanted: Any, *, unproven: bool) -> Outcome:
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.restore.parts import restore_tables
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.verdict import Verdict, worst

    trying = f"Tables of {backup_id} were to go into the schema {wanted.into_schema}"
    with (
        console.progress_shown() as progress,
        hold_platform(settings, store, Procedure.RESTORE, on_wait=tell_waiting),
        kept_in_evidence(settings, store, backup_id, trying) as kept,
    ):
        restored = restore_tables(settings, store, backup_id, wanted, progress, allow_unproven=unproven)
        names = ", ".join(table.table for table in restored.tables)
        kept.summary = f"Tables of {backup_id} are in the schema {restored.schema} of {restored.live}: {names}."
        kept.findings, kept.numbers = restored.findings, {"rows": restored.rows}
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in restored.findings)]),
        data=restored,
        hint=f"Undo it: keepwell restore tables --into-schema '{restored.schema}' --undo",
        show=lambda screen: _show_restored(screen, restored),
    )


def _undo_keys(
    settings: "Platform", store: "Store", backup_id: str, numbers: tuple[int, int | None], given: Given
) -> Outcome:
    from keepwell.restore.cache_beside import plan_undo, undo_keys
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.verdict import Verdict

    target, source = numbers
    planned = plan_undo(settings, store, backup_id, target=target, source=source)
    console.say(f"Keys of {backup_id} that are unchanged go out of database {target} of Redis on {planned.place}.")
    approval = obtain_approval(planned.subject, given)
    trying = f"Keys of {backup_id} were to be taken out of database {target} of Redis"
    evidence = kept_in_evidence(settings, store, backup_id, trying, approval, restores=False)
    with console.progress_shown() as progress, _held(settings, store), evidence as kept:
        removed, left = undo_keys(settings, store, planned, progress)
        told = f"{removed:,} keys were taken out of database {target} again; {left:,} were changed since, or cannot be"
        kept.summary, kept.numbers = f"{told} compared, and are there.", {"removed": removed, "left": left}
    return Outcome(Verdict.OK, data={"database": target, "removed": removed, "left": left}, hint=kept.summary)


def _held(settings: "Platform", store: "Store") -> "Hold":
    """The platform for a restore; where its database is down, by the store's lease."""
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure

    return hold_platform(
        settings,
        store,
        Procedure.RESTORE,
        on_wait=tell_waiting,
        on_lease_alone=lambda error: console.say(f"{error.message} The store's lease alone keeps others away."),
    )


def _undo(settings: "Platform", store: "Store", live: str, schema: str, given: Given) -> Outcome:
    from keepwell.approval import require_approval
    from keepwell.backup.restored_schemas import MARK, drop_restored_schema, find_restored_schema
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.restore.parts_evidence import kept_in_evidence
    from keepwell.verdict import Verdict

    found = find_restored_schema(settings, live, schema)
    console.say(f"Schema {found.name} of {found.live}: {found.comment} ({size(found.size_bytes)})")
    if found.strangers:
        console.say(f"Made in it since by somebody else, and would go with it: {', '.join(found.strangers)}.")
    approval = obtain_approval(_subject(settings, found), given)
    trying = f"The schema {schema} of {live} was to be dropped"
    backup_id = found.comment.removeprefix(MARK).partition(":")[0]
    evidence = kept_in_evidence(settings, store, backup_id, trying, approval, restores=False)
    with hold_platform(settings, store, Procedure.RESTORE, on_wait=tell_waiting), evidence as kept:
        require_approval(_subject(settings, find_restored_schema(settings, live, schema)), approval)
        dropped = drop_restored_schema(settings, live, schema)
        kept.summary = f"The schema {schema} of {live} was dropped again. {found.comment}"
    return Outcome(Verdict.OK, data=dropped, hint=f"The schema {schema} is gone from {live}; nothing else was touched.")


def _subject(settings: "Platform", found: "RestoredSchema") -> "Subject":
    from keepwell.approval import Subject

    binds = {"database": found.live, "schema": found.name, "holds": found.comment}
    binds["strangers"] = ", ".join(found.strangers)
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
    _show_findings(screen, planned.findings)
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
    _show_findings(screen, restored.findings)
    ready = [one for one in restored.tables if one.copy_back]
    if ready:
        console.print_plain(screen, "The live tables are as they were. What they lack would go back so:")
    for one in ready:
        console.print_plain(screen, f"  {one.copy_back}")


def _show_roles(screen: "Console", planned: "RolesPlan") -> None:
    missing = ", ".join(planned.missing) or "none"
    console.print_plain(screen, f"Roles of {planned.backup_id} that {planned.server} lacks: {missing}.")
    for name, told in planned.described.items():
        console.print_plain(screen, f"  {name}: {told}")
    console.print_plain(screen, f"Already there, and left as they are: {', '.join(planned.there) or 'none'}.")
    _show_findings(screen, planned.findings)


def _show_findings(screen: "Console", findings: "Sequence[Finding]") -> None:
    if findings:
        screen.print(console.findings_table(findings))


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
