"""Does the key that lies elsewhere open the newest backup? Tried once a quarter, by the person who has it.

The key is typed or read from a file, used for one object, and forgotten: it is nobody's parameter and nobody's result.
"""

from collections.abc import Sequence
from dataclasses import replace
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


def read_trials(store: Store) -> tuple[OfflineKeyTrial, ...]:
    """Every trial that can be read and is signed by somebody who counts, oldest first.

    Raises:
        KeepwellError: The store cannot be listed or read.
    """
    names = [found.key for found in store.list_objects(TRIALS)]
    trials = []
    for key in names:
        if not is_backup_id(key.removeprefix(TRIALS).removesuffix(_DOCUMENT)):
            continue
        try:
            trials.append(OfflineKeyTrial.from_json(store.get_signed(key)))
        except VerificationFailed:
            continue  # it says nothing, so the key counts as not tried
    return tuple(trials)


def judge_offline_key(trials: Sequence[OfflineKeyTrial], *, sealed: bool, since: datetime, now: datetime) -> Finding:
    """How it stands with the offline key.

    Args:
        trials: Oldest first.
        sealed: Whether sets are sealed at all.
        since: When the first drill was, from which on the first quarter counts.
        now: Of this one.
    """
    if not sealed:
        message = "Nothing is sealed (sealing.mode), so there is no key to try."
        return Finding(name=NAME, verdict=Verdict.NOT_APPLICABLE, message=message)
    tried = [trial for trial in trials if trial.outcome != "skipped"]
    if tried and tried[-1].outcome == "failed":
        hint = "Without one, losing this machine loses every backup: `keepwell keys rotate` makes another."
        return Finding(
            name=NAME, verdict=Verdict.ALERT, message=f"The offline key failed: {tried[-1].message}", hint=hint
        )
    opened_at = tried[-1].tried_at if tried else None
    due_at = (opened_at or since) + QUARTER
    last = f"The offline key opened a set on {opened_at:%Y-%m-%d}" if opened_at else "The offline key was never tried"
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
