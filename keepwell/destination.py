"""The places that hold a platform's backup sets."""

from enum import StrEnum


class Destination(StrEnum):
    """One of the places that hold backup sets."""

    FIRST = "first"
    SECOND = "second"

    @property
    def named(self) -> str:
        """With its article, for a sentence."""
        return f"the {self.value} destination"
