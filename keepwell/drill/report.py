"""A drill for people: markdown, and one HTML page that needs nothing else. Pure, but for the plot's library."""

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from string import Template

from markdown_it import MarkdownIt

from keepwell.backup.report import escape, render_findings, sign
from keepwell.drill.documents import Drill, Phases, Rehearsal
from keepwell.drill.plots import render_plot
from keepwell.errors import ConfigurationError
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.verdict import Verdict

_SHOWN = 24
_BAR_SIGNS = 20
_UNKNOWN = "not known"


def render_drill(drill: Drill, history: Sequence[Drill] = ()) -> str:
    """A drill as markdown.

    Args:
        drill: The one to tell of.
        history: Drills before it, oldest first; it may be among them.
    """
    parts = [
        f"# Restore drill of {escape(drill.platform)}: {sign(drill.verdict)}",
        escape(drill.summary),
        "## Targets\n\n" + _render_targets(drill),
        "## How long it took\n\n" + _render_phases(drill.rehearsals),
        *_render_stages(drill),
        "## Does the checker turn red?\n\n" + _render_damages(drill),
        *render_findings(drill.findings),
        *_render_wrong(drill.rehearsals),
        "## Drills so far\n\n" + _render_history(_with(history, drill)),
        "## How it was done\n\n" + _render_means(drill),
    ]
    return "\n\n".join(parts) + "\n"


def render_drill_page(drill: Drill, history: Sequence[Drill] = ()) -> str:
    """A drill as one HTML page, the plot within it; without matplotlib it says so, and holds the numbers alone.

    Args:
        drill: The one to tell of.
        history: Drills before it, oldest first; it may be among them.
    """
    try:
        svg = render_plot(_with(history, drill)).decode()
        plot = f'<figure role="img" aria-label="RTO and size over the drills">{svg[svg.index("<svg") :]}</figure>'
    except ConfigurationError as error:
        plot = f"<p class='without'>{html.escape(f'{error.message} {error.hint}')}</p>"
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(render_drill(drill, history))
    # The picture stands below the headline and its sentence.
    headline, rest = body.split("<h2>", 1)
    template = Template(resources.files("keepwell.drill").joinpath("page.html").read_text(encoding="utf-8"))
    title = html.escape(f"Restore drill of {drill.platform}, {_moment(drill.started_at)}")
    return template.substitute(title=title, body=f"{headline}{plot}<h2>{rest}")


def render_plotless_history(drills: Sequence[Drill]) -> str:
    """The drills so far as a table, for where no picture can be shown."""
    return _render_history(drills)


def _with(history: Sequence[Drill], drill: Drill) -> list[Drill]:
    """History up to this drill, and itself at its end."""
    return [*(one for one in history if one.drill_id < drill.drill_id), drill]


def _render_targets(drill: Drill) -> str:
    lines = ["| verdict | target | measured | at most |", "|---|---|---:|---:|"]
    lines += [
        f"| {sign(target.verdict)} | {escape(target.name)} | {_seconds(target.measured_seconds)} "
        f"| {_seconds(target.limit_seconds)} |"
        for target in drill.targets
    ]
    return "\n".join([*lines, "", *_explain(drill)])


def _explain(drill: Drill) -> Iterable[str]:
    recovery = drill.recovery
    if recovery.worst_gap_from and recovery.worst_gap_to and recovery.gap_since:
        yield (
            f"The worst moment was {_moment(recovery.worst_gap_to)}, when the newest proven set was of "
            f"{_moment(recovery.worst_gap_from)}; {recovery.proven_sets} proven sets since "
            f"{_moment(recovery.gap_since)} were looked at."
        )
    main = drill.main
    if recovery.live_bytes is not None and main is not None and main.source_bytes:
        yield (
            f"The live databases have {describe_bytes(recovery.live_bytes)}, the restored ones had "
            f"{describe_bytes(main.source_bytes)}; what grows with the data was scaled by that."
        )


def _render_phases(rehearsals: Sequence[Rehearsal]) -> str:
    names = [f"{one.backup_id} ({one.chosen})" for one in rehearsals]
    lines = ["| | " + " | ".join(map(escape, names)) + " |", "|---|" + "---:|" * len(names)]
    lines += [
        _row(phase, [_seconds(getattr(one.phases, phase, None)) for one in rehearsals]) for phase in Phases.model_fields
    ]
    lines.append(_row("**from start to the last answer**", [_seconds(one.rto_seconds) for one in rehearsals]))
    lines.append(_row("size of the databases", [_bytes(one.source_bytes) for one in rehearsals]))
    lines.append(_row("stored", [_bytes(one.stored_bytes) for one in rehearsals]))
    lines.append(_row("rows", [_UNKNOWN if one.rows is None else f"{one.rows:,}" for one in rehearsals]))
    speeds = [_UNKNOWN if one.bytes_per_second is None else f"{_bytes(one.bytes_per_second)}/s" for one in rehearsals]
    lines.append(_row("speed", speeds))
    lines.append(
        _row("restored and proven", [f"{sign(one.verdict)}, {one.reached or 'no level'}" for one in rehearsals])
    )
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _render_stages(drill: Drill) -> list[str]:
    """What a full drill did beside the database; nothing of any other."""
    stages = [stage for rehearsal in drill.rehearsals for stage in rehearsal.stages]
    stages += [drill.communication] if drill.communication else []
    if not stages:
        return []
    lines = ["| verdict | | took | |", "|---|---|---:|---|"]
    lines += [
        f"| {sign(one.verdict)} | {escape(one.name)} | {_seconds(one.seconds)} | {escape(one.message)} |"
        for one in stages
    ]
    return ["## The whole platform\n\n" + "\n".join(lines)]


def _render_damages(drill: Drill) -> str:
    if not drill.damages:
        return (
            "Nothing was damaged, since the newest set was not restored: whether the checker sees damage is not known."
        )
    lines = ["| verdict | damage | what | must be found at | found at | what was said |", "|---|---|---|---|---|---|"]
    for outcome in drill.damages:
        found = outcome.detected_at or ("–" if outcome.verdict is Verdict.NOT_APPLICABLE else "**nowhere**")
        cells = (outcome.kind, escape(outcome.what), outcome.expected_at, found, escape(outcome.message))
        lines.append(f"| {sign(outcome.verdict)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _render_wrong(rehearsals: Sequence[Rehearsal]) -> list[str]:
    """What is wrong or worth knowing of each set, below its name."""
    sections = []
    for one in rehearsals:
        told = [finding for finding in one.findings if finding.verdict not in (Verdict.OK, Verdict.NOT_APPLICABLE)]
        sections += [
            part.replace("## Findings", f"## Findings of {escape(one.backup_id)}") for part in render_findings(told)
        ]
    return sections


def _render_history(drills: Sequence[Drill]) -> str:
    shown = list(drills)[-_SHOWN:]
    longest = max((one.recovery.rto_seconds or 0 for one in shown), default=0)
    lines = ["| drill | | RPO | RTO | | size | damage found |", "|---|---|---:|---:|---|---:|---:|"]
    for one in reversed(shown):
        tried = [outcome for outcome in one.damages if outcome.verdict is not Verdict.NOT_APPLICABLE]
        found = sum(1 for outcome in tried if outcome.verdict is Verdict.OK)
        cells = (
            f"{_moment(one.started_at)}{', full' if one.kind == 'full' else ''}",
            sign(one.verdict),
            _seconds(one.recovery.rpo_seconds),
            _seconds(one.recovery.rto_seconds),
            _bar(one.recovery.rto_seconds, longest),
            _bytes(one.main.source_bytes if one.main else None),
            f"{found} of {len(tried)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bar(seconds: float | None, longest: float) -> str:
    return "█" * max(1, round(_BAR_SIGNS * seconds / longest)) if seconds and longest else ""


def _render_means(drill: Drill) -> str:
    lines = [
        f"- Drill {drill.drill_id}, {drill.kind}, from {_moment(drill.started_at)} to {_moment(drill.finished_at)}.",
        f"- Seed {drill.seed}: `keepwell drill run --seed {drill.seed}` chooses and damages alike, from the same sets.",
        "- From the bucket and the keys alone: a clean folder, a server of its own, and no way to the live one.",
    ]
    lines += [
        f"- {escape(one.backup_id)} on {escape(one.server)}; {escape(one.isolation or 'not isolated')}."
        for one in drill.rehearsals
        if one.server
    ]
    return "\n".join(lines)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _seconds(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else describe_seconds(seconds)


def _bytes(size: float | None) -> str:
    return _UNKNOWN if size is None else describe_bytes(size)
