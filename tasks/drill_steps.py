"""Restore drills: thin steps around `keepwell.drill`."""

from prefect import get_run_logger
from prefect.runtime import flow_run

from keepwell.drill.choosing import new_seed
from keepwell.drill.documents import Chosen, DamageOutcome, Drill, Kind, Rehearsal, Stage
from keepwell.drill.evidence import build_drill_evidence, describe_shortfall
from keepwell.drill.keeping import keep_reports
from keepwell.drill.offline_key import build_key_message
from keepwell.drill.rehearsing import DrillPlan, begin_drill, check_checker, conclude_drill, rehearse_communication
from keepwell.drill.rehearsing import rehearse as engine_rehearse
from keepwell.errors import ConfigurationError, KeepwellError, VerificationFailed
from keepwell.holding import hold_sets
from keepwell.interlock import Procedure
from keepwell.objectstore.bucket import open_store
from keepwell.settings import Platform
from keepwell.verdict import Verdict
from tasks import notify_steps, platforms
from tasks.artifacts import show_markdown, show_picture, shown_progress
from tasks.evidence_steps import keep_evidence
from tasks.redaction import redact
from tasks.retries import HOUR_SECONDS, MINUTE_SECONDS, step


@step("find what there is", timeout_seconds=HOUR_SECONDS)
def begin(platform: str, kind: Kind | None, seed: int | None) -> DrillPlan:
    """Find out from the bucket alone what there is to restore.

    Args:
        platform: Its name.
        kind: What the drill covers; None: a full one once a quarter.
        seed: Of an earlier drill, to choose and damage as it did; None takes a new one.

    Raises:
        PreconditionFailed: There is no proven set.
    """
    plan = begin_drill(platforms.load(platform), kind=kind, seed=new_seed() if seed is None else seed)
    get_run_logger().info(
        "Drill %s, seed %d: restoring %s.", plan.drill_id, plan.seed, " and ".join(plan.chosen.values())
    )
    return plan


def rehearse(platform: str, plan: DrillPlan) -> tuple[Rehearsal, ...]:
    """Restore each chosen set, one after the other: each wants the machine for itself."""
    return tuple(restore(platform, plan, chosen) for chosen in plan.chosen)


@step("restore the set chosen: {chosen}", timeout_seconds=24 * HOUR_SECONDS)
def restore(platform: str, plan: DrillPlan, chosen: Chosen) -> Rehearsal:
    """Restore one set from the bucket and the key alone, and time it.

    Returns:
        What it showed; a set that cannot be restored is told, and does not keep the others from their turn.

    Raises:
        TransientError: The store or the scratch server went away.
    """
    loaded = platforms.load(platform)
    store = open_store(loaded)
    with hold_sets(loaded, store, Procedure.DRILL), shown_progress(f"{platform}-drill-progress") as progress:
        rehearsal = engine_rehearse(loaded, store, plan, chosen, progress)
    get_run_logger().info("%s: %s", rehearsal.backup_id, redact(rehearsal.message))
    return rehearsal


@step("damage copies", timeout_seconds=24 * HOUR_SECONDS)
def damage(platform: str, plan: DrillPlan, rehearsals: tuple[Rehearsal, ...]) -> tuple[DamageOutcome, ...]:
    """Damage copies of the newest proven set, and see that each damage is found.

    Raises:
        KeepwellError: The store or the scratch server went away.
    """
    loaded = platforms.load(platform)
    store = open_store(loaded)
    with hold_sets(loaded, store, Procedure.DRILL), shown_progress(f"{platform}-damage-progress") as progress:
        outcomes = check_checker(loaded, store, plan, rehearsals[0], progress)
    for outcome in outcomes:
        said = f"found at {outcome.detected_at}" if outcome.detected_at else outcome.verdict
        get_run_logger().info("%s: %s: %s", outcome.kind, said, redact(outcome.what))
    return outcomes


@step("tell that this is a drill", timeout_seconds=10 * MINUTE_SECONDS)
def tell_of_drill(platform: str, plan: DrillPlan) -> Stage | None:
    """Tell every channel that this is a drill; only a full one does.

    Returns:
        What became of it; None where nothing was told.
    """
    stage = rehearse_communication(platforms.load(platform), plan)
    if stage is not None:
        get_run_logger().info("%s: %s", stage.name, redact(stage.message))
    return stage


@step("record the drill", timeout_seconds=HOUR_SECONDS)
def record(
    platform: str,
    plan: DrillPlan,
    rehearsals: tuple[Rehearsal, ...],
    damages: tuple[DamageOutcome, ...],
    communication: Stage | None,
) -> Drill:
    """Judge what was measured, and keep it: the drill's document, its report, evidence, and pages on the run."""
    loaded = platforms.load(platform)
    store = open_store(loaded)
    run_id = flow_run.id
    drill = conclude_drill(loaded, store, plan, rehearsals, damages, communication=communication, flow_run=run_id)
    keep_evidence(loaded, build_drill_evidence(drill))
    page, history = keep_reports(store, drill)
    show_markdown(f"{platform}-drill-report", page, drill.summary)
    _show_plot(loaded, history.drills)
    return drill


def ask_for_key(platform: str, drill: Drill) -> None:
    """Ask whoever has the offline key to try it, when a quarter has passed; each drill does until it is done."""
    message = build_key_message(platform, drill.findings)
    if message is not None:
        notify_steps.tell(platform, message)


@step("require that the drill passed", timeout_seconds=MINUTE_SECONDS)
def require_passed(drill: Drill) -> None:
    """Go on only when everything was restored, found and within its target.

    Raises:
        VerificationFailed: Something was not; people are told by the automation on failures.
    """
    if drill.verdict in (Verdict.ALERT, Verdict.UNKNOWN):
        raise VerificationFailed(
            f"The drill failed. {describe_shortfall(drill)}",
            hint=f"The run's page says more; so does `keepwell drill show {drill.drill_id}`.",
        )


def _show_plot(platform: Platform, drills: tuple[Drill, ...]) -> None:
    """The picture is worth much, and no drill fails for want of it."""
    from keepwell.drill.plots import render_plot  # noqa: PLC0415 - only here

    try:
        show_picture(f"{platform.name}-drill-plot", render_plot(drills, "png"), "RTO and size over the drills")
    except ConfigurationError as error:
        get_run_logger().warning("%s", error)
    except KeepwellError as error:
        get_run_logger().warning("The plot could not be shown: %s", error)
