"""A restore for people, as markdown: what is planned, and what it came to. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime

from psycopg import sql

from keepwell.backup.report import escape, render_findings, sign
from keepwell.notify import Message
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.restore.apply import RestoreOutcome
from keepwell.restore.names import undone_name
from keepwell.restore.plan import RestorePlan

_DAY_SECONDS = 86_400


def summarize_plan(plan: RestorePlan) -> str:
    """What would happen, as one sentence."""
    came_from = f"{plan.database} of {plan.backup_id}, as of {_moment(plan.snapshot_at)}"
    if not plan.swaps:
        return f"{came_from}, is restored beside {plan.live}, as the new database {plan.name}."
    if plan.replaced:
        return f"{came_from}, takes the place of {plan.live}, which stays there as {plan.replaced}."
    return f"{came_from}, is restored as {plan.live}, which is not there now."


def render_plan(plan: RestorePlan) -> str:
    """The page of a plan: what comes back, what is lost by it, what it costs, and what stands in its way.

    It begins with a title and with one paragraph that says it all.
    """
    return "\n\n".join(
        [
            f"# {sign(plan.verdict)}: restore of {plan.platform}",
            escape(summarize_plan(plan)),
            "\n".join(["| | |", "|---|---|", *(f"| {name} | {escape(value)} |" for name, value in _rows(plan))]),
            *render_findings(plan.findings),
        ]
    )


def render_outcome(outcome: RestoreOutcome) -> str:
    """The page of a restore that went to its end."""
    plan = outcome.plan
    phases = [f"| {escape(phase)} | {describe_seconds(seconds)} |" for phase, seconds in outcome.phases.items()]
    return "\n\n".join(
        [
            f"# {sign(outcome.verdict)}: {escape(summarize_outcome(outcome))}",
            f"Case **{outcome.case_id}**, plan {plan.digest}.",
            "\n".join(["| phase | took |", "|---|---:|", *phases]),
            *([f"**Take it back:** `{undo_command(outcome)}`"] if outcome.replaced else []),
            *render_findings(outcome.findings),
        ]
    )


def summarize_outcome(outcome: RestoreOutcome) -> str:
    """What happened, as one sentence."""
    if not outcome.plan.swaps:
        return f"{outcome.plan.backup_id} is restored beside {outcome.plan.live}, as {outcome.database}"
    former = f"; the former one is {outcome.replaced}" if outcome.replaced else ""
    return f"{outcome.plan.backup_id} is restored and live as {outcome.database}{former}"


def undo_command(outcome: RestoreOutcome) -> str:
    """What takes a swap back: a command, or statements where the bucket knows of no case."""
    if not outcome.is_kept:
        return undo_statements(outcome)
    return f"keepwell restore undo {outcome.case_id} --platform {outcome.plan.platform}"


def undo_statements(outcome: RestoreOutcome) -> str:
    """The same as SQL, for psql in the maintenance database, as the role that restores."""
    live, replaced, undone = outcome.database, outcome.replaced or "", undone_name(outcome.database, datetime.now(UTC))
    statements = sql.SQL(
        "ALTER DATABASE {live} ALLOW_CONNECTIONS false; "
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({live_text}, {replaced_text}); "
        "BEGIN; ALTER DATABASE {live} RENAME TO {undone}; ALTER DATABASE {replaced} RENAME TO {live}; COMMIT; "
        "ALTER DATABASE {undone} ALLOW_CONNECTIONS true;"
    ).format(
        live=sql.Identifier(live),
        replaced=sql.Identifier(replaced),
        undone=sql.Identifier(undone),
        live_text=sql.Literal(live),
        replaced_text=sql.Literal(replaced),
    )
    return statements.as_string(None)


def build_restored_message(outcome: RestoreOutcome) -> Message:
    """What people are told who were told that a restore waited for them."""
    plan = outcome.plan
    has_former = f"the former data, as {outcome.replaced}." if outcome.replaced else "everything else."
    return Message(
        title=f"{plan.platform}: restored from {plan.backup_id}",
        cause=f"{summarize_outcome(outcome)}. What was written after {_moment(plan.snapshot_at)} is not in it.",
        still_safe=has_former,
        next_command=f"look at the application; to take it back: {undo_command(outcome)}",
        verdict=outcome.verdict,
        details=(f"Case: {outcome.case_id}", f"It took {describe_seconds(outcome.seconds)}."),
    )


def _rows(plan: RestorePlan) -> Iterator[tuple[str, str]]:
    yield "comes back", f"{plan.rows:,} rows, {describe_bytes(plan.size_bytes)}, as of {_moment(plan.snapshot_at)}"
    yield (
        "would be lost",
        f"what was written since then: {_describe_age(plan.age_seconds)}" if plan.swaps else "nothing",
    )
    yield "proven", plan.level or "never"
    yield "new database", plan.name
    if plan.swaps:
        yield "live database", f"{plan.live}, then {plan.replaced}" if plan.replaced else f"{plan.live}, not there now"
        yield "sessions that are ended", f"{sum(group.count for group in plan.sessions)}"
        if plan.carried:
            yield "it takes over", ", ".join(plan.carried)
    free = "not known from here" if plan.free_bytes is None else describe_bytes(plan.free_bytes)
    yield "space", f"up to {describe_bytes(plan.needed_bytes)} needed; free: {free}"
    expected = "not known yet" if plan.expected_seconds is None else f"about {describe_seconds(plan.expected_seconds)}"
    yield "expected time", expected


def _describe_age(seconds: float) -> str:
    return f"{seconds / _DAY_SECONDS:.1f} d" if seconds > 2 * _DAY_SECONDS else describe_seconds(seconds)


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
