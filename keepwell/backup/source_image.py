"""Programs of the image that the source's server runs from: its own libc, its own extensions, its own build.

What a proof shows on them holds for the server that a restore would really go to. They are preferred for the scratch
server where the source is known to run from an image, and used as client tools where none of this machine fit. Wherever
they cannot be used, this machine's programs of the same major are, and it is said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keepwell.backup.spool import open_spool
from keepwell.containers.engine import (
    find_address,
    find_container_image,
    find_image,
    find_publishing_container,
    open_engine,
)
from keepwell.containers.programs import ImageRunner, find_programs
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed
from keepwell.postgres.binaries import Binaries, choose_client, choose_restorer, choose_server
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

SCRATCH_IMAGE = "scratch image"
_AUTO, _NEVER = "auto", "never"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Provers:
    """What a proof can restore on.

    Attributes:
        servers: In the order in which to try them; empty when there is none.
        findings: Why the image is not among them, though it is asked for, and why nothing is.
    """

    servers: tuple[Binaries, ...]
    findings: tuple[Finding, ...]


def wants_image(platform: Platform) -> bool:
    """Whether the platform file knows of an image."""
    wanted = platform.backup.scratch_image
    return wanted != _NEVER and (wanted != _AUTO or platform.database.container is not None)


def why_image(platform: Platform) -> str:
    """Whose image it is, in words; for platforms that know of one."""
    if platform.backup.scratch_image == _AUTO:
        return f"the image of database.container, {platform.database.container}"
    return "the image that backup.scratch_image names"


def suggest_container(platform: Platform) -> str:
    """What to set, where a container publishes the database's port and the platform file names none; else nothing."""
    undecided = platform.database.container is None and platform.backup.scratch_image == _AUTO
    address = find_address() if undecided and platform.database.host in _THIS_MACHINE else None
    if address is None:
        return ""
    try:
        with open_engine(address) as client:
            name = find_publishing_container(client, platform.database.port)
    except KeepwellError:
        return ""  # it is only a suggestion
    return f'If the database runs in the container {name}, set database.container = "{name}".' if name else ""


def find_image_programs(platform: Platform, folder: Path) -> Binaries:
    """The programs of the source's image, seen to run.

    Args:
        platform: Which image; `wants_image` says that there is one.
        folder: Private one of this run, which lives as long as they are used; a sweep finds their containers by it.

    Raises:
        KeepwellError: They cannot be used, and why.
    """
    address = find_address()
    if address is None:
        raise PreconditionFailed(
            "No Docker Engine answers on this machine.",
            hint="Start it, or let DOCKER_HOST name its socket; one on another machine does not see our folders.",
        )
    wanted = platform.backup.scratch_image
    with open_engine(address) as client:
        if wanted != _AUTO:
            image = find_image(client, wanted)
        else:
            database = platform.database
            image = find_container_image(client, database.container or "", database.compose_project)
    runner = ImageRunner(address, image, folder)
    runner.prepare()
    programs, version = find_programs(runner)
    return Binaries(programs, version, f"image {image.name}", runner)


def find_provers(
    platform: Platform, folder: Path, installations: Sequence[Binaries], *, source_major: int, archive_major: int
) -> Provers:
    """What a proof of a set can restore on, the source's own image first.

    Args:
        platform: Whose image.
        folder: As for `find_image_programs`.
        installations: Of this machine.
        source_major: Major version of the server that was dumped.
        archive_major: Of the pg_dump that wrote the archive.
    """
    servers, findings = [], []
    if wants_image(platform):
        try:
            image = find_image_programs(platform, folder)
            refuse_unfit(image, source_major=source_major, archive_major=archive_major)
            servers.append(image)
        except KeepwellError as error:
            findings.append(without_image(error))
    try:
        servers.append(choose_server(installations, source_major=source_major, archive_major=archive_major))
    except ConfigurationError as error:
        if not servers:
            findings.append(Finding(name="tools", verdict=Verdict.UNKNOWN, message=error.message, hint=error.hint))
    return Provers(tuple(servers), tuple(findings))


def refuse_unfit(image: Binaries, *, source_major: int, archive_major: int) -> None:
    """Stop at an image that is no longer, or never was, what the set comes from.

    Raises:
        PreconditionFailed: Its major version is not the source's, or too old for the archive.
    """
    if image.major != source_major:
        raise PreconditionFailed(
            f"{image} is not of the source's major version {source_major}.",
            hint="After an upgrade this is so for sets from before; else correct database.container or "
            "backup.scratch_image.",
        )
    if image.major < archive_major:
        raise PreconditionFailed(
            f"{image} cannot read the archive, which pg_dump {archive_major} wrote.",
            hint=f"Make sets with client tools {source_major}: install postgresql-client-{source_major}, "
            "or take them out of backup.tools_directory.",
        )


def without_image(error: KeepwellError) -> Finding:
    """That a proof goes on without the source's image, which is not as good."""
    return Finding(
        name=SCRATCH_IMAGE,
        verdict=Verdict.WARN,
        message=f"The source's own image is not what the set is restored on: {error.message}",
        hint=error.hint,
    )


def choose_tools(server: Binaries, installations: Iterable[Binaries], *, archive_major: int) -> Binaries:
    """Client tools for a scratch server: its own, or this machine's, which start faster than those of an image.

    Args:
        server: What the scratch server runs from.
        installations: Of this machine.
        archive_major: Of the pg_dump that wrote the archive.
    """
    if server.elsewhere is None:
        return server
    fitting = (found for found in installations if found.major == server.major >= archive_major)
    return next((found for found in fitting if (found.folder / "pg_amcheck").exists()), server)


def find_client(platform: Platform, installations: Sequence[Binaries], *, server_major: int) -> Binaries:
    """Programs to dump a server with: this machine's, or the image's where none here is of the server's major.

    The image's need `moved_to` a folder of the run before they are used.

    Raises:
        ConfigurationError: None is new enough.
    """
    more, why_not = _from_image(platform, installations, major=server_major)
    try:
        return choose_client([*installations, *more], server_major=server_major)
    except ConfigurationError as error:
        raise _told_why(error, why_not) from None


def find_restorer(
    platform: Platform, installations: Sequence[Binaries], *, target_major: int, archive_major: int
) -> Binaries:
    """Programs to restore onto a server with, as `find_client` finds them to dump one.

    Raises:
        ConfigurationError: None can read the archive.
    """
    more, why_not = _from_image(platform, installations, major=target_major)
    try:
        return choose_restorer([*installations, *more], target_major=target_major, archive_major=archive_major)
    except ConfigurationError as error:
        raise _told_why(error, why_not) from None


def moved_to(programs: Binaries, folder: Path) -> Binaries:
    """The same programs for a run with that folder; those of this machine are as they were."""
    if not isinstance(programs.elsewhere, ImageRunner):
        return programs
    runner = replace(programs.elsewhere, folder=folder)
    runner.prepare()
    return replace(programs, elsewhere=runner)


def _from_image(
    platform: Platform, installations: Iterable[Binaries], *, major: int
) -> tuple[list[Binaries], KeepwellError | None]:
    """The image's programs where they are needed and to be had; else why they are not."""
    if not wants_image(platform) or any(found.major == major for found in installations):
        return [], None
    try:
        with open_spool(platform) as folder:
            return [find_image_programs(platform, folder)], None
    except KeepwellError as error:
        return [], error


def _told_why(error: ConfigurationError, why_not: KeepwellError | None) -> ConfigurationError:
    return error if why_not is None else ConfigurationError(f"{error.message} {why_not.message}", hint=error.hint)
