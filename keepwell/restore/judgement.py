"""Judging a restore before anything is changed: may this set be restored, there, and take the live one's place?"""

from collections.abc import Iterator
from datetime import UTC, datetime

from keepwell.backup.catalogue import BackupEntry
from keepwell.backup.database import Database
from keepwell.backup.manifest import Manifest
from keepwell.objectstore.store import Store
from keepwell.quantities import describe_bytes, describe_seconds
from keepwell.restore.choice import Choice
from keepwell.restore.server import LiveFacts, TargetFacts
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict


def judge_set(platform: Platform, store: Store, entry: BackupEntry, choice: Choice) -> Iterator[Finding]:
    """Whether this set may be restored, by this machine."""
    manifest = entry.manifest
    assert manifest is not None  # noqa: S101 - a set without one is never chosen
    if manifest.platform != platform.name:
        yield _alert(
            "set",
            f"{entry.backup_id} is a set of the platform {manifest.platform}, not of {platform.name}.",
            "Look at bucket.prefix in the platform file, and at who copied it here.",
        )
    yield _judge_proof(platform, entry, choice)
    if not _can_open(store, manifest):
        yield _alert(
            "key",
            f"{entry.backup_id} is sealed, and none of this machine's keys opens it.",
            "Name the file of a key that does in sealing.identities_file: the offline key, if this machine's is lost.",
        )


def _judge_proof(platform: Platform, entry: BackupEntry, choice: Choice) -> Finding:
    if entry.is_proven(platform.backup.proven_level):
        assert entry.proof is not None  # noqa: S101 - what is proven has one
        return Finding(
            name="proof",
            verdict=Verdict.OK,
            message=f"Proven up to {entry.level} at {_utc(entry.proof.finished_at)}.",
        )
    state = "known to be damaged" if entry.damaged else "not proven"
    message = f"{entry.backup_id} is {state} (level reached: {entry.level or 'none'})."
    if choice.allow_unproven:
        return Finding(
            name="proof",
            verdict=Verdict.WARN,
            message=f"{message} It is restored on explicit demand; it is compared all the same.",
        )
    hint = f"Prove it first: keepwell backup verify {entry.backup_id}; or take another; or pass --unproven."
    return _alert("proof", message, hint)


def _can_open(store: Store, manifest: Manifest) -> bool:
    if not any(part.encryption for part in manifest.parts):
        return True
    own = {str(identity.to_public()) for identity in store.seal.identities}
    # Older manifests do not say for whom they are sealed: then any key may be the one.
    return bool(own & set(manifest.sealed_for)) if manifest.sealed_for else bool(own)


def judge_age(platform: Platform, database: Database, now: datetime) -> Iterator[Finding]:
    """How much time would be lost."""
    age_seconds = (now - database.snapshot_at).total_seconds()
    is_old = age_seconds > platform.backup.max_age_hours * 3600
    yield Finding(
        name="age",
        verdict=Verdict.WARN if is_old else Verdict.OK,
        message=f"It brings back {_utc(database.snapshot_at)}: what changed in the {describe_seconds(age_seconds)} "
        "since then is not in it.",
        hint="A newer set may be there without a proof: keepwell backup list." if is_old else "",
    )


def judge_target(target: TargetFacts, needed_bytes: int) -> Iterator[Finding]:
    """Whether the server can take the new database."""
    if target.refusal is not None:
        yield _alert("target", target.refusal.message, target.refusal.hint)
    elif not (target.powers.superuser or target.powers.createdb):
        yield _alert(
            "target",
            "The role that restores may not create databases.",
            "Set database.restoring_user to one that may (`keepwell roles --role restore` makes one).",
        )
    else:
        yield Finding(name="target", verdict=Verdict.OK, message=f"PostgreSQL {target.version} can take it.")
    needed = describe_bytes(needed_bytes)
    if target.free_bytes is None:
        yield Finding(
            name="space",
            verdict=Verdict.UNKNOWN,
            message=f"It may take {needed}; how much is free on the server's disk cannot be seen from here.",
            hint="Look there with df before you go on.",
        )
    elif target.free_bytes < needed_bytes:
        yield _alert(
            "space",
            f"It may take {needed}, and {describe_bytes(target.free_bytes)} are free on the server's disk.",
            "Free some space, or restore onto another server: `keepwell restore elsewhere`.",
        )
    else:
        message = f"It may take {needed}; {describe_bytes(target.free_bytes)} are free on the server's disk."
        yield Finding(name="space", verdict=Verdict.OK, message=message)


def judge_beside(database: Database) -> Iterator[Finding]:
    """What a copy beside the live database lacks."""
    source = database.source
    if source.has_grants or source.settings:
        what = ", ".join((["grants on the database"] if source.has_grants else []) + list(source.settings))
        yield Finding(
            name="database properties",
            verdict=Verdict.WARN,
            message=f"The copy beside will not have: {what}.",
            hint="A swap carries them over; else set them before an application uses the copy.",
        )


def judge_swap(platform: Platform, store: Store, target: TargetFacts, live: str, new: str) -> Iterator[Finding]:
    """What stands in the way of giving the live name to another database."""
    if live in (platform.database.maintenance_name, new):
        yield _alert(
            "names",
            f"{live} is the live name, and the new or the maintenance database's as well.",
            "Name another database of the server in database.maintenance_name, or another one with --name.",
        )
    if not store.may_write:
        yield Finding(
            name="journal",
            verdict=Verdict.WARN,
            message="This machine may only read the bucket: what it does is told by the databases' names alone.",
            hint="Write down what you do; `keepwell restore status` reads the names.",
        )
    if target.live is None:
        yield Finding(
            name="live database",
            verdict=Verdict.WARN,
            message=f"There is no database {live}: nothing is replaced, and there will be nothing to go back to.",
        )
        return
    yield from _judge_obstacles(target.live, live)
    yield from _judge_reach(target, target.live, live)
    yield _judge_sessions(target.live)


def _judge_obstacles(facts: LiveFacts, live: str) -> Iterator[Finding]:
    tied = facts.obstacles
    if not facts.named.open:
        yield _alert(
            "fence",
            f"Nobody is let into {live}: another restore shut it, or somebody did.",
            "Look: keepwell restore status. It names the case, and what opens the database again.",
        )
    if tied.prepared:
        yield _alert(
            "prepared transactions",
            f"{live} has prepared transactions, with which it cannot be renamed: {', '.join(tied.prepared)}.",
            "In that database: COMMIT PREPARED or ROLLBACK PREPARED each; whoever prepared it knows which.",
        )
    if tied.slots:
        yield _alert(
            "replication slots",
            f"{live} has logical replication slots, which would go on reading the replaced database and keep its "
            f"write-ahead log for ever: {', '.join(tied.slots)}.",
            "Stop who reads from them and drop them (SELECT pg_drop_replication_slot('…')); make them anew afterwards.",
        )
    if tied.subscriptions:
        yield _alert(
            "subscriptions",
            f"{live} subscribes to others, which would go on writing into the replaced database: "
            f"{', '.join(tied.subscriptions)}.",
            "In that database: ALTER SUBSCRIPTION … DISABLE and drop it; make it anew afterwards.",
        )
    if facts.properties.tablespace != "pg_default":
        yield Finding(
            name="tablespace",
            verdict=Verdict.WARN,
            message=f"{live} is in the tablespace {facts.properties.tablespace}, the new one in the default one.",
        )


def _judge_reach(target: TargetFacts, facts: LiveFacts, live: str) -> Iterator[Finding]:
    """What only a superuser may do, where the role that restores is none."""
    if target.powers.superuser:
        return
    out_of_reach = [f"{one.count} of {one.role}" for one in facts.sessions if one.out_of_reach]
    hint = "Set database.restoring_user to a superuser for this restore, or let one do it."
    if out_of_reach:
        message = f"Sessions in {live} are not ours to end: {', '.join(out_of_reach)}."
        signal = (
            "GRANT pg_signal_backend to the role that restores, which ends all but superusers' sessions; or end them."
        )
        yield _alert("sessions", message, signal)
    per_role = sorted({one.role for one in facts.properties.settings if one.role is not None})
    if per_role:
        message = f"{live} has settings of its own for the roles {', '.join(per_role)}, which only a superuser sets."
        yield _alert("settings", message, hint)


def _judge_sessions(facts: LiveFacts) -> Finding:
    cut = sum(one.count for one in facts.sessions)
    named = ", ".join(f"{one.count} × {one.application or 'unnamed'} as {one.role}" for one in facts.sessions)
    message = f"{cut} sessions will be cut: {named}." if cut else "Nobody is logged in; no session will be cut."
    return Finding(name="sessions", verdict=Verdict.OK, message=message)


def _alert(name: str, message: str, hint: str) -> Finding:
    return Finding(name=name, verdict=Verdict.ALERT, message=message, hint=hint)


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
