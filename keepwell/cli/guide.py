"""`keepwell guide`: every item of the maintenance guide and how it stands."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.guide import GuideItem, Standing

_LOOKS = {"automated": "green", "by_hand": "yellow", "planned": "dim"}


@console.command("guide")
def guide(
    section: Annotated[
        str | None, typer.Option("--section", metavar="NAME", help="One section or id, such as daily or BK.")
    ] = None,
) -> Outcome:
    """Show every item of the maintenance guide and how it stands."""
    from keepwell.guide import count_standings, read_guide
    from keepwell.verdict import Verdict

    items = read_guide()
    if section is not None:
        items = choose(items, section)
    counts = count_standings(items)
    data = {"items": items, "counts": counts}
    return Outcome(Verdict.OK, data=data, show=lambda screen: _show(screen, items, counts))


def choose(items: "Sequence[GuideItem]", wanted: str) -> "tuple[GuideItem, ...]":
    """The items of one section, by the start of its heading or of the items' ids; case does not matter.

    Raises:
        ConfigurationError: No section and no id begins so.
    """
    start = wanted.casefold()
    chosen = tuple(item for item in items if item.section.casefold().startswith(start))
    chosen = chosen or tuple(item for item in items if item.id.casefold().startswith(start))
    if not chosen:
        sections = list(dict.fromkeys(item.section for item in items))
        nearest = difflib.get_close_matches(wanted.title(), sections, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"The sections are: {', '.join(sections)}."
        raise ConfigurationError(f"The guide has no section {wanted!r}.", hint=hint)
    return chosen


def _show(screen: "Console", items: "Sequence[GuideItem]", counts: "dict[Standing, int]") -> None:
    from rich.text import Text

    shown = console.table("id", "the guide asks", "stands", "by")
    section = ""
    for item in items:
        if item.section != section:
            section = item.section
            shown.add_row("", Text(section, style="bold"), "", "")
        stands = Text(item.standing.replace("_", " "), style=_LOOKS[item.standing])
        shown.add_row(item.id, Text(item.words), stands, Text(_how(item)))
    screen.print(shown)
    counted = " · ".join(f"{count} {standing.replace('_', ' ')}" for standing, count in counts.items())
    screen.print(f"{len(items)} items: {counted}", markup=False)


def _how(item: "GuideItem") -> str:
    if item.command:
        return item.command
    if item.deployment:
        return f"keepwell run {item.deployment}"
    return item.by_hand
