"""What stands around the database and the store: keys, cache, uploads, orchestrator, and whoever gets told."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from keepwell import notify, orchestrator
from keepwell.backup.uploaded_files import takes
from keepwell.cache import read_facts
from keepwell.doctor.outcome import alert, from_error, guarded, not_applicable, not_checked, ok, warn
from keepwell.doctor.protection import examine_protection
from keepwell.doctor.schedules import find_differences
from keepwell.errors import KeepwellError, PreconditionFailed
from keepwell.keyring import judge_keys
from keepwell.orchestrator import REGISTER_HINT, WORK_POOL, Deployment, Orchestrator, Queue, Worker
from keepwell.settings import SCHEDULES_FILE, Platform
from keepwell.verdict import Finding

_LOOKED_AT_FILES = 10_000
_BAD_STATES = {"FAILED", "CRASHED", "CANCELLED"}
_REGISTER = f"Register pool and deployments: {REGISTER_HINT}."


def examine_keys(platform: Platform) -> Iterator[Finding]:
    """Whether backups can be sealed, signed and opened here, and whether nobody else can read the keys."""
    yield from guarded("keys", lambda: judge_keys(platform.sealing))


def examine_cache(platform: Platform) -> Iterator[Finding]:
    """PING with the real login."""
    if platform.redis is None:
        yield not_applicable("cache", "The platform file has no [redis] table.")
        return
    try:
        found = read_facts(platform.redis)
    except KeepwellError as error:
        yield alert("cache", error.message, hint=error.hint)
    else:
        kept = "keeps its data on disk" if found.persistent else "keeps nothing on disk"
        yield ok("cache", f"Version {found.version} answers, and {kept}.")


def examine_uploads(platform: Platform) -> Iterator[Finding]:
    """Whether the folder of uploads can be read, and whether there is anything in it."""
    if platform.uploads is None:
        yield not_applicable("uploads", "The platform file has no [uploads] table.")
        return
    folder = platform.uploads.directory
    if not folder.is_dir():
        hint = "Check uploads.directory; on a container host it is the outer side of the bind mount."
        yield alert("uploads", f"There is no folder {folder}.", hint=hint)
        return
    unreadable: list[str] = []
    walk = os.walk(folder, onerror=lambda error: unreadable.append(str(error.filename)))
    taken = partial(takes, platform.uploads)
    found = (os.path.join(place, name) for place, _, names in walk for name in names)  # noqa: PTH118 - thousands of paths
    files = islice((file for file in found if taken(os.fsencode(os.path.relpath(file, folder)))), _LOOKED_AT_FILES)
    count = 0
    for file in files:
        count += 1
        if not os.path.islink(file) and not os.access(file, os.R_OK):  # noqa: PTH114 - a link is kept as such
            unreadable.append(file)
    if unreadable:
        hint = "Run Keepwell as a user who may read them."
        yield alert("uploads", f"{len(unreadable)} paths cannot be read, such as {unreadable[0]}.", hint=hint)
        return
    seen = f"{count:,} files" if count < _LOOKED_AT_FILES else f"the first {count:,} files"
    if not count:
        hint = "If there should be files, look whether its volume is mounted there."
        yield warn("uploads", f"There is no file in {folder}: sets would hold none.", hint=hint)
        return
    yield ok("uploads", f"{seen} in {folder} can be read.")


def examine_orchestrator(platform: Platform) -> Iterator[Finding]:
    """The Prefect API, a worker in our pool, and how each deployment's last run ended."""
    client = orchestrator.connect(platform.orchestrator)
    if client is None:
        message = "No Prefect server is served here, and none is named: nothing runs by itself."
        yield not_applicable("orchestrator", message, hint="`keepwell serve` runs one; orchestrator.api_url names one.")
        return
    with client:
        try:
            client.require_healthy()
        except KeepwellError as error:
            yield alert("orchestrator", error.message, hint=error.hint)
            yield not_checked("schedule", "Workers and deployments were not checked: the server is out of reach.")
            return
        yield ok("orchestrator", f"The Prefect API answers at {_without_login(client.api_url)}.")
        yield from examine_protection(client)
        yield from guarded("worker", lambda: _examine_pool(client, platform.name))
        yield from guarded("deployments", lambda: _examine_deployments(client, platform.name))


def judge_workers(workers: Sequence[Worker], pool: str, now: datetime) -> Finding:
    """Whether somebody takes runs out of the pool."""
    online = [worker for worker in workers if worker.is_online]
    if online:
        return ok("worker", f"{len(online)} online in pool {pool}, such as {online[0].name}.")
    beats = [worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time is not None]
    seen = f"none has polled it for {(now - max(beats)).total_seconds():,.0f} s" if beats else "none ever polled it"
    return alert(
        "worker",
        f"No worker is online in pool {pool}: {seen}, so no scheduled run will start.",
        hint=f"Start one: prefect worker start --pool {pool}.",
    )


def judge_queues(queues: Sequence[Queue], needed: Collection[str], pool: str) -> Finding:
    """Whether somebody takes runs out of each queue: a worker for one of them says nothing of the others.

    Args:
        queues: Of the pool.
        needed: Names of those that deployments use.
        pool: Its name, for the hint.
    """
    silent = sorted(set(needed) - {queue.name for queue in queues if queue.is_polled})
    if not silent:
        return ok("queues", f"Each is polled: {', '.join(sorted(needed)) or 'none is needed'}.")
    paused = [queue.name for queue in queues if queue.name in silent and queue.status == "PAUSED"]
    if paused:
        hint = "Resume it in the Prefect UI."
        return alert("queues", f"Paused: {', '.join(paused)}; no run of theirs will start.", hint=hint)
    return alert(
        "queues",
        f"No worker polls {', '.join(silent)} of pool {pool}, so no run of theirs will start.",
        hint=f"Start a worker for the whole pool: prefect worker start --pool {pool}.",
    )


def _examine_pool(client: Orchestrator, platform: str) -> Iterator[Finding]:
    try:
        workers = client.read_workers(WORK_POOL)
    except PreconditionFailed:
        yield alert("worker", f"The Prefect server has no work pool {WORK_POOL}.", hint=_REGISTER)
        return
    yield judge_workers(workers, WORK_POOL, datetime.now(UTC))
    if any(worker.is_online for worker in workers):
        needed = {found.work_queue_name for found in _read_own(client, platform) if found.work_queue_name}
        yield judge_queues(client.read_queues(WORK_POOL), needed, WORK_POOL)


def _read_own(client: Orchestrator, platform: str) -> list[Deployment]:
    """Deployments of the platform, and those that serve all."""
    ours = [found for found in client.read_deployments() if found.work_pool_name == WORK_POOL]
    return [found for found in ours if found.platform in (platform, None)]


def _examine_deployments(client: Orchestrator, platform: str) -> Iterable[Finding]:
    deployments = _read_own(client, platform)
    if not any(deployment.platform for deployment in deployments):
        return [alert("deployments", f"No deployment in the pool {WORK_POOL} is for {platform}.", hint=_REGISTER)]
    return [
        *(_judge_deployment(client, deployment) for deployment in deployments),
        *_judge_schedules(deployments, platform),
    ]


def _judge_schedules(deployments: Sequence[Deployment], platform: str) -> Iterator[Finding]:
    """Whether what `schedules.toml` says was registered."""
    differences = find_differences(deployments, platform)
    if differences:
        hint = f"It takes effect with a registration: {REGISTER_HINT}."
        yield warn(SCHEDULES_FILE, f"{'; '.join(differences)}.", hint=hint)


def _judge_deployment(client: Orchestrator, deployment: Deployment) -> Finding:
    name = f"deployment {deployment.procedure}"
    try:
        last = client.read_last_run(deployment)
    except KeepwellError as error:
        return from_error(name, error)
    if deployment.paused:
        hint = f"`keepwell resume --platform {deployment.platform}` ends a pause; else resume it in the Prefect UI."
        return warn(name, "It is paused: its schedule makes no runs.", hint=hint)
    if last is None:
        return ok(name, "No run of it has ended yet.", hint=_try(deployment))
    ended = f"Its last run, {last.name}, ended {last.state_name}" + (
        f" at {last.end_time:%F %T} UTC." if last.end_time else "."
    )
    if last.state_type in _BAD_STATES:
        return alert(name, ended, hint=f"Look at it: {client.address(last)}")
    return ok(name, ended)


def _try(deployment: Deployment) -> str:
    """What runs it; what tells of a failed run needs one to tell of."""
    if deployment.platform is None:
        return ""
    return f"Try it: keepwell run {deployment.procedure} --platform {deployment.platform}"


def examine_messages(platform: Platform) -> Iterator[Finding]:
    """Whether anybody would be told; nothing is sent."""
    channels = notify.channel_names(platform.notify)
    if channels:
        yield ok("notifications", f"Configured: {', '.join(channels)}.", hint="Try them: keepwell notify test")
    else:
        hint = "Put Apprise addresses into a file named by notify.urls_file."
        yield warn("notifications", "No channel is configured: nobody is told when a backup fails.", hint=hint)
    if platform.notify.dead_mans_switch_url is not None:
        yield ok("dead-man's switch", "Configured: it is asked after each proven backup.")
    else:
        hint = "Set notify.dead_mans_switch_url_file: only something outside notices when this machine falls silent."
        yield warn("dead-man's switch", "None is configured: silence would go unnoticed.", hint=hint)


def _without_login(url: str) -> str:
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"
