"""How every step gets its platform: read anew, before anything can log its secrets or die of logging."""

from typing import Annotated

from pydantic import Field

from keepwell.settings import PLATFORM_NAME, Platform, load_platform
from tasks import redaction
from tasks.lost_worker import outlive_worker

# A flow's docstring describes it to the run form: Prefect takes no description from here.
PlatformName = Annotated[str, Field(pattern=PLATFORM_NAME)]


def load(name: str | None) -> Platform:
    """Read the platform file, the environment and the secret files.

    Args:
        name: Which platform; None when there is only one.

    Raises:
        ConfigurationError: As `keepwell.settings.load_platform`.
    """
    platform = load_platform(name)
    redaction.hide(platform)
    outlive_worker()
    return platform
