"""`keepwell backup expire`, `pin` and `unpin`: which backup sets stay, and removing the others by an approved plan."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.sets import In, Which, choose, show_expiring, size, tell_waiting
from keepwell.destination import Destination

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.backup.expire import Expiry
    from keepwell.backup.retention import Decision, RetentionPlan


@console.command("backup.expire")
def expire(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would go and why; remove nothing.")] = False,
    approve: Annotated[
        str | None,
        typer.Option("--approve", metavar="PLAN", help="The plan that was shown, where nobody can be asked."),
    ] = None,
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Remove the backup sets that no rule keeps, once their plan was approved."""
    from keepwell.backup.expire import apply_plan, read_expiring, read_plan
    from keepwell.backup.retention_report import build_retention_evidence
    from keepwell.errors import KeepwellError
    from keepwell.evidence import write_evidence
    from keepwell.holding import hold_platform
    from keepwell.interlock import Procedure
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    suffix = _flag(destination)
    planned, begun = read_plan(settings, store, datetime.now(UTC)), read_expiring(store)
    is_due = planned.verdict is not Verdict.ALERT and bool(planned.remove or begun or planned.unneeded.remove)
    if plan or (approve is None and not is_due):
        hint = f"Apply it: keepwell backup expire{suffix} --approve {planned.digest}" if is_due else ""
        return Outcome(
            planned.verdict,
            data=_describe_plan(planned) | {"expiring": begun},
            hint=hint,
            show=lambda screen: _show_plan(screen, planned, begun),
        )
    if approve is None:
        _show_plan(console.stderr(), planned, begun)
        way_out = f"Look at it with `keepwell backup expire{suffix} --plan`, then pass --approve {planned.digest}."
        if not console.confirm(_question(planned, begun), without_terminal=way_out):
            return Outcome(planned.verdict, data=_describe_plan(planned), hint="Nothing was removed.")
        approve = planned.digest
    with hold_platform(settings, store, Procedure.EXPIRE, on_wait=tell_waiting), console.working("Removing"):
        started_at = datetime.now(UTC)
        expiry = apply_plan(settings, store, approve, started_at)
        evidence = build_retention_evidence(
            expiry, platform=settings.name, started_at=started_at, finished_at=datetime.now(UTC)
        )
        try:
            write_evidence(store, evidence)
        except KeepwellError as error:  # what went is gone, and must be told
            console.say(f"The evidence could not be kept: {error.message}")
    return Outcome(
        expiry.verdict,
        data=_describe_plan(expiry.plan)
        | {"removals": expiry.removals, "swept": expiry.swept, "collected": expiry.collected},
        hint=evidence.summary,
        show=lambda screen: _show_expiry(screen, expiry),
    )


@console.command("backup.pin")
def pin(
    which: Which,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For those who find the pin later.")] = "",
    destination: In = Destination.FIRST,
    platform: console.PlatformName = None,
) -> Outcome:
    """Pin a backup set: it stays, whatever the retention policy says."""
    from keepwell.backup.pins import describe_pin, pin_set
    from keepwell.holding import hold_sets
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    with hold_sets(settings, store):
        pinned = pin_set(store, backup_id, reason, datetime.now(UTC))
    return Outcome(Verdict.OK, data=pinned, hint=f"{backup_id} is {describe_pin(pinned)}")


@console.command("backup.unpin")
def unpin(which: Which, *, destination: In = Destination.FIRST, platform: console.PlatformName = None) -> Outcome:
    """Take a backup set's pin away: the retention policy decides again."""
    from keepwell.backup.pins import unpin_set
    from keepwell.objectstore.destinations import open_destination
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    store = open_destination(settings, destination)
    backup_id = choose(settings, store, which)
    unpin_set(store, backup_id)
    hint = f"{backup_id} is no longer pinned. What that means: keepwell backup expire{_flag(destination)} --plan"
    return Outcome(Verdict.OK, data={"backup_id": backup_id}, hint=hint)


def _flag(destination: Destination) -> str:
    """What a command needs for the same destination; nothing for the first."""
    return "" if destination is Destination.FIRST else f" --destination {destination}"


def _question(planned: "RetentionPlan", begun: dict[str, int]) -> str:
    rest = f" and what is left of {len(begun)} more" if begun else ""
    if planned.unneeded.remove:
        rest += f", and {_describe_unneeded(planned)}"
    return f"Remove {len(planned.remove)} of {len(planned.remove) + len(planned.keep)} sets{rest}?"


def _describe_unneeded(planned: "RetentionPlan") -> str:
    unneeded = planned.unneeded
    return f"{len(unneeded.remove):,} contents of uploaded files that no set needs ({size(unneeded.size_bytes)})"


def _describe_plan(planned: "RetentionPlan") -> dict[str, Any]:
    from keepwell.backup.retention_report import describe_decision

    return {
        "plan": planned.digest,
        "newest_proven_at": planned.newest_proven_at,
        "remove": [describe_decision(one) for one in planned.remove],
        "keep": [describe_decision(one) for one in planned.keep],
        "unneeded_uploads": {"contents": len(planned.unneeded.remove), "bytes": planned.unneeded.size_bytes},
        "findings": planned.findings,
    }


def _show_plan(screen: "Console", planned: "RetentionPlan", begun: dict[str, int]) -> None:
    table = console.table("", "set", "age", "counts as", "stored", "why")
    for one in planned.remove:
        table.add_row(*_row("remove", "alert", one, planned))
    for one in planned.keep:
        table.add_row(*_row("keep", "ok", one, planned))
    screen.print(table)
    screen.print(console.findings_table(planned.findings))
    show_expiring(screen, begun)
    freed_bytes = sum(one.stored.size_bytes for one in planned.remove)
    screen.print(
        f"Plan {planned.digest}: {len(planned.remove)} sets go ({size(freed_bytes)}), {len(planned.keep)} stay.",
        markup=False,
    )
    if planned.unneeded.remove:
        screen.print(f"With it go {_describe_unneeded(planned)}.", markup=False)


def _row(word: str, look: str, one: "Decision", planned: "RetentionPlan") -> tuple[Any, ...]:
    from rich.text import Text

    from keepwell.backup.retention import describe_age

    decision = console.styled(look)
    decision.plain = word
    stored = one.stored
    age = describe_age(planned.planned_at - stored.at)
    return decision, stored.backup_id, age, stored.standing.value, size(stored.size_bytes), Text(one.words)


def _show_expiry(screen: "Console", expiry: "Expiry") -> None:
    from rich.text import Text

    looks = {"removed": "ok", "kept": "warn", "refused": "alert"}
    table = console.table("", "set", "why")
    for one in expiry.removals:
        result = console.styled(looks[one.result])
        result.plain = one.result.value
        table.add_row(result, one.backup_id, Text(one.why))
    if expiry.removals:
        screen.print(table)
    screen.print(console.findings_table(expiry.findings))
    if expiry.swept:
        screen.print(f"Left by dead runs, and swept: {', '.join(expiry.swept)}", markup=False)
