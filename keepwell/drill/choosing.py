"""Which sets a drill restores: the newest proven one, and one of the rest by a seed that is recorded. Pure."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from keepwell.backup.catalogue import BackupEntry
from keepwell.errors import PreconditionFailed
from keepwell.settings import ProofLevel

_SEED_BITS = 32


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
