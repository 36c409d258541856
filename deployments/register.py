"""Makes the orchestrator what `prefect.yaml` and `schedules.toml` say, for each platform that there is a file of.

    python -m deployments.register [--plan] [--platform esn]... [--json]

Work pool, queues, deployments, automations. Without `--platform`, every platform file of KEEPWELL_CONFIG counts, and
what we registered for platforms that are gone, or under the names of an earlier release, is removed; with it, those
platforms alone are brought up to date, and nothing is removed.

Safe to run again: everything is looked up by its name and brought up to date. What an operator switched off (a paused
deployment, a schedule, an automation) stays off, and a schedule that did not change stays the one it was. It speaks
with PREFECT_API_URL's server in this process: the same by `prefect deploy` takes a new interpreter for each command,
makes each schedule anew, and leaves pool, queues and automations to others.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from deployments.automations import build_automations, upsert_automations
from deployments.deployment_file import read_deployment_file
from deployments.standing import Gone, Standing, find_gone, inherit, inherit_switched_off, read_standing
from deployments.upserts import remove, require_registered, upsert_deployment, upsert_pool
from deployments.wanted import WantedDeployment, plan_deployments, queue_limits
from keepwell.errors import ConfigurationError, KeepwellError, PreconditionFailed, ServiceUnavailable
from keepwell.pausing import expiry_name
from keepwell.schedules import read_schedules
from keepwell.settings import PLATFORM_NAME, SCHEDULES_FILE, config_folder, read_platform_names


@dataclass(frozen=True)
class RegistrationPlan:
    """What a registration would do.

    Attributes:
        platforms: Whose deployments are brought up to date.
        wanted: Those deployments.
        made: Full names of those that there are not yet.
        gone: What is removed.
        standing: What there is, as the plan saw it.
    """

    platforms: tuple[str, ...]
    wanted: tuple[WantedDeployment, ...]
    made: tuple[str, ...]
    gone: Gone
    standing: Standing


@dataclass(frozen=True)
class Registered:
    """What there is after a registration, by count; the same after a second one, but for what is removed.

    Attributes:
        platforms: Names.
        removed: What was not wanted any more, in words.
    """

    work_pools: int
    work_queues: int
    deployments: int
    schedules: int
    automations: int
    platforms: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def register(platforms: Sequence[str] = ()) -> Registered:
    """Bring the orchestrator up to date.

    Args:
        platforms: Names of those to bring up to date, whatever else there is; none: all that there are files of, and
            what belongs to no such platform is removed.

    Returns:
        How much of what there is now.

    Raises:
        ConfigurationError: No server is named, `prefect.yaml` or `schedules.toml` says something that is not
            understood, or there is no platform file.
        PreconditionFailed: Some are named, and the orchestrator still has deployments of an earlier release.
        ServiceUnavailable: The orchestrator does not answer.
        VerificationFailed: Read back, it is not what it should be.
    """
    return apply(plan(platforms))


def apply(planned: RegistrationPlan) -> Registered:
    """Do exactly what was planned; errors as `register`.

    New before old: cut short, there is a schedule too many for a while, and never one too few.
    """
    with _connected() as client:
        return _apply(client, planned)


def plan(platforms: Sequence[str] = ()) -> RegistrationPlan:
    """What `register` would do now; the same arguments and errors, and nothing is changed."""
    with _connected() as client:
        return _plan(client, platforms)


@contextmanager
def _connected() -> Iterator[SyncPrefectClient]:
    if not PREFECT_API_URL.value():
        # Prefect's client would start a server of its own, register there, and end with it.
        raise ConfigurationError(
            "PREFECT_API_URL names no server, so there is nothing to register with.",
            hint="Where `keepwell serve` runs: `keepwell serve reload`. For a server of your own, set it.",
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException) as error:
        raise ServiceUnavailable(
            f"The orchestrator did not take the registration: {type(error).__name__}: {error}",
            hint="Is PREFECT_API_URL right, and is the server up?",
        ) from error


def _plan(client: SyncPrefectClient, platforms: Sequence[str]) -> RegistrationPlan:
    specs = read_deployment_file().deployments
    names = _require_names(platforms) or read_platform_names()
    known = names if not platforms else _known_platforms(names)
    path = config_folder() / SCHEDULES_FILE
    file = read_schedules(path, platforms=known, procedures=[spec.name for spec in specs if spec.per_platform])
    wanted = plan_deployments(specs, names, file)
    standing = read_standing(client, names)
    if platforms:
        _require_no_earlier_release(standing, wanted)
    had = {one.full_name for one in standing.deployments}
    automations = set(map(expiry_name, names))
    return RegistrationPlan(
        platforms=names,
        wanted=wanted,
        made=tuple(one.full_name for one in wanted if one.full_name not in had),
        gone=Gone() if platforms else find_gone(standing, wanted, automations),
        standing=standing,
    )


def _require_names(platforms: Sequence[str]) -> tuple[str, ...]:
    for name in platforms:
        if not re.match(PLATFORM_NAME, name):
            raise ConfigurationError(f"{name!r} is no platform's name.", hint="a-z, 0-9 and dashes, as in its file.")
    return tuple(dict.fromkeys(platforms))


def _require_no_earlier_release(standing: Standing, wanted: Sequence[WantedDeployment]) -> None:
    """Its deployments start all platforms' backups: beside new ones, one platform's would start twice."""
    earlier = [one.full_name for one in find_gone(standing, wanted, ()).deployments if one.is_of_first_release]
    if earlier:
        raise PreconditionFailed(
            f"The orchestrator still has {', '.join(earlier)}, of an earlier release, for all platforms.",
            hint="Register all platforms at once, without --platform: it takes them over.",
        )


def _known_platforms(named: Sequence[str]) -> tuple[str, ...]:
    """Those that `schedules.toml` may speak of; a registration by name needs no platform file."""
    try:
        return (*named, *read_platform_names())
    except ConfigurationError:
        return tuple(named)


def _apply(client: SyncPrefectClient, planned: RegistrationPlan) -> Registered:
    limits = queue_limits(planned.platforms)
    upsert_pool(client, limits)
    ids = {one.full_name: upsert_deployment(client, one, inherit(one, planned.standing)) for one in planned.wanted}
    off = inherit_switched_off(planned.standing, planned.platforms)
    automations = upsert_automations(client, build_automations(ids, planned.platforms), off)
    remove(client, planned.gone, planned.standing)
    schedules = sum(require_registered(client, one) for one in planned.wanted)
    return Registered(1, len(limits), len(ids), schedules, automations, planned.platforms, planned.gone.names)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.register", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="NAME",
        help="bring this one alone up to date, and remove nothing; may be given several times",
    )
    parser.add_argument("--plan", action="store_true", help="say what would be made and removed, and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        if options.plan:
            planned = plan(options.platform)
            data, words = asdict(summarize(planned)), render_plan(planned)
        else:
            registered = register(options.platform)
            data, words = asdict(registered), render_registered(registered)
    except KeepwellError as error:
        sys.stderr.write(f"register: {error.message}\n   hint: {error.hint}\n")
        return 2 if isinstance(error, ServiceUnavailable) else 1
    sys.stdout.write((json.dumps(data) if options.json else words) + "\n")
    return 0


@dataclass(frozen=True)
class PlanSummary:
    """A plan, to be shown.

    Attributes:
        platforms: Names.
        updated: Full names of deployments that are there already.
        made: Of those that are not.
        removed: In words.
    """

    platforms: tuple[str, ...]
    updated: tuple[str, ...]
    made: tuple[str, ...]
    removed: tuple[str, ...]


def summarize(planned: RegistrationPlan) -> PlanSummary:
    """What a plan would do, by name."""
    updated = tuple(one.full_name for one in planned.wanted if one.full_name not in planned.made)
    return PlanSummary(planned.platforms, updated, planned.made, planned.gone.names)


def render_plan(planned: RegistrationPlan) -> str:
    """The same for people, a line each."""
    summary = summarize(planned)
    lines = [f"Platforms: {', '.join(summary.platforms)}."]
    lines += [f"  make    {name}" for name in summary.made]
    lines += [f"  update  {name}" for name in summary.updated]
    lines += [f"  remove  {name}" for name in summary.removed]
    return "\n".join(lines)


def render_registered(registered: Registered) -> str:
    """What there is now, for people."""
    counts = {name: count for name, count in asdict(registered).items() if isinstance(count, int)}
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    lines = [f"Registered for {', '.join(registered.platforms)}: {words}."]
    lines += [f"Removed: {name}" for name in registered.removed]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
