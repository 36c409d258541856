"""How runs end under names of their own, which the automations know, or with words of their own."""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from tasks.redaction import redact

# A backup that is proven in the first destination, and not in the second.
SECOND_FAILED = "SecondFailed"


def completed(message: str) -> State[Any]:
    """All is well, and here is what was done."""
    return Completed(message=redact(message))


def cancelled(message: str) -> State[Any]:
    """A person said no, which is no failure."""
    return Cancelled(message=redact(message))
