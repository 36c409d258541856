"""Which backup set is restored: what an operator may ask for, and which set that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keepwell.backup.catalogue import BackupEntry, read_catalogue, read_entry
from keepwell.backup.manifest import is_backup_id
from keepwell.errors import PreconditionFailed
from keepwell.objectstore.store import Store
from keepwell.settings import ProofLevel

NEWEST = "newest"
_LIST = "List what there is: keepwell backup list."


@dataclass(frozen=True)
class Choice:
    """What an operator asks for.

    Attributes:
        which: `newest`, or a set's id.
        before: Only sets whose snapshot is no later than this, aware; None for any. Not with an id.
        database: Which of the set's databases; the main one by default.
        allow_unproven: Take even a set that was never proven; whoever does is told, and so is the evidence.
    """

    which: str = NEWEST
    before: datetime | None = None
    database: str | None = None
    allow_unproven: bool = False


def choose_set(store: Store, choice: Choice, proven_level: ProofLevel) -> BackupEntry:
    """The set that is meant: the newest proven one, unless an unproven one is allowed or a set is named.

    Raises:
        PreconditionFailed: There is none, or the one that is named has no manifest.
        KeepwellError: The store cannot be read.
    """
    if choice.which != NEWEST:
        return _find_named(store, choice)
    return choose_newest(read_catalogue(store), choice, proven_level)


def choose_newest(entries: Sequence[BackupEntry], choice: Choice, proven_level: ProofLevel) -> BackupEntry:
    """The newest set that counts.

    Args:
        entries: In any order.
        choice: What counts.
        proven_level: From which level a set counts as proven.

    Raises:
        PreconditionFailed: There is none.
    """
    counting = [
        entry
        for entry in entries
        if entry.is_proven(proven_level) or (choice.allow_unproven and entry.manifest is not None and not entry.damaged)
    ]
    in_time = [entry for entry in counting if choice.before is None or _moment(entry) <= choice.before]
    if in_time:
        return max(in_time, key=lambda entry: (_moment(entry), entry.backup_id))
    proven = "" if choice.allow_unproven else "proven "
    if counting and choice.before is not None:
        oldest = min(map(_moment, counting)).astimezone(UTC)
        raise PreconditionFailed(
            f"There is no {proven}backup set from before {choice.before.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.",
            hint=f"The oldest is of {oldest:%Y-%m-%d %H:%M:%S} UTC.",
        )
    whole = [entry for entry in entries if entry.manifest is not None]
    if whole and not choice.allow_unproven:
        raise PreconditionFailed(
            f"None of {len(whole)} backup sets is proven.",
            hint="Prove one: keepwell backup verify ID; or restore without a proof: --unproven.",
        )
    raise PreconditionFailed("There is no backup set to restore.", hint=_LIST)


def _find_named(store: Store, choice: Choice) -> BackupEntry:
    if not is_backup_id(choice.which):
        raise PreconditionFailed(f"{choice.which!r} is not the id of a backup set.", hint=_LIST)
    if choice.before is not None:
        raise PreconditionFailed("A set is named, and a time as well.", hint="Give the id, or --before, not both.")
    entry = read_entry(store, choice.which)
    if entry.manifest is None:
        raise PreconditionFailed(entry.fault, hint=_LIST)
    return entry


def _moment(entry: BackupEntry) -> datetime:
    assert entry.snapshot_at is not None  # noqa: S101 - only sets with a manifest are asked
    return entry.snapshot_at
