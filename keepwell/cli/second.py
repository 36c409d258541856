"""`keepwell backup copy` and `prepare-second`: the second destination of backup sets."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.cli.sets import choose
from keepwell.destination import Destination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.backup.carry import CarryPlan
    from keepwell.backup.second_copies import SecondCopies, SecondCopy
    from keepwell.objectstore.store import Store
    from keepwell.progress import Progress
    from keepwell.settings import Platform
    from keepwell.verdict import Finding

WhichOne = Annotated[
    str | None,
    typer.Argument(help="A backup's id, `newest` or `newest-proven`; without, whatever is missing.", metavar="[ID]"),
]


@console.command("backup.copy")
def copy(
    which: WhichOne = None,
    *,
    unproven: Annotated[bool, typer.Option(help="Copy even a set that was never proven.")] = False,
    platform: console.PlatformName = None,
) -> Outcome:
    """Copy proven sets to the second destination as they are stored, and prove them there.

    Without an ID: those that are missing or unproven there and would be kept, the newest first, a few at a time. A set
    that is there already is compared object by object, and what is damaged is sent anew.
    """
    from keepwell.backup.carry import CarryPlan, read_carry_plan
    from keepwell.backup.second_copies import SecondCopies, describe_plan
    from keepwell.objectstore.destinations import open_destination

    settings = console.load_platform(platform)
    first = open_destination(settings, Destination.FIRST)
    second = open_destination(settings, Destination.SECOND)
    if which is None:
        plan = read_carry_plan(settings, first, second, datetime.now(UTC))
    else:
        plan = CarryPlan((_require_proven(settings, first, which, unproven=unproven),))
    with console.progress_shown() as progress:
        copies = copy_all(settings, first, second, plan, progress)
    return _outcome(settings, second, SecondCopies(tuple(copies), tuple(describe_plan(plan))))


def copy_all(
    settings: "Platform", first: "Store", second: "Store", plan: "CarryPlan", progress: "Progress"
) -> "list[SecondCopy]":
    """Carry and prove what a plan names; what fails is told, not raised."""
    from keepwell.backup.carry import Carried, carry_set
    from keepwell.backup.proof import Proof
    from keepwell.backup.second_copies import copy_each
    from keepwell.backup.verify import verify_backup
    from keepwell.holding import hold_carrying, hold_sets

    def carry(backup_id: str) -> Carried:
        with hold_carrying(settings, first, second):
            return carry_set(first, second, backup_id, progress)

    def prove(backup_id: str) -> Proof:
        with hold_sets(settings, second):
            return verify_backup(settings, second, backup_id, progress, all_uploads=False)

    return list(copy_each(plan, carry, prove))


def copy_after_proof(settings: "Platform", first: "Store", backup_id: str, progress: "Progress") -> "SecondCopies":
    """What a backup does once its set is proven: carry it, and what the second destination missed before.

    Returns:
        What became of each set; nothing of it is raised, since the backup is done.
    """
    from keepwell.backup.carry import read_carry_plan
    from keepwell.backup.second_copies import (
        SecondCopies,
        SecondCopy,
        describe_failure,
        describe_plan,
        find_forgotten,
    )
    from keepwell.errors import KeepwellError
    from keepwell.objectstore.destinations import open_destination

    try:
        second = open_destination(settings, Destination.SECOND)
        plan = read_carry_plan(settings, first, second, datetime.now(UTC))
    except KeepwellError as error:
        return SecondCopies((SecondCopy(backup_id, failure=describe_failure(error)),))
    copies = copy_all(settings, first, second, plan, progress)
    return SecondCopies((*find_forgotten(plan, backup_id), *copies), tuple(describe_plan(plan)))


@console.command("backup.prepare-second")
def prepare_second(platform: console.PlatformName = None) -> Outcome:
    """Mark the folder that is the second destination, once, while its disk is mounted.

    Without that mark nothing is written there: a disk that is not mounted must not look like an empty one.
    """
    from keepwell.errors import PreconditionFailed
    from keepwell.objectstore.folder import MARK, prepare_folder
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform)
    if settings.second_folder is None:
        raise PreconditionFailed(
            "The platform file has no [second_folder]; a bucket needs no preparation.", hint="keepwell doctor tries it."
        )
    prepared = prepare_folder(settings.second_folder.directory)
    did = "Wrote" if prepared.is_new else "Left as it was:"
    lies = f"It lies on the file system that is mounted at {prepared.mount_point}."
    return Outcome(
        Verdict.OK,
        data=prepared,
        hint=f"{did} {prepared.directory / MARK}. {lies} Next: keepwell doctor, then keepwell backup copy",
    )


def joined(outcome: Outcome, settings: "Platform", copies: "SecondCopies") -> Outcome:
    """A backup's outcome with what became of it in the second destination, which casts no doubt on the first."""
    from keepwell.verdict import Verdict, worst

    findings = copies.judge(settings.backup.proven_level)
    verdict = worst([Verdict.OK, *(finding.verdict for finding in findings)])

    def show(screen: "Console") -> None:
        if outcome.show is not None:
            outcome.show(screen)
        screen.print(console.findings_table(findings))

    bad = "The second destination has NOT got a proven copy of everything; the first has, and its backup is proven."
    return Outcome(
        worst([outcome.verdict, verdict]),
        data=outcome.data | {"second": _describe(copies, settings)},
        hint=f"{bad}\n{outcome.hint}" if verdict in (Verdict.ALERT, Verdict.UNKNOWN) else outcome.hint,
        show=show,
    )


def _describe(copies: "SecondCopies", settings: "Platform") -> dict[str, Any]:
    """What became of each set, for a JSON document."""
    wanted = settings.backup.proven_level
    return {
        "copies": [
            {
                "backup_id": one.backup_id,
                "proven": one.is_proven(wanted),
                "level": one.proof.reached if one.proof else None,
                "carried": one.carried,
                "finding": one.judge(wanted),
            }
            for one in copies.copies
        ],
        "noticed": copies.noticed,
    }


def _require_proven(settings: "Platform", first: "Store", which: str, *, unproven: bool) -> str:
    from keepwell.backup.catalogue import read_entry
    from keepwell.errors import PreconditionFailed

    backup_id = choose(settings, first, which)
    if not unproven and not read_entry(first, backup_id).is_proven(settings.backup.proven_level):
        raise PreconditionFailed(
            f"{backup_id} is not proven in the first destination.",
            hint=f"Prove it: keepwell backup verify {backup_id}. Or pass --unproven.",
        )
    return backup_id


def _outcome(settings: "Platform", second: "Store", copies: "SecondCopies") -> Outcome:
    from keepwell.verdict import Verdict, worst

    findings = copies.judge(settings.backup.proven_level)
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in findings)]),
        data={"place": second.place} | _describe(copies, settings),
        hint="" if findings else "Nothing is missing there: every set that would be kept is there, and proven.",
        show=lambda screen: _show(screen, second.place, findings),
    )


def _show(screen: "Console", place: str, findings: "Sequence[Finding]") -> None:
    console.print_plain(screen, f"The second destination: {place}")
    if findings:
        screen.print(console.findings_table(findings))
