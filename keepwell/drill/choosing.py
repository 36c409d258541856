"""Which sets a drill restores: the newest proven one, and one of the rest by a seed that is recorded. Pure."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keepwell.backup.catalogue import BackupEntry
from keepwell.drill.documents import Drill, Kind
from keepwell.errors import PreconditionFailed
from keepwell.settings import ProofLevel
from keepwell.verdict import Verdict

_SEED_BITS = 32
# A quarter, less what its months differ by: a monthly drill that comes a little early still counts.
_QUARTER = timedelta(days=85)


@dataclass(frozen=True)
class ChosenSets:
    """What a drill restores.

    Attributes:
        newest: The newest proven set.
        by_lot: One of the other proven sets; None where there is none, which is no fault.
    """

    newest: str
    by_lot: str | None


def new_seed() -> int:
    """A seed that fits everywhere a number does, JSON included."""
    return secrets.randbits(_SEED_BITS)


def choose_kind(drills: Sequence[Drill], now: datetime) -> Kind:
    """A full drill when a quarter is about to pass without one that was good; one that failed is made up for.

    Args:
        drills: Those so far.
        now: When this one begins.
    """
    recent = [drill for drill in drills if now - drill.started_at < _QUARTER]
    good = any(drill.kind == "full" and drill.verdict in (Verdict.OK, Verdict.WARN) for drill in recent)
    return "monthly" if good else "full"


def choose_sets(entries: Sequence[BackupEntry], *, proven_level: ProofLevel, seed: int) -> ChosenSets:
    """Choose what to restore.

    Args:
        entries: Newest first.
        proven_level: From which level a set counts as proven.
        seed: The same one chooses the same among the same sets.

    Raises:
        PreconditionFailed: There is no proven set: nothing could be restored after a disaster.
    """
    proven = [entry.backup_id for entry in entries if entry.is_proven(proven_level)]
    if not proven:
        raise PreconditionFailed(
            "There is no proven backup set, so there is nothing that a disaster could be answered with.",
            hint="Make one now: keepwell backup create.",
        )
    rest = proven[1:]
    return ChosenSets(proven[0], random.Random(f"{seed} set").choice(rest) if rest else None)
