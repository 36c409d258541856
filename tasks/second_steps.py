"""The second destination of backup sets: thin steps around `keepwell.backup.carry`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from keepwell.backup.carry import Carried, CarryPlan, carry_set, read_carry_plan
from keepwell.backup.expire import Expiry
from keepwell.backup.proof import Proof
from keepwell.backup.second_copies import (
    SecondCopies,
    SecondCopy,
    copy_each,
    describe_failure,
    describe_plan,
    find_forgotten,
)
from keepwell.destination import Destination
from keepwell.errors import KeepwellError
from keepwell.holding import hold_carrying
from keepwell.interlock import Procedure
from keepwell.objectstore.destinations import has_second, open_destination
from keepwell.settings import ProofLevel
from tasks import backup_steps, interlock_steps, platforms, retention_steps
from tasks.artifacts import shown_progress
from tasks.backup_steps import Which
from tasks.endings import SECOND_FAILED
from tasks.redaction import redact
from tasks.retries import HOUR_SECONDS, step


def copy_and_prove(platform: str, backup_id: str) -> SecondCopies | None:
    """Carry a set that was just proven, and what the second destination missed before; prove each there.

    Args:
        platform: Its name.
        backup_id: Of the set that was just proven.

    Returns:
        What became of each; what failed is told, not raised. None where there is no second destination.
    """
    if not is_wanted(platform):
        return None
    try:
        plan = plan_copies(platform)
    except KeepwellError as error:
        return SecondCopies((SecondCopy(backup_id, failure=describe_failure(error)),))
    copies = copy_each(plan, lambda chosen: carry(platform, chosen), lambda chosen: _prove(platform, chosen))
    return SecondCopies((*find_forgotten(plan, backup_id), *copies), tuple(describe_plan(plan)))


def verify(platform: str, which: Which, backup_id: str | None) -> dict[str, Proof | str]:
    """Choose sets of the second destination and prove each from there.

    Returns:
        Backup id to its proof, or to why there is none; empty where there is no second destination, or nothing of it
        was asked for.
    """
    if not is_wanted(platform):
        return {}
    try:
        chosen = backup_steps.choose(platform, which, backup_id, Destination.SECOND)
    except KeepwellError as error:
        return {"(none)": str(error)}
    return {one: backup_steps.try_to_prove(platform, one, Destination.SECOND) for one in chosen}


def expire(platform: str, started_at: datetime) -> Expiry | str | None:
    """Expire sets of the second destination, as of the first: hold the platform, plan, apply, record.

    Returns:
        What it came to, or why it did not come to that; None where there is no second destination.
    """
    if not is_wanted(platform):
        return None
    there = Destination.SECOND
    try:
        with interlock_steps.hold(platform, Procedure.EXPIRE, there) as hold:
            planned = retention_steps.plan(platform, there)
            expiry = retention_steps.apply(platform, planned, hold, there)
    except KeepwellError as error:
        return str(error)
    retention_steps.record(platform, expiry, started_at, there)
    return expiry


def named(copies: Mapping[str, Proof | str]) -> dict[str, Proof | str]:
    """The sets of the second destination, told from those of the first."""
    return {f"{backup_id} in {Destination.SECOND.named}": outcome for backup_id, outcome in copies.items()}


def is_wanted(platform: str) -> bool:
    """Whether the platform file names a second destination."""
    return has_second(platforms.load(platform))


@step("look what the second destination lacks", timeout_seconds=HOUR_SECONDS)
def plan_copies(platform: str) -> CarryPlan:
    """Read both destinations and choose what to carry and prove.

    Raises:
        KeepwellError: One of them cannot be listed or read.
    """
    loaded = platforms.load(platform)
    source, target = (open_destination(loaded, destination) for destination in Destination)
    return read_carry_plan(loaded, source, target, datetime.now(UTC))


@step("copy {backup_id} to the second destination", timeout_seconds=12 * HOUR_SECONDS)
def carry(platform: str, backup_id: str) -> Carried:
    """Carry one set, object by object as it is stored; a run that was killed is gone on with, or swept.

    Raises:
        KeepwellError: The set is not there; the first destination is untouched.
    """
    loaded = platforms.load(platform)
    source, target = (open_destination(loaded, destination) for destination in Destination)
    with hold_carrying(loaded, source, target), shown_progress(f"{platform}-second-progress") as progress:
        carried = carry_set(source, target, backup_id, progress)
    get_run_logger().info(
        "Carried %s to %s: %d of %d objects and %d contents of uploaded files, %d bytes in %.1f s.",
        backup_id,
        target.place,
        carried.sent_parts,
        carried.parts,
        carried.sent_contents,
        carried.sent_bytes,
        carried.seconds,
    )
    return carried


def judge_end(platform: str, backup_id: str, second: SecondCopies | None) -> State[Any]:
    """How a backup ends whose set is proven in the first destination.

    Where the second one failed it is red, under a name of its own: people are told, and old sets still expire.

    Args:
        platform: Its name.
        backup_id: Of the set, which is proven.
        second: From `copy_and_prove`.
    """
    wanted = platforms.load(platform).backup.proven_level
    bad = describe_shortfalls(second.copies if second else (), wanted)
    if not bad:
        return Completed(message=f"{backup_id} is proven{' in both destinations' if second else ''}.")
    return Failed(
        name=SECOND_FAILED,
        message=f"{backup_id} is proven in the first destination, and that backup stands. "
        f"The second destination failed: {redact(' '.join(bad))}",
    )


def describe_shortfalls(copies: Sequence[SecondCopy], wanted: ProofLevel) -> list[str]:
    """What is wrong with each set that is not proven in the second destination."""
    judged = [copy.judge(wanted) for copy in copies if not copy.is_proven(wanted)]
    return [f"{finding.name}: {finding.message}" for finding in judged]


def _prove(platform: str, backup_id: str) -> Proof:
    return backup_steps.prove(platform, backup_id, destination=Destination.SECOND)
