"""Does the key that lies elsewhere open the newest backup? Tried once a quarter, by the person who has it.

The key is typed or read from a file, used for one object, and forgotten: it is nobody's parameter and nobody's result.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field
from pyrage import x25519

from keepwell import sealing
from keepwell.backup import layout
from keepwell.backup.catalogue import read_catalogue
from keepwell.backup.manifest import Manifest, Part, is_backup_id
from keepwell.backup.transfer import receive
from keepwell.document import Document
from keepwell.drill.documents import DRILLS, new_drill_id
from keepwell.drill.overlay import DamagedCopy
from keepwell.errors import PreconditionFailed, VerificationFailed
from keepwell.notify import Message
from keepwell.objectstore.store import ObjectMissing, Store
from keepwell.settings import Platform
from keepwell.verdict import Finding, Verdict

TRIALS = f"{DRILLS}offline-key/"
QUARTER = timedelta(days=92)
NAME = "offline key"
COMMAND = "keepwell drill offline-key"
_DOCUMENT = ".json"


class OfflineKeyTrial(Document):
    """One attempt to open the newest proven set with the offline recipient's key, or a word why there was none."""

    format_version: Literal[1] = 1
    trial_id: str
    platform: str
    tried_at: AwareDatetime
    outcome: Literal["opened", "failed", "skipped"]
    message: str = Field(description="What came of it, one sentence.")
    recipient: str | None = Field(default=None, description="The key's public half; null where it was skipped.")
    backup_id: str | None = None
    part: str | None = Field(default=None, description="The object that was opened.")


def try_offline_key(platform: Platform, store: Store, identity: x25519.Identity, now: datetime) -> OfflineKeyTrial:
    """Open one object of the newest proven set with the offline recipient's key alone.

    Args:
        platform: Whose sets.
        store: Its folder in the bucket.
        identity: The key; it is kept nowhere.
        now: Of the trial.

    Returns:
        The trial, as it was kept.

    Raises:
        PreconditionFailed: It is this machine's own key, nothing is sealed, or there is no proven set.
        KeepwellError: The store cannot be read or written.
    """
    recipient = sealing.public_of(identity)
    if recipient in {sealing.public_of(own) for own in store.seal.identities}:
        raise PreconditionFailed(
            "This is the key that this machine has, and it says nothing of the one that lies elsewhere.",
            hint="Fetch the offline one: the secret half of the other of sealing.recipients.",
        )
    level = platform.backup.proven_level
    proven = (entry.manifest for entry in read_catalogue(store) if entry.is_proven(level))
    manifest = next((manifest for manifest in proven if manifest is not None), None)
    if manifest is None:
        raise PreconditionFailed(
            "There is no proven backup set to try it on.", hint="Make one: keepwell backup create."
        )
    part = min((part for part in manifest.parts if part.encryption), key=lambda part: part.size_bytes, default=None)
    if part is None:
        raise PreconditionFailed(
            f"{manifest.backup_id} is not sealed (sealing.mode), so it opens without a key.",
            hint="There is nothing to try.",
        )
    fault = _open(store, manifest, part, replace(store.seal, identities=(identity,)), recipient)
    message = (
        f"{part.name} of {manifest.backup_id} {fault or 'was opened with the offline key, and is what was stored'}."
    )
    return _keep(
        store,
        OfflineKeyTrial(
            trial_id=new_drill_id(now),
            platform=platform.name,
            tried_at=now,
            outcome="failed" if fault else "opened",
            message=message,
            recipient=recipient,
            backup_id=manifest.backup_id,
            part=part.name,
        ),
    )


def skip_offline_key(platform: Platform, store: Store, reason: str, now: datetime) -> OfflineKeyTrial:
    """Record that the key was not tried this time, and why; it stays due.

    Raises:
        PreconditionFailed: No reason was given.
        KeepwellError: The store did not take it.
    """
    if not reason.strip():
        raise PreconditionFailed("A trial is skipped for a reason.", hint="Say it: --skip 'who has it is on leave'.")
    return _keep(
        store,
        OfflineKeyTrial(
            trial_id=new_drill_id(now), platform=platform.name, tried_at=now, outcome="skipped", message=reason.strip()
        ),
    )


@dataclass(frozen=True)
class Trials:
    """What there is of trials, oldest first.

    Attributes:
        trials: Those that can be read and are signed by somebody who counts.
        unreadable: Keys of the rest, and of what is not the trial that its name says.
    """

    trials: tuple[OfflineKeyTrial, ...] = ()
    unreadable: tuple[str, ...] = ()


def read_trials(store: Store) -> Trials:
    """Every trial that was kept.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    trials, unreadable = [], []
    for key in sorted(found.key for found in store.list_objects(TRIALS)):
        trial_id = key.removeprefix(TRIALS).removesuffix(_DOCUMENT)
        if not is_backup_id(trial_id):
            continue
        try:
            trial = OfflineKeyTrial.from_json(store.get_signed(key))
        except VerificationFailed:
            unreadable.append(key)
            continue
        # A good one under a later name would make the key look tried.
        if trial.trial_id == trial_id:
            trials.append(trial)
        else:
            unreadable.append(key)
    return Trials(tuple(trials), tuple(unreadable))


def judge_offline_key(
    kept: Trials, *, sealed: bool, recipients: Collection[str], since: datetime, now: datetime
) -> Finding:
    """How it stands with the offline key.

    Args:
        kept: What there is of trials.
        sealed: Whether sets are sealed at all.
        recipients: Whom sets are sealed for now: a key that opened older ones says nothing of the next.
        since: When the first drill was, from which on the first quarter counts.
        now: Of this one.
    """
    if not sealed:
        message = "Nothing is sealed (sealing.mode), so there is no key to try."
        return Finding(name=NAME, verdict=Verdict.NOT_APPLICABLE, message=message)
    trials = kept.trials
    tried = [
        trial
        for trial in trials
        if trial.outcome == "failed" or (trial.outcome == "opened" and trial.recipient in recipients)
    ]
    if tried and tried[-1].outcome == "failed":
        hint = "Without one, losing this machine loses every backup: `keepwell keys rotate` makes another."
        return Finding(
            name=NAME, verdict=Verdict.ALERT, message=f"The offline key failed: {tried[-1].message}", hint=hint
        )
    opened_at = tried[-1].tried_at if tried else None
    due_at = (opened_at or since) + QUARTER
    last = f"The offline key opened a set on {opened_at:%Y-%m-%d}" if opened_at else "The offline key was never tried"
    # One from after the last that opened may have been one that failed.
    unreadable = [key for key in kept.unreadable if not tried or key > f"{TRIALS}{tried[-1].trial_id}"]
    if unreadable:
        message = f"{last}, and {unreadable[-1]}, a later trial, cannot be read or is not what its name says."
        return Finding(name=NAME, verdict=Verdict.WARN, message=message, hint=f"Try it again: {COMMAND}")
    if now < due_at:
        return Finding(name=NAME, verdict=Verdict.OK, message=f"{last}; it is due on {due_at:%Y-%m-%d}.")
    skipped = [trial for trial in trials if trial.outcome == "skipped" and trial.tried_at > (opened_at or since)]
    why = f", and was skipped on {skipped[-1].tried_at:%Y-%m-%d}: {skipped[-1].message}" if skipped else ""
    message = f"{last}, is due since {due_at:%Y-%m-%d}{why}."
    return Finding(name=NAME, verdict=Verdict.WARN, message=message, hint=f"Whoever has it: {COMMAND}")


def build_key_message(platform: str, findings: Sequence[Finding]) -> Message | None:
    """What asks whoever has the offline key to try it; None while it is not due.

    Args:
        platform: Its name.
        findings: Of a drill.
    """
    due = next((one for one in findings if one.name == NAME and one.verdict is Verdict.WARN), None)
    if due is None:
        return None
    return Message(
        title=f"{platform}: the offline key is due to be tried",
        cause=due.message,
        still_safe="Everything, as long as this machine is there: its own key opens the backups.",
        next_command=f"{COMMAND} --platform {platform}",
        verdict=Verdict.WARN,
    )


def _open(store: Store, manifest: Manifest, part: Part, seal: sealing.Seal, recipient: str) -> str:
    """What is wrong with a part opened by that key alone; empty when nothing is."""
    if manifest.sealed_for and recipient not in manifest.sealed_for:
        return f"is not sealed for {recipient}"
    try:
        received = receive(DamagedCopy(store, {}, seal), layout.set_folder(manifest.backup_id), part, _forget)
    except ObjectMissing:
        return "vanished from the store"
    if received.fault:
        return received.fault
    whole = received.content.sha256 == part.content_sha256
    return "" if whole else "opened, and is not what was stored"


def _forget(chunk: bytes) -> None:
    """Keep nothing of what was opened."""


def _keep(store: Store, trial: OfflineKeyTrial) -> OfflineKeyTrial:
    key = f"{TRIALS}{trial.trial_id}{_DOCUMENT}"
    store.put_signed(key, trial.to_json())
    return OfflineKeyTrial.from_json(store.get_signed(key))
