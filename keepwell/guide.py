"""The registry of the maintenance guide: every item, in the guide's own words, and how it stands.

Its data lies in `guide.toml` beside this file. A test holds that what it calls automated really has a flow, a
deployment (or a command) and a test in which it turns red.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Standing(StrEnum):
    """How an item of the guide stands in this release."""

    AUTOMATED = "automated"
    BY_HAND = "by_hand"
    PLANNED = "planned"


class GuideItem(BaseModel):
    """One thing the guide asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Z]+-[1-9][0-9]*$", description="Stable name, used in evidence and docs.")
    section: str = Field(min_length=1, description="The guide's heading.")
    words: str = Field(min_length=1, description="What the guide asks for, in its words.")
    standing: Standing
    flow: str | None = Field(default=None, description="Name of the flow's module and function in flows/.")
    deployment: str | None = Field(default=None, description="Name of the deployment that runs it.")
    command: str | None = Field(default=None, description="Command of the console that does it, where no flow does.")
    tests: tuple[str, ...] = Field(default=(), description="Files of tests in which it turns red.")
    by_hand: str = Field(default="", description="What an operator does today, one line.")

    @model_validator(mode="after")
    def _never_greener_than_it_is(self) -> Self:
        if self.standing is Standing.AUTOMATED:
            runs = self.command is not None or (self.flow is not None and self.deployment is not None)
            if not runs or not self.tests:
                message = f"{self.id} is called automated without a flow and deployment (or a command) and a test"
                raise ValueError(message)
        elif self.flow or self.deployment or self.command or self.tests:
            message = f"{self.id} names what runs it but is not called automated"
            raise ValueError(message)
        elif self.standing is Standing.BY_HAND and not self.by_hand:
            message = f"{self.id} is done by hand but does not say how"
            raise ValueError(message)
        return self


@cache
def read_guide() -> tuple[GuideItem, ...]:
    """Every item, in the guide's order.

    Raises:
        ValueError: An item contradicts itself, or two bear the same id.
    """
    text = resources.files("keepwell").joinpath("guide.toml").read_text(encoding="utf-8")
    items = tuple(GuideItem.model_validate(item) for item in tomllib.loads(text)["item"])
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        message = f"these ids stand for more than one item: {', '.join(repeated)}"
        raise ValueError(message)
    return items


def count_standings(items: Iterable[GuideItem]) -> dict[Standing, int]:
    """How many items stand how; every standing is named, also with none."""
    counted = Counter(item.standing for item in items)
    return {standing: counted[standing] for standing in Standing}
