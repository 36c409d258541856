"""`keepwell cron`: the crontab lines that dumped a platform before, and retiring them by an approved plan."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import PreconditionFailed

if TYPE_CHECKING:
    from rich.console import Console

    from keepwell.discovery.crontabs import CronPlan
    from keepwell.settings import Platform

app = console.group("Retire crontab lines that dump a platform, once its backups are proven; and take that back.")

PlanOnly = Annotated[bool, typer.Option("--plan", help="Show which lines would change; change none.")]
Approve = Annotated[
    str | None, typer.Option("--approve", metavar="PLAN", help="The plan that was shown, where nobody can be asked.")
]
Unproven = Annotated[bool, typer.Option("--unproven", help="Even though no fresh backup of it is proven.")]


@app.command("retire")
@console.command("cron.retire")
def retire(
    *,
    plan: PlanOnly = False,
    approve: Approve = None,
    unproven: Unproven = False,
    platform: console.PlatformName = None,
) -> Outcome:
    """Comment out the crontab lines that dump a platform's database, once a fresh backup of it is proven.

    `keepwell cron return` takes it back.
    """
    from keepwell.discovery.crontabs import plan_retirement, read_crontabs
    from keepwell.discovery.judgement import find_cron_lines
    from keepwell.discovery.machine import read_machine

    settings = console.load_platform(platform)
    machine = read_machine()
    # A line may name nothing but the container, whose name the engine knows.
    unread = machine.unread if settings.database.container else tuple(read_crontabs()[1])
    planned = plan_retirement(find_cron_lines(machine, settings.database), datetime.now(UTC))
    if not unproven and planned.changes and not plan:
        _require_proven(settings)
    return _carry_out(planned, plan=plan, approve=approve, command="retire", unread=unread)


@app.command("return")
@console.command("cron.return")
def give_back(*, plan: PlanOnly = False, approve: Approve = None) -> Outcome:
    """Put every retired crontab line back as it was."""
    from keepwell.discovery.crontabs import plan_return

    return _carry_out(plan_return(), plan=plan, approve=approve, command="return", unread=())


def _require_proven(settings: "Platform") -> None:
    """Whoever retires the old way has the new one."""
    from keepwell.backup.catalogue import read_catalogue
    from keepwell.backup.freshness import build_limits, describe_sets, judge_backups
    from keepwell.objectstore.bucket import open_store
    from keepwell.verdict import Verdict

    sets = describe_sets(read_catalogue(open_store(settings)), settings.backup.proven_level)
    found = judge_backups(sets, build_limits(settings), datetime.now(UTC))
    bad = [finding.message for finding in found if finding.verdict not in (Verdict.OK, Verdict.WARN)]
    if bad:
        raise PreconditionFailed(
            f"The old way stays until the new one is proven. {' '.join(bad)}",
            hint=f"{build_limits(settings).run_command}; or pass --unproven.",
        )


def _carry_out(
    planned: "CronPlan", *, plan: bool, approve: str | None, command: str, unread: tuple[str, ...]
) -> Outcome:
    from keepwell.discovery.crontabs import apply_plan
    from keepwell.verdict import Verdict

    # Of a crontab that cannot be read nothing is known, and none left to retire would be no truth.
    verdict = Verdict.UNKNOWN if unread else Verdict.OK
    data = {"plan": planned.digest, "changes": planned.shown, "unread": unread}
    if plan or not planned.changes:
        hint = f"Apply it: keepwell cron {command} --approve {planned.digest}" if planned.changes else ""
        return Outcome(verdict, data=data, hint=hint, show=lambda screen: _show(screen, planned, unread))
    if approve is None:
        _show(console.stderr(), planned, unread)
        way_out = f"Look at it with `keepwell cron {command} --plan`, then pass --approve {planned.digest}."
        if not console.confirm(
            f"Change {len(planned.changes)} {'line' if len(planned.changes) == 1 else 'lines'}?",
            without_terminal=way_out,
        ):
            return Outcome(verdict, data=data, hint="Nothing was changed.")
        approve = planned.digest
    apply_plan(planned, approve)
    hint = "Take it back: keepwell cron return" if command == "retire" else ""
    return Outcome(verdict, data=data | {"done": True}, hint=hint, show=lambda screen: _show(screen, planned, unread))


def _show(screen: "Console", planned: "CronPlan", unread: tuple[str, ...]) -> None:
    for sentence in unread:
        console.print_plain(screen, sentence)
    if not planned.changes:
        console.print_plain(screen, "No crontab line that could be read is to be changed.")
    for change in planned.shown:
        console.print_plain(screen, f"{change.file}, line {change.number}:\n- {change.before}\n+ {change.after}")
