"""RTO and size over the drills of a platform, as a picture: people would rather look.

Needs matplotlib, which comes with the extra `server`; the console works without it.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from keepwell.drill.documents import Drill, Phases
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NEWEST = 24
_INCHES = (10.0, 6.4)
_MINUTE_SECONDS = 60
_LONG_SECONDS = 180
_GIGA, _MEGA = 1e9, 1e6
# Okabe and Ito's, which colour-blind people tell apart; each phase keeps its own.
_COLOURS = {
    "find": "#999999",
    "fetch": "#56B4E9",
    "restore": "#0072B2",
    "indexes": "#009E73",
    "prove": "#E69F00",
    "smoke": "#CC79A7",
}
_TARGET, _SCALED = "#D55E00", "#000000"
_STYLE: dict[Any, Any] = {
    # Of the drills alone: the same ones give the same file.
    "svg.hashsalt": "keepwell",
    # Words stay words, to be searched for and read aloud.
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render_plot(drills: Sequence[Drill], form: Literal["svg", "png"] = "svg") -> bytes:
    """Draw the RTO, phase by phase, and the size of the restored set for each drill.

    Args:
        drills: Oldest first; the newest of them are drawn. At least one.
        form: SVG for pages, PNG for whatever shows no SVG.

    Raises:
        ConfigurationError: There is no matplotlib here.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - the console works without it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "There is no matplotlib here, so there are no plots.",
            hint="Install Keepwell with its extra `server`; the numbers are in the report all the same.",
        ) from None
    shown = drills[-_NEWEST:]
    with rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        times, sizes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_times(times, shown)
        _draw_sizes(sizes, shown)
        _name_drills(sizes, shown)
        return _save(figure, form)


def _draw_times(axes: "Axes", drills: Sequence[Drill]) -> None:
    longest = max((one for drill in drills for one in _times(drill)), default=0.0)
    unit, word = (_MINUTE_SECONDS, "minutes") if longest > _LONG_SECONDS else (1, "seconds")
    places, below = range(len(drills)), [0.0] * len(drills)
    for phase, colour in _COLOURS.items():
        heights = [_took(drill, phase) / unit for drill in drills]
        axes.bar(places, heights, 0.6, bottom=below, color=colour, label=phase)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    scaled = [
        (place, drill.recovery.rto_at_live_size_seconds / unit)
        for place, drill in enumerate(drills)
        if drill.recovery.rto_at_live_size_seconds is not None
    ]
    if scaled:
        axes.plot(*zip(*scaled, strict=True), "D", color=_SCALED, markersize=5, label="at the live size")
    for place, drill in enumerate(drills):
        if drill.recovery.rto_seconds is None:
            axes.annotate("failed", (place, 0), ha="center", va="bottom", color=_TARGET)
    _draw_target(axes, drills, longest, unit)
    axes.set_ylabel(f"RTO, {word}")
    axes.set_title(f"How long a restore of {drills[-1].platform} takes", loc="left", fontweight="bold")
    axes.set_ylim(bottom=0)
    # From top to bottom as they are stacked.
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, reverse=True)


def _draw_target(axes: "Axes", drills: Sequence[Drill], longest: float, unit: int) -> None:
    """A line where it can be seen beside the bars, and else in words."""
    target = next((one.limit_seconds for one in drills[-1].targets if one.name == "RTO measured"), None)
    if target is None:
        return
    if target <= 2 * longest:
        axes.axhline(target / unit, color=_TARGET, linestyle="--", label="target")
        return
    told = f"target {target / _MINUTE_SECONDS:,.0f} minutes, far above"
    axes.set_title(told, loc="right", color=_TARGET, fontsize=9)


def _draw_sizes(axes: "Axes", drills: Sequence[Drill]) -> None:
    lines = {
        "live, at the drill": ("D-", _SCALED, [drill.recovery.live_bytes for drill in drills]),
        "restored database": ("o-", _COLOURS["restore"], [_of_set(drill, "source_bytes") for drill in drills]),
        "stored set": ("s-", _COLOURS["indexes"], [_of_set(drill, "stored_bytes") for drill in drills]),
    }
    largest = max((size for _, _, sizes in lines.values() for size in sizes if size is not None), default=0)
    unit, word = (_GIGA, "GB") if largest >= _GIGA else (_MEGA, "MB")
    for label, (style, colour, sizes) in lines.items():
        heights = [float("nan") if size is None else size / unit for size in sizes]
        axes.plot(range(len(drills)), heights, style, color=colour, markersize=4, label=label)
    axes.set_ylabel(f"size, {word}")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _name_drills(axes: "Axes", drills: Sequence[Drill]) -> None:
    labels = [f"{drill.started_at:%Y-%m-%d}" + ("\nfull" if drill.kind == "full" else "") for drill in drills]
    axes.set_xticks(range(len(drills)), labels, rotation=45 if len(drills) > 8 else 0)
    axes.set_xlim(-0.7, max(len(drills) - 0.3, 3.0))


def _times(drill: Drill) -> tuple[float, ...]:
    measured = (drill.recovery.rto_seconds, drill.recovery.rto_at_live_size_seconds)
    return tuple(seconds for seconds in measured if seconds is not None)


def _took(drill: Drill, phase: str) -> float:
    phases: Phases | None = drill.main.phases if drill.main and drill.recovery.rto_seconds is not None else None
    return float(getattr(phases, phase) or 0) if phases else 0.0


def _of_set(drill: Drill, size: Literal["source_bytes", "stored_bytes"]) -> int | None:
    return getattr(drill.main, size) if drill.main else None


def _save(figure: "Figure", form: Literal["svg", "png"]) -> bytes:
    held = io.BytesIO()
    if form == "svg":
        figure.savefig(held, format="svg", metadata={"Date": None})
    else:
        figure.savefig(held, format="png", dpi=110)
    return held.getvalue()
