"""Restore drill of one platform: guide "Backup verification test", items MONTHLY-6 and QUARTERLY-4.

Safe to run at any time: it reads the bucket, restores on scratch servers of its own, and damages copies of the sets
that lie nowhere.
"""

from prefect import flow

from keepwell.drill.documents import Kind
from tasks import drill_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="restore-drill", flow_run_name="restore-drill/{platform}", persist_result=False)
@scrubbed
def restore_drill(platform: PlatformName, kind: Kind | None = None, seed: int | None = None) -> None:
    """Restore from the bucket and the key alone, measure RPO and RTO, and see that damage is found.

    Args:
        platform: Name of the platform, as its platform file gives it.
        kind: What it covers; by default the whole platform once a quarter, with its application, else the sets alone.
        seed: Of an earlier drill, to choose and damage as it did; a new one by default.
    """
    # What a disaster leaves: the bucket and the key. The seed is recorded, so that a drill can be run again.
    plan = drill_steps.begin(platform, kind, seed)

    # Each into a clean folder and onto a server of its own, timed phase by phase. A full drill lets the application
    # answer on what was restored, in a network that leads nowhere.
    rehearsals = drill_steps.rehearse(platform, plan)

    # A checker that was never seen red may be blind.
    damages = drill_steps.damage(platform, plan, rehearsals)

    # The channels that people would hear by in a disaster, with a message that says DRILL.
    communication = drill_steps.tell_of_drill(platform, plan)

    # Good or bad, it is recorded first: a drill that fell short is the one that people will want to read about.
    drill = drill_steps.record(platform, plan, rehearsals, damages, communication)

    # The key that lies elsewhere is nobody's parameter: the person who has it is asked to try it at a terminal.
    drill_steps.ask_for_key(platform, drill)
    drill_steps.require_passed(drill)
