"""The end of a pause, at its time; `keepwell pause --until` plans this run.

Safe to run at any time: a pause that is not over, or was ended by somebody, stays as it is.
"""

from prefect import flow

from tasks import pause_steps
from tasks.platforms import PlatformName
from tasks.redaction import scrubbed


@flow(name="resume-platform", flow_run_name="resume-platform/{platform}", persist_result=False)
@scrubbed
def resume_platform(platform: PlatformName) -> None:
    """Let a platform's procedures start by themselves again, once its pause is over.

    Args:
        platform: Name of the platform, as its platform file gives it.
    """
    # The pause may have been prolonged since this run was planned.
    pause_steps.resume_if_over(platform)
