"""Where evidence comes from. Each source only reads; `gather` limits it and keeps its failures to itself.

A source that is built later is added to `build_sources`; until then its place says `unknown`, and where to look.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

from keepwell.backup import freshness
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.report import describe_safety
from keepwell.cache.probe import read_facts as read_cache
from keepwell.containers.engine import find_address, open_engine
from keepwell.containers.state import ContainerState, read_states
from keepwell.errors import ServiceUnavailable
from keepwell.evidence import EVIDENCE, Evidence, read_last_evidence
from keepwell.incident.documents import Observation
from keepwell.incident.gathering import Source
from keepwell.incident.restores import observe_restores
from keepwell.objectstore.lease import read_leases
from keepwell.objectstore.store import Store
from keepwell.orchestrator import Deployment, FlowRun, connect
from keepwell.postgres.server_state import DatabaseState, ServerState, read_server_state
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.settings import ContainedSettings, Platform
from keepwell.smoke import ask_application, judge_answers, smoke_paths
from keepwell.verdict import Verdict, worst

# How far back something may have to do with what is wrong now.
_RECENT = timedelta(days=7)
_RUNS_SHOWN = 20
_CONNECTIONS_FULL = 0.9
_LONG_TRANSACTION_SECONDS = 900
_NEWLY_STARTED = timedelta(hours=24)
_RUN_VERDICTS = {
    "COMPLETED": Verdict.OK,
    "CANCELLED": Verdict.WARN,
    "CANCELLING": Verdict.WARN,
    "FAILED": Verdict.ALERT,
    "CRASHED": Verdict.ALERT,
}


def build_sources(platform: Platform, store: Store, now: datetime) -> tuple[Source, ...]:
    """Every source of a platform, in the order in which a person would ask; nothing is asked yet.

    Args:
        platform: Whose.
        store: Its folder in the bucket.
        now: Aware.
    """
    return (
        Source("application", partial(observe_application, platform, now)),
        Source("database", partial(observe_database, platform, now)),
        Source("redis", partial(observe_redis, platform, now)),
        Source("containers", partial(_look_at_containers, platform, now)),
        Source("backups", partial(_look_at_backups, platform, store, now)),
        Source("restores", partial(observe_restores, store, now, within=_RECENT)),
        Source("at work", partial(_look_at_work, store, now)),
        Source("maintenance", partial(_look_at_evidence, store, now)),
        Source("runs", partial(_look_at_runs, platform, now)),
        Source("logs", partial(_say_unread, "logs", _LOGS_HINT, now)),
        Source("deploys", partial(_say_unread, "deploys", _DEPLOYS_HINT, now)),
    )


_LOGS_HINT = "Save what is there before anything restarts: docker logs --timestamps CONTAINER > FILE."
_DEPLOYS_HINT = (
    "Was something deployed? `docker ps --all` shows since when each container is there; note what you find."
)


def _say_unread(name: str, hint: str, now: datetime) -> Iterable[Observation]:
    yield Observation(
        at=now, source=name, verdict=Verdict.UNKNOWN, message=f"Keepwell does not read {name}.", hint=hint
    )


def observe_application(platform: Platform, now: datetime, *, wait_seconds: float = 0) -> Iterator[Observation]:
    """What the application's pages answer: at once, which is what people get just now, or after a while."""
    if platform.restore.base_url is None:
        yield Observation(
            at=now,
            source="application",
            verdict=Verdict.NOT_APPLICABLE,
            message="The platform file does not say where the application answers.",
            hint="restore.base_url and restore.smoke_paths say it.",
        )
        return
    answers = ask_application(platform.restore.base_url, smoke_paths(platform.restore), wait_seconds=wait_seconds)
    for finding in judge_answers(answers):
        yield Observation(
            at=now,
            source="application",
            verdict=finding.verdict,
            message=f"{finding.name}: {finding.message}",
            hint=finding.hint,
        )


def observe_database(platform: Platform, now: datetime, *, takes_writes: bool = False) -> Iterator[Observation]:
    """How the database's server is, and whether each of its databases is there.

    Args:
        platform: Whose.
        now: Aware.
        takes_writes: Whether it has to: a standby is an alert then, and worth knowing otherwise.
    """
    state = read_server_state(platform.database)
    yield _describe_start(state, now)
    yield from _judge_server(state, now, standby=Verdict.ALERT if takes_writes else Verdict.WARN)
    present = {database.name: database for database in state.databases}
    for name in platform.database.names:
        yield _judge_database(name, present.get(name), now)


def _describe_start(state: ServerState, now: datetime) -> Observation:
    """Its last start is an event: one in the night before may be what began it all."""
    recent = now - state.started_at < _NEWLY_STARTED
    return Observation(
        at=state.started_at,
        source="database",
        verdict=Verdict.WARN if recent else Verdict.OK,
        message="The database server was started.",
        hint="Its log says why it had stopped." if recent else "",
    )


def _judge_server(state: ServerState, now: datetime, *, standby: Verdict) -> Iterator[Observation]:
    full = state.connections >= _CONNECTIONS_FULL * state.connections_allowed
    long = state.longest_transaction_seconds > _LONG_TRANSACTION_SECONDS
    said = (
        f"PostgreSQL {state.version} answers; {state.connections} of {state.connections_allowed} connections are taken"
    )
    said += f", the longest transaction has lasted {describe_seconds(state.longest_transaction_seconds)}"
    yield Observation(
        at=now,
        source="database",
        verdict=Verdict.ALERT if full else Verdict.WARN if long else Verdict.OK,
        message=f"{said}.",
        hint="Who holds them: SELECT * FROM pg_stat_activity." if full or long else "",
    )
    if state.in_recovery:
        yield Observation(
            at=now,
            source="database",
            verdict=standby,
            message="The server is in recovery: it is a standby, and takes no writes.",
            hint="Is it the one that the platform should use?",
        )


def _judge_database(name: str, state: DatabaseState | None, now: datetime) -> Observation:
    if state is None:
        verdict, said, hint = (
            Verdict.ALERT,
            f"The database {name} is not there.",
            "`keepwell restore status` knows whether a restore has renamed it.",
        )
    elif not state.lets_in:
        verdict, said, hint = (
            Verdict.ALERT,
            f"The database {name} lets nobody in.",
            "`keepwell restore status` knows whether a restore has fenced it.",
        )
    else:
        size = "not known" if state.size_bytes is None else describe_bytes(state.size_bytes)
        verdict, said, hint = Verdict.OK, f"The database {name} is there; its size is {size}.", ""
    return Observation(at=now, source="database", verdict=verdict, message=said, hint=hint)


def observe_redis(platform: Platform, now: datetime) -> Iterator[Observation]:
    """Whether Redis answers, and since when it runs."""
    if platform.redis is None:
        yield Observation(
            at=now, source="redis", verdict=Verdict.NOT_APPLICABLE, message="The platform file names no Redis."
        )
        return
    facts = read_cache(platform.redis)
    # To the minute: it tells whole seconds of its age, and two looks should find the same start.
    started_at = (now - timedelta(seconds=facts.up_seconds)).replace(second=0, microsecond=0)
    yield Observation(
        at=started_at,
        source="redis",
        verdict=Verdict.WARN if facts.up_seconds < _NEWLY_STARTED.total_seconds() else Verdict.OK,
        message="Redis was started.",
    )
    yield Observation(
        at=now, source="redis", verdict=Verdict.OK, message=f"Redis {facts.version} answers, with our login."
    )


def _look_at_containers(platform: Platform, now: datetime) -> Iterator[Observation]:
    named = [one for one in (platform.database, platform.redis) if one is not None and one.container is not None]
    if not named:
        yield Observation(
            at=now,
            source="containers",
            verdict=Verdict.NOT_APPLICABLE,
            message="The platform file names no container.",
            hint="database.container and redis.container name those of this machine.",
        )
        return
    address = find_address()
    if address is None:
        raise ServiceUnavailable(
            "No Docker Engine answers on this machine.", hint="systemctl status docker; DOCKER_HOST names another one."
        )
    with open_engine(address) as client:
        for state in read_states(client, [_place_of(one) for one in named]):
            yield from _judge_container(state, now)


def _place_of(contained: ContainedSettings) -> tuple[str, str | None]:
    return str(contained.container), contained.compose_project


def _judge_container(state: ContainerState, now: datetime) -> Iterator[Observation]:
    restarts = f", restarted {state.restarts} times by the engine" if state.restarts else ""
    health = f", {state.health}" if state.health else ""
    bad = not state.is_running or state.health == "unhealthy"
    yield Observation(
        at=now,
        source="containers",
        verdict=Verdict.ALERT if bad else Verdict.WARN if state.restarts else Verdict.OK,
        message=f"{state.name} is {state.status}{health}{restarts}.",
        hint=f"Save its log before it is started anew: docker logs --timestamps {state.name}" if bad else "",
    )
    if state.started_at is not None:
        recent = now - state.started_at < _NEWLY_STARTED
        yield Observation(
            at=state.started_at,
            source="containers",
            verdict=Verdict.WARN if recent else Verdict.OK,
            message=f"{state.name} was started.",
        )
    if state.ended_at is not None and not state.is_running:
        why = "killed because memory ran out" if state.killed_for_memory else f"exit code {state.exit_code}"
        yield Observation(
            at=state.ended_at, source="containers", verdict=Verdict.ALERT, message=f"{state.name} ended: {why}."
        )
    elif state.killed_for_memory:
        yield Observation(
            at=now,
            source="containers",
            verdict=Verdict.ALERT,
            message=f"Something in {state.name} was killed because memory ran out.",
        )


def _look_at_backups(platform: Platform, store: Store, now: datetime) -> Iterator[Observation]:
    entries = read_catalogue(store)
    level = platform.backup.proven_level
    findings = freshness.judge_backups(
        freshness.describe_sets(entries, level),
        freshness.build_limits(platform, freshness.Unanswered("not asked")),
        now,
    )
    bad = [finding for finding in findings if freshness.is_bad(finding.verdict)]
    yield Observation(
        at=now,
        source="backups",
        verdict=worst(finding.verdict for finding in findings),
        message=f"A restore brings back {describe_safety(entries, level)}",
        hint=bad[0].message if bad else "",
    )
    newest = next((entry for entry in entries if entry.is_proven(level)), None)
    if newest is not None and newest.snapshot_at is not None:
        yield Observation(
            at=newest.snapshot_at,
            source="backups",
            verdict=Verdict.OK,
            message=f"The newest proven set, {newest.backup_id}, was taken: what changed later is in no backup.",
        )


def _look_at_work(store: Store, now: datetime) -> Iterator[Observation]:
    leases = read_leases(store, store.read_clock())
    for lease in leases:
        yield Observation(
            at=now, source="at work", verdict=Verdict.WARN, message=f"A {lease.procedure} is at work on this platform."
        )
    if not leases:
        yield Observation(at=now, source="at work", verdict=Verdict.OK, message="Keepwell is at work on nothing here.")


def _look_at_evidence(store: Store, now: datetime) -> Iterator[Observation]:
    """The last document of each item of the guide; a run that answers several left each of them the same one."""
    found = [read_last_evidence(store, item) for item in store.list_folders(EVIDENCE)]
    recent = [one for one in found if one is not None and now - one.finished_at <= _RECENT]
    kept: dict[tuple[datetime, str], Evidence] = {(one.finished_at, one.summary): one for one in recent}
    for one in kept.values():
        yield Observation(
            at=one.finished_at,
            source="maintenance",
            verdict=one.verdict,
            message=f"{', '.join(one.items)}: {one.summary}"[:1000],
        )
    if not kept:
        yield Observation(
            at=now,
            source="maintenance",
            verdict=Verdict.OK,
            message=f"No maintenance run left evidence in the last {_RECENT.days} days.",
        )


def _look_at_runs(platform: Platform, now: datetime) -> Iterator[Observation]:
    client = connect(platform.orchestrator)
    if client is None:
        yield Observation(
            at=now, source="runs", verdict=Verdict.NOT_APPLICABLE, message="No Prefect server is configured."
        )
        return
    with client:
        titles = {one.id: one for one in client.read_deployments() if one.platform in (platform.name, None)}
        runs = client.read_last_runs(list(titles.values()), since=now - _RECENT, limit=_RUNS_SHOWN)
    begun = [run for run in runs if run.start_time is not None]
    for run in begun:
        yield _describe_run(run, titles)
    if not begun:
        yield Observation(
            at=now,
            source="runs",
            verdict=Verdict.OK,
            message=f"No run of this platform began in the last {_RECENT.days} days.",
        )


def _describe_run(run: FlowRun, deployments: dict[str, Deployment]) -> Observation:
    title = deployments[run.deployment_id].title if run.deployment_id in deployments else run.name
    ended = run.end_time is not None
    began = run.start_time or datetime.now(UTC)
    how = f"ended {run.state_name}" if ended else f"is {run.state_name}"
    said = f" ({run.message})" if run.message and run.state_type in ("FAILED", "CRASHED") else ""
    return Observation(
        at=run.end_time or began,
        source="runs",
        verdict=_RUN_VERDICTS.get(run.state_type or "", Verdict.WARN),
        message=f"{title} {how}{said}"[:1000],
    )
