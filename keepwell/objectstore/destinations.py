"""Where a platform's backup sets lie: in its bucket, and where there is one, in a second destination too."""

from keepwell.destination import Destination
from keepwell.errors import ConfigurationError
from keepwell.objectstore.folder import open_folder
from keepwell.objectstore.store import Store, open_bucket, open_store
from keepwell.settings import Platform


def list_destinations(platform: Platform) -> tuple[Destination, ...]:
    """The destinations that a platform has, the first one first."""
    return tuple(Destination) if has_second(platform) else (Destination.FIRST,)


def has_second(platform: Platform) -> bool:
    """Whether there is a second destination."""
    return platform.second_bucket is not None or platform.second_folder is not None


def open_destination(platform: Platform, destination: Destination) -> Store:
    """The platform's folder in one of its destinations; nothing is asked of it yet.

    Raises:
        ConfigurationError: The platform file names no second one.
    """
    if destination is Destination.FIRST:
        return open_store(platform)
    if platform.second_folder is not None:
        return open_folder(platform, platform.second_folder)
    if platform.second_bucket is not None:
        return open_bucket(platform, platform.second_bucket)
    raise ConfigurationError(
        "There is no second destination.", hint="Name one in the platform file: [second_bucket] or [second_folder]."
    )
