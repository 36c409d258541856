"""Takes over what an earlier release left on the orchestrator: plan, approve, apply the same plan, read back.

    python -m deployments.upgrade [--plan] [--approve PLAN] [--json]

The Prefect server brings its own database up to date when it starts. What remains is ours: deployments, queues and
automations. A registration makes them what this release wants; an upgrade shows beforehand what that is, and asks.
"""

from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.register import PlanSummary, Registered, RegistrationPlan, apply, plan, render_plan, summarize
from keepwell import approval
from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console

app = console.group("Take over what an earlier release left.")


@dataclass(frozen=True)
class UpgradePlan:
    """What an upgrade would do.

    Attributes:
        release: The one that is installed.
        plan: Digest of all of it; what is approved.
        changes: What would be made, updated and removed.
    """

    release: str
    plan: str
    changes: PlanSummary


@app.command()
@console.command("upgrade")
def upgrade(
    *,
    only_plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    approve: Annotated[
        str | None, typer.Option("--approve", metavar="PLAN", help="Do exactly this plan, without asking.")
    ] = None,
) -> Outcome:
    """Take over what an earlier release left on the orchestrator.

    Deployments, queues and automations become this release's; what an operator switched off stays off, runs that have
    begun go on, and the history stays. Undo it by registering from a checkout of the earlier release.
    """
    planned = plan()
    found = UpgradePlan(metadata.version("keepwell"), digest_plan(planned), summarize(planned))
    text = f"Keepwell {found.release}\n{render_plan(planned)}"
    if only_plan:
        hint = f"Do it: keepwell upgrade --approve {found.plan}"
        return Outcome(Verdict.OK, data=found, hint=hint, show=lambda screen: console.print_plain(screen, text))
    if approve is None:
        console.say(text)
        question = f"Do this (plan {found.plan})?"
        if not console.confirm(question, without_terminal=f"Pass --approve {found.plan}, or --plan to look only."):
            raise PreconditionFailed("Nothing was changed.", hint="`keepwell upgrade --plan` shows it again.")
        approve = found.plan
    return _apply(approve)


def _apply(approved: str) -> Outcome:
    """Plan anew, and do it if it is still what was approved.

    Raises:
        PreconditionFailed: It is not.
        VerificationFailed: Read back, something is still to be done.
    """
    planned = plan()
    if digest_plan(planned) != approved:
        raise PreconditionFailed(
            f"The plan {approved} does not fit any more: something changed since it was made. Nothing was changed.",
            hint="Look at the new one: keepwell upgrade --plan",
        )
    registered = apply(planned)
    left = summarize(plan())
    if left.made or left.removed:
        raise VerificationFailed(
            f"Read back, {', '.join((*left.made, *left.removed))} is still to be done.", hint="Run it again."
        )
    return Outcome(
        Verdict.OK,
        data=registered,
        hint="See what runs when: keepwell schedules; then: keepwell doctor",
        show=lambda screen: _show(screen, registered),
    )


def _show(screen: "Console", registered: Registered) -> None:
    for name in registered.removed:
        screen.print(f"Removed: {name}", markup=False)
    screen.print(
        f"Taken over for {', '.join(registered.platforms)}: {registered.deployments} deployments with "
        f"{registered.schedules} schedules, {registered.work_queues} queues, {registered.automations} automations.",
        markup=False,
    )


def digest_plan(planned: RegistrationPlan) -> str:
    """What is approved: everything that is made, updated and removed, and how each deployment will be."""
    wanted = [
        (one.full_name, one.queue, one.tags, one.parameters, [rule.model_dump() for rule in one.schedules])
        for one in planned.wanted
    ]
    return approval.digest_plan([asdict(summarize(planned)), wanted])


if __name__ == "__main__":
    app()
