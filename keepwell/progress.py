"""How far a long procedure is, told to whoever shows it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One moment of a procedure.

    Attributes:
        stage: What is being done, a few words.
        done: Units of it done so far.
        total: Units in all; 0 when not known.
        unit: `bytes`, `tables` or `levels`.
    """

    stage: str
    done: int = 0
    total: int = 0
    unit: str = ""


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing."""
